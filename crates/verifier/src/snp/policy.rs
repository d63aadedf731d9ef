//! What a relying party insists on. Policy files have this form, so each rule is there or the file is refused.

use casemate_evidence::snp::{FirmwareVersion, Generation, Tcb};
use serde::{Deserialize, Serialize};

/// Policy for SNP reports. A generation without a rule is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpPolicy {
    /// Genoa, with Bergamo and Siena.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub genoa: Option<GenerationRule>,
    /// Turin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turin: Option<GenerationRule>,
    /// Milan, whose chips' seeds can be extracted with software alone since 2026 (arXiv 2605.12990): whoever has a seed can sign
    /// any report for any firmware version. The claims say that integrity is not assured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub danger_milan: Option<GenerationRule>,
    /// Kind of the signing key.
    pub signer: SignerRule,
    /// Revocation list of the vendor.
    pub revocation: RevocationRule,
    /// Bits of the guest policy.
    pub guest: GuestPolicyRule,
    /// Bits of the platform's state.
    pub platform: PlatformRule,
    /// Firmware and microcode may be newer than what is committed, so that the host may go back to the committed ones.
    #[serde(default)]
    pub danger_provisional_firmware: bool,
    /// Roots beside AMD's, for tests and simulators: they prove nothing about hardware.
    #[serde(default)]
    pub danger_simulated_roots: Vec<SimulatedRoot>,
}

impl SnpPolicy {
    /// The strictest policy that a machine in production can meet: the chip's own key, a fresh revocation list, committed
    /// firmware, no debugging or migration, the alias check done. `None` refuses that generation; Milan is refused.
    pub const fn strict(genoa: Option<GenerationRule>, turin: Option<GenerationRule>) -> Self {
        Self {
            genoa,
            turin,
            danger_milan: None,
            signer: SignerRule::Vcek,
            revocation: RevocationRule::Fresh { max_age_s: 400 * 24 * 3600 },
            guest: GuestPolicyRule::strict(),
            platform: PlatformRule::strict(),
            danger_provisional_firmware: false,
            danger_simulated_roots: Vec::new(),
        }
    }

    pub(super) const fn rule(&self, generation: Generation) -> Option<&GenerationRule> {
        match generation {
            Generation::Milan => self.danger_milan.as_ref(),
            Generation::Genoa => self.genoa.as_ref(),
            Generation::Turin => self.turin.as_ref(),
        }
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let dangers = [
            (self.revocation == RevocationRule::DangerWithout, "the vendor's revocation list may be absent"),
            (self.guest.danger_debug, "the host may debug the guest"),
            (self.guest.danger_migration, "the guest may have a migration agent"),
            (self.platform.danger_without_alias_check, "memory may be aliased"),
            (self.danger_provisional_firmware, "firmware may be provisional"),
            (!self.danger_simulated_roots.is_empty(), "roots that are not the vendor's are accepted"),
        ];
        dangers.iter().filter(|(set, _)| *set).map(|(_, text)| format!("by policy {text}")).collect()
    }
}

/// What is accepted of one generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GenerationRule {
    /// Lowest levels of the reported, launch, committed and current TCB.
    pub tcb: Tcb,
    /// Lowest version of the committed firmware.
    pub firmware: FirmwareVersion,
    /// Bits that both mitigation vectors must have. Not zero: reports before version 5 are refused.
    #[serde(default)]
    pub mitigations: u64,
}

/// Kinds of signing keys that are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum SignerRule {
    /// The chip's own key.
    Vcek,
    /// A key that AMD gave to one of these providers; such a report does not say which chip it is from.
    Vlek {
        /// Providers, as in the certificate.
        csp_ids: Vec<String>,
    },
}

/// How revocation is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RevocationRule {
    /// A list by the root, valid now, made at most so many seconds ago.
    Fresh {
        /// Most seconds since `thisUpdate`.
        max_age_s: u64,
    },
    /// A list may be absent. One that is there is judged, but for its age.
    DangerWithout,
}

/// What a bit must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BitRule {
    /// One.
    Required,
    /// Zero.
    Forbidden,
    /// Whatever it is.
    Either,
}

/// A version of the ABI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbiVersion {
    /// Major.
    pub major: u8,
    /// Minor.
    pub minor: u8,
}

/// What the guest policy in the report must say. Bits that are not known are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestPolicyRule {
    /// The least ABI version that the guest must ask for.
    pub min_abi: AbiVersion,
    /// SMT allowed.
    pub smt: BitRule,
    /// One socket only.
    pub single_socket: BitRule,
    /// CXL allowed.
    pub cxl: BitRule,
    /// AES-256-XTS needed.
    pub aes_256_xts: BitRule,
    /// Power measurement must be off.
    pub rapl_disabled: BitRule,
    /// Ciphertext hiding needed.
    pub ciphertext_hiding: BitRule,
    /// Moving and swapping of pages forbidden.
    pub page_swap_disabled: BitRule,
    /// Accept guests that the host may read and change.
    #[serde(default)]
    pub danger_debug: bool,
    /// Accept guests that a migration agent may export.
    #[serde(default)]
    pub danger_migration: bool,
}

impl GuestPolicyRule {
    /// No debugging, no migration, no CXL.
    pub const fn strict() -> Self {
        Self {
            min_abi: AbiVersion { major: 0, minor: 0 },
            smt: BitRule::Either,
            single_socket: BitRule::Either,
            cxl: BitRule::Forbidden,
            aes_256_xts: BitRule::Either,
            rapl_disabled: BitRule::Either,
            ciphertext_hiding: BitRule::Either,
            page_swap_disabled: BitRule::Either,
            danger_debug: false,
            danger_migration: false,
        }
    }
}

/// What state the platform must be in. Bits that are not known are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformRule {
    /// SMT is on.
    pub smt: BitRule,
    /// All memory is encrypted.
    pub tsme: BitRule,
    /// Memory has error correction.
    pub ecc: BitRule,
    /// Power measurement is off.
    pub rapl_disabled: BitRule,
    /// Ciphertext is hidden.
    pub ciphertext_hiding: BitRule,
    /// Writes by devices are safe; only Turin says so.
    pub iommu_write_safe: BitRule,
    /// Trusted I/O is on.
    pub tio: BitRule,
    /// Accept platforms that did not look for aliased memory, or whose firmware is too old to say so (CVE-2024-21944).
    #[serde(default)]
    pub danger_without_alias_check: bool,
}

impl PlatformRule {
    /// The alias check was done.
    pub const fn strict() -> Self {
        Self {
            smt: BitRule::Either,
            tsme: BitRule::Either,
            ecc: BitRule::Either,
            rapl_disabled: BitRule::Either,
            ciphertext_hiding: BitRule::Either,
            iommu_write_safe: BitRule::Either,
            tio: BitRule::Either,
            danger_without_alias_check: false,
        }
    }
}

/// A root that stands in for AMD's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulatedRoot {
    /// The generation that it vouches for.
    pub generation: Generation,
    /// SHA-256 of the certificate in DER, in lower-case hex.
    pub fingerprint: String,
}
