//! Chooses a node. Pure: the same nodes and the same request give the same answer, with its reasons.

use std::collections::BTreeMap;

use casemate_api::workload::Isolation;
use casemate_lifecycle::NodeId;

/// Virtual CPUs that may be promised per CPU of a node.
pub const CPU_OVERCOMMIT: u64 = 4;
/// Memory that a machine needs beside its guest's (VMM, vTPM).
pub const MACHINE_OVERHEAD_MIB: u64 = 64;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The weakest isolation that will do.
    pub isolation: Isolation,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Guest memory.
    pub memory_mib: u64,
    /// Scratch.
    pub scratch_mib: u64,
    /// Whether it has a network.
    pub network: bool,
    /// Only this node.
    pub node: Option<String>,
}

/// What is known of a node.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The node.
    pub id: NodeId,
    /// Whether its last appraisal passed.
    pub trusted: bool,
    /// Whether its session is open.
    pub connected: bool,
    /// The isolation levels it offers.
    pub levels: Vec<Isolation>,
    /// Those of them whose instances can have a network.
    pub levels_with_network: Vec<Isolation>,
    /// Its CPUs.
    pub cpus: u32,
    /// Its memory for machines.
    pub memory_mib: u64,
    /// CPUs promised already.
    pub used_cpus: u64,
    /// Memory promised already, machines' overhead included.
    pub used_memory_mib: u64,
}

/// Why no node will do: how many were passed over for which reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoNode(pub BTreeMap<&'static str, u32>);

impl std::fmt::Display for NoNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no node is enrolled");
        }
        let reasons: Vec<String> = self.0.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        write!(f, "no node will do: {}", reasons.join(", "))
    }
}

/// The suitable node with the most free memory, by id where equal, and the weakest of its levels that will do: who asks for a container
/// gets one where there are containers, and never less than he asked for.
pub fn choose(request: &Request, candidates: &[Candidate]) -> Result<(NodeId, Isolation), NoNode> {
    let mut reasons = BTreeMap::new();
    let mut best: Option<((u64, Isolation), &Candidate)> = None;
    for candidate in candidates {
        match fit(request, candidate) {
            Err(reason) => *reasons.entry(reason).or_insert(0) += 1,
            Ok(fit) if best.is_none_or(|(known, b)| is_better(fit, known) || (fit == known && candidate.id < b.id)) => {
                best = Some((fit, candidate));
            }
            Ok(_) => {}
        }
    }
    best.map(|((_, level), candidate)| (candidate.id.clone(), level)).ok_or(NoNode(reasons))
}

/// A node with the very level that was asked for comes before one that would give more of it away.
fn is_better((free, level): (u64, Isolation), (most, known): (u64, Isolation)) -> bool {
    level < known || (level == known && free > most)
}

/// Free memory after placing and the level, or the first reason against this node.
fn fit(request: &Request, node: &Candidate) -> Result<(u64, Isolation), &'static str> {
    let enough = |levels: &[Isolation]| levels.iter().copied().filter(|level| *level >= request.isolation).min();
    let level = enough(if request.network { &node.levels_with_network } else { &node.levels });
    if request.node.as_deref().is_some_and(|id| id != node.id.as_str()) {
        Err("not the requested node")
    } else if !node.trusted {
        Err("not trusted")
    } else if !node.connected {
        Err("not connected")
    } else if let Some(level) = level {
        room(request, node, level).map(|free| (free, level))
    } else if enough(&node.levels).is_some() {
        Err("without a network for instances of the isolation level")
    } else {
        Err("without the isolation level")
    }
}

