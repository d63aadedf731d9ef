//! The machine's one network card: addresses and routes as the launch message says, set once by netlink, before the workload's process
//! exists. Nothing here listens or asks: there is no DHCP, no router is believed, no neighbour is trusted.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use casemate_api::guest;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// A link, decoded and within its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    address4: [u8; 4],
    gateway4: [u8; 4],
    address6: [u8; 16],
    gateway6: [u8; 16],
    mtu: u32,
    resolves: bool,
}

/// Why there is no network.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkError {
    #[error("the launch message has a network of which {0}")]
    Message(&'static str),
    #[error("find the network card: there are {0} beside loopback")]
    Card(usize),
    #[error("{attempt}")]
    System {
        attempt: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Link {
    /// Reads the message. The host can lie, and gains nothing by it that it would not have by dropping packets.
    pub(crate) fn read(network: &guest::Network) -> Result<Self, NetworkError> {
        let wrong = |what| move |_| NetworkError::Message(what);
        if !MTU.contains(&network.mtu) {
            return Err(NetworkError::Message("the largest packet is not 1280 to 65535 bytes"));
        }
        Ok(Self {
            address4: network.address4.as_slice().try_into().map_err(wrong("address4 has not 4 bytes"))?,
            gateway4: network.gateway4.as_slice().try_into().map_err(wrong("gateway4 has not 4 bytes"))?,
            address6: network.address6.as_slice().try_into().map_err(wrong("address6 has not 16 bytes"))?,
            gateway6: network.gateway6.as_slice().try_into().map_err(wrong("gateway6 has not 16 bytes"))?,
            mtu: network.mtu,
            resolves: network.resolves,
        })
    }

    /// What the workload sees as `/etc/resolv.conf`.
    pub(crate) fn resolver_file(&self) -> String {
        let gateway = std::net::Ipv4Addr::from(self.gateway4);
        if self.resolves { format!("nameserver {gateway}\n") } else { String::new() }
    }

    /// Brings the card up with its addresses and routes.
    pub(crate) fn set_up(&self) -> Result<(), NetworkError> {
        let (name, index) = card()?;
        for (setting, value) in SETTINGS {
            let path = format!("/proc/sys/net/{}", setting.replace("CARD", &name));
            fs::write(path, value).or_else(missing_is_fine).map_err(failed("set a parameter of the network"))?;
        }
        let flags = SocketFlags::CLOEXEC;
        let kernel = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
            .map_err(|error| failed("open a netlink socket")(error.into()))?;
        let ask = |attempt, message: Message| message.ask(&kernel).map_err(failed(attempt));
        ask("set the largest packet and take the card up", up(index, self.mtu))?;
        ask("set the IPv4 address", address(index, AF_INET, &self.address4))?;
        ask("set the IPv6 address", address(index, AF_INET6, &self.address6))?;
        ask("set the IPv4 route", route(index, AF_INET, &self.gateway4))?;
        ask("set the IPv6 route", route(index, AF_INET6, &self.gateway6))
    }
}

fn failed(attempt: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
    move |source| NetworkError::System { attempt, source }
}

fn missing_is_fine(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// The one interface that is a device.
fn card() -> Result<(String, u32), NetworkError> {
    let entries = fs::read_dir(INTERFACES).map_err(failed("list network cards"))?;
    let cards: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.join("device").exists()).collect();
    let [card] = cards.as_slice() else { return Err(NetworkError::Card(cards.len())) };
    let index = fs::read_to_string(card.join("ifindex")).map_err(failed("read the number of the network card"))?;
    let index = index.trim().parse().map_err(|error| failed("read the number of the network card")(io::Error::other(error)))?;
    let name = card.file_name().map(Path::new).unwrap_or(Path::new("")).display().to_string();
    Ok((name, index))
}

/// One request of rtnetlink (RFC 3549), with its attributes.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | ACK | flags).to_ne_bytes());
        bytes.extend(body);
        Self(bytes)
    }

    fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).expect("attributes here have at most 16 bytes");
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Sends it, and reads the kernel's yes or no.
    fn ask(mut self, kernel: &OwnedFd) -> io::Result<()> {
        let length = u32::try_from(self.0.len()).map_err(io::Error::other)?;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        send(kernel, &self.0, SendFlags::empty())?;
        let mut answer = [0; 1024];
        let count = recv(kernel, answer.as_mut_slice(), RecvFlags::empty())?.1;
        judge(answer.get(..count).unwrap_or_default())
    }
}

fn judge(answer: &[u8]) -> io::Result<()> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(code)) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is none")),
    }
}

