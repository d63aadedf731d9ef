//! What an appraisal of level `microvm` claims of node and guest.

use std::collections::BTreeMap;

use casemate_evidence::instance::{LaunchRecord, Monitor};
use serde::{Deserialize, Serialize};

use super::{
    Anchor,
    trust::{Kind, Submodule, TrustVector, claim},
};
use crate::{ek::VerifiedEk, node::measured::MeasuredNode, node_certificate::NodeCertificate};

/// What is known of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeClaims {
    /// Subject of its certificate.
    pub subject: String,
    /// TPM name of its attestation key, hex.
    pub ak_name: String,
    /// SHA-256 of the TPM's EK certificate, hex.
    pub ek_certificate: String,
    /// Subject of the root that the EK certificate leads to.
    pub tpm_vendor_root: String,
    /// That root is a simulator's.
    pub tpm_simulated: bool,
    /// Digest of the measured agent, hex; absent until the event log was believed.
    pub agent: Option<String>,
    /// Digest of the measured VMM, hex; absent until the event log was believed.
    pub vmm: Option<String>,
    /// Digests of the measured OCI runtimes, hex.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runtimes: Vec<String>,
    /// Whether its boot was judged: `judged`, `simulated`, `left-to-platform`, `not-judged`; absent until then.
    #[serde(default)]
    pub boot: Option<String>,
    /// Whether secure boot was on; absent where the boot was not judged.
    #[serde(default)]
    pub secure_boot: Option<bool>,
    /// The same as `boot` of the files that were opened since; absent in results that are not about the node alone.
    #[serde(default)]
    pub files: Option<String>,
}

impl NodeClaims {
    pub(crate) fn new(certificate: &NodeCertificate, ek: &VerifiedEk) -> Self {
        Self::of(&certificate.subject, &certificate.ak_name, ek)
    }

    pub(crate) fn of(subject: &str, ak_name: &[u8], ek: &VerifiedEk) -> Self {
        Self {
            subject: subject.to_owned(),
            ak_name: hex::encode(ak_name),
            ek_certificate: hex::encode(ek.certificate_digest()),
            tpm_vendor_root: ek.root_subject().to_owned(),
            tpm_simulated: ek.is_simulated(),
            agent: None,
            vmm: None,
            runtimes: Vec::new(),
            boot: None,
            secure_boot: None,
            files: None,
        }
    }

    pub(crate) fn measured(&mut self, node: &MeasuredNode) {
        self.agent = Some(hex::encode(node.software.agent()));
        self.vmm = Some(hex::encode(node.software.vmm()));
        self.runtimes = node.software.runtimes().iter().map(hex::encode).collect();
        self.boot = Some(node.not_judged.map_or("judged", |why| why.claim()).to_owned());
        self.secure_boot = node.secure_boot;
    }
}

/// What the launch record says of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MicrovmClaims {
    /// Digest of the kernel, hex.
    pub kernel: String,
    /// Digest of the initrd, hex.
    pub initrd: String,
    /// Verity root hash, hex.
    pub root_hash: String,
    /// Name of the VMM.
    pub vmm_name: String,
    /// Its version.
    pub vmm_version: String,
    /// Its digest, hex.
    pub vmm_digest: String,
    /// What runs the guest's instructions: `kvm` or `tcg`.
    pub accel: String,
    /// Virtual processors.
    pub cpus: u64,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// The monitor that guarded the guest, by the node's word; absent: none did.
    #[serde(default)]
    pub monitor: Option<MonitorClaims>,
}

impl MicrovmClaims {
    pub(crate) fn new(launch: &LaunchRecord) -> Self {
        Self {
            kernel: hex::encode(launch.kernel),
            initrd: hex::encode(launch.initrd),
            root_hash: hex::encode(launch.root_hash),
            vmm_name: launch.vmm.name.clone(),
            vmm_version: launch.vmm.version.clone(),
            vmm_digest: hex::encode(launch.vmm.digest),
            accel: launch.machine.accel.clone(),
            cpus: launch.machine.cpus.into(),
            memory_mib: launch.machine.memory_mib,
            monitor: launch.monitor.as_ref().map(MonitorClaims::new),
        }
    }
}

/// What the launch record says of the node's monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorClaims {
    /// What it could do on the node's kernel.
    pub class: String,
    /// Groups of hooks that the class does without.
    pub without: Vec<String>,
}

