//! What an instance may reach, and what may reach it. Nothing, unless a rule says so.

mod cidr;
mod name;

pub use cidr::{Cidr, forbidden, is_forbidden};
pub use name::Name;

use std::{fmt, num::NonZeroU64, ops::RangeInclusive, str::FromStr};

/// Most egress rules of one instance.
pub const MAX_RULES: usize = 256;
/// Most of them that name a host.
pub const MAX_NAMES: usize = 64;
/// Most published ports of one instance.
pub const MAX_PUBLISHED: usize = 64;

/// The network of one instance. The default reaches nothing and is reached by nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Where it may open connections to. No rule opens what [`is_forbidden`] names.
    pub egress: Vec<Egress>,
    /// Which of its ports are reached from outside.
    pub published: Vec<Published>,
    /// Bytes per second that it may send; `None` for no limit.
    pub send_limit: Option<NonZeroU64>,
    /// Bytes per second that it may receive.
    pub receive_limit: Option<NonZeroU64>,
    /// Connections per second that it may open; what scans and floods need most.
    pub new_connections_limit: Option<NonZeroU64>,
}

/// One thing that may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// Where.
    pub to: Target,
    /// On which ports of which protocol; every protocol where it is missing.
    pub ports: Option<(Protocol, RangeInclusive<u16>)>,
}

/// Where a rule leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To addresses.
    Range(Cidr),
    /// To whatever the node's resolver finds under a name, for as long as the answer lives.
    Name(Name),
}

/// A port of the instance that is reached by a port of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The protocol of both.
    pub protocol: Protocol,
    /// The node's port.
    pub node_port: u16,
    /// The instance's port.
    pub port: u16,
}

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Why a text is no rule, or a policy cannot be held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not an address, or not a length.
    #[error("{0:?} is not a range of addresses like 203.0.113.0/24 or 2001:db8::/32")]
    Cidr(String),
    /// Bits are set beyond the length: probably another range was meant.
    #[error("{0:?} has bits beyond its length; {1} is the range that it lies in")]
    HostBits(String, Cidr),
    /// An IPv4 address in the clothes of an IPv6 address would pass by the rules for IPv4.
    #[error("{0:?} is IPv4 written as IPv6; write it as IPv4")]
    Mapped(String),
    /// Neither a DNS name nor an address.
    #[error("{0:?} is neither a range of addresses like 203.0.113.0/24 nor a name like example.org or *.example.org")]
    Name(String),
    /// Not a protocol with ports.
    #[error("{0:?} is not a port rule like tcp/443 or udp/6000-6010")]
    Ports(String),
    /// Not a published port.
    #[error("{0:?} is not a published port like 8080:tcp/80 (the node's port, then the instance's)")]
    Published(String),
    /// Nobody may reach what is there.
    #[error("{0} lies in {1}, which no instance may reach: {2}")]
    Forbidden(Cidr, Cidr, &'static str),
    /// A named limit.
    #[error("{count} {what}, where {limit} are the limit")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The port is given twice.
    #[error("port {0} of the node is published twice")]
    PublishedTwice(u16),
    /// The same rule again.
    #[error("the rule {0} is there twice")]
    RuleTwice(String),
}

impl Policy {
    /// Checks what single rules cannot show.
    pub fn check(&self) -> Result<(), PolicyError> {
        at_most("egress rules", self.egress.len(), MAX_RULES)?;
        at_most("egress rules with names", self.names().count(), MAX_NAMES)?;
        at_most("published ports", self.published.len(), MAX_PUBLISHED)?;
        for (index, rule) in self.egress.iter().enumerate() {
            if self.egress[..index].contains(rule) {
                return Err(PolicyError::RuleTwice(rule.to_string()));
            }
            let Target::Range(to) = &rule.to else { continue };
            // A range that only overlaps a forbidden one is fine: what is forbidden in it stays so.
            if let Some((range, why)) = forbidden().find(|(range, _)| range.contains(to)) {
                return Err(PolicyError::Forbidden(*to, range, why));
            }
        }
        for (index, one) in self.published.iter().enumerate() {
            if self.published[..index].iter().any(|other| other.node_port == one.node_port && other.protocol == one.protocol) {
                return Err(PolicyError::PublishedTwice(one.node_port));
            }
        }
        Ok(())
    }