/// `struct ifinfomsg`
fn up(index: u32, mtu: u32) -> Message {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&UP.to_ne_bytes());
    body[12..16].copy_from_slice(&UP.to_ne_bytes());
    Message::new(NEW_LINK, 0, &body).with(LINK_MTU, &mtu.to_ne_bytes())
}

/// `struct ifaddrmsg`: one address without a network around it.
fn address(index: u32, family: u8, address: &[u8]) -> Message {
    let length = u8::try_from(address.len() * 8).expect("addresses have at most 128 bits");
    let mut body = [family, length, NO_DAD, 0, 0, 0, 0, 0];
    body[4..].copy_from_slice(&index.to_ne_bytes());
    Message::new(NEW_ADDRESS, CREATE | EXCLUSIVE, &body).with(ADDRESS, address).with(LOCAL_ADDRESS, address)
}

/// `struct rtmsg`: everything goes to the gateway, which is on the link.
fn route(index: u32, family: u8, gateway: &[u8]) -> Message {
    let mut body = [family, 0, 0, 0, MAIN_TABLE, STATIC, 0, UNICAST, 0, 0, 0, 0];
    body[8..].copy_from_slice(&ON_LINK.to_ne_bytes());
    Message::new(NEW_ROUTE, CREATE | EXCLUSIVE, &body).with(GATEWAY, gateway).with(OUT, &index.to_ne_bytes())
}

const INTERFACES: &str = "/sys/class/net";

const MTU: std::ops::RangeInclusive<u32> = 1280..=65_535;

const SETTINGS: [(&str, &str); 4] = [
    // Whoever answers first is not a router.
    ("ipv6/conf/CARD/accept_ra", "0"),
    ("ipv4/conf/CARD/accept_redirects", "0"),
    ("ipv6/conf/CARD/accept_redirects", "0"),
    // The workload has no privileges, and the ports are its alone.
    ("ipv4/ip_unprivileged_port_start", "0"),
];

// Of linux/netlink.h, linux/rtnetlink.h and what they include.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const HEADER: usize = 16;
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const UP: u32 = 1;
const LINK_MTU: u16 = 4;
const NO_DAD: u8 = 2;
const ADDRESS: u16 = 1;
const LOCAL_ADDRESS: u16 = 2;
const MAIN_TABLE: u8 = 254;
const STATIC: u8 = 4;
const UNICAST: u8 = 1;
const ON_LINK: u32 = 4;
const OUT: u16 = 4;
const GATEWAY: u16 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> guest::Network {
        guest::Network {
            address4: vec![100, 127, 0, 1],
            gateway4: vec![100, 127, 0, 0],
            address6: vec![1; 16],
            gateway6: vec![2; 16],
            mtu: 1400,
            resolves: true,
        }
    }

    #[test]
    fn messages_are_read_within_their_limits() {
        assert_eq!(Link::read(&message()).unwrap().resolver_file(), "nameserver 100.127.0.0\n");
        assert_eq!(Link::read(&guest::Network { resolves: false, ..message() }).unwrap().resolver_file(), "");
        type Break = fn(&mut guest::Network);
        let breaks: [Break; 6] = [
            |network| network.address4.clear(),
            |network| network.gateway4.push(0),
            |network| network.address6.truncate(4),
            |network| network.gateway6 = vec![0; 4],
            |network| network.mtu = 1279,
            |network| network.mtu = 65_536,
        ];
        for break_it in breaks {
            let mut hostile = message();
            break_it(&mut hostile);
            assert!(Link::read(&hostile).is_err(), "{hostile:?}");
        }
    }

    #[test]
    fn requests_have_the_form_that_the_kernel_reads() {
        let message = route(7, AF_INET, &[100, 127, 0, 0]);
        assert_eq!(message.0.len(), 16 + 12 + 8 + 8);
        assert_eq!(message.0[28..36], [8, 0, 5, 0, 100, 127, 0, 0]);
        assert_eq!(message.0[36..44], [8, 0, 4, 0, 7, 0, 0, 0]);
        assert_eq!(address(7, AF_INET6, &[1; 16]).0.len(), 16 + 8 + 2 * 20);
    }

    #[test]
    fn a_refusal_of_the_kernel_is_an_error_and_garbage_too() {
        let mut answer = [0; 20];
        answer[4] = 2;
        assert!(judge(&answer).is_ok());
        answer[16..].copy_from_slice(&(-17_i32).to_ne_bytes());
        assert_eq!(judge(&answer).unwrap_err().raw_os_error(), Some(17));
        assert!(judge(&[]).is_err());
        assert!(judge(&answer[..18]).is_err());
        answer[16..].copy_from_slice(&i32::MIN.to_ne_bytes());
        assert!(judge(&answer).is_err());
    }
}
