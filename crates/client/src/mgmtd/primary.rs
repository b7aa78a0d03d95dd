//! Which manager is the primary, and where it is reached.

use crate::routing::{dialled, endpoints};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use valor_protocol::mgmtd::PersistentNodeInfo;
use valor_protocol::status::{self, code};
use valor_protocol::{Address, NodeId, ServiceGroupInfo, Status};

/// Redirects followed from one answer.
const MAX_REDIRECTS: u8 = 3;
/// Service name of managers.
const SERVICE: &str = "Mgmtd";

/// A manager and the address in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Manager {
    pub node: NodeId,
    pub address: Address,
}

/// Addresses that were asked during one call, so that none is asked twice.
pub(super) type Asked = BTreeSet<Address>;

/// What is known of managers.
pub(super) struct Primary {
    state: Mutex<State>,
    /// One search at a time: the others wait for its result.
    search: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    configured: Vec<Address>,
    known: BTreeMap<NodeId, Vec<Address>>,
    primary: Option<Manager>,
}

impl State {
    /// Addresses worth asking, the most promising first.
    fn candidates(&self) -> VecDeque<(u8, Address)> {
        let primary = self.primary.map(|primary| primary.address);
        let of_primary = self.primary.and_then(|primary| self.known.get(&primary.node)).into_iter().flatten();
        let all =
            primary.iter().chain(of_primary).chain(self.known.values().flatten()).chain(&self.configured);
        all.map(|&address| (0, address)).collect()
    }
}

/// The node that a refusal by a manager that is not primary points to.
fn hinted_node(error: &Status) -> Option<NodeId> {
    (error.code == code::MGMTD_NOT_PRIMARY).then(|| error.message.trim().parse().ok().map(NodeId)).flatten()
}

impl Primary {
    pub(super) fn new(configured: impl IntoIterator<Item = Address>) -> Primary {
        let configured = configured.into_iter().map(dialled).collect();
        Primary { state: Mutex::new(State { configured, ..State::default() }), search: Default::default() }
    }

    /// The primary as last known.
    pub(super) fn current(&self) -> Option<Manager> {
        self.state.lock().primary
    }

    /// Remembers a manager's addresses. Nodes without the service are none.
    pub(super) fn learn(&self, node: NodeId, groups: &[ServiceGroupInfo]) {
        let addresses = endpoints(groups, SERVICE);
        if !addresses.is_empty() {
            self.state.lock().known.insert(node, addresses);
        }
    }

    /// After a failure of the network: another address of the same node that was not asked yet.
    pub(super) fn other_address(&self, failed: Manager, asked: &mut Asked) -> Option<Manager> {
        asked.insert(failed.address);
        let mut state = self.state.lock();
        let addresses = state.known.get(&failed.node)?;
        let address = *addresses.iter().find(|address| !asked.contains(address))?;
        let next = Manager { address, ..failed };
        state.primary = Some(next);
        Some(next)
    }

    /// After "not primary": forgets the node as primary and follows its hint if it names a known node.
    pub(super) fn not_primary(&self, refused: Manager, error: &Status, asked: &mut Asked) {
        let mut state = self.state.lock();
        asked.insert(refused.address);
        asked.extend(state.known.get(&refused.node).into_iter().flatten());
        let hinted = hinted_node(error).and_then(|node| Some((node, *state.known.get(&node)?.first()?)));
        if state.primary == Some(refused) {
            state.primary = hinted.map(|(node, address)| Manager { node, address });
        }
    }

    /// Asks managers until one says that it is the primary itself.
    pub(super) async fn find<F, Fut>(&self, asked: &mut Asked, ask: F) -> Result<Manager, Status>
    where
        F: Fn(Address) -> Fut,
        Fut: Future<Output = Result<Option<PersistentNodeInfo>, Status>>,
    {
        let before = self.current();
        let _one_search = self.search.lock().await;
        if let Some(found) = self.current()
            && Some(found) != before
            && !asked.contains(&found.address)
        {
            return Ok(found); // by the search we waited for
        }
        let mut candidates = self.state.lock().candidates();
        let mut last =
            status::with_message(code::MGMTD_CLIENT_PRIMARY_MGMTD_NOT_FOUND, "no manager knows a primary");
        while let Some((redirects, address)) = candidates.pop_front() {
            if !asked.insert(address) {
                continue;
            }
            let follow = match ask(address).await {
                Ok(Some(node)) => match self.consider(&node, address) {
                    Answer::Itself(manager) => return Ok(manager),
                    Answer::Other(addresses) => addresses,
                },
                Ok(None) => Vec::new(),
                Err(error) => {
                    let hinted = hinted_node(&error);
                    last.message = format!("{address}: {}", status::describe(&error));
                    hinted.and_then(|node| self.state.lock().known.get(&node).cloned()).unwrap_or_default()
                }
            };
            if redirects < MAX_REDIRECTS {
                for address in follow.into_iter().rev() {
                    candidates.push_front((redirects + 1, address));
                }
            }
        }
        Err(last)
    }

