//! The attestation result: what people see and what is stored.

pub(crate) mod microvm;
mod trust;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    checks::{Check, Outcome},
    time::UnixTime,
};

pub use microvm::{MicrovmClaims, MonitorClaims, NodeClaims};
pub use trust::{Kind, Silicon, Submodule, Tier, TrustVector, claim};

/// The outcome of an appraisal. As JSON:
///
/// ```json
/// {
///   "version": 1,
///   "status": "affirming",
///   "platform": "microvm",
///   "simulated": false,
///   "instance": "…",
///   "workload_digest": "<hex>",
///   "nonce_sha256": "<hex>",
///   "launch_record_digest": "<hex>",
///   "guest_os": "…",
///   "at": 1790000000,
///   "checks": [{"name": "policy.platform", "outcome": "pass", "detail": "…"}],
///   "anchors": [{"kind": "platform-ca", "subject": "…", "fingerprint": "<hex>", "simulated": false, "proved": "…"}],
///   "warnings": ["…"],
///   "submodules": {"node": {"kind": "node", "status": "affirming", "trust": {"hardware": 2}, "claims": {}, "anchors": [],
///                           "tcb_age_s": null, "silicon": null, "simulated": false}}
/// }
/// ```
///
/// `launch_record_digest` and `guest_os` are `null` where the appraisal did not come that far. The guest's keys are *not* in
/// it: they come from an appraisal only, so that a stored result can never stand in for one.
///
/// `submodules` came later than the rest; a result that was stored before reads as one without any. The version stayed 1.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttestationResult {
    /// Format version; 1.
    pub version: u16,
    /// The verdict.
    pub status: Tier,
    /// The isolation that the policy asked for.
    pub platform: String,
    /// A simulator stood in for hardware.
    pub simulated: bool,
    /// The instance that was asked for.
    pub instance: String,
    /// The workload that was asked for, hex.
    pub workload_digest: String,
    /// SHA-256 of the nonce that was asked for, hex.
    pub nonce_sha256: String,
    /// SHA-256 of the launch record, hex; only once a node's quote was found to cover it.
    pub launch_record_digest: Option<String>,
    /// Name of the guest OS image in the reference values.
    pub guest_os: Option<String>,
    /// The time that certificates were judged at.
    pub at: UnixTime,
    /// Every check, in order.
    pub checks: Vec<Check>,
    /// Which pinned root proved what.
    pub anchors: Vec<Anchor>,
    /// What a person must know to read the verdict right.
    pub warnings: Vec<String>,
    /// What was appraised, by name: `node`, `guest`, `cpu`, `gpu0` and so on.
    #[serde(default)]
    pub submodules: BTreeMap<String, Submodule>,
    #[serde(skip)]
    pub(crate) guest: Option<Arc<VerifiedGuest>>,
}

/// A pinned root, and what it proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anchor {
    /// `platform-ca` or `tpm-vendor-root`.
    pub kind: String,
    /// Subject of the certificate.
    pub subject: String,
    /// SHA-256 of the certificate, hex.
    pub fingerprint: String,
    /// It is a simulator's.
    pub simulated: bool,
    /// In plain words.
    pub proved: String,
}

/// A guest that passed every check. It cannot be made, copied or stored outside an appraisal.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedGuest {
    /// X25519 public key: seal keys to it, open records with it.
    pub hpke: [u8; 32],
    /// Ed25519 public key of its TLS identity.
    pub tls: [u8; 32],
    /// The instance.
    pub instance: String,
    /// The workload.
    pub workload_digest: [u8; 32],
    /// The nonce that it answered: sealed keys are bound to it.
    pub nonce: [u8; 32],
    /// SHA-256 of its launch record, for comparison with the receipt.
    pub launch_record_digest: [u8; 32],
}

impl AttestationResult {
    /// The guest: only where this very value came from an appraisal in which every check passed.
    pub fn guest(&self) -> Option<&VerifiedGuest> {
        self.guest.as_deref().filter(|_| self.is_accepted())
    }

    /// Whether the verdict is [`Tier::Affirming`] and each check and each submodule says so, too.
    pub fn is_affirming(&self) -> bool {
        self.status == Tier::Affirming && self.worst() == Tier::Affirming
    }

    /// Whether what was asked for holds. Of the levels `container` and `sandbox`, which the relying party must have asked for by name, the
    /// best verdict is [`Tier::Warning`]: nobody else may take it for the [`Tier::Affirming`] of a stronger level.
    pub fn is_accepted(&self) -> bool {
        let weak = self.platform == "container" || self.platform == "sandbox";
        self.is_affirming() || (weak && self.status == Tier::Warning && self.worst() == Tier::Warning)
    }

    /// The worst of status, checks and submodules. A result without checks has none.
    pub fn worst(&self) -> Tier {
        let checks = if self.checks.is_empty() {
            Tier::None
        } else if self.checks.iter().all(|check| check.outcome == Outcome::Pass) {
            Tier::Affirming
        } else {
            Tier::Contraindicated
        };
        // A refusal before anything could be judged stays "none".
        let checks = if self.status == Tier::None { Tier::None } else { checks };
        self.submodules.values().fold(self.status.worst(checks), |worst, submodule| worst.worst(submodule.tier()))
    }

    /// The check that failed, if one did.
    pub fn failed(&self) -> Option<&Check> {
        self.checks.iter().find(|check| check.outcome == Outcome::Fail)
    }
}
