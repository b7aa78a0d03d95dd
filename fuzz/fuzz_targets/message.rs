//! Frames, envelopes and every message of every service, as a hostile peer would send them.
//!
//! The input is a frame. Its checksum is made right, so that the fuzzer need not guess it, and its payload is decoded
//! both as the request and as the response of the method it names; if it names none, of one chosen by its numbers.
//! What decodes must encode to something that decodes to the same.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use valor_protocol::core::methods as core;
use valor_protocol::echo::methods as echo;
use valor_protocol::ib_connect::methods as ib_connect;
use valor_protocol::meta::methods as meta;
use valor_protocol::mgmtd::methods as mgmtd;
use valor_protocol::migration::methods as migration;
use valor_protocol::monitor::methods as monitor;
use valor_protocol::rdma_control::methods as rdma_control;
use valor_protocol::storage::methods as storage;
use valor_protocol::valor::meta as valor_meta;
use valor_protocol::{Method, Status};
use valor_wire::{FrameHeader, HEADER_LEN, MessagePacket, Wire, from_bytes, open_body, raw_crc32c, to_bytes};

fn round_trip<T: Wire>(payload: Bytes) {
    if let Ok(value) = from_bytes::<T>(payload) {
        let encoded = to_bytes(&value);
        let again = from_bytes::<T>(encoded.clone()).expect("what was encoded decodes");
        assert_eq!(to_bytes(&again), encoded);
    }
}

fn both_ways<M: Method>(payload: Bytes) {
    round_trip::<M::Req>(payload.clone());
    round_trip::<Result<M::Rsp, Status>>(payload);
}

type Decode = fn(Bytes);

macro_rules! methods {
    ($($service:ident: $($method:ident),*;)*) => {
        &[$($((
            $service::$method::SERVICE_ID,
            $service::$method::ID,
            both_ways::<$service::$method> as Decode,
        )),*),*]
    };
}

const METHODS: &[(u16, u16, Decode)] = methods! {
    core: Echo, GetConfig, RenderConfig, HotUpdateConfig, GetLastConfigUpdateRecord, Shutdown;
    echo: Echo;
    ib_connect: Query, Connect;
    meta: StatFs, Stat, Create, Mkdirs, Symlink, HardLink, Remove, Open, Sync, Close, Rename, List, Truncate, GetRealPath,
        SetAttr, PruneSession, DropUserCache, Authenticate, LockDirectory, BatchStat, BatchStatByPath, TestRpc;
    mgmtd: GetPrimaryMgmtd, Heartbeat, RegisterNode, GetRoutingInfo, SetConfig, GetConfig, SetChainTable, EnableNode,
        DisableNode, ExtendClientSession, ListClientSessions, SetNodeTags, UnregisterNode, SetChains, SetUniversalTags,
        GetUniversalTags, GetConfigVersions, GetClientSession, RotateLastSrv, ListOrphanTargets, SetPreferredTargetOrder,
        RotateAsPreferredOrder, UpdateChain;
    migration: Start, Stop, List;
    monitor: Write;
    rdma_control: Apply;
    storage: BatchRead, Write, Update, QueryLastChunk, TruncateChunks, RemoveChunks, SyncStart, SyncDone, SpaceInfo,
        CreateTarget, QueryChunk, GetAllChunkMetadata, OfflineTarget, RemoveTarget;
    valor_meta: AppendReserve, Rename2, Hold;
};

fuzz_target!(|input: &[u8]| {
    let Some((header, body)) = input.split_first_chunk::<HEADER_LEN>() else { return };
    let Ok(header) = FrameHeader::parse(header) else { return };
    let header = FrameHeader::new(raw_crc32c(body), body.len() as u32, header.is_compressed());
    let Ok((body, _)) = open_body(header, Bytes::copy_from_slice(body)) else { return };
    round_trip::<MessagePacket>(body.clone());
    let Ok(packet) = from_bytes::<MessagePacket>(body) else { return };
    let named = METHODS.iter().find(|(service, method, _)| (*service, *method) == (packet.service_id, packet.method_id));
    let number = usize::from(packet.service_id) + usize::from(packet.method_id);
    let (_, _, decode) = named.unwrap_or(&METHODS[number % METHODS.len()]);
    decode(packet.payload);
});