    /// The rules by name, each with its place among all rules.
    pub fn names(&self) -> impl Iterator<Item = (usize, &Name)> {
        self.egress.iter().enumerate().filter_map(|(index, rule)| match &rule.to {
            Target::Name(name) => Some((index, name)),
            Target::Range(_) => None,
        })
    }
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), PolicyError> {
    if count > limit { Err(PolicyError::TooMany { what, count, limit }) } else { Ok(()) }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// As it is read.
impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.to, &self.ports) {
            (Target::Range(range), None) => write!(f, "{range}"),
            (Target::Range(range), Some(_)) if range.address().is_ipv6() => write!(f, "[{range}]"),
            (Target::Range(range), Some(_)) => write!(f, "{range}"),
            (Target::Name(name), _) => write!(f, "{name}"),
        }?;
        match &self.ports {
            None => Ok(()),
            Some((protocol, ports)) if ports.start() == ports.end() => write!(f, ":{protocol}/{}", ports.start()),
            Some((protocol, ports)) => write!(f, ":{protocol}/{}-{}", ports.start(), ports.end()),
        }
    }
}

/// As it is read.
impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.node_port, self.protocol, self.port)
    }
}

/// `TARGET` or `TARGET:PROTOCOL/PORTS`, e.g. `203.0.113.0/24:tcp/443`, `[2001:db8::/32]:udp/6000-6010`, `*.example.org:tcp/443`,
/// `0.0.0.0/0`.
impl FromStr for Egress {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let (to, ports) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((to, "")) => (to, None),
            Some((to, rest)) => (to, Some(rest.strip_prefix(':').ok_or_else(|| PolicyError::Ports(clipped(rest)))?)),
            // The colons of a bare IPv6 range are its own.
            None => match text.split_once(':') {
                Some((to, ports)) if !ports.contains(':') && ports.contains('/') && to.contains('.') => (to, Some(ports)),
                _ => (text, None),
            },
        };
        Ok(Self { to: to.parse()?, ports: ports.map(parse_ports).transpose()? })
    }
}

impl FromStr for Target {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let like_a_range = text.contains(['/', ':']) || text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if like_a_range { text.parse().map(Self::Range) } else { text.parse().map(Self::Name) }
    }
}

/// `NODE_PORT:PROTOCOL/PORT`.
impl FromStr for Published {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let wrong = || PolicyError::Published(clipped(text));
        let (node_port, inner) = text.split_once(':').ok_or_else(wrong)?;
        let node_port = port(node_port).ok_or_else(wrong)?;
        let (protocol, ports) = parse_ports(inner).map_err(|_| wrong())?;
        if ports.start() == ports.end() { Ok(Self { protocol, node_port, port: *ports.start() }) } else { Err(wrong()) }
    }
}

fn parse_ports(text: &str) -> Result<(Protocol, RangeInclusive<u16>), PolicyError> {
    let wrong = || PolicyError::Ports(clipped(text));
    let (protocol, ports) = text.split_once('/').ok_or_else(wrong)?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err(wrong()),
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (port(first).ok_or_else(wrong)?, port(last).ok_or_else(wrong)?);
    if first > last { Err(wrong()) } else { Ok((protocol, first..=last)) }
}

fn port(text: &str) -> Option<u16> {
    decimal(text).and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0)
}

/// Digits alone: "+1" and "007" are not what somebody meant.
fn decimal(text: &str) -> Option<u32> {
    let plain = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    (plain && (text == "0" || !text.starts_with('0'))).then(|| text.parse().ok()).flatten()
}

fn clipped(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests;
