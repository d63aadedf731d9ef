//! The rules of the kernel's packet filter, as text for `nft`. Pure. Every value in it is an address, a number or a name that we made, so
//! that nothing a tenant writes can become a rule.
//!
//! One table of our own, in a namespace of our own. A packet of an instance goes by its interface's name into the chain of that instance,
//! and is dropped where there is none:
//!
//! ```text
//! forward: from cm*: @from -> chain from_X: spoofed? limits, established, forbidden ranges, rules ... drop
//!          to cm*:   @to   -> chain to_X:   limits, established, published ... drop
//! input:   from cm*: questions to the resolver of who may ask it, neighbour discovery, else drop; from outside: errors, else drop
//! output:  to cm*: established, neighbour discovery, else drop
//! ```

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU64,
    time::Duration,
};

use casemate_lifecycle::network::{Cidr, Egress, Policy, Target, forbidden};
use serde_json::Value;

use super::address::Link;

/// The table.
pub(super) const TABLE: &str = "inet casemate";
/// What the names of instances' interfaces begin with.
pub(super) const PREFIX: &str = "cm";
/// Addresses under one rule by name, at the same time.
pub(super) const MAX_FOUND: usize = 256;
/// Connections of one instance that the node remembers, at the same time: its table is everybody's.
const MAX_CONNECTIONS: u32 = 8192;
/// What a limiter lets through at once at least: the largest packet that the kernel passes in one piece, twice.
const LEAST_BURST: u64 = 128 << 10;

/// The part that all instances share, with the addresses of the node itself. Applied again it changes nothing.
pub(super) fn base(own: &BTreeSet<IpAddr>) -> String {
    let own = own.iter().map(|address| Cidr::from(*address));
    let (v4, v6): (Vec<Cidr>, Vec<Cidr>) =
        forbidden().map(|(range, _)| range).chain(own).partition(|range| range.address().is_ipv4());
    let listed = |ranges: Vec<Cidr>| ranges.iter().map(Cidr::to_string).collect::<Vec<_>>().join(", ");
    let (v4, v6) = (listed(v4), listed(v6));
    // Chains are emptied before they are filled: the same text makes the same rules, whatever was there.
    format!(
        "add table {TABLE}
add set {TABLE} forbidden4 {{ type ipv4_addr; flags interval; auto-merge; }}
add set {TABLE} forbidden6 {{ type ipv6_addr; flags interval; auto-merge; }}
flush set {TABLE} forbidden4
flush set {TABLE} forbidden6
add element {TABLE} forbidden4 {{ {v4} }}
add element {TABLE} forbidden6 {{ {v6} }}
add map {TABLE} from {{ type ifname : verdict; }}
add map {TABLE} to {{ type ifname : verdict; }}
add set {TABLE} askers {{ type ifname . ipv4_addr . ipv4_addr; }}
add chain {TABLE} neighbours
add chain {TABLE} publish {{ type nat hook prerouting priority dstnat; policy accept; }}
add chain {TABLE} forward {{ type filter hook forward priority filter; policy drop; }}
add chain {TABLE} input {{ type filter hook input priority filter; policy drop; }}
add chain {TABLE} output {{ type filter hook output priority filter; policy drop; }}
add chain {TABLE} leave {{ type nat hook postrouting priority srcnat; policy accept; }}
flush chain {TABLE} neighbours
flush chain {TABLE} forward
flush chain {TABLE} input
flush chain {TABLE} output
flush chain {TABLE} leave
add rule {TABLE} neighbours icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
add rule {TABLE} neighbours drop
add rule {TABLE} forward iifname vmap @from
add rule {TABLE} forward oifname vmap @to
add rule {TABLE} input iifname . ip saddr . ip daddr @askers meta l4proto {{ tcp, udp }} th dport 53 accept
add rule {TABLE} input iifname \"{PREFIX}*\" goto neighbours
add rule {TABLE} input ct state established,related accept
add rule {TABLE} input icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
add rule {TABLE} output ct state established,related accept
add rule {TABLE} output icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
add rule {TABLE} output oifname \"lo\" accept
add rule {TABLE} leave iifname \"{PREFIX}*\" oifname != \"{PREFIX}*\" masquerade
"
    )
}

