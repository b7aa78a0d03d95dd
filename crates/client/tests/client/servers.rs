//! Servers that tests script.

use crate::net::Net;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use valor_env::Endpoint;
use valor_protocol::{Address, Method, ServiceGroupInfo, Status};
use valor_rpc::{Client, ClientConfig, Router, Server, ServerConfig, ServerHandle};

/// Answers a method: request and number of earlier calls to response.
pub type Answer<M> =
    dyn Fn(<M as Method>::Req, usize) -> Result<<M as Method>::Rsp, Status> + Send + Sync + 'static;

/// Requests that arrived at a method.
pub struct Seen<M: Method>(Mutex<Vec<M::Req>>);

impl<M: Method> Seen<M>
where
    M::Req: Clone,
{
    pub fn all(&self) -> Vec<M::Req> {
        self.0.lock().clone()
    }

    pub fn count(&self) -> usize {
        self.0.lock().len()
    }
}

/// Adds a method to a router; what it is asked is recorded.
pub fn scripted<M: Method>(
    router: Router,
    answer: impl Fn(M::Req, usize) -> Result<M::Rsp, Status> + Send + Sync + 'static,
) -> (Router, Arc<Seen<M>>)
where
    M::Req: Clone,
{
    let seen = Arc::new(Seen(Mutex::new(Vec::new())));
    let answer: Arc<Answer<M>> = Arc::new(answer);
    let recorder = seen.clone();
    let router = router.method::<M, _, _>(move |_, req| {
        let count = {
            let mut seen = recorder.0.lock();
            seen.push(req.clone());
            seen.len() - 1
        };
        let answer = answer.clone();
        async move { answer(req, count) }
    });
    (router, seen)
}

/// A server on the network.
pub struct Running {
    pub address: SocketAddr,
    pub handle: ServerHandle,
}

impl Running {
    pub fn rpc_address(&self) -> Address {
        rpc_address(self.address)
    }
}

pub fn rpc_address(address: SocketAddr) -> Address {
    let SocketAddr::V4(address) = address else { unreachable!() };
    Address::tcp(address)
}

/// Starts a server at an address, or at any with port 0.
pub fn serve_at(net: &Net, at: &str, routers: impl IntoIterator<Item = Router>) -> Running {
    let builder = routers
        .into_iter()
        .fold(Server::builder(net.env(), ServerConfig::default()), |builder, router| builder.service(router));
    let handle = builder.listen(&[Endpoint::Tcp(at.parse().unwrap())]).unwrap();
    let Endpoint::Tcp(address) = handle.addresses()[0] else { unreachable!() };
    Running { address, handle }
}

pub fn serve(net: &Net, routers: impl IntoIterator<Item = Router>) -> Running {
    serve_at(net, "127.0.0.1:0", routers)
}

pub fn rpc_client(net: &Net) -> Arc<Client> {
    Client::new(net.env(), ClientConfig::default())
}

pub fn group(service: &str, address: Address) -> ServiceGroupInfo {
    ServiceGroupInfo { services: [service.to_owned()].into(), endpoints: vec![address] }
}
