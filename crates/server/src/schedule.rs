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

/// The suitable node with the most free memory; by id where equal.
pub fn choose(request: &Request, candidates: &[Candidate]) -> Result<NodeId, NoNode> {
    let mut reasons = BTreeMap::new();
    let mut best: Option<(u64, &Candidate)> = None;
    for candidate in candidates {
        match fit(request, candidate) {
            Err(reason) => *reasons.entry(reason).or_insert(0) += 1,
            Ok(free) if best.is_none_or(|(most, b)| free > most || (free == most && candidate.id < b.id)) => {
                best = Some((free, candidate));
            }
            Ok(_) => {}
        }
    }
    best.map(|(_, candidate)| candidate.id.clone()).ok_or(NoNode(reasons))
}

/// Free memory after placing, or the first reason against this node.
fn fit(request: &Request, node: &Candidate) -> Result<u64, &'static str> {
    let wanted = request.memory_mib.saturating_add(MACHINE_OVERHEAD_MIB);
    if request.node.as_deref().is_some_and(|id| id != node.id.as_str()) {
        Err("not the requested node")
    } else if !node.trusted {
        Err("not trusted")
    } else if !node.connected {
        Err("not connected")
    } else if !node.levels.iter().any(|level| *level >= request.isolation) {
        Err("without the isolation level")
    } else if request.cpus > node.cpus || node.used_cpus + u64::from(request.cpus) > u64::from(node.cpus) * CPU_OVERCOMMIT {
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
            cpus: 2,
            memory_mib: 4096,
            used_cpus: 0,
            used_memory_mib: 0,
        }
    }

    fn request() -> Request {
        Request { isolation: Isolation::Microvm, cpus: 1, memory_mib: 512, node: None }
    }

    #[test]
    fn chooses_the_node_with_most_free_memory() {
        let small = Candidate { used_memory_mib: 1000, ..node("n-a") };
        assert_eq!(choose(&request(), &[small, node("n-b"), node("n-c")]).unwrap().as_str(), "n-b");
    }

    #[test]
    fn never_goes_below_the_isolation_level_but_may_go_above() {
        let refused = choose(&Request { isolation: Isolation::Confidential, ..request() }, &[node("n-a")]).unwrap_err();
        assert_eq!(refused.to_string(), "no node will do: 1 without the isolation level");
        assert!(choose(&Request { isolation: Isolation::Container, ..request() }, &[node("n-a")]).is_ok());
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
        assert_eq!(choose(&chosen, &[node("n-a"), node("n-b")]).unwrap().as_str(), "n-b");
        assert!(choose(&chosen, &[node("n-a")]).is_err());
    }
}
