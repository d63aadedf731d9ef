//! What the report says, against policy and expectation. Who says so has been settled before.

use std::fmt;

use casemate_evidence::snp::{
    AttestationReport, FirmwareVersion, Generation, GuestPolicy, PlatformInfo, SnpDecodeError, Tcb, TcbBytes,
};
use subtle::ConstantTimeEq as _;

use super::{
    Identity,
    policy::{AbiVersion, BitRule, GenerationRule, GuestPolicyRule, PlatformRule},
};
use crate::checks::{Finding, Mismatch};

/// Why a TCB is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum TcbError {
    #[error("read {which}")]
    Layout {
        which: Which,
        #[source]
        source: SnpDecodeError,
    },
    #[error("the reported TCB is not the one that the certificate is for")]
    Certificate(#[source] Mismatch),
    #[error("{which}: {part} is at level {seen}, the policy wants {floor} or more")]
    Floor { which: Which, part: &'static str, seen: u8, floor: u8 },
    #[error("{lower} is beyond {upper}: {part} {seen} over {most}")]
    Order { lower: Which, upper: Which, part: &'static str, seen: u8, most: u8 },
    #[error("the {which} firmware is version {seen}, expected is {floor} or newer")]
    Firmware { which: &'static str, seen: FirmwareVersion, floor: FirmwareVersion },
    #[error("the firmware is provisional: its current version or TCB is not the committed one")]
    Provisional,
    #[error("the mitigations {missing:#x} are missing, or the report is too old to name them")]
    Mitigations { missing: u64 },
}

/// A TCB of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Reported,
    Launch,
    Committed,
    Current,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reported => "the reported TCB",
            Self::Launch => "the TCB at launch",
            Self::Committed => "the committed TCB",
            Self::Current => "the current TCB",
        })
    }
}

