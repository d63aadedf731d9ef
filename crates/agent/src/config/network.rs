//! The table `[network]`.

use std::net::IpAddr;

use casemate_sandbox::network::{Uplink, is_interface_name, parse_interface_address};
use serde::Deserialize;

use crate::network;

/// What the host gives for the network of instances; see docs/network.md.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFile {
    /// An interface of the host that becomes the router's own.
    pub uplink: String,
    /// What the router's namespace is called; several agents on one host need several.
    #[serde(default = "router_name")]
    pub router: String,
    /// Its addresses, `ADDRESS/LENGTH`.
    pub addresses: Vec<String>,
    /// What it sends everything to, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Who is asked for names; absent: those whom the host asks.
    #[serde(default)]
    pub resolvers: Vec<IpAddr>,
}

/// Checks every value.
pub(super) fn settings(file: &NetworkFile, faults: &mut Vec<String>) -> Option<network::Settings> {
    let before = faults.len();
    if !is_interface_name(&file.uplink) {
        faults.push(format!("network.uplink: {:?} is no name of an interface", file.uplink));
    }
    if !is_interface_name(&file.router) {
        faults.push(format!("network.router: {:?} is no name of a namespace", file.router));
    }
    let addresses: Vec<_> = file.addresses.iter().filter_map(|text| parse_interface_address(text)).collect();
    if addresses.is_empty() || addresses.len() != file.addresses.len() {
        faults.push("network.addresses: must be one or more like 198.51.100.2/30".to_owned());
    }
    let of_family = |v6: bool| file.gateways.iter().filter(|gateway| gateway.is_ipv6() == v6).count();
    if of_family(false) > 1 || of_family(true) > 1 || file.gateways.is_empty() {
        faults.push("network.gateways: must be one of IPv4, one of IPv6, or both".to_owned());
    }
    let uplink = Uplink { interface: file.uplink.clone(), addresses, gateways: file.gateways.clone() };
    let resolvers = file.resolvers.iter().map(|address| (*address, 53).into()).collect();
    (faults.len() == before).then_some(network::Settings { router: file.router.clone(), uplink, resolvers })
}

fn router_name() -> String {
    "casemate".to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::{Config, tests::EXAMPLE};

    #[test]
    fn a_network_is_checked_like_everything_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        let load = |network: &str| {
            std::fs::write(&path, format!("{EXAMPLE}\n[network]\n{network}\n")).unwrap();
            Config::load(&path).map(|config| config.network).map_err(|error| error.to_string())
        };
        let good = "uplink = \"cmup0\"\naddresses = [\"198.51.100.2/30\"]\ngateways = [\"198.51.100.1\"]";
        assert!(load(good).unwrap().is_some());
        let bad = good.replace("cmup0", "a b").replace("/30", "/33").replace("[\"198.51.100.1\"]", "[]");
        let text = load(&bad).unwrap_err();
        for field in ["network.uplink:", "network.addresses:", "network.gateways:"] {
            assert!(text.contains(field), "{field} in {text}");
        }
    }
}
