//! One table of all methods with functions over their messages.

use crate::compare::check;
use crate::fixture::Message;
use bytes::Bytes;
use std::fmt::Debug;
use valor_protocol::echo::simple_example;
use valor_protocol::{
    Method, Status, core, echo, ib_connect, meta, mgmtd, migration, monitor, rdma_control, storage,
};
use valor_wire::Wire;

pub struct MethodEntry {
    pub service_id: u16,
    pub id: u16,
    pub name: &'static str,
    pub check_req: fn(&Bytes, &Message, &str),
    pub check_rsp: fn(&Bytes, &Message, &str),
    /// Decode anything and, when that works, encode it.
    pub try_req: fn(Bytes),
    pub try_rsp: fn(Bytes),
}

fn check_message<T: Wire + Debug + PartialEq>(payload: &Bytes, message: &Message, context: &str) {
    check::<T>(payload, &message.raw, &message.readable, context);
}

/// What decodes must encode, and decode again to something that encodes alike.
fn try_message<T: Wire>(bytes: Bytes) {
    if let Ok(value) = valor_wire::from_bytes::<T>(bytes) {
        let once = valor_wire::to_bytes(&value);
        let again: T = valor_wire::from_bytes(once.clone()).expect("an encoding decodes");
        assert_eq!(valor_wire::to_bytes(&again), once);
    }
}

const fn entry<M: Method>() -> MethodEntry
where
    M::Req: Debug + PartialEq,
    M::Rsp: Debug + PartialEq,
{
    MethodEntry {
        service_id: M::SERVICE_ID,
        id: M::ID,
        name: M::NAME,
        check_req: check_message::<M::Req>,
        check_rsp: check_message::<Result<M::Rsp, Status>>,
        try_req: try_message::<M::Req>,
        try_rsp: try_message::<Result<M::Rsp, Status>>,
    }
}

macro_rules! table {
    ($($service:ident: $($method:ident)*;)*) => {
        pub const METHODS: &[MethodEntry] =
            &[$($(entry::<$service::methods::$method>(),)*)*];
    };
}

table! {
    mgmtd: GetPrimaryMgmtd Heartbeat RegisterNode GetRoutingInfo SetConfig GetConfig SetChainTable EnableNode
        DisableNode ExtendClientSession ListClientSessions SetNodeTags UnregisterNode SetChains SetUniversalTags
        GetUniversalTags GetConfigVersions GetClientSession RotateLastSrv ListOrphanTargets
        SetPreferredTargetOrder RotateAsPreferredOrder UpdateChain;
    core: Echo GetConfig RenderConfig HotUpdateConfig GetLastConfigUpdateRecord Shutdown;
    meta: StatFs Stat Create Mkdirs Symlink HardLink Remove Open Sync Close Rename List Truncate GetRealPath SetAttr
        PruneSession DropUserCache Authenticate LockDirectory BatchStat BatchStatByPath TestRpc;
    storage: BatchRead Write Update QueryLastChunk TruncateChunks RemoveChunks SyncStart SyncDone SpaceInfo
        CreateTarget QueryChunk GetAllChunkMetadata OfflineTarget RemoveTarget;
    monitor: Write;
    migration: Start Stop List;
    rdma_control: Apply;
    ib_connect: Query Connect;
    echo: Echo;
    simple_example: Echo;
}
