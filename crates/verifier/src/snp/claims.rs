//! What a report says, for people and for policies. True only in a verdict that passed.

use casemate_evidence::snp::{
    AttestationReport, Cpuid, FirmwareVersion, Generation, GuestPolicy, PlatformInfo, SigningKey, Tcb, TcbBytes,
};
use serde::{Deserialize, Serialize};

use super::{Identity, endorsement::TrustedChain, policy::SnpPolicy};

/// The claims of an SNP report. Digests and identifiers are in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpClaims {
    /// Version of the report.
    pub version: u32,
    /// Generation, from the report or, once its chain is judged, from the certificate.
    pub generation: Option<Generation>,
    /// Reports of this generation cannot be forged with software alone, as far as is known. False for Milan, and for
    /// whatever is not known or simulated.
    pub integrity_assured: bool,
    /// Processor, where the report names it.
    pub processor: Option<Cpuid>,
    /// What signed.
    pub signer: SigningKey,
    /// Provider that holds the VLEK, from the certificate.
    pub csp_id: Option<String>,
    /// The chip; `None` if it is hidden.
    pub chip_id: Option<String>,
    /// The TCB that the signing key is for. `None` while the generation is not known, or where the layout does not fit.
    pub reported_tcb: Option<Tcb>,
    /// When the guest was launched.
    pub launch_tcb: Option<Tcb>,
    /// The one behind which firmware cannot go back.
    pub committed_tcb: Option<Tcb>,
    /// When the report was made.
    pub current_tcb: Option<Tcb>,
    /// Firmware that cannot be gone back behind.
    pub committed_firmware: FirmwareVersion,
    /// Firmware that made the report.
    pub current_firmware: FirmwareVersion,
    /// Mitigations at launch, where the report names them.
    pub launch_mitigations: Option<u64>,
    /// Mitigations when the report was made, where the report names them.
    pub current_mitigations: Option<u64>,
    /// Guest policy.
    pub guest_policy: GuestPolicyClaims,
    /// State of the platform.
    pub platform: PlatformClaims,
    /// Privilege level that asked; 0xffffffff is the host.
    pub vmpl: u32,
    /// Launch measurement.
    pub measurement: String,
    /// HOST_DATA.
    pub host_data: String,
    /// REPORT_DATA.
    pub report_data: String,
    /// REPORT_ID.
    pub report_id: String,
    /// Digest of the ID key; zero without an ID block.
    pub id_key_digest: String,
    /// Digest of the author key, if there is one.
    pub author_key_digest: Option<String>,
    /// FAMILY_ID.
    pub family_id: String,
    /// IMAGE_ID.
    pub image_id: String,
    /// GUEST_SVN.
    pub guest_svn: u32,
    /// The chain ends at a root that is not AMD's.
    pub simulated: bool,
    /// A revocation list was there and judged.
    pub revocation_checked: bool,
    /// What weakens this verdict.
    pub warnings: Vec<String>,
}

/// The guest policy, bit by bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestPolicyClaims {
    /// Least ABI version.
    pub abi_major: u8,
    /// Least ABI version.
    pub abi_minor: u8,
    /// SMT allowed.
    pub smt: bool,
    /// Migration agent allowed.
    pub migrate_ma: bool,
    /// Debugging allowed.
    pub debug: bool,
    /// One socket only.
    pub single_socket: bool,
    /// CXL allowed.
    pub cxl: bool,
    /// AES-256-XTS needed.
    pub aes_256_xts: bool,
    /// Power measurement must be off.
    pub rapl_disabled: bool,
    /// Ciphertext hiding needed.
    pub ciphertext_hiding: bool,
    /// Moving and swapping of pages forbidden.
    pub page_swap_disabled: bool,
}

/// The platform's state, bit by bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformClaims {
    /// SMT is on.
    pub smt: bool,
    /// All memory is encrypted.
    pub tsme: bool,
    /// Memory has error correction.
    pub ecc: bool,
    /// Power measurement is off.
    pub rapl_disabled: bool,
    /// Ciphertext is hidden.
    pub ciphertext_hiding: bool,
    /// Memory was looked through for aliases.
    pub alias_check_complete: bool,
    /// Writes by devices are safe.
    pub iommu_write_safe: bool,
    /// Trusted I/O is on.
    pub tio: bool,
}

