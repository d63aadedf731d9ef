//! The attestation result: what people see and what is stored.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{
    checks::{Check, Outcome},
    time::UnixTime,
};

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
///   "warnings": ["…"]
/// }
/// ```
///
/// `launch_record_digest` and `guest_os` are `null` where the appraisal did not come that far. The guest's keys are *not* in
/// it: they come from an appraisal only, so that a stored result can never stand in for one.
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
    #[serde(skip)]
    pub(crate) guest: Option<Arc<VerifiedGuest>>,
}

/// The verdict (trust tiers of RFC 9334's attestation results, AR4SI).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Every check passed. What that means, and what not, is the platform kind's and the warnings' to say.
    Affirming,
    /// Nothing is wrong, but something is not as good as it should be. This version never says so.
    Warning,
    /// A check failed.
    Contraindicated,
    /// There was nothing to judge: no policy for this platform, or no evidence that decodes.
    None,
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
        self.guest.as_deref().filter(|_| self.is_affirming())
    }

    /// Whether the verdict is [`Tier::Affirming`] and each check says so, too.
    pub fn is_affirming(&self) -> bool {
        self.status == Tier::Affirming
            && !self.checks.is_empty()
            && self.checks.iter().all(|check| check.outcome == Outcome::Pass)
    }

    /// The check that failed, if one did.
    pub fn failed(&self) -> Option<&Check> {
        self.checks.iter().find(|check| check.outcome == Outcome::Fail)
    }
}