    /// Judges what `asked` says about the primary.
    fn consider(&self, node: &PersistentNodeInfo, asked: Address) -> Answer {
        self.learn(node.node_id, &node.service_groups);
        let addresses = endpoints(&node.service_groups, SERVICE);
        if !addresses.iter().any(|address| address.socket_addr() == asked.socket_addr()) {
            return Answer::Other(addresses);
        }
        let manager = Manager { node: node.node_id, address: asked };
        self.state.lock().primary = Some(manager);
        Answer::Itself(manager)
    }
}

enum Answer {
    Itself(Manager),
    Other(Vec<Address>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use valor_protocol::status::status;

    fn address(port: u16) -> Address {
        format!("TCP://127.0.0.1:{port}").parse().unwrap()
    }

    fn groups(ports: &[u16]) -> Vec<ServiceGroupInfo> {
        vec![ServiceGroupInfo {
            services: [SERVICE.to_owned()].into(),
            endpoints: ports.iter().map(|&port| address(port)).collect(),
        }]
    }

    fn node(id: u32, ports: &[u16]) -> PersistentNodeInfo {
        PersistentNodeInfo { node_id: NodeId(id), service_groups: groups(ports), ..Default::default() }
    }

    /// A cluster in which node 2 at ports 20 and 21 is primary; port 20 is dead, node 1 is at 10, port 30 is dead.
    async fn ask(of: Address) -> Result<Option<PersistentNodeInfo>, Status> {
        match of.port {
            10 | 21 => Ok(Some(node(2, &[20, 21]))),
            40 => Ok(None),
            _ => Err(status(code::RPC_CONNECT_FAILED)),
        }
    }

    fn manager(node: u32, port: u16) -> Manager {
        Manager { node: NodeId(node), address: address(port) }
    }

    #[tokio::test]
    async fn follows_redirects_past_dead_addresses() {
        let primary = Primary::new([address(30), address(40), address(10)]);
        let found = primary.find(&mut Asked::new(), ask).await.unwrap();
        assert_eq!(found, manager(2, 21));
        assert_eq!(primary.current(), Some(found));
    }

    #[tokio::test]
    async fn fails_when_nobody_knows() {
        let primary = Primary::new([address(30), address(40)]);
        let error = primary.find(&mut Asked::new(), ask).await.unwrap_err();
        assert_eq!(error.code, 6000);
        assert!(error.message.contains(":30"), "{}", error.message);
    }

    #[tokio::test]
    async fn no_address_is_asked_twice() {
        let primary = Primary::new([address(10)]);
        let mut asked = Asked::from([address(21)]);
        assert_eq!(primary.find(&mut asked, ask).await.unwrap_err().code, 6000);
    }

    #[tokio::test]
    async fn redirects_end() {
        // Every manager names the next one.
        let primary = Primary::new([address(100)]);
        let count = std::sync::atomic::AtomicU32::new(0);
        let result = primary
            .find(&mut Asked::new(), |of| {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                async move { Ok(Some(node(u32::from(of.port), &[of.port + 1]))) }
            })
            .await;
        assert_eq!(result.unwrap_err().code, 6000);
        let asked = count.into_inner();
        assert_eq!(asked, 1 + u32::from(MAX_REDIRECTS));
    }

    #[test]
    fn network_failures_rotate_addresses() {
        let primary = Primary::new([]);
        primary.learn(NodeId(2), &groups(&[20, 21]));
        let mut asked = Asked::new();
        assert_eq!(primary.other_address(manager(2, 20), &mut asked), Some(manager(2, 21)));
        assert_eq!(primary.current(), Some(manager(2, 21)));
        assert_eq!(primary.other_address(manager(2, 21), &mut asked), None);
    }

    #[test]
    fn refusals_are_followed_if_they_name_a_known_node() {
        let primary = Primary::new([]);
        primary.learn(NodeId(1), &groups(&[10]));
        primary.learn(NodeId(2), &groups(&[20, 21]));
        let refused = manager(1, 10);
        let refuse = |message: &str| {
            primary.state.lock().primary = Some(refused);
            primary.not_primary(
                refused,
                &status::with_message(code::MGMTD_NOT_PRIMARY, message),
                &mut Asked::new(),
            );
            primary.current()
        };
        assert_eq!(refuse("2"), Some(manager(2, 20)));
        assert_eq!(refuse("7"), None);
        assert_eq!(refuse(""), None);
    }
}