impl SnpClaims {
    pub(super) fn of(report: &AttestationReport, policy: &SnpPolicy, identity: &Identity) -> Self {
        let mitigations = report.version.mitigations();
        let mut warnings = policy.warnings();
        if *identity == Identity::DangerAny {
            warnings.push("by policy any ID block is accepted".to_owned());
        }
        let mut claims = Self {
            version: report.version.number(),
            generation: None,
            integrity_assured: false,
            processor: report.version.cpuid(),
            signer: report.signing_key,
            csp_id: None,
            chip_id: (report.chip_id != [0; 64]).then(|| hex::encode(report.chip_id)),
            reported_tcb: None,
            launch_tcb: None,
            committed_tcb: None,
            current_tcb: None,
            committed_firmware: report.committed_version,
            current_firmware: report.current_version,
            launch_mitigations: mitigations.map(|vectors| vectors.launch),
            current_mitigations: mitigations.map(|vectors| vectors.current),
            guest_policy: GuestPolicyClaims::of(report.policy),
            platform: PlatformClaims::of(report.platform_info),
            vmpl: report.vmpl,
            measurement: hex::encode(report.measurement),
            host_data: hex::encode(report.host_data),
            report_data: hex::encode(report.report_data),
            report_id: hex::encode(report.report_id),
            id_key_digest: hex::encode(report.id_key_digest),
            author_key_digest: report.author_key_en.then(|| hex::encode(report.author_key_digest)),
            family_id: hex::encode(report.family_id),
            image_id: hex::encode(report.image_id),
            guest_svn: report.guest_svn,
            simulated: false,
            revocation_checked: false,
            warnings,
        };
        if let Some(generation) = report.version.cpuid().and_then(|cpuid| Generation::of(cpuid).ok()) {
            claims.set_generation(report, generation);
        }
        claims
    }

    /// What the chain adds. Where the report names its processor, that stays.
    pub(super) fn add_chain(&mut self, report: &AttestationReport, trusted: &TrustedChain<'_>) {
        if self.generation.is_none() {
            self.set_generation(report, trusted.generation());
        }
        self.csp_id = trusted.csp_id().map(str::to_owned);
        self.simulated = trusted.simulated();
        if self.simulated {
            self.integrity_assured = false;
            self.warnings.push("simulated: the chain ends at a root that is not AMD's".to_owned());
        }
        if self.generation == Some(Generation::Milan) {
            self.warnings.push("integrity is not assured: seeds of Milan chips can be extracted with software".to_owned());
        }
    }

    fn set_generation(&mut self, report: &AttestationReport, generation: Generation) {
        let decode = |bytes: TcbBytes| Tcb::decode(bytes, generation).ok();
        self.generation = Some(generation);
        self.integrity_assured = generation != Generation::Milan;
        self.reported_tcb = decode(report.reported_tcb);
        self.launch_tcb = decode(report.launch_tcb);
        self.committed_tcb = decode(report.committed_tcb);
        self.current_tcb = decode(report.current_tcb);
    }
}

impl GuestPolicyClaims {
    fn of(policy: GuestPolicy) -> Self {
        let (abi_major, abi_minor) = policy.abi();
        Self {
            abi_major,
            abi_minor,
            smt: policy.has(GuestPolicy::SMT),
            migrate_ma: policy.has(GuestPolicy::MIGRATE_MA),
            debug: policy.has(GuestPolicy::DEBUG),
            single_socket: policy.has(GuestPolicy::SINGLE_SOCKET),
            cxl: policy.has(GuestPolicy::CXL_ALLOW),
            aes_256_xts: policy.has(GuestPolicy::MEM_AES_256_XTS),
            rapl_disabled: policy.has(GuestPolicy::RAPL_DIS),
            ciphertext_hiding: policy.has(GuestPolicy::CIPHERTEXT_HIDING_DRAM),
            page_swap_disabled: policy.has(GuestPolicy::PAGE_SWAP_DISABLE),
        }
    }
}

impl PlatformClaims {
    fn of(info: PlatformInfo) -> Self {
        Self {
            smt: info.has(PlatformInfo::SMT_EN),
            tsme: info.has(PlatformInfo::TSME_EN),
            ecc: info.has(PlatformInfo::ECC_EN),
            rapl_disabled: info.has(PlatformInfo::RAPL_DIS),
            ciphertext_hiding: info.has(PlatformInfo::CIPHERTEXT_HIDING_DRAM_EN),
            alias_check_complete: info.has(PlatformInfo::ALIAS_CHECK_COMPLETE),
            iommu_write_safe: info.has(PlatformInfo::IOMMU_WRITE_SAFE),
            tio: info.has(PlatformInfo::TIO_EN),
        }
    }
}