/// The part of one instance, which has none yet; all at once or not at all.
pub(super) fn of_instance(link: &Link, policy: &Policy) -> String {
    let mut text = String::new();
    let mut add = |line: std::fmt::Arguments<'_>| writeln!(text, "add {line}").expect("writing to a string cannot fail");
    let (name, v4, v6) = (&link.interface, link.instance4, link.instance6);
    for direction in ["from", "to"] {
        add(format_args!("counter {TABLE} {direction}_{name}"));
        add(format_args!("counter {TABLE} {direction}_{name}_dropped"));
        add(format_args!("chain {TABLE} {direction}_{name}"));
    }
    for (index, _) in policy.names() {
        for (family, kind) in [(4, "ipv4_addr"), (6, "ipv6_addr")] {
            let set = found_set(name, index, family);
            add(format_args!("set {TABLE} {set} {{ type {kind}; flags timeout; size {MAX_FOUND}; }}"));
        }
    }
    let from = format!("rule {TABLE} from_{name}");
    let drop = format!("counter name from_{name}_dropped drop");
    add(format_args!("{from} ether saddr != {} {drop}", link.mac));
    add(format_args!("{from} meta nfproto ipv4 ip saddr != {v4} {drop}"));
    add(format_args!("{from} meta nfproto ipv6 ip6 saddr != {v6} {drop}"));
    add(format_args!("{from} oifname \"{PREFIX}*\" {drop}"));
    if let Some(limit) = policy.send_limit {
        add(format_args!("{from} {} {drop}", over(limit)));
    }
    add(format_args!("{from} counter name from_{name}"));
    add(format_args!("{from} ct state established,related accept"));
    add(format_args!("{from} ct state invalid {drop}"));
    add(format_args!("{from} ip daddr @forbidden4 {drop}"));
    add(format_args!("{from} ip6 daddr @forbidden6 {drop}"));
    // A connection is new until it is answered; only its first packet is not in the node's table yet.
    let first = "ct state new ct status & confirmed == 0";
    if let Some(limit) = policy.new_connections_limit {
        add(format_args!("{from} {first} limit rate over {limit}/second {drop}"));
    }
    add(format_args!("{from} {first} ct count over {MAX_CONNECTIONS} {drop}"));
    for (index, rule) in policy.egress.iter().enumerate() {
        for condition in conditions(name, index, rule) {
            add(format_args!("{from} {condition} accept"));
        }
    }
    add(format_args!("{from} {drop}"));

    to_instance(link, policy, &mut add);
    // Only who has rules by name has anything to ask.
    if policy.names().next().is_some() {
        add(format_args!("element {TABLE} askers {{ \"{name}\" . {v4} . {} }}", link.node4));
    }
    add(format_args!("element {TABLE} from {{ \"{name}\" : jump from_{name} }}"));
    add(format_args!("element {TABLE} to {{ \"{name}\" : jump to_{name} }}"));
    text
}

