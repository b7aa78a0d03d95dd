//! Calls between a client and a server in one process, over real sockets.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use support::{Bulk, Exchange, Relay, Sleep, client, data, echo, serve, tcp};
use tokio::time::{Instant, sleep, timeout};
use valor_env::{Endpoint, Env, buffer, request_id};
use valor_protocol::Address;
use valor_protocol::echo::{Message, methods::Echo};
use valor_protocol::status::code;
use valor_rpc::{
    CallOptions, Client, ClientConfig, Compression, KnownCrc, Router, Server, ServerConfig, WithCrc,
};
use valor_wire::{Status, storage_crc32c};

#[tokio::test]
async fn tcp_and_unix() {
    let directory = tempfile::tempdir().unwrap();
    let unix = Endpoint::Unix(directory.path().join("rpc.sock"));
    let server = Server::builder(Env::real(), ServerConfig::default()).listen(&[tcp(), unix]).unwrap();
    let client = client();
    for endpoint in server.addresses() {
        assert_eq!(echo(&client, endpoint, "hello").await, Ok("hello".to_owned()));
    }
    let Endpoint::Tcp(std::net::SocketAddr::V4(address)) = server.addresses()[0] else { unreachable!() };
    let message = Message { str: "by address".into() };
    let answer = client.call::<Echo>(Address::tcp(address), &message, &CallOptions::default()).await;
    assert_eq!(answer.unwrap(), message);
    assert_eq!(server.connections(), 2, "one connection for both calls");
}

