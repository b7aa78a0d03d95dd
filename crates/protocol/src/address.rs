//! Network addresses and the service groups that nodes publish (`src/common/utils/Address.h`).

use std::collections::BTreeSet;
use valor_wire::{DecodeError, Decoder, Encoder, Wire};

/// How an [`Address`] is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressType {
    /// TCP.
    #[default]
    Tcp,
    /// RDMA; the same port also answers every method over TCP.
    Rdma,
    /// TCP over an InfiniBand interface.
    Ipoib,
    /// TCP over the loopback interface.
    Local,
    /// UNIX socket, see [`Address::unix_path`].
    Unix,
    /// A number this version does not know; kept so that it is sent on unchanged.
    Other(u16),
}

impl AddressType {
    /// The number on the wire.
    pub fn as_u16(self) -> u16 {
        match self {
            Self::Tcp => 0,
            Self::Rdma => 1,
            Self::Ipoib => 2,
            Self::Local => 3,
            Self::Unix => 4,
            Self::Other(n) => n,
        }
    }

    /// The type behind a number on the wire.
    pub fn from_u16(n: u16) -> Self {
        match n {
            0 => Self::Tcp,
            1 => Self::Rdma,
            2 => Self::Ipoib,
            3 => Self::Local,
            4 => Self::Unix,
            n => Self::Other(n),
        }
    }
}

/// An IPv4 endpoint, or a UNIX socket named by a number. Eight raw bytes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// IPv4 address in reading order.
    pub ip: [u8; 4],
    /// Port in host order.
    pub port: u16,
    /// Transport.
    pub kind: AddressType,
}

impl Address {
    /// A TCP endpoint.
    pub fn tcp(address: std::net::SocketAddrV4) -> Address {
        Address { ip: address.ip().octets(), port: address.port(), kind: AddressType::Tcp }
    }

    /// A UNIX socket by number.
    pub fn unix(number: u16) -> Address {
        Address { ip: UNIX_IP, port: number, kind: AddressType::Unix }
    }

    /// True if the endpoint is dialled as TCP or a socket: all but RDMA. An RDMA endpoint can also be reached over
    /// TCP at the same address and port.
    pub fn is_tcp_like(self) -> bool {
        matches!(self.kind, AddressType::Tcp | AddressType::Ipoib | AddressType::Local | AddressType::Unix)
    }

    /// IP address and port.
    pub fn socket_addr(self) -> std::net::SocketAddrV4 {
        std::net::SocketAddrV4::new(self.ip.into(), self.port)
    }

    /// Name of a UNIX endpoint's socket within the system's temporary directory; none for other kinds.
    pub fn unix_file_name(self) -> Option<String> {
        (self.kind == AddressType::Unix && self.ip == UNIX_IP).then(|| format!("domain_socket.{}", self.port))
    }

    /// The eight bytes as an integer, first byte lowest.
    pub fn as_u64(self) -> u64 {
        u64::from(u32::from_le_bytes(self.ip))
            | u64::from(self.port) << 32
            | u64::from(self.kind.as_u16()) << 48
    }

    /// The inverse of [`Address::as_u64`].
    pub fn from_u64(bits: u64) -> Address {
        Address {
            ip: (bits as u32).to_le_bytes(),
            port: (bits >> 32) as u16,
            kind: AddressType::from_u16((bits >> 48) as u16),
        }
    }
}

/// The IP that UNIX endpoints carry: the integer 1 in the order of the wire.
const UNIX_IP: [u8; 4] = [1, 0, 0, 0];

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = match self.kind {
            AddressType::Tcp => "TCP",
            AddressType::Rdma => "RDMA",
            AddressType::Ipoib => "IPoIB",
            AddressType::Local => "LOCAL",
            AddressType::Unix => "UNIX",
            AddressType::Other(n) => return write!(f, "{n}://{}", self.socket_addr()),
        };
        write!(f, "{scheme}://{}", self.socket_addr())
    }
}

/// Text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address of the form TCP://1.2.3.4:5678: {0:?}")]
pub struct ParseAddressError(String);

impl std::str::FromStr for Address {
    type Err = ParseAddressError;

    /// `SCHEME://a.b.c.d:port`; the scheme may be in any case and is TCP when left out.
    fn from_str(text: &str) -> Result<Self, ParseAddressError> {
        let error = || ParseAddressError(text.to_owned());
        let (kind, rest) = match text.split_once("://") {
            None => (AddressType::Tcp, text),
            Some((scheme, rest)) => {
                let kind = match scheme.to_ascii_uppercase().as_str() {
                    "TCP" => AddressType::Tcp,
                    "RDMA" => AddressType::Rdma,
                    "IPOIB" => AddressType::Ipoib,
                    "LOCAL" => AddressType::Local,
                    "UNIX" => AddressType::Unix,
                    _ => return Err(error()),
                };
                (kind, rest)
            }
        };
        let socket: std::net::SocketAddrV4 = rest.parse().map_err(|_| error())?;
        Ok(Address { ip: socket.ip().octets(), port: socket.port(), kind })
    }
}

impl Wire for Address {
    const MIN_SIZE: usize = 8;

    fn encode(&self, out: &mut Encoder) {
        self.as_u64().encode(out);
    }

    fn decode(input: &mut Decoder) -> Result<Self, DecodeError> {
        u64::decode(input).map(Self::from_u64)
    }
}

/// Services that share listening endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Wire)]
pub struct ServiceGroupInfo {
    /// Service names.
    pub services: BTreeSet<String>,
    /// Where they listen.
    pub endpoints: Vec<Address>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes() {
        let a: Address = "rdma://10.0.0.1:8000".parse().unwrap();
        assert_eq!(a.to_string(), "RDMA://10.0.0.1:8000");
        assert_eq!(&valor_wire::to_bytes(&a)[..], [10, 0, 0, 1, 0x40, 0x1f, 1, 0]);
        assert_eq!(valor_wire::from_bytes::<Address>(valor_wire::to_bytes(&a)).unwrap(), a);
        assert!(!a.is_tcp_like());
        let b: Address = "127.0.0.1:1".parse().unwrap();
        assert_eq!(b.kind, AddressType::Tcp);
        assert!("foo://1.2.3.4:5".parse::<Address>().is_err());
        assert!("1.2.3.4".parse::<Address>().is_err());
        let unix = Address::unix(7);
        assert_eq!(unix.unix_file_name().as_deref(), Some("domain_socket.7"));
        assert_eq!(Address::from_u64(unix.as_u64()), unix);
        assert_eq!(Address::from_u64(9 << 48).kind, AddressType::Other(9));
    }
}
