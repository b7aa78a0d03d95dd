//! Setting up an RDMA connection over TCP (`src/common/net/ib/IBConnect.h`).

use bytes::Bytes;
use valor_wire::{Void, Wire};

/// Request of `query`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct IBQueryReq {
    /// Nothing.
    pub dummy: Void,
}

/// One active port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct PortInfo {
    /// Port number.
    pub port: u8,
    /// Network zones it belongs to.
    pub zones: Vec<String>,
    /// 1 InfiniBand, 2 Ethernet.
    pub link_layer: u8,
}

/// One device with active ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct IBDeviceInfo {
    /// Device index.
    pub dev: u8,
    /// Device name.
    pub dev_name: String,
    /// Active ports.
    pub ports: Vec<PortInfo>,
}

/// Reply of `query`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct IBQueryRsp {
    /// Devices.
    pub devices: Vec<IBDeviceInfo>,
}

/// Parameters of the connection, decided by the client.
#[derive(Clone, Debug, PartialEq, Eq, Wire)]
pub struct IBConnectConfig {
    /// Service level.
    pub sl: u8,
    /// Traffic class of the global route header.
    pub traffic_class: u8,
    /// Unused.
    pub gid_index: u8,
    /// Partition key index.
    pub pkey_index: u16,
    /// First packet sequence number.
    pub start_psn: u32,
    /// Receiver-not-ready timer code.
    pub min_rnr_timer: u8,
    /// Acknowledge timeout code.
    pub timeout: u8,
    /// Retries.
    pub retry_cnt: u8,
    /// Retries when the receiver is not ready.
    pub rnr_retry: u8,
    /// Scatter-gather entries per work request.
    pub max_sge: u32,
    /// RDMA work requests in flight.
    pub max_rdma_wr: u32,
    /// RDMA work requests per post.
    pub max_rdma_wr_per_post: u32,
    /// RDMA reads in flight.
    pub max_rd_atomic: u32,
    /// Bytes per buffer.
    pub buf_size: u32,
    /// Send buffers.
    pub send_buf_cnt: u32,
    /// Buffers acknowledged at once.
    pub buf_ack_batch: u32,
    /// Sends per signalled completion.
    pub buf_signal_batch: u32,
    /// Events acknowledged at once.
    pub event_ack_batch: u32,
    /// Metrics per peer.
    pub record_latency_per_peer: bool,
}

impl Default for IBConnectConfig {
    fn default() -> Self {
        IBConnectConfig {
            sl: 0,
            traffic_class: 0,
            gid_index: 0,
            pkey_index: 0,
            start_psn: 0,
            min_rnr_timer: 1,
            timeout: 14,
            retry_cnt: 7,
            rnr_retry: 0,
            max_sge: 16,
            max_rdma_wr: 128,
            max_rdma_wr_per_post: 32,
            max_rd_atomic: 16,
            buf_size: 16384,
            send_buf_cnt: 32,
            buf_ack_batch: 8,
            buf_signal_batch: 8,
            event_ack_batch: 128,
            record_latency_per_peer: false,
        }
    }
}

/// InfiniBand address of a queue pair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct IBConnectIBInfo {
    /// Local identifier.
    pub lid: u16,
}

/// RoCE address of a queue pair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct IBConnectRoCEInfo {
    /// RoCE v2 GID, 16 bytes.
    pub gid: Bytes,
}

/// Link layer address.
#[derive(Clone, Debug, PartialEq, Eq, Wire)]
#[wire(variant)]
pub enum LinkLayer {
    /// InfiniBand.
    IBConnectIBInfo(IBConnectIBInfo),
    /// Converged Ethernet.
    IBConnectRoCEInfo(IBConnectRoCEInfo),
}

impl Default for LinkLayer {
    fn default() -> Self {
        LinkLayer::IBConnectIBInfo(IBConnectIBInfo::default())
    }
}

/// One side's queue pair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct IBConnectInfo {
    /// Host name.
    pub hostname: String,
    /// Device index.
    pub dev: u8,
    /// Device name.
    pub dev_name: String,
    /// Port number.
    pub port: u8,
    /// Active MTU code (`ibv_mtu`).
    pub mtu: u8,
    /// Queue pair number.
    pub qp_num: u32,
    /// Link layer address.
    pub linklayer: LinkLayer,
}

/// Request of `connect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct IBConnectReq {
    /// The client's queue pair.
    #[wire(base)]
    pub base: IBConnectInfo,
    /// Device of the server.
    pub target_dev: u8,
    /// Its name.
    pub target_devname: String,
    /// Its port.
    pub target_port: u8,
    /// Parameters.
    pub config: IBConnectConfig,
}

/// Reply of `connect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct IBConnectRsp {
    /// The server's queue pair.
    #[wire(base)]
    pub base: IBConnectInfo,
    /// Nothing.
    pub dummy: Void,
}

/// Methods of the service.
pub mod methods {
    use super::*;
    crate::method::methods! { "IBConnect", 11;
        /// Lists the server's devices.
        Query = 1 "query" (IBQueryReq) -> IBQueryRsp;
        /// Connects a queue pair.
        Connect = 2 "connect" (IBConnectReq) -> IBConnectRsp;
    }
}
