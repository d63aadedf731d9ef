//! Composite evidence of one confidential VM: processor + GPUs + the node that holds them.
//!
//! Encoding: CBOR like [`crate::instance`]. What binds the parts to each other:
//!
//! ```text
//! report data of the processor's evidence = SHA-512(domain, nonce, guest keys, instance, devices) -> confidential_binding
//! HOST_DATA / MRCONFIGID                  = workload digest
//! nonce of each GPU's evidence            = SHA-256(domain, processor's evidence)           -> nvidia::nonce_for
//! leaf under the node's quote             = SHA-256(domain, nonce, all of the above)        -> confidential_leaf
//! ```

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

use crate::{
    Sha256Digest,
    instance::{QuoteBundle, Record, serde_blob, serde_bytes32, serde_list},
    merkle,
};

/// Media type of [`ConfidentialEvidence`].
pub const CONFIDENTIAL_EVIDENCE: &str = "application/vnd.casemate.confidential-evidence+cbor";
/// Most GPUs and switches of one instance.
pub const MAX_GPUS: usize = 32;

/// All that a confidential VM and its node send for one nonce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfidentialEvidence {
    /// Format version; 1.
    pub version: u16,
    /// The nonce it answers.
    #[serde(with = "serde_bytes32")]
    pub nonce: [u8; 32],
    /// Encoded [`GuestKeys`](crate::instance::GuestKeys).
    #[serde(with = "serde_blob")]
    pub guest_keys: Vec<u8>,
    /// The processor's statement about the guest.
    pub cpu: CpuEvidence,
    /// How many GPUs and switches the guest sees on its buses.
    pub seen: DevicesSeen,
    /// One entry for each GPU and switch that the guest drives, in the guest's order; at most [`MAX_GPUS`].
    #[serde(deserialize_with = "serde_list::deserialize")]
    pub gpus: Vec<GpuEvidence>,
    /// The node's statement about itself.
    pub node: NodeEvidence,
}

/// Devices on the guest's buses, as the guest counted them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevicesSeen {
    /// GPUs.
    pub gpus: u32,
    /// NVSwitches.
    pub switches: u32,
}

/// The processor's statement. Which of the two is *expected* is the policy's to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "CpuFields", tag = "kind", rename_all = "kebab-case")]
pub enum CpuEvidence {
    /// An SEV-SNP attestation report.
    Snp {
        /// The report.
        #[serde(with = "serde_blob")]
        report: Vec<u8>,
    },
    /// A TDX quote.
    Tdx {
        /// The quote.
        #[serde(with = "serde_blob")]
        quote: Vec<u8>,
        /// The CC event log (CCEL) of the guest's firmware and boot loader; empty where none is needed.
        #[serde(with = "serde_blob")]
        event_log: Vec<u8>,
    },
}

/// [`CpuEvidence`] as it is read. For an enum with a tag inside, serde would first read anything at all, and make room for as many entries
/// as a list says that it has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CpuFields {
    kind: CpuKind,
    #[serde(default, deserialize_with = "some_bytes")]
    report: Option<Vec<u8>>,
    #[serde(default, deserialize_with = "some_bytes")]
    quote: Option<Vec<u8>>,
    #[serde(default, deserialize_with = "some_bytes")]
    event_log: Option<Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CpuKind {
    Snp,
    Tdx,
}

impl TryFrom<CpuFields> for CpuEvidence {
    type Error = &'static str;

    fn try_from(fields: CpuFields) -> Result<Self, Self::Error> {
        match fields {
            CpuFields { kind: CpuKind::Snp, report: Some(report), quote: None, event_log: None } => Ok(Self::Snp { report }),
            CpuFields { kind: CpuKind::Tdx, report: None, quote: Some(quote), event_log: Some(event_log) } => {
                Ok(Self::Tdx { quote, event_log })
            }
            CpuFields { kind: CpuKind::Snp, .. } => Err("evidence of SNP has a report and nothing else"),
            CpuFields { kind: CpuKind::Tdx, .. } => Err("evidence of TDX has a quote, an event log and nothing else"),
        }
    }
}

