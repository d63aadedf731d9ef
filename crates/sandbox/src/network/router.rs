//! The namespace that all packets of instances go through. It is ours alone: forwarding is switched on there and the rules are there, so
//! that the host's own parameters and rules stay as they are. What the host gives is one interface, the uplink.

use std::net::IpAddr;

use casemate_lifecycle::network::Cidr;

use super::{NetworkError, place::Place};

/// What the uplink is called in the router.
pub(super) const UPLINK: &str = "up0";

/// The interface that the host gives, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Its name on the host: a macvlan, a VLAN, the end of a veth pair or a whole network card. It moves into the router.
    pub interface: String,
    /// Its addresses in the router, each with the length of its network.
    pub addresses: Vec<(IpAddr, u8)>,
    /// What it sends everything to, at most one of each family.
    pub gateways: Vec<IpAddr>,
}

/// Makes the router, or takes it up: with the uplink in it, it forwards.
pub fn make_router(host: &Place, name: &str, uplink: &Uplink) -> Result<Place, NetworkError> {
    if Place::named(name).is_err() {
        host.ip(&format!("netns add {name}\n"))?;
    }
    let router = Place::named(name)?;
    prepare(&router)?;
    if !has_uplink(&router)? {
        let Uplink { interface, .. } = uplink;
        host.ip(&format!("link set dev {interface} netns {} name {UPLINK}\n", router.path()))
            .map_err(|error| NetworkError::Uplink { interface: interface.clone(), source: Box::new(error) })?;
    }
    let mut lines = String::new();
    for (address, length) in &uplink.addresses {
        let nodad = if address.is_ipv6() { " nodad" } else { "" };
        lines.push_str(&format!("addr replace {address}/{length} dev {UPLINK}{nodad}\n"));
    }
    lines.push_str(&format!("link set dev {UPLINK} up\n"));
    for gateway in &uplink.gateways {
        lines.push_str(&format!("route replace default via {gateway} dev {UPLINK}\n"));
    }
    router.ip(&lines)?;
    Ok(router)
}

/// Parameters of this namespace alone.
pub(super) fn prepare(router: &Place) -> Result<(), NetworkError> {
    router.ip("link set dev lo up\n")?;
    for (parameter, value) in PARAMETERS {
        router.set(parameter, value)?;
    }
    Ok(())
}

fn has_uplink(router: &Place) -> Result<bool, NetworkError> {
    let interfaces = router.ask_ip(&["link", "show"])?;
    Ok(interfaces.as_array().into_iter().flatten().any(|interface| interface["ifname"] == UPLINK))
}

/// What is sent to the outside fits through the uplink.
pub(super) fn mtu(router: &Place) -> Result<u32, NetworkError> {
    let interfaces = router.ask_ip(&["link", "show"])?;
    let uplink = interfaces.as_array().into_iter().flatten().find(|interface| interface["ifname"] == UPLINK);
    let mtu = uplink.and_then(|uplink| uplink["mtu"].as_u64()).and_then(|mtu| u32::try_from(mtu).ok());
    Ok(mtu.filter(|mtu| MTU.contains(mtu)).unwrap_or(1500))
}

/// Every address of the host, its uplink's gateways and the router's own: none of them is an instance's business.
pub(super) fn own_addresses(places: &[&Place]) -> Result<Vec<IpAddr>, NetworkError> {
    let mut own = Vec::new();
    for place in places {
        let interfaces = place.ask_ip(&["address", "show"])?;
        let addresses = interfaces.as_array().into_iter().flatten().flat_map(|interface| interface["addr_info"].as_array());
        own.extend(addresses.flatten().filter_map(|address| address["local"].as_str()?.parse::<IpAddr>().ok()));
        let routes = [place.ask_ip(&["route", "show", "default"])?, place.ask_ip(&["-6", "route", "show", "default"])?];
        let gateways = routes.iter().filter_map(|routes| routes.as_array()).flatten();
        own.extend(gateways.filter_map(|route| route["gateway"].as_str()?.parse::<IpAddr>().ok()));
    }
    Ok(own)
}

/// Whether `text` can be a name of an interface: it becomes a part of a command.
pub fn is_interface_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=15).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with(['-', '.'])
}

/// `ADDRESS/LENGTH`, where the address is one of the network and not its first.
pub fn parse_interface_address(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let length: u8 = length.parse().ok()?;
    // The parser of ranges holds the limits.
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }).parse::<Cidr>().ok()?;
    (1..=if address.is_ipv4() { 32 } else { 128 }).contains(&length).then_some((address, length))
}

/// Smaller ones cannot carry IPv6.
const MTU: std::ops::RangeInclusive<u32> = 1280..=65_535;

const PARAMETERS: [(&str, &str); 9] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    // The resolver is there before the link whose address it has.
    ("ipv4/ip_nonlocal_bind", "1"),
    // An address is answered for on its own link only.
    ("ipv4/conf/all/arp_ignore", "1"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_source_route", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_of_the_configuration_cannot_become_commands() {
        for bad in ["", "a b", "a\nb", "-batch", "../x", "sixteen-letters-x", "a;b", "."] {
            assert!(!is_interface_name(bad), "{bad:?}");
        }
        assert!(is_interface_name("enp3s0.100"));
        assert_eq!(parse_interface_address("198.51.100.2/30"), Some(("198.51.100.2".parse().unwrap(), 30)));
        for bad in ["198.51.100.2", "198.51.100.2/33", "198.51.100.2/0", "x/8", "::1/129", "::ffff:1.2.3.4/96"] {
            assert_eq!(parse_interface_address(bad), None, "{bad}");
        }
    }
}
