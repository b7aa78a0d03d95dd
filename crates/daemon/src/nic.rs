//! Which local addresses a listener binds (3FS `src/common/net/Listener.cc`).

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;

/// The network types of a listening group (3FS `server.base.groups[].network_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum NetworkType {
    /// Ethernet interfaces; published as RDMA so that C++ peers accept them, served over TCP.
    #[default]
    RDMA,
    /// Ethernet interfaces.
    TCP,
    /// IP over InfiniBand interfaces.
    IPoIB,
    /// The loopback interface; published as TCP.
    LOCAL,
    /// A UNIX socket.
    UNIX,
}

impl NetworkType {
    fn prefixes(self) -> &'static [&'static str] {
        match self {
            Self::RDMA | Self::TCP => &["en", "eth", "bond", "xgbe"],
            Self::IPoIB => &["ib"],
            Self::LOCAL => &["lo"],
            Self::UNIX => &[],
        }
    }
}

/// IPv4 addresses of the interfaces that a group of this type binds.
///
/// # Errors
/// When no interface fits; the message says which exist and which key to change.
pub fn addresses(
    kind: NetworkType,
    only: &BTreeSet<String>,
    custom_prefix: &str,
) -> io::Result<Vec<Ipv4Addr>> {
    let interfaces = if_addrs::get_if_addrs()?;
    let fits = |name: &str| {
        let named = kind.prefixes().iter().any(|prefix| name.starts_with(prefix))
            || (!custom_prefix.is_empty() && name.starts_with(custom_prefix));
        named && (only.is_empty() || only.contains(name))
    };
    let chosen: BTreeSet<Ipv4Addr> = interfaces
        .iter()
        .filter(|interface| interface.is_oper_up() && fits(&interface.name))
        .filter_map(|interface| match interface.ip() {
            std::net::IpAddr::V4(ip) => Some(ip),
            std::net::IpAddr::V6(_) => None,
        })
        .collect();
    if chosen.is_empty() {
        let names: BTreeSet<_> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
        return Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            format!(
                "no network interface fits network_type {kind:?} (interfaces here: {names:?}); set \
                 `listener.custom_tcp_nic_prefix` or `listener.filter_list` of the group, or use network_type LOCAL"
            ),
        ));
    }
    Ok(chosen.into_iter().collect())
}