/// Bytes, where the field is there: nothing stands for their absence.
fn some_bytes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
    serde_blob::deserialize(deserializer).map(Some)
}

/// A GPU's or switch's statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuEvidence {
    /// It is said to be a switch.
    pub switch: bool,
    /// SPDM request and response, one after the other, as signed.
    #[serde(with = "serde_blob")]
    pub report: Vec<u8>,
    /// Certificate chain, PEM, leaf first.
    pub chain: String,
}

/// The node's statement, as for a micro VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEvidence {
    /// The node TPM's quote; its qualifying data is the root of `batch`.
    pub quote: QuoteBundle,
    /// The node's TCG event log.
    #[serde(with = "serde_blob")]
    pub event_log: Vec<u8>,
    /// Where this instance's leaf stands.
    pub batch: merkle::InclusionPath,
}

impl CpuEvidence {
    /// The bytes that the processor's vendor signed.
    pub fn signed(&self) -> &[u8] {
        match self {
            Self::Snp { report } => report,
            Self::Tdx { quote, .. } => quote,
        }
    }

    /// The event log beside it; SNP has none.
    fn event_log(&self) -> &[u8] {
        match self {
            Self::Snp { .. } => &[],
            Self::Tdx { event_log, .. } => event_log,
        }
    }
}

impl Record for ConfidentialEvidence {
    const NAME: &'static str = "confidential evidence";
    fn version(&self) -> u16 {
        self.version
    }
}

/// Report data of the processor's evidence.
///
/// `SHA-512("casemate/confidential-binding/v1" || nonce || SHA-256(guest keys) || SHA-256(instance id) || GPUs seen || switches
/// seen)`, the numbers with 32 bits, big-endian. The workload digest has a field of its own there.
pub fn confidential_binding(nonce: &[u8; 32], guest_keys: &[u8], instance: &str, seen: DevicesSeen) -> [u8; 64] {
    let mut hash = Sha512::new();
    hash.update(b"casemate/confidential-binding/v1");
    hash.update(nonce);
    hash.update(Sha256::digest(guest_keys));
    hash.update(Sha256::digest(instance.as_bytes()));
    hash.update(seen.gpus.to_be_bytes());
    hash.update(seen.switches.to_be_bytes());
    hash.finalize().into()
}

