//! Peers that do not behave, and more of them than a server admits.

mod support;

use std::io::{IoSlice, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use support::{Bulk, Exchange, Sleep, client, data, echo, serve, serve_with, tcp};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use valor_env::{Endpoint, Env, Stream};
use valor_protocol::echo::Message;
use valor_protocol::status::code;
use valor_rpc::{CallOptions, Compression, Router, ServerConfig};
use valor_wire::{
    FrameHeader, HEADER_LEN, MessagePacket, PacketHead, Status, encode_message, flags, from_bytes, open_body,
    to_bytes,
};

/// `text` as an echo request.
fn echo_frame(uuid: u64, text: &str) -> Bytes {
    let head =
        PacketHead { uuid, service_id: 10_000, method_id: 1, flags: flags::IS_REQ, ..Default::default() };
    encode_message(&head, &Message { str: text.into() }, &[], None).to_bytes()
}

async fn connect(to: &Endpoint) -> Stream {
    Env::real().connect(to).await.unwrap()
}

async fn write(stream: &Stream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        stream.writable().await.unwrap();
        match stream.try_write_vectored(&[IoSlice::new(bytes)]) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
}

async fn read_exactly(stream: &Stream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut have = 0;
    while have < len {
        match stream.read(&mut bytes[have..]).await.unwrap() {
            0 => panic!("end after {have} of {len} bytes"),
            read => have += read,
        }
    }
    bytes
}

async fn read_frame(stream: &Stream) -> MessagePacket {
    let header = read_exactly(stream, HEADER_LEN).await;
    let header = FrameHeader::parse(header[..].try_into().unwrap()).unwrap();
    let body = read_exactly(stream, header.size as usize).await;
    from_bytes(open_body(header, body.into()).unwrap().0).unwrap()
}

async fn expect_end(stream: &Stream) {
    let read = timeout(Duration::from_secs(10), stream.read(&mut [0; 16])).await.expect("closed in time");
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

/// The frames of `docs/wire-format.md`.
const REQUEST: &str = "86c313261d0000001c050000000000000010270100010007000000000000000403026869 00";
const RESPONSE: &str = "866d8d791e0000001d05000000000000001027010000000700000000000000050103026869 00";
const UNKNOWN_METHOD: &str = "1d0000001c050000000000000010270900000007000000000000000400d90700 00";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[tokio::test]
async fn worked_frames() {
    assert_eq!(echo_frame(5, "hi"), hex(REQUEST));
    let (_server, to) = serve(support::sleeper());
    let stream = connect(&to).await;
    write(&stream, &hex(REQUEST)).await;
    assert_eq!(read_exactly(&stream, hex(RESPONSE).len()).await, hex(RESPONSE));

    let head =
        PacketHead { uuid: 5, service_id: 10_000, method_id: 9, flags: flags::IS_REQ, ..Default::default() };
    write(&stream, &encode_message(&head, &Message { str: "hi".into() }, &[], None).to_bytes()).await;
    let error = read_frame(&stream).await;
    let status = from_bytes::<Result<Message, Status>>(error.payload.clone()).unwrap().unwrap_err();
    assert_eq!(status.code, code::RPC_INVALID_METHOD_ID);
    // 3FS sends no text; ours says which method. Without it the bytes are the same.
    let bare = MessagePacket { payload: to_bytes(&Err::<Message, _>(Status::from(status.code))), ..error };
    let mut frame = 29u32.to_le_bytes().to_vec();
    frame.extend_from_slice(&to_bytes(&bare));
    assert_eq!(frame, hex(UNKNOWN_METHOD));
}

#[tokio::test]
async fn frames_in_one_write_and_in_single_bytes() {
    let (_server, to) = serve(support::sleeper());
    let stream = connect(&to).await;
    let frames: Vec<u8> =
        (0..100).flat_map(|uuid| echo_frame(uuid, &"x".repeat(uuid as usize * 40))).collect();
    write(&stream, &frames).await;
    for uuid in 0..100 {
        assert_eq!(read_frame(&stream).await.uuid, uuid);
    }
    for byte in &echo_frame(7, "slowly")[..] {
        write(&stream, &[*byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(read_frame(&stream).await.uuid, 7);
}

#[tokio::test]
async fn every_way_to_cut_two_frames() {
    let (_server, to) = serve(support::sleeper());
    let both = [echo_frame(1, "one"), echo_frame(2, "two")].concat();
    let stream = connect(&to).await;
    for cut in 1..both.len() {
        write(&stream, &both[..cut]).await;
        // Let the server see the first part by itself.
        echo(&client(), &to, "meanwhile").await.unwrap();
        write(&stream, &both[cut..]).await;
        assert_eq!(read_frame(&stream).await.uuid, 1);
        assert_eq!(read_frame(&stream).await.uuid, 2);
    }
}

#[tokio::test]
async fn bad_frames_end_their_connection_only() {
    let (server, to) = serve(support::sleeper());
    let good = connect(&to).await;
    let frame = echo_frame(1, "hello").to_vec();
    let mut wrong_magic = frame.clone();
    wrong_magic[0] = 0x88;
    let mut wrong_checksum = frame.clone();
    wrong_checksum[2] ^= 1;
    let mut wrong_body = frame.clone();
    *wrong_body.last_mut().unwrap() ^= 0x40;
    let mut not_compressed = frame.clone();
    not_compressed[0] |= 1;
    let mut too_large = frame.clone();
    too_large[4..8].copy_from_slice(&(512u32 << 20).to_le_bytes());
    let body = Bytes::from_static(&[0xff; 40]);
    let mut no_packet = FrameHeader::new(valor_wire::raw_crc32c(&body), 40, false).to_bytes().to_vec();
    no_packet.extend_from_slice(&body);
    for bad in [wrong_magic, wrong_checksum, wrong_body, not_compressed, too_large, no_packet] {
        let stream = connect(&to).await;
        write(&stream, &bad).await;
        expect_end(&stream).await;
        write(&good, &frame).await;
        assert_eq!(read_frame(&good).await.uuid, 1);
    }
    while server.connections() > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn decompression_bombs_are_refused() {
    let (server, to) =
        serve_with(support::exchanger(), ServerConfig { max_in_flight_bytes: 8 << 20, ..Default::default() });
    let client = client();
    let compression = Some(Compression { level: 1, threshold: 0 });
    let options = CallOptions { compression, timeout: Some(Duration::from_secs(20)), ..Default::default() };
    let bomb = Bulk { data: vec![0; 64 << 20].into() };
    let error = client.call_endpoint::<Exchange>(&to, &bomb, &options).await.unwrap_err();
    assert_eq!(error.code, code::RPC_REQUEST_REFUSED);
    let small = Bulk { data: vec![0; 1 << 20].into() };
    assert_eq!(client.call_endpoint::<Exchange>(&to, &small, &options).await.unwrap(), small);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn half_frames_time_out() {
    let config = ServerConfig { half_frame_timeout: Duration::from_millis(200), ..Default::default() };
    let (server, to) = serve_with(support::sleeper(), config);
    let frame = echo_frame(1, "hello");
    let streams = [connect(&to).await, connect(&to).await, connect(&to).await];
    write(&streams[0], &frame[..3]).await;
    write(&streams[1], &frame[..HEADER_LEN]).await;
    write(&streams[2], &frame[..20]).await;
    let idle = connect(&to).await;
    let started = Instant::now();
    for stream in &streams {
        expect_end(stream).await;
    }
    assert!(started.elapsed() >= Duration::from_millis(150));
    write(&idle, &frame).await;
    assert_eq!(read_frame(&idle).await.uuid, 1, "an idle connection is not a half frame");
    while server.connections() > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn idle_connections_expire() {
    let config = ServerConfig { idle_expiration: Duration::from_millis(100), ..Default::default() };
    let (_server, to) = serve_with(support::sleeper(), config);
    let client = client();
    let options = CallOptions::default();
    let busy = client.call_endpoint::<Sleep>(&to, &400, &options);
    let idle = connect(&to).await;
    let (busy, ()) = tokio::join!(busy, expect_end(&idle));
    busy.expect("a connection with a request is not idle");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    let config = ServerConfig { max_unsent_bytes: 1 << 20, ..Default::default() };
    let (server, to) = serve_with(support::exchanger(), config);
    let stream = connect(&to).await;
    let head =
        PacketHead { service_id: support::SERVICE, method_id: 2, flags: flags::IS_REQ, ..Default::default() };
    let request = encode_message(&head, &Bulk { data: data(1 << 20) }, &[], None).to_bytes();
    // Far more than sockets and the bound can hold, so this blocks until somebody reads.
    let writing = async {
        for _ in 0..64 {
            write(&stream, &request).await;
        }
    };
    let mut writing = std::pin::pin!(writing);
    assert!(
        timeout(Duration::from_millis(500), &mut writing).await.is_err(),
        "the server does not stop reading"
    );
    assert_eq!(echo(&client(), &to, "others are served").await.unwrap(), "others are served");
    let reading = async {
        for _ in 0..64 {
            assert_eq!(read_frame(&stream).await.payload.len(), (1 << 20) + 7);
        }
    };
    tokio::join!(writing, reading);
    assert_eq!(server.running(), 0);
}

#[tokio::test]
async fn a_client_that_never_reads_is_closed() {
    let config = ServerConfig {
        max_unsent_bytes: 1 << 20,
        half_frame_timeout: Duration::from_millis(300),
        ..Default::default()
    };
    let (server, to) = serve_with(support::exchanger(), config);
    let Endpoint::Tcp(address) = to else { unreachable!() };
    let head =
        PacketHead { service_id: support::SERVICE, method_id: 2, flags: flags::IS_REQ, ..Default::default() };
    let request = encode_message(&head, &Bulk { data: data(1 << 20) }, &[], None).to_bytes();
    let blocked = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        while stream.write_all(&request).is_ok() {}
    });
    timeout(Duration::from_secs(20), blocked).await.unwrap().unwrap();
    while server.connections() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn too_many_requests_are_refused() {
    let gate = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&gate);
    let router = Router::new(support::SERVICE, "Test").method::<Sleep, _, _>(move |_, number| {
        let gate = Arc::clone(&waiting);
        async move {
            let _permit = gate.acquire().await;
            Ok(number)
        }
    });
    let config = ServerConfig { max_processing_requests: 10, ..Default::default() };
    let (server, to) = serve_with(router, config);
    let client = client();
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..30 {
        let (client, to) = (Arc::clone(&client), to.clone());
        let options = CallOptions::timeout(Duration::from_secs(20));
        calls.spawn(async move { client.call_endpoint::<Sleep>(&to, &number, &options).await });
    }
    for _ in 0..20 {
        let refused = calls.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(refused.code, code::RPC_REQUEST_REFUSED);
    }
    assert_eq!(server.running(), 10);
    gate.add_permits(1);
    while let Some(answered) = calls.join_next().await {
        answered.unwrap().unwrap();
    }
    assert_eq!(server.running(), 0);
}

#[tokio::test]
async fn too_many_bytes_are_refused_and_the_stream_goes_on() {
    let gate = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&gate);
    let router = Router::new(support::SERVICE, "Test").method::<Exchange, _, _>(move |_, bulk| {
        let gate = Arc::clone(&waiting);
        async move {
            let _permit = gate.acquire().await;
            Ok(bulk)
        }
    });
    let config = ServerConfig { max_in_flight_bytes: 5 << 20, ..Default::default() };
    let (server, to) = serve_with(router, config);
    let client = client();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (client, to) = (Arc::clone(&client), to.clone());
        let options = CallOptions::timeout(Duration::from_secs(20));
        let request = Bulk { data: data(1 << 20) };
        calls.spawn(async move { client.call_endpoint::<Exchange>(&to, &request, &options).await });
    }
    for _ in 0..6 {
        let refused = calls.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(refused.code, code::RPC_REQUEST_REFUSED);
    }
    assert_eq!(server.connections(), 1);
    gate.add_permits(1);
    while let Some(answered) = calls.join_next().await {
        assert_eq!(answered.unwrap().unwrap().data, data(1 << 20));
    }
}

#[tokio::test]
async fn announced_bodies_take_no_memory() {
    let (server, to) = serve_with(
        support::exchanger(),
        ServerConfig { max_in_flight_bytes: 600 << 20, ..Default::default() },
    );
    let header = FrameHeader::new(0, (512 << 20) - 1, false).to_bytes();
    let mut streams = Vec::new();
    for _ in 0..300 {
        let stream = connect(&to).await;
        write(&stream, &header).await;
        streams.push(stream);
    }
    while server.connections() < 300 {
        tokio::task::yield_now().await;
    }
    // Nothing is left of the bound if each took what it announces.
    let options = CallOptions::timeout(Duration::from_secs(20));
    let request = Bulk { data: data(16 << 20) };
    assert_eq!(client().call_endpoint::<Exchange>(&to, &request, &options).await.unwrap(), request);
}

#[tokio::test]
async fn the_oldest_idle_connection_makes_room() {
    let config = ServerConfig { max_connections: 10, ..Default::default() };
    let (server, to) = serve_with(support::sleeper(), config);
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(connect(&to).await);
    }
    while server.connections() < 10 {
        tokio::task::yield_now().await;
    }
    // None is idle long enough: the newcomer is turned away, the others are served.
    expect_end(&connect(&to).await).await;
    write(&streams[9], &echo_frame(9, "")).await;
    assert_eq!(read_frame(&streams[9]).await.uuid, 9);
    sleep(Duration::from_millis(1100)).await;
    let newcomer = connect(&to).await;
    write(&newcomer, &echo_frame(1, "")).await;
    assert_eq!(read_frame(&newcomer).await.uuid, 1);
    expect_end(&streams[0]).await;
    for stream in &streams[1..] {
        write(stream, &echo_frame(2, "")).await;
        assert_eq!(read_frame(stream).await.uuid, 2, "one made room, not all");
    }
}

#[tokio::test]
async fn graceful_stop() {
    let (server, to) = serve(support::sleeper());
    let client = client();
    let call = {
        let (client, to) = (Arc::clone(&client), to.clone());
        tokio::spawn(async move { client.call_endpoint::<Sleep>(&to, &200, &CallOptions::default()).await })
    };
    while server.running() == 0 {
        tokio::task::yield_now().await;
    }
    let stopping = tokio::spawn(server.stop(Duration::from_secs(10)));
    // Connected already, so that it is refused rather than not heard.
    loop {
        match client.call_endpoint::<Sleep>(&to, &0, &CallOptions::default()).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break assert_eq!(error.code, code::RPC_REQUEST_REFUSED),
        }
    }
    assert_eq!(call.await.unwrap(), Ok(200));
    stopping.await.unwrap();
    let options = CallOptions { send_retries: Some(0), ..Default::default() };
    let error = support::client().call_endpoint::<Sleep>(&to, &0, &options).await.unwrap_err();
    assert_eq!(error.code, code::RPC_SEND_FAILED);
}

#[tokio::test]
async fn a_stop_does_not_wait_longer_than_told() {
    let (server, to) = serve(support::sleeper());
    let client = client();
    let call =
        tokio::spawn(async move { client.call_endpoint::<Sleep>(&to, &9000, &CallOptions::default()).await });
    while server.running() == 0 {
        tokio::task::yield_now().await;
    }
    let started = Instant::now();
    server.stop(Duration::from_millis(50)).await;
    assert!(started.elapsed() < Duration::from_millis(8000));
    assert_eq!(call.await.unwrap().unwrap_err().code, code::RPC_TIMEOUT);
}

#[tokio::test]
async fn a_half_closed_client_is_answered() {
    let (_server, to) = serve(support::sleeper());
    let Endpoint::Tcp(address) = to else { unreachable!() };
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let head = PacketHead {
            uuid: 3,
            service_id: support::SERVICE,
            method_id: 1,
            flags: flags::IS_REQ,
            ..Default::default()
        };
        stream.write_all(&encode_message(&head, &100u64, &[], None).to_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    let packet: MessagePacket = from_bytes(Bytes::copy_from_slice(&answer[HEADER_LEN..])).unwrap();
    assert_eq!(packet.uuid, 3);
}

#[tokio::test]
async fn ten_thousand_idle_connections() {
    const IDLE: usize = 10_000;
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let wanted = limit.maximum.map_or(IDLE, |maximum| IDLE.min((maximum as usize).saturating_sub(300) / 2));
    assert!(wanted > 100, "the machine allows too few descriptors for this test");
    let server =
        valor_rpc::Server::builder(Env::real(), ServerConfig::default()).listen(&[tcp(), tcp()]).unwrap();
    let mut idle = Vec::new();
    for number in 0..wanted {
        idle.push(connect(&server.addresses()[number % 2]).await);
    }
    while server.connections() < wanted {
        tokio::task::yield_now().await;
    }
    let client = client();
    for _ in 0..100 {
        echo(&client, &server.addresses()[0], "served").await.unwrap();
    }
    write(&idle[wanted / 2], &echo_frame(5, "still there")).await;
    assert_eq!(read_frame(&idle[wanted / 2]).await.uuid, 5);
}

/// A world in which connections lead nowhere but to a script. The clock is tokio's.
mod scripted {
    use std::io::{self, IoSlice};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::{Context, Poll};

    use parking_lot::Mutex;
    use valor_env::{BoxFuture, Endpoint, Listener, Socket, Stream, UtcMicros, World, disk};

    /// Each connection delivers these bytes and then nothing.
    pub struct Mute {
        pub bytes: &'static [u8],
        pub connections: Arc<AtomicUsize>,
    }

    struct Line(Mutex<&'static [u8]>, Mutex<bool>);

    impl World for Mute {
        fn utc_now(&self) -> UtcMicros {
            UtcMicros(0)
        }

        fn fill_random(&self, buf: &mut [u8]) {
            buf.fill(1);
        }

        fn hostname(&self) -> String {
            "mute".to_owned()
        }

        fn connect(&self, to: Endpoint) -> BoxFuture<io::Result<Stream>> {
            self.connections.fetch_add(1, Relaxed);
            let line = Line(Mutex::new(self.bytes), Mutex::new(false));
            Box::pin(async move { Ok(Stream::new(line, to)) })
        }

        fn bind(&self, _: &Endpoint, _: bool) -> io::Result<Listener> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn disk(&self) -> Arc<dyn disk::Disk> {
            disk::real()
        }
    }

    impl Socket for Line {
        fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
            let mut bytes = self.0.lock();
            if *self.1.lock() {
                return Ok(0);
            }
            if bytes.is_empty() {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let len = bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&bytes[..len]);
            *bytes = &bytes[len..];
            Ok(len)
        }

        fn try_write_vectored(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
            Ok(bufs.iter().map(|buf| buf.len()).sum())
        }

        fn poll_readable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.0.lock().is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
        }

        fn poll_writable(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn shutdown(&self) {
            *self.1.lock() = true;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_leaves_a_server_stuck_inside_a_frame() {
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let world =
        scripted::Mute { bytes: &[0x86, 1, 2, 3, 0xff, 0, 0, 0, 1], connections: Arc::clone(&connections) };
    let client = valor_rpc::Client::new(Env::new(world), valor_rpc::ClientConfig::default());
    let started = Instant::now();
    let mut made = Vec::new();
    while started.elapsed() < Duration::from_secs(70) {
        assert_eq!(echo(&client, &tcp(), "").await.unwrap_err().code, code::RPC_TIMEOUT);
        made.push(connections.load(std::sync::atomic::Ordering::Relaxed));
    }
    assert_eq!(made.len(), 70, "the default deadline is a second");
    assert_eq!((made[10], made[50], made[69]), (1, 2, 3), "a new connection every thirty seconds");
}
