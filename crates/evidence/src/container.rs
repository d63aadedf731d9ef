//! Evidence of an instance of level `container` or `sandbox`: node quote + container launch.
//!
//! There is no guest quote, because there is no machine that a TPM could belong to. Nothing here has a field, a leaf or a media type in
//! common with the evidence of a machine that would let one be read as the other.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    Sha256Digest,
    instance::{Jail, Monitor, QuoteBundle, Record, Vmm, serde_blob, serde_bytes32, serde_list},
    merkle,
};

/// Media type of [`ContainerEvidence`].
pub const CONTAINER_EVIDENCE: &str = "application/vnd.casemate.container-evidence+cbor";

/// What an instance without a kernel of its own is held by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerLevel {
    /// Namespaces of the host's kernel.
    Container,
    /// A kernel in user space.
    Sandbox,
}

impl ContainerLevel {
    /// As in workloads and policies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Sandbox => "sandbox",
        }
    }
}

/// All that an agent sends for one nonce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerEvidence {
    /// Format version; 1.
    pub version: u16,
    /// The nonce it answers.
    #[serde(with = "serde_bytes32")]
    pub nonce: [u8; 32],
    /// Encoded [`ContainerLaunch`].
    #[serde(with = "serde_blob")]
    pub container_launch: Vec<u8>,
    /// Encoded [`GuestKeys`](crate::instance::GuestKeys).
    #[serde(with = "serde_blob")]
    pub guest_keys: Vec<u8>,
    /// The node TPM's quote; its qualifying data is the root of `batch`.
    pub node: QuoteBundle,
    /// The node's TCG event log (crypto-agile), replayed against the quoted PCRs.
    #[serde(with = "serde_blob")]
    pub node_event_log: Vec<u8>,
    /// Where this instance's leaf stands in the batch that the node quote covers.
    pub batch: merkle::InclusionPath,
}

/// The exact inputs of a container's launch, as the launcher measured them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerLaunch {
    /// Format version; 1.
    pub version: u16,
    /// The instance.
    pub instance: String,
    /// Digest of the canonical workload.
    #[serde(with = "serde_bytes32")]
    pub workload_digest: Sha256Digest,
    /// What holds it.
    pub level: ContainerLevel,
    /// SHA-256 of the program that is process 1 of the container.
    #[serde(with = "serde_bytes32")]
    pub guest_program: Sha256Digest,
    /// The image: root hash of each layer as it was converted, lowest first.
    #[serde(deserialize_with = "serde_list::deserialize")]
    pub layers: Vec<LayerRoot>,
    /// The OCI runtime.
    pub runtime: Vmm,
    /// CPUs.
    pub cpus: u32,
    /// Memory.
    pub memory_mib: u64,
    /// What holds process 1, observed from outside after its start.
    pub jail: Jail,
    /// The monitor that guarded the instance from its start on; absent: none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Monitor>,
}

/// The root hash of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRoot(#[serde(with = "serde_bytes32")] pub Sha256Digest);

impl Record for ContainerEvidence {
    const NAME: &'static str = "container evidence";
    fn version(&self) -> u16 {
        self.version
    }
}

impl Record for ContainerLaunch {
    const NAME: &'static str = "container launch";
    fn version(&self) -> u16 {
        self.version
    }
}

/// The leaf that stands for one container under the node's quote.
///
/// `SHA-256(0x00 || "casemate/container-leaf/v1" || nonce || SHA-256(container launch) || SHA-256(guest keys))`.
pub fn container_leaf(nonce: &[u8; 32], container_launch: &[u8], guest_keys: &[u8]) -> Sha256Digest {
    let mut hash = Sha256::new();
    hash.update([0x00]);
    hash.update(b"casemate/container-leaf/v1");
    hash.update(nonce);
    hash.update(Sha256::digest(container_launch));
    hash.update(Sha256::digest(guest_keys));
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::instance::{InstanceEvidence, LaunchRecord};

    fn launch() -> ContainerLaunch {
        ContainerLaunch {
            version: 1,
            instance: "i-1".into(),
            workload_digest: [1; 32],
            level: ContainerLevel::Sandbox,
            guest_program: [2; 32],
            layers: vec![LayerRoot([3; 32]), LayerRoot([4; 32])],
            runtime: Vmm { name: "runsc".into(), version: "1".into(), digest: [5; 32] },
            cpus: 1,
            memory_mib: 256,
            jail: Jail {
                uid: 1 << 30,
                no_new_privs: true,
                seccomp: true,
                capabilities: 0,
                namespaces: vec!["user".into()],
                cgroup: true,
            },
            monitor: None,
        }
    }

    #[test]
    fn comes_back_as_it_was_and_is_never_a_machines() {
        let bytes = launch().encode();
        assert_eq!(ContainerLaunch::decode(&bytes).unwrap(), launch());
        assert!(LaunchRecord::decode(&bytes).is_err());
        let node = QuoteBundle { attest: vec![1], signature: vec![2], ak_public: vec![3], pcrs: BTreeMap::new() };
        let evidence = ContainerEvidence {
            version: 1,
            nonce: [9; 32],
            container_launch: bytes,
            guest_keys: vec![7],
            node,
            node_event_log: vec![],
            batch: merkle::path(&[[1; 32]], 0).unwrap(),
        };
        let bytes = evidence.encode();
        assert_eq!(ContainerEvidence::decode(&bytes).unwrap(), evidence);
        assert!(InstanceEvidence::decode(&bytes).is_err());
    }

    #[test]
    fn a_leaf_covers_each_part_of_it() {
        let leaf = container_leaf(&[1; 32], b"launch", b"keys");
        assert_ne!(leaf, container_leaf(&[2; 32], b"launch", b"keys"));
        assert_ne!(leaf, container_leaf(&[1; 32], b"launcH", b"keys"));
        assert_ne!(leaf, container_leaf(&[1; 32], b"launch", b"keyS"));
        assert_ne!(leaf, crate::instance::instance_leaf(&[1; 32], b"launch", b"keys", b""));
    }
}