impl MonitorClaims {
    pub(crate) fn new(monitor: &Monitor) -> Self {
        let shown = |text: &str| text.escape_debug().take(MAX_SHOWN).collect();
        Self { class: shown(&monitor.class), without: monitor.without.iter().take(MAX_GROUPS).map(|one| shown(one)).collect() }
    }
}

/// What is to be said of the monitor's class to whoever relies on the guest; nothing where it refuses all that it should.
pub(crate) fn monitor_warning(monitor: Option<&Monitor>) -> Option<String> {
    let Some(monitor) = monitor else {
        return Some("no monitor guards the node: what its root does to the guest is neither refused nor reported".to_owned());
    };
    let MonitorClaims { class, without } = MonitorClaims::new(monitor);
    match class.as_str() {
        "enforcing" => None,
        "enforcing_without" => Some(format!("the node's monitor refuses nothing of {}", without.join(", "))),
        "observe_and_kill" => Some("the node's monitor refuses nothing; it ends instances after what it sees".to_owned()),
        _ => Some(format!("the node's monitor is of class \"{class}\", which promises nothing")),
    }
}

/// Most characters of a word of a monitor, and most groups, that are shown.
const MAX_SHOWN: usize = 64;
const MAX_GROUPS: usize = 32;

/// How far the appraisal came, and what it saw.
pub(crate) struct Seen<'a> {
    pub(crate) node: Option<&'a NodeClaims>,
    pub(crate) node_verified: bool,
    pub(crate) guest: Option<&'a MicrovmClaims>,
    pub(crate) guest_verified: bool,
    pub(crate) guest_simulated: bool,
    pub(crate) anchors: &'a [Anchor],
}

/// The submodules `node` and `guest`.
///
/// Where a simulator stood in for the TPM nothing is claimed of hardware. Of the guest's memory nothing is claimed, either:
/// the level `microvm` does not promise that the host cannot read it.
pub(crate) fn submodules(seen: &Seen<'_>) -> BTreeMap<String, Submodule> {
    let node = node_submodule(seen.node, seen.node_verified, seen.anchors);
    let trust = TrustVector {
        instance_identity: claim::TRUSTWORTHY_INSTANCE,
        configuration: claim::APPROVED_CONFIGURATION,
        executables: claim::APPROVED_BOOT,
        file_system: claim::APPROVED_FILES,
        ..TrustVector::default()
    };
    let mut guest = Submodule::judged(Kind::MicrovmGuest, seen.guest_verified, seen.guest.is_some(), trust);
    guest.claims = seen.guest.map_or(serde_json::Value::Null, plain);
    guest.simulated = seen.guest_simulated;
    BTreeMap::from([("node".to_owned(), node), ("guest".to_owned(), guest)])
}

/// The submodule `node`, of whatever level.
pub(crate) fn node_submodule(claims: Option<&NodeClaims>, verified: bool, anchors: &[Anchor]) -> Submodule {
    let genuine = claims.is_some_and(|node| !node.tpm_simulated);
    let trust = TrustVector {
        instance_identity: claim::TRUSTWORTHY_INSTANCE,
        executables: claim::APPROVED_BOOT,
        hardware: if genuine { claim::GENUINE_HARDWARE } else { claim::NONE },
        ..TrustVector::default()
    };
    let mut node = Submodule::judged(Kind::Node, verified, claims.is_some(), trust);
    node.claims = claims.map_or(serde_json::Value::Null, plain);
    node.anchors = anchors.to_vec();
    node.simulated = claims.is_some_and(|node| node.tpm_simulated);
    node
}

pub(crate) fn plain(claims: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(claims).expect("claims are plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_monitor_that_refuses_everything_needs_no_warning() {
        let said = |class: &str, without: &[&str]| {
            let without = without.iter().map(|group| (*group).to_owned()).collect();
            monitor_warning(Some(&Monitor { class: class.to_owned(), without }))
        };
        assert_eq!(said("enforcing", &[]), None);
        assert!(monitor_warning(None).unwrap().contains("no monitor"));
        assert!(said("enforcing_without", &["memory", "bpf"]).unwrap().contains("nothing of memory, bpf"));
        assert!(said("observe_and_kill", &[]).unwrap().contains("refuses nothing"));
        for unknown in ["", "Enforcing", "detect_only", "enforcing\u{1b}[0m"] {
            let warning = said(unknown, &[]).unwrap();
            assert!(warning.contains("promises nothing") && !warning.contains('\u{1b}'), "{warning}");
        }
        assert!(said(&"x".repeat(10_000), &[]).unwrap().len() < 200, "what a node says of itself is cut");
    }
}
