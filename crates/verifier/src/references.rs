//! Reference values: what good software looks like, signed by whoever the relying party believes in that.
//!
//! The file is signed JSON: `{"payload": "<JSON text>", "signature": "<base64>", "key": "<base64>"}`; the signature is Ed25519
//! over `"casemate/reference-values/v1" || 0x00 || payload`, by the *pinned* key. The same values can come as a signed
//! [CoRIM](crate::corim). The sections of the payload are in `docs/reference-values.md`.

mod command_line;
mod sections;

use std::collections::{BTreeMap, BTreeSet};

use casemate_evidence::container::ContainerLevel;
use ed25519_dalek::SigningKey;

use crate::envelope::{self, EnvelopeError};
use sections::{
    Digests, Hex, Payload, WireBoot, WireConfidential, WireFile, WireGuestOs, WireMachine, WireNodeSoftware, WireTdx, bytes,
    digests,
};

pub(crate) use command_line::CommandLine;
pub use sections::{ConfidentialGuest, Machine, Processor, TdxReference};
pub(crate) use sections::{ContainerReferences, GuestOs};

/// The variable part of a command line template: the frequency of the time stamp counter, 1 to 10 decimal digits.
pub const TSC_KHZ: &str = "{tsc_khz}";

/// Why reference values were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// Not signed by the pinned key.
    #[error("open the signed reference values")]
    Envelope(#[source] EnvelopeError),
    /// Not the expected JSON.
    #[error("the payload of the reference values is not the expected JSON")]
    Json(#[source] serde_json::Error),
    /// A version that this code does not know.
    #[error("the reference values have version {version}, only 1 is known")]
    Version {
        /// Found.
        version: u16,
    },
    /// A template that could match more than it should.
    #[error("command line template \"{template}\" of guest OS \"{guest_os}\": {problem}")]
    Template {
        /// Of which guest OS.
        guest_os: String,
        /// The template.
        template: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A confidential guest without a value to compare with.
    #[error("confidential guest \"{guest}\": {problem}")]
    Confidential {
        /// Which.
        guest: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A machine that cannot be.
    #[error("machine with EK certificate {ek}: {problem}")]
    Machine {
        /// SHA-256 of the EK certificate, hex.
        ek: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// Reference values whose signature was verified.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReferenceValues {
    pub(crate) guest_os: Vec<GuestOs>,
    pub(crate) agent: Vec<[u8; 32]>,
    pub(crate) vmm: Vec<[u8; 32]>,
    pub(crate) container: ContainerReferences,
    pub(crate) confidential: Vec<ConfidentialGuest>,
    pub(crate) machines: BTreeMap<[u8; 32], Machine>,
    pub(crate) boot: Digests,
    pub(crate) ima: Digests,
}

impl ReferenceValues {
    /// Verifies and parses a file.
    pub fn from_signed(json: &[u8], pinned_key: &[u8; 32]) -> Result<Self, ReferenceError> {
        let payload = envelope::open(json, pinned_key, SIGNATURE_DOMAIN).map_err(ReferenceError::Envelope)?;
        parse(&payload)
    }

    /// The file that [`from_signed`](Self::from_signed) reads.
    pub fn to_signed(&self, key: &SigningKey) -> String {
        envelope::sign(self.to_payload(), key, SIGNATURE_DOMAIN)
    }

    /// The JSON text that is signed in such a file.
    pub fn to_payload(&self) -> String {
        serde_json::to_string(&self.payload()).expect("reference values are plain data")
    }

    /// These and those: what either of them knows is known. A machine that both name must be the same in both.
    pub fn merge(mut self, other: Self) -> Result<Self, ReferenceError> {
        union(&mut self.guest_os, other.guest_os);
        union(&mut self.agent, other.agent);
        union(&mut self.vmm, other.vmm);
        union(&mut self.container.guest, other.container.guest);
        union(&mut self.container.container_runtime, other.container.container_runtime);
        union(&mut self.container.sandbox_runtime, other.container.sandbox_runtime);
        union(&mut self.confidential, other.confidential);
        for machine in other.machines.into_values() {
            if self.machines.get(&machine.ek) != Some(&machine) {
                self.add_machine(machine)?;
            }
        }
        for (ours, theirs) in [(&mut self.boot, other.boot), (&mut self.ima, other.ima)] {
            for (name, digests) in theirs {
                ours.entry(name).or_default().extend(digests);
            }
        }
        self.consistent()
    }

    pub(crate) fn guest_os(&self) -> &[GuestOs] {
        &self.guest_os
    }

    pub(crate) fn knows_agent(&self, digest: &[u8; 32]) -> bool {
        self.agent.contains(digest)
    }

    pub(crate) fn knows_vmm(&self, digest: &[u8; 32]) -> bool {
        self.vmm.contains(digest)
    }

    /// Whether a digest is that of an OCI runtime of any level.
    pub(crate) fn knows_runtime(&self, digest: &[u8; 32]) -> bool {
        let levels = [ContainerLevel::Container, ContainerLevel::Sandbox];
        levels.into_iter().any(|level| self.container.runtimes(level).contains(digest))
    }

    /// Guests in hardware-encrypted memory.
    pub fn confidential(&self) -> &[ConfidentialGuest] {
        &self.confidential
    }

    /// Every good SNP launch measurement.
    pub fn snp_measurements(&self) -> Vec<[u8; 48]> {
        self.confidential.iter().flat_map(|guest| guest.snp.iter().copied()).collect()
    }

    /// Every good TDX launch.
    pub fn tdx_references(&self) -> impl Iterator<Item = &TdxReference> {
        self.confidential.iter().flat_map(|guest| &guest.tdx)
    }

    /// The machine that was enrolled with this EK certificate (SHA-256).
    pub fn machine(&self, ek: &[u8; 32]) -> Option<&Machine> {
        self.machines.get(ek)
    }

    /// Good SHA-256 digests of a component of the boot chain.
    pub fn boot_digests(&self, component: &str) -> Option<&BTreeSet<[u8; 32]>> {
        self.boot.get(component)
    }

    /// Whether a digest is good for any component of the boot chain.
    pub fn knows_boot_digest(&self, digest: &[u8; 32]) -> bool {
        self.boot.values().any(|digests| digests.contains(digest))
    }

    /// Good SHA-256 digests of the file at a path, as IMA measures it.
    pub fn ima_digests(&self, path: &str) -> Option<&BTreeSet<[u8; 32]>> {
        self.ima.get(path)
    }

    /// Adds a machine. No part of one is a part of another.
    pub(crate) fn add_machine(&mut self, machine: Machine) -> Result<(), ReferenceError> {
        let refused = |problem| Err(ReferenceError::Machine { ek: hex::encode(machine.ek), problem });
        for other in self.machines.values() {
            if other.ek == machine.ek {
                return refused("it is there twice, and not the same");
            }
            if other.processor.is_some() && other.processor == machine.processor {
                return refused("its processor is another machine's, too");
            }
            if !other.gpus.is_disjoint(&machine.gpus) {
                return refused("one of its GPUs is another machine's, too");
            }
        }
        self.machines.insert(machine.ek, machine);
        Ok(())
    }

    /// Nothing in them is empty where a comparison needs a value.
    pub(crate) fn consistent(self) -> Result<Self, ReferenceError> {
        for guest in &self.confidential {
            let refused = |problem| Err(ReferenceError::Confidential { guest: guest.name.clone(), problem });
            if guest.snp.is_empty() && guest.tdx.is_empty() {
                return refused("it has neither SNP nor TDX measurements");
            }
            if guest.tdx.iter().any(|tdx| tdx.rtmr.iter().any(Vec::is_empty)) {
                return refused("each of the four run-time measurements needs at least one value");
            }
        }
        Ok(self)
    }

    fn payload(&self) -> Payload {
        let hexes = |list: &[[u8; 32]]| list.iter().copied().map(Hex).collect();
        let set = |set: &BTreeSet<[u8; 32]>| set.iter().copied().map(Hex).collect();
        let long = |list: &[[u8; 48]]| list.iter().copied().map(Hex).collect::<Vec<_>>();
        let guest_os = |os: &GuestOs| WireGuestOs {
            name: os.name.clone(),
            kernel: Hex(os.kernel),
            initrd: Hex(os.initrd),
            root_hash: Hex(os.root_hash),
            command_lines: os.command_lines.iter().map(CommandLine::template).collect(),
        };
        let tdx = |tdx: &TdxReference| WireTdx { mrtd: Hex(tdx.mrtd), rtmr: tdx.rtmr.each_ref().map(|list| long(list)) };
        let guest = |guest: &ConfidentialGuest| WireConfidential {
            name: guest.name.clone(),
            snp: long(&guest.snp),
            tdx: guest.tdx.iter().map(tdx).collect(),
        };
        Payload {
            version: 1,
            guest_os: self.guest_os.iter().map(guest_os).collect(),
            node_software: WireNodeSoftware {
                agent: hexes(&self.agent),
                vmm: hexes(&self.vmm),
                container_runtime: hexes(&self.container.container_runtime),
                sandbox_runtime: hexes(&self.container.sandbox_runtime),
                container_guest: hexes(&self.container.guest),
            },
            confidential: self.confidential.iter().map(guest).collect(),
            machines: self.machines.values().map(wire_machine).collect(),
            boot: self.boot.iter().map(|(name, list)| WireBoot { component: name.clone(), sha256: set(list) }).collect(),
            ima: self.ima.iter().map(|(name, list)| WireFile { path: name.clone(), sha256: set(list) }).collect(),
        }
    }
}

fn wire_machine(machine: &Machine) -> WireMachine {
    let (chip_id, platform_instance_id) = match machine.processor {
        Some(Processor::SnpChip(chip)) => (Some(Hex(chip)), None),
        Some(Processor::TdxPlatform(platform)) => (None, Some(Hex(platform))),
        None => (None, None),
    };
    WireMachine { ek: Hex(machine.ek), chip_id, platform_instance_id, gpus: machine.gpus.iter().cloned().collect() }
}

fn union<T: PartialEq>(ours: &mut Vec<T>, theirs: Vec<T>) {
    for value in theirs {
        if !ours.contains(&value) {
            ours.push(value);
        }
    }
}

/// What a file says, without its signature.
pub(crate) fn parse(payload: &str) -> Result<ReferenceValues, ReferenceError> {
    let payload: Payload = serde_json::from_str(payload).map_err(ReferenceError::Json)?;
    if payload.version != 1 {
        return Err(ReferenceError::Version { version: payload.version });
    }
    let mut values = ReferenceValues {
        guest_os: payload.guest_os.into_iter().map(GuestOs::new).collect::<Result<_, _>>()?,
        agent: bytes(payload.node_software.agent),
        vmm: bytes(payload.node_software.vmm),
        container: ContainerReferences {
            container_runtime: bytes(payload.node_software.container_runtime),
            sandbox_runtime: bytes(payload.node_software.sandbox_runtime),
            guest: bytes(payload.node_software.container_guest),
        },
        confidential: payload.confidential.into_iter().map(ConfidentialGuest::from).collect(),
        machines: BTreeMap::new(),
        boot: digests(payload.boot.into_iter().map(|wire| (wire.component, wire.sha256))),
        ima: digests(payload.ima.into_iter().map(|wire| (wire.path, wire.sha256))),
    };
    for machine in payload.machines {
        values.add_machine(machine.try_into()?)?;
    }
    values.consistent()
}

const SIGNATURE_DOMAIN: &[u8] = b"casemate/reference-values/v1\0";