fn to_instance(link: &Link, policy: &Policy, add: &mut impl FnMut(std::fmt::Arguments<'_>)) {
    let (name, v4, v6) = (&link.interface, link.instance4, link.instance6);
    let to = format!("rule {TABLE} to_{name}");
    if let Some(limit) = policy.receive_limit {
        add(format_args!("{to} {} counter name to_{name}_dropped drop", over(limit)));
    }
    add(format_args!("{to} counter name to_{name}"));
    add(format_args!("{to} ct state established,related accept"));
    for published in &policy.published {
        let (protocol, port) = (published.protocol, published.port);
        add(format_args!("{to} ct status dnat {protocol} dport {port} accept"));
    }
    add(format_args!("{to} counter name to_{name}_dropped drop"));
    for published in &policy.published {
        let (protocol, node_port, port) = (published.protocol, published.node_port, published.port);
        // Not for instances: they may not reach the node, by any name.
        let publish = format!("rule {TABLE} publish iifname != \"{PREFIX}*\" fib daddr type local {protocol} dport {node_port}");
        add(format_args!("{publish} dnat ip to {v4}:{port} comment \"{name}\""));
        add(format_args!("{publish} dnat ip6 to [{v6}]:{port} comment \"{name}\""));
    }
}

fn over(limit: NonZeroU64) -> String {
    format!("limit rate over {limit} bytes/second burst {} bytes", (limit.get() / 8).max(LEAST_BURST))
}

/// What a rule lets pass: one condition, or one for each family of addresses.
fn conditions(name: &str, index: usize, rule: &Egress) -> Vec<String> {
    let ports = rule
        .ports
        .as_ref()
        .map_or_else(String::new, |(protocol, ports)| format!(" {protocol} dport {}-{}", ports.start(), ports.end()));
    match &rule.to {
        Target::Range(range) if range.address().is_ipv4() => vec![format!("ip daddr {range}{ports}")],
        Target::Range(range) => vec![format!("ip6 daddr {range}{ports}")],
        Target::Name(_) => vec![
            format!("ip daddr @{}{ports}", found_set(name, index, 4)),
            format!("ip6 daddr @{}{ports}", found_set(name, index, 6)),
        ],
    }
}

/// The set of addresses that were found under the name of a rule.
fn found_set(interface: &str, rule: usize, family: u8) -> String {
    format!("found{family}_{interface}_{rule}")
}

/// Opens what was found under a name for its rules. One transaction.
pub(super) fn found(interface: &str, rules: &[usize], addresses: &[IpAddr], lifetime: Duration) -> String {
    let mut text = String::new();
    let seconds = lifetime.as_secs().max(1);
    for (rule, address) in rules.iter().flat_map(|rule| addresses.iter().map(move |address| (rule, address))) {
        let set = found_set(interface, *rule, if address.is_ipv4() { 4 } else { 6 });
        // Adding what is there would leave its old end; taking away what is not there would fail.
        for (verb, end) in [("add", ""), ("delete", ""), ("add", &*format!(" timeout {seconds}s"))] {
            writeln!(text, "{verb} element {TABLE} {set} {{ {address}{end} }}").expect("writing to a string cannot fail");
        }
    }
    text
}

/// Takes away everything of an interface that `listing`, the answer to `nft -j -a list table`, still has: what was half done is undone, too.
pub(super) fn without(interface: &str, listing: &Value) -> String {
    let mut text = String::new();
    let mut delete = |what: std::fmt::Arguments<'_>| writeln!(text, "delete {what}").expect("writing to a string cannot fail");
    // What points somewhere goes before where it points.
    for map in items(listing, "map") {
        let name = map["name"].as_str().unwrap_or_default();
        let elements = map["elem"].as_array().into_iter().flatten();
        if elements.filter_map(|element| element[0].as_str()).any(|key| key == interface) {
            delete(format_args!("element {TABLE} {name} {{ \"{interface}\" : jump {name}_{interface} }}"));
        }
    }
    for (name, v4, node4) in askers(listing).filter(|(name, ..)| *name == interface) {
        delete(format_args!("element {TABLE} askers {{ \"{name}\" . {v4} . {node4} }}"));
    }
    for rule in items(listing, "rule").filter(|rule| rule["comment"] == *interface) {
        delete(format_args!("rule {TABLE} publish handle {}", rule["handle"]));
    }
    for direction in ["from", "to"] {
        let ours = format!("{direction}_{interface}");
        if items(listing, "chain").any(|chain| chain["name"] == ours) {
            delete(format_args!("chain {TABLE} {ours}"));
        }
        for counter in [ours.clone(), format!("{ours}_dropped")] {
            if items(listing, "counter").any(|listed| listed["name"] == counter) {
                delete(format_args!("counter {TABLE} {counter}"));
            }
        }
    }
    let sets = items(listing, "set").filter_map(|set| set["name"].as_str());
    for set in sets.filter(|name| name.starts_with("found") && name.split('_').nth(1) == Some(interface)) {
        delete(format_args!("set {TABLE} {set}"));
    }
    text
}

/// Interface and both addresses of those who may ask the resolver.
fn askers(listing: &Value) -> impl Iterator<Item = (&str, Ipv4Addr, Ipv4Addr)> {
    let set = items(listing, "set").find(|set| set["name"] == "askers");
    let elements = set.and_then(|set| set["elem"].as_array()).into_iter().flatten();
    elements.filter_map(|element| {
        let parts = element["concat"].as_array()?;
        let address = |at: usize| parts.get(at)?.as_str()?.parse().ok();
        Some((parts.first()?.as_str()?, address(1)?, address(2)?))
    })
}

/// The interfaces of which a listing has anything.
pub(super) fn interfaces(listing: &Value) -> BTreeSet<String> {
    let chains = items(listing, "chain").filter_map(|chain| chain["name"].as_str()?.split_once('_'));
    chains.filter(|(direction, _)| matches!(*direction, "from" | "to")).map(|(_, interface)| interface.to_owned()).collect()
}

/// Bytes and packets of a counter in a listing.
pub(super) fn counted(listing: &Value, name: &str) -> Option<(u64, u64)> {
    let counter = items(listing, "counter").find(|counter| counter["name"] == *name)?;
    Some((counter["bytes"].as_u64()?, counter["packets"].as_u64()?))
}

fn items<'a>(listing: &'a Value, kind: &'static str) -> impl Iterator<Item = &'a Value> {
    listing["nftables"].as_array().into_iter().flatten().filter_map(move |item| item.get(kind))
}

#[cfg(test)]
mod tests {
    use casemate_lifecycle::network::Policy;

    use super::*;

    fn link() -> Link {
        Link::of(&"i-1".parse().unwrap(), 0, 1500)
    }

    #[test]
    fn an_instance_without_rules_reaches_nothing() {
        let text = of_instance(&link(), &Policy::default());
        let accepts: Vec<&str> = text.lines().filter(|line| line.ends_with("accept")).collect();
        assert_eq!(accepts.len(), 2, "{accepts:?}");
        assert!(accepts.iter().all(|line| line.contains("ct state established,related")), "{accepts:?}");
        assert!(!text.contains("askers"), "{text}");
    }

    #[test]
    fn forbidden_ranges_come_before_the_rules() {
        let egress = ["0.0.0.0/0", "::/0", "example.org:tcp/443"].map(|rule| rule.parse().unwrap());
        let policy = Policy { egress: egress.into(), ..Policy::default() };
        let text = of_instance(&link(), &policy);
        let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what} is missing"));
        assert!(at("@forbidden4") < at("ip daddr 0.0.0.0/0 accept"));
        assert!(at("@forbidden4") < at("ip daddr @found4_"));
        assert!(at("@forbidden6") < at("ip6 daddr ::/0 accept"));
        assert!(at("ip saddr !=") < at("ct state established"));
        assert!(!text.contains("example"), "no text of a tenant becomes a rule");
    }

    #[test]
    fn an_address_that_is_found_again_lives_as_long_as_the_new_answer() {
        let addresses = ["203.0.113.9".parse().unwrap()];
        let text = found("cm0", &[3], &addresses, Duration::from_secs(7));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "add element inet casemate found4_cm0_3 { 203.0.113.9 }",
                "delete element inet casemate found4_cm0_3 { 203.0.113.9 }",
                "add element inet casemate found4_cm0_3 { 203.0.113.9 timeout 7s }",
            ]
        );
    }
}
