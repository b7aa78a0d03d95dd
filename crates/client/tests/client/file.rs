//! Files over layouts, compared with a vector of bytes.

use crate::cluster::Cluster;
use crate::memory::Memory;
use crate::servers::*;
use parking_lot::Mutex;
use std::sync::Arc;
use valor_client::file::*;
use valor_client::storage::{RetryOptions, StorageClientConfig};
use valor_client::{FileIo, StorageClient};
use valor_protocol::app::ClientId;
use valor_protocol::layout::Mt19937_64;
use valor_protocol::meta::{ChainRange, Chains, Layout, Shuffle};
use valor_protocol::mgmtd::NodeType;
use valor_protocol::status::code;
use valor_protocol::storage::methods::SERVICE;
use valor_protocol::user::UserInfo;
use valor_protocol::*;

pub const CHUNK: u32 = 64;
pub const STRIPE: u32 = 5;

/// Three chains on two servers, in a table that a stripe of five goes round.
pub async fn storage(
    cluster: &Cluster,
    memory: &Memory,
    fault: impl Fn() -> Option<u16> + Clone + Send + Sync + 'static,
) -> (Arc<StorageClient>, Vec<Running>) {
    let servers: Vec<Running> = (1..=2)
        .map(|id| {
            let server = serve(&cluster.net, [memory.router(fault.clone())]);
            cluster.add_node(id, NodeType::Storage, SERVICE, server.rpc_address());
            server
        })
        .collect();
    cluster.set_chain(1, 1, &[1]);
    cluster.set_chain(2, 1, &[2]);
    cluster.set_chain(3, 1, &[1]);
    cluster.set_table(&[1, 2, 3]);
    let (env, rpc) = (cluster.net.env(), rpc_client(&cluster.net));
    let config = StorageClientConfig::default();
    let client = StorageClient::new(&env, rpc, cluster.mgmtd().await, config, ClientId::default());
    (client, servers)
}

pub fn layout() -> Layout {
    let range = ChainRange { base_index: 2, shuffle: Shuffle::StdShuffleMt19937, seed: 99 };
    Layout {
        table_id: ChainTableId(1),
        table_version: ChainTableVersion(1),
        chunk_size: CHUNK,
        stripe_size: STRIPE,
        chains: Chains::ChainRange(range),
    }
}

/// A file as bytes, and which of them were ever written: a read that ends in a hole is short.
#[derive(Default)]
struct Model {
    bytes: Vec<u8>,
}

impl Model {
    fn write(&mut self, offset: usize, data: &[u8]) {
        self.bytes.resize(self.bytes.len().max(offset + data.len()), 0);
        self.bytes[offset..offset + data.len()].copy_from_slice(data);
    }

