//! Ranges of addresses, and those that nobody reaches.

// Of `core`, which has addresses and no sockets: nothing here talks to anybody.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{fmt, str::FromStr};

use super::{PolicyError, clipped, decimal};

/// A range of addresses: RFC 4632 for IPv4, RFC 4291, section 2.3, for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

impl Cidr {
    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether all of `other` lies in this range.
    pub fn contains(&self, other: &Self) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.length <= other.length
            && masked(other.address, self.length) == self.address
    }
}

impl From<IpAddr> for Cidr {
    fn from(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Cidr {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let wrong = || PolicyError::Cidr(clipped(text));
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(decimal(length).ok_or_else(wrong)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        if matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
            return Err(PolicyError::Mapped(clipped(text)));
        }
        let whole = Self::from(address);
        let length = length.unwrap_or(u32::from(whole.length));
        let length = u8::try_from(length).ok().filter(|length| *length <= whole.length).ok_or_else(wrong)?;
        let range = Self { address: masked(address, length), length };
        if range.address == address { Ok(range) } else { Err(PolicyError::HostBits(clipped(text), range)) }
    }
}

/// The first address of the range of that length around `address`.
fn masked(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(32 - length).unwrap_or(0)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(128 - length).unwrap_or(0)).into(),
    }
}

/// What no instance reaches, whatever its rules say, with the reason: the IANA special-purpose registries (RFC 6890 and its updates),
/// which hold the node's own networks, other instances and the metadata services of clouds; and the ways to write such an IPv4 address as
/// IPv6.
const FORBIDDEN: [(&str, &str); 24] = [
    ("0.0.0.0/8", "this host"),
    ("10.0.0.0/8", "private networks"),
    ("100.64.0.0/10", "carriers' networks"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local addresses, with metadata services"),
    ("172.16.0.0/12", "private networks"),
    ("192.0.0.0/24", "protocol assignments, with metadata services"),
    ("192.88.99.0/24", "relays to IPv6"),
    ("192.168.0.0/16", "private networks"),
    ("198.18.0.0/15", "networks of benchmarks"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved, with broadcast"),
    ("168.63.129.16/32", "a cloud's host agent"),
    ("::/96", "unspecified, loopback, IPv4 as IPv6"),
    ("::ffff:0:0/96", "IPv4 as IPv6"),
    ("64:ff9b::/96", "IPv4 behind a translator"),
    ("64:ff9b:1::/48", "IPv4 behind a local translator"),
    ("100::/64", "discarded"),
    ("2001::/32", "tunnels to IPv4"),
    ("2002::/16", "tunnels to IPv4"),
    ("fc00::/7", "private networks, with metadata services"),
    ("fe80::/10", "link-local addresses"),
    ("fec0::/10", "private networks of old"),
    ("ff00::/8", "multicast"),
];

/// The ranges that no instance reaches, and why.
pub fn forbidden() -> impl Iterator<Item = (Cidr, &'static str)> {
    FORBIDDEN.into_iter().map(|(range, why)| {
        let (address, length) = range.split_once('/').expect("the table has lengths");
        let address = address.parse().expect("the table has addresses");
        (Cidr { address, length: length.parse().expect("the table has numbers") }, why)
    })
}

/// Whether no instance may reach this address.
pub fn is_forbidden(address: IpAddr) -> bool {
    forbidden().any(|(range, _)| range.contains(&address.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_the_table_is_forbidden_and_the_ones_beside_it_are_not() {
        for address in [
            "169.254.169.254",
            "10.255.255.255",
            "100.127.255.255",
            "::1",
            "::ffff:1.2.3.4",
            "64:ff9b::a00:1",
            "fd12::1",
            "fec0::1",
        ] {
            assert!(is_forbidden(address.parse().unwrap()), "{address}");
        }
        for address in ["11.0.0.0", "100.128.0.0", "172.32.0.1", "168.63.129.17", "2606:4700::1111", "2003::1"] {
            assert!(!is_forbidden(address.parse().unwrap()), "{address}");
        }
    }
}
