//! What calls cost over loopback between two threads: round trips per second, throughput of inline payloads, and
//! allocations per call. `cargo run --release -p valor-rpc --example rpc_bench [seconds per row]`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use valor_env::{Endpoint, Env};
use valor_protocol::Method;
use valor_protocol::echo::{Message, methods::Echo};
use valor_rpc::{CallOptions, Client, ClientConfig, KnownCrc, Router, Server, ServerConfig, WithCrc};
use valor_wire::{Wire, storage_crc32c};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Clone, Debug, Default, PartialEq, Wire)]
struct Bulk {
    data: Bytes,
}

/// Takes data.
struct Put;

impl Method for Put {
    const SERVICE_ID: u16 = 900;
    const SERVICE: &'static str = "Bench";
    const ID: u16 = 1;
    const NAME: &'static str = "put";
    type Req = Bulk;
    type Rsp = u32;
}

/// Gives data.
struct Get;

impl Method for Get {
    const SERVICE_ID: u16 = 900;
    const SERVICE: &'static str = "Bench";
    const ID: u16 = 2;
    const NAME: &'static str = "get";
    type Req = u32;
    type Rsp = Bulk;
}

const MIB: usize = 1 << 20;

fn serve(endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let stored = Bytes::from(vec![7; MIB]);
            let crc = storage_crc32c(&stored);
            let router = Router::new(900, "Bench")
                .method::<Put, _, _>(|context, bulk| async move { Ok(context.storage_crc32c(&bulk.data)) })
                .method_with_crc::<Get, _, _>(move |_, _| {
                    let known = vec![KnownCrc { data: stored.clone(), crc }];
                    let value = Bulk { data: stored.clone() };
                    async move { Ok(WithCrc { value, known }) }
                });
            let server = Server::builder(Env::real(), ServerConfig::default())
                .service(router)
                .listen(&endpoints)
                .expect("free endpoints");
            sender.send(server.addresses().to_vec()).expect("somebody waits for the addresses");
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().expect("the server starts")
}

/// Runs `call` in `depth` tasks for a while; returns calls per second and allocations per call (of both sides).
async fn measure<F, Fut>(depth: usize, time: Duration, call: F) -> (f64, f64)
where
    F: Fn() -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send,
{
    for _ in 0..20 {
        call().await;
    }
    let before = ALLOCATIONS.load(Relaxed);
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..depth {
        let call = call.clone();
        tasks.spawn(async move {
            let mut calls = 0u64;
            while started.elapsed() < time {
                call().await;
                calls += 1;
            }
            calls
        });
    }
    let calls: u64 = tasks.join_all().await.into_iter().sum();
    let allocations = ALLOCATIONS.load(Relaxed) - before;
    (calls as f64 / started.elapsed().as_secs_f64(), allocations as f64 / calls as f64)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2.0);
    let time = Duration::from_secs_f64(seconds);
    let socket: PathBuf = std::env::temp_dir().join(format!("rpc-bench-{}.sock", std::process::id()));
    let endpoints = serve(vec!["127.0.0.1:0".parse().expect("an address"), Endpoint::Unix(socket)]);
    let client = Client::new(Env::real(), ClientConfig::default());
    let options = CallOptions::timeout(Duration::from_secs(60));
    for to in &endpoints {
        println!("{to}");
        for depth in [1, 4, 16, 64] {
            let (client, to, options) = (Arc::clone(&client), to.clone(), options.clone());
            let echo = move || {
                let (client, to, options) = (Arc::clone(&client), to.clone(), options.clone());
                async move {
                    let message = Message { str: "a small message".into() };
                    client.call_endpoint::<Echo>(&to, &message, &options).await.expect("an echo");
                }
            };
            let (rate, allocations) = measure(depth, time, echo).await;
            println!("  echo  depth {depth:2}: {rate:9.0} calls/s   {allocations:5.1} allocations/call");
        }
        let data = Bytes::from(vec![3; MIB]);
        let known = KnownCrc { crc: storage_crc32c(&data), data: data.clone() };
        for (depth, trusting) in [(1, false), (1, true), (4, true)] {
            let mut options = options.clone();
            options.bulk_crc.extend(trusting.then(|| known.clone()));
            let (client, to, data) = (Arc::clone(&client), to.clone(), data.clone());
            let put = move || {
                let (client, to, options, data) =
                    (Arc::clone(&client), to.clone(), options.clone(), data.clone());
                async move {
                    client.call_endpoint::<Put>(&to, &Bulk { data }, &options).await.expect("a put");
                }
            };
            let (rate, allocations) = measure(depth, time, put).await;
            let crc = if trusting { "known" } else { "computed" };
            println!(
                "  put   depth {depth:2}: {rate:9.0} MiB/s   {allocations:5.1} allocations/call, crc {crc}"
            );
        }
        for depth in [1, 4] {
            let (client, to, options) = (Arc::clone(&client), to.clone(), options.clone());
            let get = move || {
                let (client, to, options) = (Arc::clone(&client), to.clone(), options.clone());
                async move {
                    client.call_endpoint::<Get>(&to, &0, &options).await.expect("a get");
                }
            };
            let (rate, allocations) = measure(depth, time, get).await;
            println!(
                "  get   depth {depth:2}: {rate:9.0} MiB/s   {allocations:5.1} allocations/call, crc known"
            );
        }
    }
}