    fn read(&self, offset: usize, length: usize) -> &[u8] {
        let end = self.bytes.len().min(offset + length);
        &self.bytes[self.bytes.len().min(offset)..end]
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_behaves_like_bytes() {
    for seed in 0..30u64 {
        println!("seed {seed}");
        let mut random = Mt19937_64::new(seed);
        let mut below = move |limit: u64| (random.next_u64() % limit) as usize;
        let cluster = Cluster::new(seed);
        let memory = Memory::default();
        let faults = Arc::new(Mutex::new(Mt19937_64::new(seed ^ 0xff)));
        let fault = move || {
            let codes = [
                code::STORAGE_CHAIN_VERSION_MISMATCH,
                code::STORAGE_TARGET_OFFLINE,
                code::RPC_REQUEST_REFUSED,
            ];
            let number = faults.lock().next_u64();
            (number % 5 == 0).then(|| codes[(number / 5 % 3) as usize])
        };
        let (client, _servers) = storage(&cluster, &memory, fault).await;
        let (io, user) = (FileIo::new(client), UserInfo::default());
        let map = FileMap::new(InodeId(77), &layout()).unwrap();
        let mut model = Model::default();
        for step in 0..60 {
            let (offset, length) = (below(1500), below(400));
            match below(9) {
                0..=3 => {
                    let data: Vec<u8> = (0..length).map(|_| below(255) as u8 + 1).collect();
                    let write = FileWrite { map: &map, offset: offset as u64, data: data.clone().into() };
                    let options =
                        FileWriteOptions { max_piece: [0, 10][below(2)], ..FileWriteOptions::default() };
                    assert_eq!(io.write(&user, write, &options).await, Ok(length as u64));
                    if length > 0 {
                        model.write(offset, &data);
                    }
                }
                4 => {
                    // Truncation as the metadata client does it.
                    let mut more = true;
                    while more {
                        let length = offset as u64;
                        let removed = io.remove_chunks(&user, &map, length, 2, 0, RetryOptions::default());
                        more = removed.await.unwrap().1;
                    }
                    io.truncate_last_chunk(&user, &map, offset as u64, false).await.unwrap();
                    model.bytes.resize(offset, 0);
                }
                5 => {
                    io.truncate_last_chunk(&user, &map, offset as u64, true).await.unwrap();
                    let grown = model.bytes.len().max(offset);
                    model.bytes.resize(grown, 0);
                }
                6 => {
                    let (start, end) = (offset / 64 * 64, (offset + length) / 64 * 64);
                    let end = end.min(model.bytes.len() / 64 * 64);
                    if start < end && end < model.bytes.len() {
                        io.punch(&user, &map, start as u64, end as u64).await.unwrap();
                        model.bytes[start..end].fill(0);
                    }
                }
                _ => {
                    let read = FileRead {
                        map: &map,
                        offset: offset as u64,
                        length: length as u32,
                        file_length: Some(model.bytes.len() as u64),
                    };
                    let options =
                        FileReadOptions { max_piece: [0, 7][below(2)], ..FileReadOptions::default() };
                    let data = io.read(&user, read, &options).await.unwrap();
                    assert_eq!(data.to_bytes(), model.read(offset, length), "step {step}");
                }
            }
            assert_eq!(io.length(&user, &map, 0).await.unwrap(), model.bytes.len() as u64, "step {step}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn holes() {
    let (cluster, memory) = (Cluster::new(1), Memory::default());
    let (client, _servers) = storage(&cluster, &memory, || None).await;
    let (io, user) = (FileIo::new(client), UserInfo::default());
    let map = FileMap::new(InodeId(77), &layout()).unwrap();
    for (offset, text) in [(10, "first"), (300, "last")] {
        let write = FileWrite { map: &map, offset, data: text.into() };
        io.write(&user, write, &FileWriteOptions::default()).await.unwrap();
    }
    let read = |offset, length, file_length| FileRead { map: &map, offset, length, file_length };
    let zeros = FileReadOptions::default();
    let error = FileReadOptions { holes: Holes::Error, ..FileReadOptions::default() };
    assert_eq!(io.read(&user, read(0, 1000, None), &zeros).await.unwrap().len(), 304);
    assert_eq!(io.read(&user, read(0, 1000, None), &error).await.unwrap_err().code, 8001);
    assert_eq!(io.read(&user, read(0, 200, None), &zeros).await.unwrap().len(), 15, "3FS: short");
    assert_eq!(io.read(&user, read(0, 200, Some(304)), &zeros).await.unwrap().len(), 200);
    assert_eq!(io.read(&user, read(100, 50, None), &zeros).await.unwrap().len(), 0);
    assert_eq!(io.read(&user, read(400, 50, Some(304)), &zeros).await.unwrap().len(), 0);
    let many = [read(10, 5, None), read(u64::MAX, 1, None), read(300, 9, None)];
    let results = io.read_many(&user, &many, &zeros).await;
    assert_eq!(results[0].as_ref().unwrap().to_bytes(), "first");
    assert_eq!(results[1].as_ref().unwrap_err().code, code::META_FILE_TOO_LARGE);
    assert_eq!(results[2].as_ref().unwrap().to_bytes(), "last");
}

#[tokio::test(start_paused = true)]
async fn lengths_counts_and_dynamic_stripes() {
    let (cluster, memory) = (Cluster::new(2), Memory::default());
    let (client, _servers) = storage(&cluster, &memory, || None).await;
    let (io, user) = (FileIo::new(client), UserInfo::default());
    let map = FileMap::new(InodeId(77), &layout()).unwrap();
    let data = vec![7; 300];
    let write = FileWrite { map: &map, offset: 0, data: data.into() };
    assert_eq!(io.write(&user, write, &FileWriteOptions::default()).await, Ok(300));
    let all = io.chunks(&user, &map, 0, true).await.unwrap();
    assert_eq!((all.length, all.total_len, all.total_chunks), (300, 300, 5));
    assert_eq!(io.length(&user, &map, STRIPE).await, Ok(300));
    assert_eq!(
        io.length(&user, &map, 2).await.unwrap_err().code,
        code::META_BUSY,
        "chunks beyond two chains"
    );
    assert_eq!(io.punch(&user, &map, 1, 64).await.unwrap_err().code, code::INVALID_ARG);
    assert_eq!(io.punch(&user, &map, 64, 192).await, Ok(2));
    assert_eq!(memory.count(InodeId(77)), 3);
    assert_eq!(io.punch(&user, &map, 64, 64).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn a_new_chain_table_is_fetched() {
    let (cluster, memory) = (Cluster::new(3), Memory::default());
    let (client, _servers) = storage(&cluster, &memory, || None).await;
    let (io, user) = (FileIo::new(client), UserInfo::default());
    let mut layout = layout();
    layout.table_version = ChainTableVersion(2);
    let map = FileMap::new(InodeId(77), &layout).unwrap();
    let write = || FileWrite { map: &map, offset: 0, data: "x".into() };
    let error = io.write(&user, write(), &FileWriteOptions::default()).await.unwrap_err();
    assert_eq!(error.code, code::MGMTD_CLIENT_ROUTING_INFO_NOT_READY);
    cluster.change(|info| {
        let versions = info.chain_tables.get_mut(&ChainTableId(1)).unwrap();
        let table = versions[&ChainTableVersion(1)].clone();
        versions.insert(ChainTableVersion(2), table);
    });
    assert_eq!(io.write(&user, write(), &FileWriteOptions::default()).await, Ok(1));
}