/// Why bits of the guest policy or of the platform's state are refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum BitError {
    #[error("{bit} must be set and is not")]
    Missing { bit: &'static str },
    #[error("{bit} must not be set and is")]
    Forbidden { bit: &'static str },
    #[error("the bits {bits:#x} are set, whose meaning is not known")]
    Unknown { bits: u64 },
    #[error("the guest asks for ABI {seen}, the policy wants {floor} or newer")]
    Abi { seen: String, floor: String },
}

/// The reported TCB is exactly the one that the signing key was derived for.
pub(super) fn reported_tcb(
    report: &AttestationReport,
    generation: Generation,
    certificate: Tcb,
) -> Result<Finding<()>, TcbError> {
    let reported = decode(Which::Reported, report.reported_tcb, generation)?;
    if reported != certificate {
        return Err(TcbError::Certificate(Mismatch::new(certificate, reported)));
    }
    Ok(Finding::new((), reported.to_string()))
}

/// No TCB is below the floor, and they are in the order that firmware keeps: reported, committed, current.
pub(super) fn tcb_floor(
    report: &AttestationReport,
    generation: Generation,
    rule: &GenerationRule,
    provisional: bool,
) -> Result<Finding<()>, TcbError> {
    let all = [
        (Which::Reported, report.reported_tcb),
        (Which::Committed, report.committed_tcb),
        (Which::Current, report.current_tcb),
        (Which::Launch, report.launch_tcb),
    ];
    let mut levels = Vec::with_capacity(all.len());
    for (which, bytes) in all {
        let level = decode(which, bytes, generation)?;
        if let Some((part, seen, floor)) = level.below(rule.tcb) {
            return Err(TcbError::Floor { which, part, seen, floor });
        }
        levels.push((which, level));
    }
    for pair in levels[..3].windows(2) {
        let ((lower, low), (upper, high)) = (pair[0], pair[1]);
        if let Some((part, most, seen)) = high.below(low) {
            return Err(TcbError::Order { lower, upper, part, seen, most });
        }
    }
    firmware(report, rule, provisional)?;
    mitigations(report, rule)?;
    Ok(Finding::new((), format!("firmware {}, at least {}", report.committed_version, rule.tcb)))
}

fn firmware(report: &AttestationReport, rule: &GenerationRule, provisional: bool) -> Result<(), TcbError> {
    let (current, committed) = (report.current_version, report.committed_version);
    if committed < rule.firmware {
        return Err(TcbError::Firmware { which: "committed", seen: committed, floor: rule.firmware });
    }
    if current < committed {
        return Err(TcbError::Firmware { which: "current", seen: current, floor: committed });
    }
    match provisional || (current == committed && report.current_tcb == report.committed_tcb) {
        true => Ok(()),
        false => Err(TcbError::Provisional),
    }
}

fn mitigations(report: &AttestationReport, rule: &GenerationRule) -> Result<(), TcbError> {
    let present = report.version.mitigations().map_or(0, |vectors| vectors.launch & vectors.current);
    match rule.mitigations & !present {
        0 => Ok(()),
        missing => Err(TcbError::Mitigations { missing }),
    }
}

fn decode(which: Which, bytes: TcbBytes, generation: Generation) -> Result<Tcb, TcbError> {
    Tcb::decode(bytes, generation).map_err(|source| TcbError::Layout { which, source })
}

pub(super) fn guest_policy(policy: GuestPolicy, rule: &GuestPolicyRule) -> Result<Finding<()>, BitError> {
    let unless = |danger: bool| if danger { BitRule::Either } else { BitRule::Forbidden };
    require_known(policy.unknown())?;
    let (major, minor) = policy.abi();
    if (AbiVersion { major, minor }) < rule.min_abi {
        let (seen, floor) = (format!("{major}.{minor}"), format!("{}.{}", rule.min_abi.major, rule.min_abi.minor));
        return Err(BitError::Abi { seen, floor });
    }
    let bits = [
        ("the reserved bit 17", GuestPolicy::ALWAYS, BitRule::Required),
        ("DEBUG", GuestPolicy::DEBUG, unless(rule.danger_debug)),
        ("MIGRATE_MA", GuestPolicy::MIGRATE_MA, unless(rule.danger_migration)),
        ("SMT", GuestPolicy::SMT, rule.smt),
        ("SINGLE_SOCKET", GuestPolicy::SINGLE_SOCKET, rule.single_socket),
        ("CXL_ALLOW", GuestPolicy::CXL_ALLOW, rule.cxl),
        ("MEM_AES_256_XTS", GuestPolicy::MEM_AES_256_XTS, rule.aes_256_xts),
        ("RAPL_DIS", GuestPolicy::RAPL_DIS, rule.rapl_disabled),
        ("CIPHERTEXT_HIDING_DRAM", GuestPolicy::CIPHERTEXT_HIDING_DRAM, rule.ciphertext_hiding),
        ("PAGE_SWAP_DISABLE", GuestPolicy::PAGE_SWAP_DISABLE, rule.page_swap_disabled),
    ];
    bits.into_iter().try_for_each(|(name, bit, rule)| require_bit(name, policy.has(bit), rule))?;
    Ok(Finding::new((), format!("{:#x}", policy.0)))
}

pub(super) fn platform_info(info: PlatformInfo, rule: &PlatformRule) -> Result<Finding<()>, BitError> {
    require_known(info.unknown())?;
    let alias_check = if rule.danger_without_alias_check { BitRule::Either } else { BitRule::Required };
    let bits = [
        ("ALIAS_CHECK_COMPLETE", PlatformInfo::ALIAS_CHECK_COMPLETE, alias_check),
        ("SMT_EN", PlatformInfo::SMT_EN, rule.smt),
        ("TSME_EN", PlatformInfo::TSME_EN, rule.tsme),
        ("ECC_EN", PlatformInfo::ECC_EN, rule.ecc),
        ("RAPL_DIS", PlatformInfo::RAPL_DIS, rule.rapl_disabled),
        ("CIPHERTEXT_HIDING_DRAM_EN", PlatformInfo::CIPHERTEXT_HIDING_DRAM_EN, rule.ciphertext_hiding),
        ("IOMMU_WRITE_SAFE", PlatformInfo::IOMMU_WRITE_SAFE, rule.iommu_write_safe),
        ("TIO_EN", PlatformInfo::TIO_EN, rule.tio),
    ];
    bits.into_iter().try_for_each(|(name, bit, rule)| require_bit(name, info.has(bit), rule))?;
    Ok(Finding::new((), format!("{:#x}", info.0)))
}

fn require_known(bits: u64) -> Result<(), BitError> {
    if bits == 0 { Ok(()) } else { Err(BitError::Unknown { bits }) }
}

fn require_bit(bit: &'static str, set: bool, rule: BitRule) -> Result<(), BitError> {
    match (rule, set) {
        (BitRule::Either, _) | (BitRule::Required, true) | (BitRule::Forbidden, false) => Ok(()),
        (BitRule::Required, false) => Err(BitError::Missing { bit }),
        (BitRule::Forbidden, true) => Err(BitError::Forbidden { bit }),
    }
}

pub(super) fn vmpl(report: &AttestationReport, expected: u8) -> Result<Finding<()>, Mismatch> {
    match report.vmpl {
        seen if seen == u32::from(expected) && expected <= MAX_VMPL => Ok(Finding::new((), format!("VMPL{seen}"))),
        seen => Err(Mismatch::new(format_args!("VMPL{expected}"), format_args!("VMPL{seen}"))),
    }
}

pub(super) fn identity(report: &AttestationReport, expected: &Identity) -> Result<Finding<()>, Mismatch> {
    let (id_key, author_key, family_id, image_id, min_svn, max_svn) = match expected {
        Identity::DangerAny => return Ok(Finding::new((), "any, as the policy allows")),
        Identity::Absent => (&[0; 48], None, &[0; 16], &[0; 16], 0, 0),
        Identity::Signed { id_key_digest, author_key_digest, family_id, image_id, min_guest_svn } => {
            (id_key_digest, author_key_digest.as_ref(), family_id, image_id, *min_guest_svn, u32::MAX)
        }
    };
    equal(id_key, &report.id_key_digest)?;
    equal(author_key.unwrap_or(&[0; 48]), &report.author_key_digest)?;
    if report.author_key_en != author_key.is_some() {
        return Err(Mismatch::new(format_args!("AUTHOR_KEY_EN {}", author_key.is_some()), report.author_key_en));
    }
    equal(family_id, &report.family_id)?;
    equal(image_id, &report.image_id)?;
    if !(min_svn..=max_svn).contains(&report.guest_svn) {
        return Err(Mismatch::new(format_args!("GUEST_SVN {min_svn} to {max_svn}"), report.guest_svn));
    }
    Ok(Finding::new((), format!("ID key {}", hex::encode(id_key))))
}

pub(super) fn measurement(seen: &[u8; 48], expected: &[[u8; 48]]) -> Result<Finding<()>, Mismatch> {
    if expected.iter().any(|measurement| bool::from(measurement.ct_eq(seen))) {
        return Ok(Finding::new((), hex::encode(seen)));
    }
    let expected = match expected {
        [] => "one of a list that is empty".to_owned(),
        [only] => hex::encode(only),
        [first, rest @ ..] => format!("{} or one of {} others", hex::encode(first), rest.len()),
    };
    Err(Mismatch::new(expected, hex::encode(seen)))
}

pub(super) fn equal(expected: &[u8], seen: &[u8]) -> Result<Finding<()>, Mismatch> {
    match bool::from(expected.ct_eq(seen)) {
        true => Ok(Finding::new((), hex::encode(seen))),
        false => Err(Mismatch::new(hex::encode(expected), hex::encode(seen))),
    }
}

const MAX_VMPL: u8 = 3;
