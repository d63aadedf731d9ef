//! The event log of a trust domain (ACPI table CCEL, "Guest-Host Communication Interface for Intel TDX", section on measurement):
//! a crypto-agile log as in [`crate::eventlog`], in an area of fixed size whose rest is filled up, and with measurement register
//! indexes in place of PCR indexes: 0 is MRTD, 1 to 4 are RTMR0 to RTMR3.
//!
//! What [`crate::eventlog`] says of logs holds here, too: a matching replay proves the digests and their order in each register,
//! and neither types nor data.

use sha2::{Digest as _, Sha384};

use super::Sha384Digest;
use crate::{
    eventlog::{Event, EventLog, EventLogError, EventType, LogFormat, MAX_LOG_BYTES},
    tpm::{HashAlg, alg_id},
};

/// Number of run-time measurement registers.
pub const RTMRS: usize = 4;

/// A log of measurements into the RTMRs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CcelLog {
    /// What was measured, in order.
    pub events: Vec<CcelEvent>,
}

/// One measured event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CcelEvent {
    /// 0 to 3.
    pub rtmr: usize,
    /// What kind. Not covered by the register.
    pub kind: EventType,
    /// What was extended.
    pub digest: Sha384Digest,
    /// Event data. Not covered by the register unless its digest is the event's.
    pub data: Vec<u8>,
}

/// Why bytes are not a log of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CcelError {
    /// Not an event log.
    #[error("read the event log")]
    Log(#[from] EventLogError),
    /// Without the bank that the registers are of.
    #[error("the event log has no SHA-384 digests, which are what the registers hold")]
    Bank,
    /// A measurement into something that is not an RTMR.
    #[error("event {index} was measured into register {register}, which is none of RTMR0 to RTMR3 (1 to 4)")]
    Register {
        /// Index of the event, the header being 0.
        index: usize,
        /// The register.
        register: u32,
    },
}

impl CcelLog {
    /// The log in `bytes`, which may be filled up with bytes of value 0xff or of value 0.
    pub fn parse(bytes: &[u8]) -> Result<Self, CcelError> {
        if bytes.len() > MAX_LOG_BYTES {
            return Err(EventLogError::TooLong { len: bytes.len() }.into());
        }
        let log = EventLog::parse(&bytes[..used(bytes)])?;
        if !matches!(&log.format, LogFormat::CryptoAgile(spec) if spec.banks.iter().any(|bank| bank.alg == alg_id::SHA384)) {
            return Err(CcelError::Bank);
        }
        let measured = log.events.into_iter().enumerate().filter(|(_, event)| event.kind != EventType::NO_ACTION);
        let events = measured.map(|(index, event)| CcelEvent::of(index + 1, event)).collect::<Result<_, _>>()?;
        Ok(Self { events })
    }

    /// The values that the registers have after all events; they start at zero.
    pub fn replay(&self) -> [Sha384Digest; RTMRS] {
        let mut registers = [[0; 48]; RTMRS];
        for event in &self.events {
            let register = &mut registers[event.rtmr];
            *register = extend_sha384(register, &event.digest);
        }
        registers
    }

    /// The digests that went into register `rtmr`, in order.
    pub fn digests(&self, rtmr: usize) -> impl Iterator<Item = &Sha384Digest> {
        self.events.iter().filter(move |event| event.rtmr == rtmr).map(|event| &event.digest)
    }
}

impl CcelEvent {
    fn of(index: usize, event: Event) -> Result<Self, CcelError> {
        let register = event.pcr;
        let rtmr = register.checked_sub(1).and_then(|rtmr| usize::try_from(rtmr).ok()).filter(|rtmr| *rtmr < RTMRS);
        let rtmr = rtmr.ok_or(CcelError::Register { index, register })?;
        let digest = event.digests.get(&alg_id::SHA384).and_then(|digest| digest.as_slice().try_into().ok());
        Ok(Self { rtmr, kind: event.kind, digest: digest.ok_or(CcelError::Bank)?, data: event.data })
    }

    /// Whether the digest is the SHA-384 of the data, so that a matching replay covers the data.
    pub fn data_is_digested(&self) -> bool {
        self.digest == *Sha384::digest(&self.data)
    }
}

/// The value of a register after `digest` is extended into it.
pub fn extend_sha384(value: &Sha384Digest, digest: &Sha384Digest) -> Sha384Digest {
    let mut hash = Sha384::new();
    hash.update(value);
    hash.update(digest);
    hash.finalize().into()
}

/// The length of the log without what fills the area up. Where the bytes are no log, it is all of them: the parser has the
/// better words for that.
fn used(bytes: &[u8]) -> usize {
    // Register, type, SHA-1 digest, size.
    let Some(mut at) = data_end(bytes, 28) else {
        return bytes.len();
    };
    loop {
        let rest = &bytes[at..];
        if is_fill(rest) {
            return at;
        }
        let Some(end) = agile_event_end(rest) else {
            return bytes.len();
        };
        at += end;
    }
}

fn is_fill(rest: &[u8]) -> bool {
    [0xff, 0].iter().any(|fill| rest.iter().all(|byte| byte == fill))
}

/// Register, type and number of digests, the digests, size and data.
fn agile_event_end(bytes: &[u8]) -> Option<usize> {
    let count = u32_at(bytes, 8)?;
    let mut at = 12_usize;
    for _ in 0..count {
        let alg = u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?);
        at += 2 + HashAlg::from_id(alg)?.size();
    }
    data_end(bytes, at)
}

/// The end of data whose size is a field at `at`.
fn data_end(bytes: &[u8], at: usize) -> Option<usize> {
    let size = usize::try_from(u32_at(bytes, at)?).ok()?;
    at.checked_add(4)?.checked_add(size).filter(|end| *end <= bytes.len())
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