/// The leaf that stands for one confidential instance under the node's quote.
///
/// `SHA-256(0x00 || "casemate/confidential-leaf/v1" || nonce || SHA-256(processor's evidence) || SHA-256(its event log) ||
/// SHA-256(guest keys) || number of GPUs as 32 bits, big-endian || SHA-256(report) || SHA-256(chain) of each)`. With SNP the event
/// log is empty. So each byte that the guest sends is covered; which devices it sees is in the processor's evidence.
pub fn confidential_leaf(evidence: &ConfidentialEvidence) -> Sha256Digest {
    let mut hash = Sha256::new();
    hash.update([0x00]);
    hash.update(b"casemate/confidential-leaf/v1");
    hash.update(evidence.nonce);
    hash.update(Sha256::digest(evidence.cpu.signed()));
    hash.update(Sha256::digest(evidence.cpu.event_log()));
    hash.update(Sha256::digest(&evidence.guest_keys));
    hash.update(u32::try_from(evidence.gpus.len()).unwrap_or(u32::MAX).to_be_bytes());
    for gpu in &evidence.gpus {
        hash.update(Sha256::digest(&gpu.report));
        hash.update(Sha256::digest(&gpu.chain));
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SEEN: DevicesSeen = DevicesSeen { gpus: 1, switches: 0 };

    fn evidence() -> ConfidentialEvidence {
        let quote = QuoteBundle { attest: vec![5], signature: vec![6], ak_public: vec![7], pcrs: BTreeMap::new() };
        let batch = merkle::InclusionPath { index: 0, count: 1, siblings: Vec::new() };
        ConfidentialEvidence {
            version: 1,
            nonce: [1; 32],
            guest_keys: vec![2; 8],
            cpu: CpuEvidence::Tdx { quote: vec![3; 16], event_log: Vec::new() },
            seen: SEEN,
            gpus: vec![GpuEvidence { switch: false, report: vec![4; 8], chain: "PEM".to_owned() }],
            node: NodeEvidence { quote, event_log: Vec::new(), batch },
        }
    }

    #[test]
    fn what_was_encoded_decodes_to_the_same() {
        let evidence = evidence();
        assert_eq!(ConfidentialEvidence::decode(&evidence.encode()).unwrap(), evidence);
    }

    #[test]
    fn a_processor_has_its_own_fields_and_no_others() {
        use ciborium::Value;
        let read = |fields: &[(&str, Value)]| {
            let map = fields.iter().map(|(name, value)| (Value::from(*name), value.clone())).collect();
            Value::Map(map).deserialized::<CpuEvidence>()
        };
        let (bytes, kind) = (Value::Bytes(vec![1; 3]), |kind: &str| ("kind", Value::from(kind)));
        let (report, quote, log) = (("report", bytes.clone()), ("quote", bytes.clone()), ("event_log", bytes));
        assert!(matches!(read(&[kind("snp"), report.clone()]), Ok(CpuEvidence::Snp { .. })));
        assert!(matches!(read(&[quote.clone(), kind("tdx"), log.clone()]), Ok(CpuEvidence::Tdx { .. })));
        for odd in [
            vec![kind("snp")],
            vec![kind("sgx"), report.clone()],
            vec![report.clone()],
            vec![kind("snp"), report.clone(), quote.clone()],
            vec![kind("snp"), report.clone(), log.clone()],
            vec![kind("snp"), report.clone(), ("quote", Value::Null)],
            vec![kind("snp"), report.clone(), report.clone()],
            vec![kind("snp"), report.clone(), ("more", Value::Null)],
            vec![kind("snp"), ("report", Value::Array(vec![Value::from(1)]))],
            vec![kind("tdx"), quote.clone()],
            vec![kind("tdx"), quote.clone(), log.clone(), report.clone()],
            vec![kind("tdx"), log, report],
        ] {
            assert!(read(&odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn the_leaf_depends_on_each_part() {
        let leaf = confidential_leaf(&evidence());
        let changes: [fn(&mut ConfidentialEvidence); 7] = [
            |e| e.nonce[0] ^= 1,
            |e| e.guest_keys[0] ^= 1,
            |e| e.cpu = CpuEvidence::Snp { report: vec![5; 16] },
            |e| e.cpu = CpuEvidence::Tdx { quote: vec![3; 16], event_log: vec![0] },
            |e| e.gpus[0].report[0] ^= 1,
            |e| e.gpus[0].chain.push(' '),
            |e| e.gpus.clear(),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut changed = evidence();
            change(&mut changed);
            assert_ne!(confidential_leaf(&changed), leaf, "change {index}");
        }
    }

    #[test]
    fn the_binding_depends_on_each_part() {
        let binding = confidential_binding(&[1; 32], b"keys", "instance", SEEN);
        assert_ne!(confidential_binding(&[2; 32], b"keys", "instance", SEEN), binding);
        assert_ne!(confidential_binding(&[1; 32], b"kezs", "instance", SEEN), binding);
        assert_ne!(confidential_binding(&[1; 32], b"keys", "instancf", SEEN), binding);
        assert_ne!(confidential_binding(&[1; 32], b"keys", "instance", DevicesSeen { gpus: 2, ..SEEN }), binding);
        assert_ne!(confidential_binding(&[1; 32], b"keys", "instance", DevicesSeen { switches: 1, ..SEEN }), binding);
    }
}
