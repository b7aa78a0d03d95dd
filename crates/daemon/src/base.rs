//! `server.base`: which services listen where (3FS `src/common/net/{Server,ServiceGroup,Listener}.h`).

use crate::nic::{self, NetworkType};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, TcpListener};
use valor_protocol::address::{Address, AddressType, ServiceGroupInfo};

/// The groups of a server, service group first, Core group second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct BaseConfig {
    /// Number of shard threads; 0 means 1. (Valor only.)
    pub shards: u32,
    /// Listening groups; an empty list stands for the server's own default.
    pub groups: Vec<GroupConfig>,
}

/// One listening group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct GroupConfig {
    /// Names of the services; empty = the default of the group at this position.
    pub services: BTreeSet<String>,
    /// Kind of interface, and what peers are told.
    pub network_type: NetworkType,
    /// Port and interfaces.
    pub listener: ListenerConfig,
}

/// Where a group listens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct ListenerConfig {
    /// TCP port, 0 = any free one.
    pub listen_port: u16,
    /// Names of the only interfaces to bind; empty = all that fit.
    pub filter_list: BTreeSet<String>,
    /// One more interface name prefix that fits.
    pub custom_tcp_nic_prefix: String,
}

/// A group with the addresses it will listen on and publish.
#[derive(Debug, Clone, PartialEq)]
pub struct BoundGroup {
    /// Names of its services.
    pub services: BTreeSet<String>,
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// What peers are told.
    pub publish: Vec<Address>,
}

/// Resolves interfaces and free ports of a server's groups. `defaults` are the service names and ports of its groups
/// in 3FS's order; a configured group takes its position's default for what it leaves out.
///
/// # Errors
/// When no interface fits or no port is free; the message names the configuration key.
pub fn bind_groups(
    config: &BaseConfig,
    defaults: &[(&str, NetworkType, u16)],
) -> io::Result<Vec<BoundGroup>> {
    defaults
        .iter()
        .enumerate()
        .map(|(index, (service, network, port))| {
            let fallback = GroupConfig {
                services: BTreeSet::new(),
                network_type: *network,
                listener: ListenerConfig { listen_port: *port, ..Default::default() },
            };
            let mut group = config.groups.get(index).cloned().unwrap_or(fallback);
            if group.services.is_empty() {
                group.services.insert((*service).to_owned());
            }
            bind_group(group, index)
        })
        .collect()
}

fn bind_group(group: GroupConfig, index: usize) -> io::Result<BoundGroup> {
    let listener = &group.listener;
    let kind = match group.network_type {
        NetworkType::RDMA => AddressType::Rdma,
        NetworkType::IPoIB => AddressType::Ipoib,
        NetworkType::TCP | NetworkType::LOCAL => AddressType::Tcp,
        NetworkType::UNIX => {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("server.base.groups#{index}.network_type UNIX is not supported; use LOCAL"),
            ));
        }
    };
    let mut bound = BoundGroup { services: group.services, listen: Vec::new(), publish: Vec::new() };
    let mut port = listener.listen_port;
    for ip in nic::addresses(group.network_type, &listener.filter_list, &listener.custom_tcp_nic_prefix)? {
        let wanted = SocketAddrV4::new(ip, port);
        // Shards bind with SO_REUSEPORT, which would silently share a port with a stranger: ask without it first.
        let probe = TcpListener::bind(wanted).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot listen on {wanted}: {error}; change server.base.groups#{index}.listener.listen_port"),
            )
        })?;
        port = probe.local_addr()?.port();
        bound.listen.push(SocketAddr::V4(SocketAddrV4::new(ip, port)));
        bound.publish.push(Address { ip: ip.octets(), port, kind });
    }
    Ok(bound)
}

/// What the heartbeat tells of the groups.
#[must_use]
pub fn service_group_infos(groups: &[BoundGroup]) -> Vec<ServiceGroupInfo> {
    groups
        .iter()
        .map(|group| ServiceGroupInfo { services: group.services.clone(), endpoints: group.publish.clone() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_groups_publish_tcp_and_a_taken_port_names_its_key() {
        let mut config = BaseConfig {
            groups: vec![GroupConfig { network_type: NetworkType::LOCAL, ..Default::default() }],
            ..Default::default()
        };
        let groups = bind_groups(&config, &[("Mgmtd", NetworkType::RDMA, 8000)]).unwrap();
        assert_eq!(groups[0].services, BTreeSet::from(["Mgmtd".to_owned()]));
        assert_eq!(groups[0].publish[0].kind, AddressType::Tcp);
        assert_eq!(groups[0].publish[0].ip, [127, 0, 0, 1]);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        config.groups[0].listener.listen_port = taken.local_addr().unwrap().port();
        let error = bind_groups(&config, &[("Mgmtd", NetworkType::RDMA, 8000)]).unwrap_err();
        assert!(error.to_string().contains("server.base.groups#0.listener.listen_port"), "{error}");
    }

    #[test]
    fn no_fitting_interface_says_which_exist() {
        let config = BaseConfig {
            groups: vec![GroupConfig { network_type: NetworkType::IPoIB, ..Default::default() }],
            ..Default::default()
        };
        let error = bind_groups(&config, &[("Core", NetworkType::TCP, 9000)]).unwrap_err();
        assert!(error.to_string().contains("\"lo\""), "{error}");
    }
}
