//! What a relying party accepts of a trust domain.

use serde::{Deserialize, Serialize};

use super::status::TcbStatus;

/// A relying party's policy for TDX. Its fields come from a policy file, in which all but the dangerous ones must be there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxPolicy {
    /// Statuses of the TCB that are accepted. `Revoked` never is, listed or not.
    pub accepted_tcb: Vec<TcbStatus>,
    /// Smallest accepted `tcbEvaluationDataNumber` of TCB info and QE identity: signed collateral of an older evaluation, with
    /// milder statuses, is refused even while it is current.
    pub min_tcb_evaluation: u32,
    /// The domain may be bound to a migration domain.
    pub allow_migratable: bool,
    /// The domain may use performance counters, by which it may be observed.
    pub allow_perfmon: bool,
    /// Extended features that the domain may use, as bits of XFAM.
    pub xfam_allowed: u64,
    /// The host may read the memory of the domain: nothing is confidential. For development only.
    #[serde(default)]
    pub danger_allow_debug: bool,
    /// The host may inject exceptions at accesses to memory of its choice (Heckler and its kin).
    #[serde(default)]
    pub danger_allow_sept_ve: bool,
    /// Roots other than Intel's, for tests: what they vouch for is nobody's hardware. The claims show it.
    #[serde(default)]
    pub danger_simulated_roots: Vec<RootFingerprint>,
}

/// SHA-256 of a root certificate in DER form; hex in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RootFingerprint(pub [u8; 32]);

impl TdxPolicy {
    /// The strictest policy that current hardware can meet: everything up to date, production domain, no tracing.
    pub fn strict() -> Self {
        Self {
            accepted_tcb: vec![TcbStatus::UpToDate],
            min_tcb_evaluation: TCB_EVALUATION_FLOOR,
            allow_migratable: false,
            allow_perfmon: false,
            xfam_allowed: XFAM_STRICT,
            danger_allow_debug: false,
            danger_allow_sept_ve: false,
            danger_simulated_roots: Vec::new(),
        }
    }

    /// Whose root it is, if it is pinned.
    pub(super) fn root(&self, fingerprint: &[u8; 32]) -> Option<Root> {
        if fingerprint == &INTEL_SGX_ROOT_CA {
            return Some(Root::Intel);
        }
        self.danger_simulated_roots.contains(&RootFingerprint(*fingerprint)).then_some(Root::Simulated)
    }
}

/// Whose a pinned root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    Intel,
    Simulated,
}

impl TryFrom<String> for RootFingerprint {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut fingerprint = [0; 32];
        hex::decode_to_slice(text, &mut fingerprint)?;
        Ok(Self(fingerprint))
    }
}

impl From<RootFingerprint> for String {
    fn from(fingerprint: RootFingerprint) -> Self {
        hex::encode(fingerprint.0)
    }
}

/// "Intel SGX Root CA", valid 2018 to 2049 (certificates.trustedservices.intel.com, IntelSGXRootCA.der).
pub const INTEL_SGX_ROOT_CA: [u8; 32] = [
    0x44, 0xa0, 0x19, 0x6b, 0x2b, 0x99, 0xf8, 0x89, 0xb8, 0xe1, 0x49, 0xe9, 0x5b, 0x80, 0x7a, 0x35, 0x0e, 0x74, 0x24, 0x96, 0x43,
    0x99, 0xe8, 0x85, 0xa7, 0xcb, 0xb8, 0xcc, 0xfa, 0xb6, 0x74, 0xd3,
];
/// The evaluation of the first half of 2025.
pub const TCB_EVALUATION_FLOOR: u32 = 17;
/// What TDX lets a domain have (XFAM_FIXED0) without tracing, that is processor trace and last branch records.
pub const XFAM_STRICT: u64 = super::domain::XFAM_FIXED0 & !(1 << 8 | 1 << 15);