fn room(request: &Request, node: &Candidate, level: Isolation) -> Result<u64, &'static str> {
    // What a container writes is in memory.
    let scratch_mib = if level < Isolation::Microvm { request.scratch_mib } else { 0 };
    let wanted = request.memory_mib.saturating_add(scratch_mib).saturating_add(MACHINE_OVERHEAD_MIB);
    if request.cpus > node.cpus || node.used_cpus + u64::from(request.cpus) > u64::from(node.cpus) * CPU_OVERCOMMIT {
        Err("without enough CPUs")
    } else {
        node.memory_mib.saturating_sub(node.used_memory_mib).checked_sub(wanted).ok_or("without enough memory")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str) -> Candidate {
        Candidate {
            id: id.parse().unwrap(),
            trusted: true,
            connected: true,
            levels: vec![Isolation::Microvm],
            levels_with_network: vec![],
            cpus: 2,
            memory_mib: 4096,
            used_cpus: 0,
            used_memory_mib: 0,
        }
    }

    fn request() -> Request {
        Request { isolation: Isolation::Microvm, cpus: 1, memory_mib: 512, scratch_mib: 64, network: false, node: None }
    }

    #[test]
    fn chooses_the_node_with_most_free_memory() {
        let small = Candidate { used_memory_mib: 1000, ..node("n-a") };
        assert_eq!(choose(&request(), &[small, node("n-b"), node("n-c")]).unwrap().0.as_str(), "n-b");
    }

    #[test]
    fn a_network_is_found_where_the_level_is_enough_and_nowhere_else() {
        let levels = vec![Isolation::Container, Isolation::Microvm];
        let node = Candidate { levels, levels_with_network: vec![Isolation::Microvm], ..node("n-a") };
        let with = |isolation, network| Request { isolation, network, ..request() };
        assert_eq!(choose(&with(Isolation::Container, false), std::slice::from_ref(&node)).unwrap().1, Isolation::Container);
        assert_eq!(choose(&with(Isolation::Container, true), std::slice::from_ref(&node)).unwrap().1, Isolation::Microvm);
        let weak = Candidate { levels_with_network: vec![Isolation::Container], ..node };
        let refused = choose(&with(Isolation::Microvm, true), &[weak]).unwrap_err();
        assert_eq!(refused.to_string(), "no node will do: 1 without a network for instances of the isolation level");
    }

    #[test]
    fn never_goes_below_the_isolation_level_but_may_go_above() {
        let refused = choose(&Request { isolation: Isolation::Confidential, ..request() }, &[node("n-a")]).unwrap_err();
        assert_eq!(refused.to_string(), "no node will do: 1 without the isolation level");
        let container = Request { isolation: Isolation::Container, ..request() };
        assert_eq!(choose(&container, &[node("n-a")]).unwrap().1, Isolation::Microvm);
        let all = vec![Isolation::Microvm, Isolation::Sandbox, Isolation::Container];
        let several = Candidate { levels: all, used_memory_mib: 2000, ..node("n-b") };
        for (asked, given) in [(Isolation::Container, "n-b"), (Isolation::Sandbox, "n-b"), (Isolation::Microvm, "n-a")] {
            let request = Request { isolation: asked, ..request() };
            let (id, level) = choose(&request, &[node("n-a"), several.clone()]).unwrap();
            assert_eq!((id.as_str(), level), (given, asked));
        }
        let weak = Candidate { levels: vec![Isolation::Container, Isolation::Sandbox], ..node("n-a") };
        assert!(choose(&request(), &[weak]).is_err(), "never below");
    }

    #[test]
    fn the_scratch_of_a_container_is_memory() {
        let tight = |levels| Candidate { levels, memory_mib: 512 + MACHINE_OVERHEAD_MIB, ..node("n-a") };
        let request = Request { isolation: Isolation::Container, ..request() };
        assert!(choose(&request, &[tight(vec![Isolation::Microvm])]).is_ok());
        assert!(choose(&request, &[tight(vec![Isolation::Container])]).is_err());
    }

    #[test]
    fn counts_the_reasons() {
        let nodes = [
            Candidate { trusted: false, ..node("n-a") },
            Candidate { connected: false, ..node("n-b") },
            Candidate { used_memory_mib: 4000, ..node("n-c") },
            Candidate { used_memory_mib: 9000, ..node("n-d") },
            Candidate { used_cpus: 8, ..node("n-e") },
        ];
        let refused = choose(&request(), &nodes).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "no node will do: 1 not connected, 1 not trusted, 1 without enough CPUs, 2 without enough memory"
        );
        assert_eq!(choose(&request(), &[]).unwrap_err().to_string(), "no node is enrolled");
    }

    #[test]
    fn asks_only_the_named_node() {
        let chosen = Request { node: Some("n-b".into()), ..request() };
        assert_eq!(choose(&chosen, &[node("n-a"), node("n-b")]).unwrap().0.as_str(), "n-b");
        assert!(choose(&chosen, &[node("n-a")]).is_err());
    }
}
