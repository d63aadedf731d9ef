//! The node's event log: does it explain the quoted PCRs, and which software does it name?

use casemate_evidence::{
    eventlog::{Event, EventLogError, EventType, Ipl, LogRef},
    tpm::{Digest, HashAlg},
};

use crate::{
    boot::{HexDigest, MokRule},
    ima::IMA_PCR,
    quote::QuotedPcrs,
    references::ReferenceValues,
};

/// The PCR of the node's own software.
pub const SOFTWARE_PCR: u32 = 14;

/// Why a log does not explain the quoted PCRs.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It does not decode.
    #[error("read the event log")]
    Format(#[source] EventLogError),
    /// It leads to another value.
    #[error("PCR {pcr}: the log replays to {replayed}, the quote says {quoted}")]
    Replay {
        /// Which.
        pcr: u32,
        /// Hex.
        replayed: String,
        /// Hex.
        quoted: String,
    },
}

/// Why the measured software is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SoftwareError {
    /// An event in PCR 14 that is neither the agent's, the VMM's nor an OCI runtime's.
    #[error("event {index} of PCR {SOFTWARE_PCR} is neither the agent's nor the VMM's nor an OCI runtime's: \"{label}\"")]
    Unknown {
        /// Among the events of that PCR, from 0.
        index: usize,
        /// As the log says, escaped.
        label: String,
    },
    /// Not exactly one.
    #[error("expected exactly one measurement of the {what}, seen {count}")]
    Count {
        /// `agent` or `VMM`.
        what: &'static str,
        /// Found.
        count: usize,
    },
    /// More than a node has.
    #[error("{count} OCI runtimes were measured, more than {MAX_RUNTIMES}")]
    Runtimes {
        /// Found.
        count: usize,
    },
    /// Not known.
    #[error("the measured {what} {digest} is not among the reference values")]
    Reference {
        /// `agent`, `VMM` or `OCI runtime`.
        what: &'static str,
        /// Hex.
        digest: String,
    },
}

/// Events of [`SOFTWARE_PCR`] whose digests, in order, are what it holds; and the log's other events lead to the other PCRs.
#[derive(Debug)]
pub struct MeasuredLog {
    events: Vec<Event>,
}

impl MeasuredLog {
    /// Replays `log` against `quoted`. A PCR that the log does not extend must be zero, but for the kernel's own, which only an
    /// IMA list explains.
    pub fn replay(log: &[u8], quoted: &QuotedPcrs) -> Result<Self, LogError> {
        let log = LogRef::parse(log).map_err(LogError::Format)?;
        let replayed = log.replay(HashAlg::Sha256);
        for (pcr, value) in quoted.values().iter().filter(|(pcr, _)| **pcr != IMA_PCR) {
            let seen = replayed.get(pcr).copied().unwrap_or(Digest::zero(HashAlg::Sha256));
            if seen.as_slice() != value {
                return Err(LogError::Replay { pcr: *pcr, replayed: seen.to_string(), quoted: hex::encode(value) });
            }
        }
        // The rest is the boot policy's to judge.
        let software = log.events.iter().filter(|event| event.pcr == SOFTWARE_PCR && quoted.values().contains_key(&event.pcr));
        Ok(Self { events: software.map(|event| event.to_owned()).collect() })
    }

    /// The agent and the VMM, if they are what the log measured into PCR 14, once each, and known; beside them only known OCI runtimes.
    ///
    /// The digest is what was measured. The text beside it, which no PCR covers, only says which of the two it is; a wrong
    /// label therefore leads to a digest that is not known as such.
    pub fn software(&self, references: &ReferenceValues) -> Result<NodeSoftware, SoftwareError> {
        self.software_beside(references, &MokRule::Refuse)
    }

    /// The same on a machine that starts through shim, which extends its variables into the same PCR: `mok` says which values of
    /// them are accepted.
    pub fn software_beside(&self, references: &ReferenceValues, mok: &MokRule) -> Result<NodeSoftware, SoftwareError> {
        let (mut agents, mut vmms, mut runtimes) = (Vec::new(), Vec::new(), Vec::new());
        for (index, event) in self.events.iter().enumerate() {
            let unknown =
                || SoftwareError::Unknown { index, label: event.data.escape_ascii().take(MAX_LABEL).map(char::from).collect() };
            let digest = event.measured_sha256().ok_or_else(unknown)?;
            if let (EventType::IPL, Ipl::ShimVariable(name)) = (event.kind, Ipl::of(&event.data)) {
                let accepted = Digest::from_slice(&digest).is_some_and(|digest| mok.accepts(name, HexDigest(digest)));
                if accepted {
                    continue;
                }
            }
            let is = |label: &str| event.data == format!("{label} sha256:{}", hex::encode(digest)).as_bytes();
            match (is(AGENT_LABEL), is(VMM_LABEL), is(RUNTIME_LABEL)) {
                (true, ..) => agents.push(digest),
                (false, true, _) => vmms.push(digest),
                (false, false, true) => runtimes.push(digest),
                (false, false, false) => return Err(unknown()),
            }
        }
        let (agent, vmm) = (only("agent", &agents)?, only("VMM", &vmms)?);
        let known = |what, digest, known| {
            if known { Ok(()) } else { Err(SoftwareError::Reference { what, digest: hex::encode(digest) }) }
        };
        known("agent", agent, references.knows_agent(&agent))?;
        known("VMM", vmm, references.knows_vmm(&vmm))?;
        if runtimes.len() > MAX_RUNTIMES {
            return Err(SoftwareError::Runtimes { count: runtimes.len() });
        }
        for runtime in &runtimes {
            known("OCI runtime", *runtime, references.knows_runtime(runtime))?;
        }
        Ok(NodeSoftware { agent, vmm, runtimes })
    }
}

/// The node's software, as measured, known to the reference values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSoftware {
    agent: [u8; 32],
    vmm: [u8; 32],
    runtimes: Vec<[u8; 32]>,
}

impl NodeSoftware {
    /// SHA-256 of the agent.
    pub fn agent(&self) -> [u8; 32] {
        self.agent
    }

    /// SHA-256 of the VMM.
    pub fn vmm(&self) -> [u8; 32] {
        self.vmm
    }

    /// SHA-256 of each OCI runtime.
    pub fn runtimes(&self) -> &[[u8; 32]] {
        &self.runtimes
    }
}

fn only(what: &'static str, found: &[[u8; 32]]) -> Result<[u8; 32], SoftwareError> {
    match found {
        [one] => Ok(*one),
        _ => Err(SoftwareError::Count { what, count: found.len() }),
    }
}

const AGENT_LABEL: &str = "casemate-agent";
const VMM_LABEL: &str = "casemate-vmm";
const RUNTIME_LABEL: &str = "casemate-runtime";
/// Most OCI runtimes of a node.
const MAX_RUNTIMES: usize = 8;
/// Most characters of a foreign label that are repeated.
const MAX_LABEL: usize = 120;
