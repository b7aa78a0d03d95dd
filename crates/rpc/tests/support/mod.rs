//! Methods of a made-up service, and what every test does.
#![allow(dead_code)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;
use valor_env::{Endpoint, Env};
use valor_protocol::Method;
use valor_protocol::echo::{Message, methods::Echo};
use valor_rpc::{CallOptions, Client, ClientConfig, Router, Server, ServerConfig, ServerHandle};
use valor_wire::{Status, Wire};

/// Number of the test service.
pub const SERVICE: u16 = 900;

macro_rules! method {
    ($name:ident, $service:expr, $id:literal, $req:ty, $rsp:ty) => {
        pub struct $name;
        impl Method for $name {
            const SERVICE_ID: u16 = $service;
            const SERVICE: &'static str = "Test";
            const ID: u16 = $id;
            const NAME: &'static str = stringify!($name);
            type Req = $req;
            type Rsp = $rsp;
        }
    };
}

/// Bulk data, as in `UInt8Vector`.
#[derive(Clone, Debug, Default, PartialEq, Wire)]
pub struct Bulk {
    pub data: Bytes,
}

method!(Sleep, SERVICE, 1, u64, u64);
method!(Exchange, SERVICE, 2, Bulk, Bulk);
method!(Relay, SERVICE, 3, String, String);
method!(Pile, SERVICE, 4, u64, Vec<Bytes>);
method!(Elsewhere, 901, 1, u64, u64);
method!(SleepMisspelt, SERVICE, 1, u8, u64);
method!(ExchangeMisread, SERVICE, 2, Bulk, u64);

pub fn tcp() -> Endpoint {
    "127.0.0.1:0".parse().unwrap()
}

pub fn client() -> Arc<Client> {
    // Machines that run tests are busy at times.
    Client::new(
        Env::real(),
        ClientConfig { default_timeout: Duration::from_secs(20), ..ClientConfig::default() },
    )
}

pub fn serve(router: Router) -> (ServerHandle, Endpoint) {
    serve_with(router, ServerConfig::default())
}

pub fn serve_with(router: Router, config: ServerConfig) -> (ServerHandle, Endpoint) {
    let server = Server::builder(Env::real(), config).service(router).listen(&[tcp()]).unwrap();
    let to = server.addresses()[0].clone();
    (server, to)
}

/// Answers after the milliseconds asked for.
pub fn sleeper() -> Router {
    Router::new(SERVICE, "Test").method::<Sleep, _, _>(|_, millis| async move {
        if millis > 0 {
            sleep(Duration::from_millis(millis)).await;
        }
        Ok(millis)
    })
}

/// Answers with what it was sent.
pub fn exchanger() -> Router {
    Router::new(SERVICE, "Test").method::<Exchange, _, _>(|_, bulk| async move { Ok(bulk) })
}

pub async fn echo(client: &Client, to: &Endpoint, text: &str) -> Result<String, Status> {
    let message = Message { str: text.into() };
    client.call_endpoint::<Echo>(to, &message, &CallOptions::default()).await.map(|message| message.str)
}

/// Bytes that do not repeat and compress a little.
pub fn data(len: usize) -> Bytes {
    let mut state = 1u64;
    let word = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 60) as u8
    };
    (0..len).map(word).collect::<Vec<_>>().into()
}