#[tokio::test]
async fn answers_come_in_any_order() {
    let (server, to) = serve(support::sleeper());
    let client = client();
    let mut calls = tokio::task::JoinSet::new();
    let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
    for millis in [120, 60, 0] {
        let (client, to, order) = (Arc::clone(&client), to.clone(), Arc::clone(&order));
        calls.spawn(async move {
            client.call_endpoint::<Sleep>(&to, &millis, &CallOptions::default()).await.unwrap();
            order.lock().push(millis);
        });
    }
    calls.join_all().await;
    assert_eq!(*order.lock(), [0, 60, 120]);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn many_at_once() {
    let (_server, to) = serve(support::exchanger());
    let client = client();
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..2000u32 {
        let (client, to) = (Arc::clone(&client), to.clone());
        calls.spawn(async move {
            let sent = data(number as usize % 50 * 997);
            let options = CallOptions::timeout(Duration::from_secs(30));
            let got =
                client.call_endpoint::<Exchange>(&to, &Bulk { data: sent.clone() }, &options).await.unwrap();
            assert_eq!(got.data, sent);
        });
    }
    calls.join_all().await;
}

#[tokio::test]
async fn deadlines() {
    let (server, to) = serve(support::sleeper());
    let client = client();
    let started = Instant::now();
    let options = CallOptions::timeout(Duration::from_millis(50));
    let error = client.call_endpoint::<Sleep>(&to, &3000, &options).await.unwrap_err();
    assert_eq!(error.code, code::RPC_TIMEOUT);
    assert!(started.elapsed() < Duration::from_millis(2900));
    // The late answer is dropped; the connection goes on.
    sleep(Duration::from_millis(3100)).await;
    client.call_endpoint::<Sleep>(&to, &0, &CallOptions::default()).await.unwrap();
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn nobody_listens() {
    let unused = Env::real().bind(&tcp(), false).unwrap().local().clone();
    let started = Instant::now();
    let error = echo(&client(), &unused, "x").await.unwrap_err();
    assert_eq!(error.code, code::RPC_SEND_FAILED);
    assert!(started.elapsed() >= Duration::from_millis(100), "tried again after a pause");
    let once = CallOptions { send_retries: Some(0), ..Default::default() };
    let error = client().call_endpoint::<Echo>(&unused, &Message::default(), &once).await.unwrap_err();
    assert_eq!(error.code, code::RPC_SEND_FAILED);
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let (server, to) = serve(support::sleeper());
    let client = client();
    echo(&client, &to, "first").await.unwrap();
    server.stop(Duration::from_secs(1)).await;
    let server =
        Server::builder(Env::real(), ServerConfig::default()).listen(std::slice::from_ref(&to)).unwrap();
    // A call made before the end of the old connection has been read is lost with it; none after.
    let lost = echo(&client, &to, "lost").await;
    assert!(lost.is_ok() || lost.unwrap_err().code == code::RPC_TIMEOUT);
    assert_eq!(echo(&client, &to, "second").await, Ok("second".to_owned()));
    drop(server);
}

#[tokio::test]
async fn a_lost_connection_is_a_timeout_for_what_was_sent() {
    let (server, to) = serve(support::sleeper());
    let client = client();
    let call = {
        let (client, to) = (Arc::clone(&client), to.clone());
        let options = CallOptions::timeout(Duration::from_secs(30));
        tokio::spawn(async move { client.call_endpoint::<Sleep>(&to, &20_000, &options).await })
    };
    while server.running() == 0 {
        tokio::task::yield_now().await;
    }
    drop(server);
    let error = timeout(Duration::from_secs(5), call).await.unwrap().unwrap().unwrap_err();
    assert_eq!(error.code, code::RPC_TIMEOUT);
}

#[tokio::test]
async fn errors_of_dispatch_and_handlers() {
    let router = Router::new(support::SERVICE, "Test")
        .method::<Sleep, _, _>(|_, _| async move { Err(Status::new(4242, "no")) })
        .method::<Exchange, _, _>(|_, _| async move { panic!("on purpose") });
    let (server, to) = serve(router);
    let client = client();
    let options = CallOptions::default();
    let error = client.call_endpoint::<Sleep>(&to, &0, &options).await.unwrap_err();
    assert_eq!(error, Status::new(4242, "no"));
    let error = client.call_endpoint::<Exchange>(&to, &Bulk::default(), &options).await.unwrap_err();
    assert_eq!(error.code, code::FOUND_BUG);
    assert!(error.message.contains("on purpose"), "{error}");
    let error = client.call_endpoint::<Relay>(&to, &String::new(), &options).await.unwrap_err();
    assert_eq!(error.code, code::RPC_INVALID_METHOD_ID);
    let error = client.call_endpoint::<support::Elsewhere>(&to, &0, &options).await.unwrap_err();
    assert_eq!(error.code, code::RPC_INVALID_METHOD_ID);
    let error = client.call_endpoint::<support::SleepMisspelt>(&to, &7, &options).await.unwrap_err();
    assert_eq!(error.code, code::RPC_VERIFY_REQUEST_FAILED);
    assert_eq!(server.connections(), 1, "none of these ends the connection");
    assert_eq!(server.running(), 0);
}

#[tokio::test]
async fn an_undecodable_response_ends_the_connection() {
    let (server, to) = serve(support::exchanger());
    let client = client();
    let error = client
        .call_endpoint::<support::ExchangeMisread>(&to, &Bulk::default(), &CallOptions::default())
        .await;
    assert_eq!(error.unwrap_err().code, code::SERDE_INSUFFICIENT_LENGTH);
    echo(&client, &to, "again").await.unwrap();
    while server.connections() > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nested_calls_inherit_the_trace_id() {
    let (_inner, inner_address) =
        serve(Router::new(support::SERVICE, "Test").method::<Relay, _, _>(|context, _| async move {
            assert_eq!(request_id::current(), Some(context.request_id));
            Ok(context.request_id.to_string())
        }));
    let shared = client();
    let (_outer, outer_address) =
        serve(Router::new(support::SERVICE, "Test").method::<Relay, _, _>(move |context, _| {
            let (client, to) = (Arc::clone(&shared), inner_address.clone());
            async move {
                let inner =
                    client.call_endpoint::<Relay>(&to, &String::new(), &CallOptions::default()).await?;
                Ok(format!("{} {inner}", context.request_id))
            }
        }));
    let answer = client()
        .call_endpoint::<Relay>(&outer_address, &String::new(), &CallOptions::default())
        .await
        .unwrap();
    let (outer, inner) = answer.split_once(' ').unwrap();
    assert_eq!(outer, inner);
    let chosen = client();
    let answer = request_id::scope(77, async {
        chosen.call_endpoint::<Relay>(&outer_address, &String::new(), &CallOptions::default()).await
    });
    assert_eq!(answer.await.unwrap(), "77 77");
}

#[tokio::test]
async fn large_payloads_with_and_without_compression() {
    let (_server, to) = serve(support::exchanger());
    let client = client();
    for len in [0, 1, 4095, 4096, 32 << 10, 100_000, 1 << 20, (5 << 20) + 17] {
        for compression in [None, Some(Compression { level: 1, threshold: 128 << 10 })] {
            let sent = data(len);
            let options =
                CallOptions { compression, timeout: Some(Duration::from_secs(30)), ..Default::default() };
            let request = Bulk { data: sent.clone() };
            let got = client.call_detailed::<Exchange>(&to, &request, &options).await.unwrap();
            assert_eq!(got.value.data, sent);
            assert_eq!(got.crc.storage_crc32c(&got.value.data), storage_crc32c(&sent));
        }
    }
}

#[tokio::test]
async fn known_checksums_are_used_and_given() {
    let router = Router::new(support::SERVICE, "Test").method_with_crc::<Exchange, _, _>(
        |context, request| async move {
            let crc = context.storage_crc32c(&request.data);
            assert_eq!(crc, storage_crc32c(&request.data));
            let known = vec![KnownCrc { data: request.data.clone(), crc }];
            Ok(WithCrc { value: request, known })
        },
    );
    let (_server, to) = serve(router);
    let client = client();
    let sent = data(1 << 20);
    let known = vec![KnownCrc { data: sent.clone(), crc: storage_crc32c(&sent) }];
    let options = CallOptions { bulk_crc: known, ..Default::default() };
    let got = client.call_endpoint::<Exchange>(&to, &Bulk { data: sent.clone() }, &options).await.unwrap();
    assert_eq!(got.data, sent);
    // A wrong one shows that it was taken on trust: the server finds the frame damaged and closes the connection.
    let known = vec![KnownCrc { data: sent.clone(), crc: 1 }];
    let options = CallOptions { bulk_crc: known, ..Default::default() };
    let error = client.call_endpoint::<Exchange>(&to, &Bulk { data: sent }, &options).await.unwrap_err();
    assert_eq!(error.code, code::RPC_TIMEOUT);
}

#[tokio::test]
async fn received_bulk_data_is_aligned_and_not_copied() {
    let address = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&address);
    let router = Router::new(support::SERVICE, "Test").method::<Exchange, _, _>(move |_, request: Bulk| {
        seen.store(request.data.as_ptr() as usize, Relaxed);
        async move { Ok(Bulk::default()) }
    });
    let (_server, to) = serve(router);
    let request = Bulk { data: data(1 << 20) };
    client().call_endpoint::<Exchange>(&to, &request, &CallOptions::default()).await.unwrap();
    let address = address.load(Relaxed);
    assert!(
        address % buffer::ALIGNMENT < 64,
        "the payload follows the envelope in an aligned buffer: {address:#x}"
    );
}

#[tokio::test]
async fn times_of_a_call() {
    let (_server, to) = serve(support::sleeper());
    let options = CallOptions { timestamps: true, ..Default::default() };
    let reply = client().call_detailed::<Sleep>(&to, &20, &options).await.unwrap();
    let t = reply.timestamp.unwrap();
    let way = [
        t.client_called,
        t.client_serialized,
        t.server_received,
        t.server_waked,
        t.server_processed,
        t.server_serialized,
        t.client_received,
        t.client_waked,
    ];
    assert!(way.is_sorted() && way[0] > 1_600_000_000_000_000, "{way:?}");
    assert!(t.server_processed - t.server_waked >= 20_000);
    let untimed = client().call_detailed::<Sleep>(&to, &0, &CallOptions::default()).await.unwrap();
    assert_eq!(untimed.timestamp, None);
}

#[tokio::test]
async fn a_dropped_call_leaves_the_connection_usable() {
    let (server, to) = serve(support::sleeper());
    let client = client();
    let options = CallOptions::default();
    assert!(
        timeout(Duration::from_millis(20), client.call_endpoint::<Sleep>(&to, &100, &options)).await.is_err()
    );
    client.call_endpoint::<Sleep>(&to, &0, &options).await.unwrap();
    sleep(Duration::from_millis(120)).await;
    client.call_endpoint::<Sleep>(&to, &0, &options).await.unwrap();
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn several_connections_if_configured() {
    let (server, to) = serve(support::sleeper());
    let config = ClientConfig { max_connections: 3, ..Default::default() };
    let client = Client::new(Env::real(), config);
    for _ in 0..7 {
        client.call_endpoint::<Sleep>(&to, &0, &CallOptions::default()).await.unwrap();
    }
    assert_eq!(server.connections(), 3);
    drop(client);
    while server.connections() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn threads_have_their_own_connections() {
    let (server, to) = serve(support::sleeper());
    let client = client();
    echo(&client, &to, "here").await.unwrap();
    let elsewhere = {
        let (client, to) = (Arc::clone(&client), to.clone());
        tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let answer = runtime.block_on(echo(&client, &to, "there"));
            drop(runtime);
            // A connection ends with its runtime; the next one on this thread makes its own.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            (answer, runtime.block_on(echo(&client, &to, "again")))
        })
    };
    assert_eq!(elsewhere.await.unwrap(), (Ok("there".to_owned()), Ok("again".to_owned())));
    echo(&client, &to, "here").await.unwrap();
    while server.connections() > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn responses_too_large_to_send_become_errors() {
    // Shared slices: half a gigabyte that takes none.
    let router = Router::new(support::SERVICE, "Test").method::<support::Pile, _, _>(|_, _| async move {
        let piece = Bytes::from(vec![0; 8 << 20]);
        Ok(vec![piece; 64])
    });
    let (server, to) = serve(router);
    let options = CallOptions::timeout(Duration::from_secs(60));
    let client = client();
    let error = client.call_endpoint::<support::Pile>(&to, &0, &options).await.unwrap_err();
    assert_eq!(error.code, code::RPC_SEND_FAILED);
    assert!(server.connections() == 1);
}
