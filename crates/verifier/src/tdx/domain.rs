//! Attributes and extended features of a trust domain ("Intel TDX Module ABI Specification", TDATTRIBUTES and XFAM).

use super::policy::TdxPolicy;
use crate::checks::Finding;

/// The domain is debuggable: nothing in it is secret.
pub(super) const DEBUG: u64 = 1;
/// All attributes that make a domain untrusted (the byte TUD): debugging and profiling by the host.
const UNTRUSTED: u64 = 0xff;
/// Locking of linear addresses is available.
const LASS: u64 = 1 << 27;
/// Accesses to pending memory do not raise an exception in the domain.
pub(super) const SEPT_VE_DISABLE: u64 = 1 << 28;
/// The domain may migrate.
pub(super) const MIGRATABLE: u64 = 1 << 29;
/// Protection keys for supervisor pages.
const PKS: u64 = 1 << 30;
/// Key locker.
const KL: u64 = 1 << 31;
/// Performance counters.
pub(super) const PERFMON: u64 = 1 << 63;

/// Bits of XFAM that must be set: x87 and SSE.
pub(super) const XFAM_FIXED1: u64 = 0x3;
/// Bits of XFAM that may be set: x87, SSE, AVX, AVX-512 (5 to 7), PT (8), PKU (9), CET (11, 12), user interrupts (14), LBR (15) and
/// AMX (17, 18).
pub(super) const XFAM_FIXED0: u64 = 0x6_dbe7;

#[derive(Debug, thiserror::Error)]
pub(super) enum AttributesError {
    #[error("TDATTRIBUTES {0:#018x} have DEBUG: the host may read everything")]
    Debug(u64),
    #[error("TDATTRIBUTES {0:#018x} have bits of the first byte, by which the host profiles the domain")]
    Untrusted(u64),
    #[error("TDATTRIBUTES {0:#018x} do not have SEPT_VE_DISABLE: the host may inject exceptions")]
    SeptVe(u64),
    #[error("TDATTRIBUTES {0:#018x} have MIGRATABLE, which the policy does not allow")]
    Migratable(u64),
    #[error("TDATTRIBUTES {0:#018x} have PERFMON, which the policy does not allow")]
    Perfmon(u64),
    #[error("TDATTRIBUTES {attributes:#018x} have the bits {reserved:#x}, whose meaning is not known")]
    Reserved { attributes: u64, reserved: u64 },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum XfamError {
    #[error("XFAM {xfam:#x} lacks the bits {missing:#x}, which every domain has")]
    Missing { xfam: u64, missing: u64 },
    #[error("XFAM {xfam:#x} has the bits {extra:#x}, which TDX does not give to domains")]
    Unknown { xfam: u64, extra: u64 },
    #[error("XFAM {xfam:#x} has the bits {extra:#x}, which the policy does not allow")]
    Policy { xfam: u64, extra: u64 },
}

pub(super) fn attributes(attributes: u64, policy: &TdxPolicy) -> Result<Finding<()>, AttributesError> {
    let has = |bits| attributes & bits != 0;
    if has(DEBUG) && !policy.danger_allow_debug {
        return Err(AttributesError::Debug(attributes));
    }
    if has(UNTRUSTED & !DEBUG) {
        return Err(AttributesError::Untrusted(attributes));
    }
    if !has(SEPT_VE_DISABLE) && !policy.danger_allow_sept_ve {
        return Err(AttributesError::SeptVe(attributes));
    }
    if has(MIGRATABLE) && !policy.allow_migratable {
        return Err(AttributesError::Migratable(attributes));
    }
    if has(PERFMON) && !policy.allow_perfmon {
        return Err(AttributesError::Perfmon(attributes));
    }
    let reserved = attributes & !(UNTRUSTED | LASS | SEPT_VE_DISABLE | MIGRATABLE | PKS | KL | PERFMON);
    if reserved != 0 {
        return Err(AttributesError::Reserved { attributes, reserved });
    }
    Ok(Finding::new((), format!("TDATTRIBUTES {attributes:#018x}")))
}

pub(super) fn xfam(xfam: u64, policy: &TdxPolicy) -> Result<Finding<()>, XfamError> {
    let missing = XFAM_FIXED1 & !xfam;
    if missing != 0 {
        return Err(XfamError::Missing { xfam, missing });
    }
    let extra = xfam & !XFAM_FIXED0;
    if extra != 0 {
        return Err(XfamError::Unknown { xfam, extra });
    }
    let extra = xfam & !(policy.xfam_allowed | XFAM_FIXED1);
    if extra != 0 {
        return Err(XfamError::Policy { xfam, extra });
    }
    Ok(Finding::new((), format!("XFAM {xfam:#x}")))
}
