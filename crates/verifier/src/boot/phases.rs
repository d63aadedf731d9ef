//! Whose measurements are whose: one state machine for each of the firmware's PCRs.
//!
//! ```text
//!            anything                      what the specification lets follow; the rest is "late"
//!   Firmware ────────> Firmware      Handed ───────────────────────────────────────────────> Handed
//!      │  EV_SEPARATOR with the digest of 0 or 0xffffffff                                      ^
//!      └───────────────────────────────────────────────────────────────────────────────────────┘
//!   a second one, one that is called something else, one that says "error", none at all: refused
//! ```
//!
//! Types are not covered by any digest, so whoever controls the log could call the real separator something else and bring
//! another one later, with "firmware" measurements of their own before it. The machine therefore knows separators by digest.

use casemate_evidence::{
    eventlog::EventType,
    tpm::{Digest, HashAlg},
};

/// The PCRs of the firmware.
pub(super) const FIRMWARE_PCRS: std::ops::RangeInclusive<u32> = 0..=7;

/// Why the events of a PCR cannot be told apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PhaseError {
    /// The firmware failed.
    #[error("the firmware reports an error in PCR {pcr}")]
    FirmwareError {
        /// Where.
        pcr: u32,
    },
    /// A separator's digest under another type.
    #[error("event {index} of the log has the digest of a separator, but is called {kind:#010x}")]
    Disguised {
        /// Which event.
        index: usize,
        /// Its type.
        kind: u32,
    },
    /// Called a separator without the digest of one.
    #[error("event {index} of the log is called a separator, but has not the digest of one")]
    NoSeparator {
        /// Which event.
        index: usize,
    },
    /// Two separators.
    #[error("PCR {pcr} has more than one separator")]
    Repeated {
        /// Where.
        pcr: u32,
    },
    /// No separator.
    #[error("PCR {pcr} has no separator: the firmware never handed over")]
    Missing {
        /// Where.
        pcr: u32,
    },
}

/// What an event may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Before the hand-over: the firmware's.
    Firmware,
    /// The hand-over itself.
    Separator,
    /// After it, of a type that belongs there; or in a PCR that is not the firmware's.
    Later,
    /// After it, of a type that does not belong there.
    Late,
}

/// The state of each PCR.
pub(super) struct Phases {
    handed: [bool; 8],
    ends: [Digest; 2],
    error: Digest,
}

impl Phases {
    pub(super) fn new(bank: HashAlg) -> Self {
        let of = |value: u32| bank.digest(&[&value.to_le_bytes()]);
        Self { handed: [false; 8], ends: [of(0), of(u32::MAX)], error: of(1) }
    }

    /// The next measured event.
    pub(super) fn step(&mut self, index: usize, pcr: u32, kind: EventType, digest: &[u8]) -> Result<Role, PhaseError> {
        let Some(handed) = usize::try_from(pcr).ok().and_then(|pcr| self.handed.get_mut(pcr)) else {
            return Ok(Role::Later);
        };
        if digest == self.error.as_slice() {
            return Err(PhaseError::FirmwareError { pcr });
        }
        let is_end = self.ends.iter().any(|end| end.as_slice() == digest);
        match (is_end, kind == EventType::SEPARATOR, *handed) {
            (true, true, false) => {
                *handed = true;
                Ok(Role::Separator)
            }
            (true, true, true) => Err(PhaseError::Repeated { pcr }),
            (true, false, _) => Err(PhaseError::Disguised { index, kind: kind.0 }),
            (false, true, _) => Err(PhaseError::NoSeparator { index }),
            (false, false, false) => Ok(Role::Firmware),
            (false, false, true) if may_follow(pcr, kind) => Ok(Role::Later),
            (false, false, true) => Ok(Role::Late),
        }
    }

    /// The end of the log; `quoted` says which PCRs count.
    pub(super) fn finish(&self, quoted: impl Fn(u32) -> bool) -> Result<(), PhaseError> {
        let open = FIRMWARE_PCRS.zip(self.handed).find(|(pcr, handed)| quoted(*pcr) && !handed);
        open.map_or(Ok(()), |(pcr, _)| Err(PhaseError::Missing { pcr }))
    }
}

/// What is measured while an operating system is being started ("PC Client Platform Firmware Profile", section 3.3.4): images into
/// PCR 4, partition tables and actions into PCR 5, the authorities of images into PCR 7.
fn may_follow(pcr: u32, kind: EventType) -> bool {
    match pcr {
        4 => matches!(
            kind,
            EventType::EFI_BOOT_SERVICES_APPLICATION
                | EventType::EFI_BOOT_SERVICES_DRIVER
                | EventType::EFI_RUNTIME_SERVICES_DRIVER
                | EventType::EFI_ACTION
                | EventType::COMPACT_HASH
        ),
        5 => matches!(kind, EventType::EFI_GPT_EVENT | EventType::EFI_GPT_EVENT2 | EventType::EFI_ACTION | EventType::EVENT_TAG),
        7 => kind == EventType::EFI_VARIABLE_AUTHORITY,
        _ => false,
    }
}
