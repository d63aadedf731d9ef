//! The event log of a PC's firmware: what was extended into which PCR.
//!
//! Formats ("TCG PC Client Platform Firmware Profile", level 00 version 1.06, section 10): the crypto-agile log, which starts
//! with a `Spec ID Event03` header and has a digest per active bank for every event, and the older log with SHA-1 digests
//! only. All integers are little-endian.
//!
//! # What a matching replay proves, and what not
//!
//! A log is written by the host and can say anything. Once [`replay_sha256`] gives the PCR values that a quote covers,
//! these are proven, for the PCRs in the quote:
//!
//! - the sequence of digests of the *measured* events of each PCR (an order between PCRs is not proven);
//! - nothing else. In particular **event data and event type are not covered**. Data counts only where it can be recomputed to
//!   the digest ([`Event::data_is_digested`]; it holds for version strings and separators, not for boot binaries, whose digest
//!   is that of the binary). And an `EV_NO_ACTION` event is measured nowhere, so all of it is hearsay.
//!
//! A judge therefore reads digests by [`EventRef::measured`], and data by [`EventRef::coverage`], which know of this; what
//! [`EventRef::content`] reads from the rest is a label only.
//!
//! # Writing a log
//!
//! ```
//! use casemate_evidence::eventlog::{Event, EventLog, EventType, replay_sha256};
//!
//! let mut log = EventLog::sha256();
//! log.events.push(Event::of_data(0, EventType::S_CRTM_VERSION, *b"simulated firmware 1"));
//! log.events.push(Event::of_data(7, EventType::SEPARATOR, [0; 4]));
//! // The digest of the file itself; the data only says which file.
//! log.events.push(Event::of_digest(14, EventType::IPL, [0xaa; 32], *b"agent"));
//! // What has to be extended into the TPM, in this order, for the log to match:
//! let extensions = log.events.iter().filter_map(|event| Some((event.pcr, event.measured_sha256()?)));
//! assert_eq!(extensions.count(), 3);
//! assert_eq!(EventLog::parse(&log.encode()), Ok(log.clone()));
//! assert!(replay_sha256(&log.events).contains_key(&14));
//! ```

mod content;
mod coverage;
mod decode;
mod device_path;
mod encode;
mod kinds;
mod signatures;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

pub use content::{Content, Gpt, Guid, ImageLoad, Ipl, Partition, Separator, Variable};
pub use coverage::Coverage;
pub use device_path::device_path_text;
pub use signatures::{SignatureList, count_signatures, signature_lists};
pub use view::{EventRef, LogRef};

use crate::{
    Sha256Digest,
    tpm::{HashAlg, alg_id},
};

/// Largest accepted log, in bytes; it must fit into [`crate::instance::MAX_BYTES`] with the rest.
pub const MAX_LOG_BYTES: usize = 768 << 10;
/// Most events in a log.
pub const MAX_EVENTS: usize = 8192;

/// A whole log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog {
    /// Which format, and the header of the crypto-agile one.
    pub format: LogFormat,
    /// The events after the header, in order.
    pub events: Vec<Event>,
}

/// The two formats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogFormat {
    /// SHA-1 digests only; nothing in it can be compared with a SHA-256 bank.
    Sha1,
    /// A digest per bank.
    CryptoAgile(SpecId),
}

/// TCG_EfiSpecIdEvent, the data of a crypto-agile log's first event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecId {
    /// 0 for a client, 1 for a server.
    pub platform_class: u32,
    /// Minor, major and errata version.
    pub version: [u8; 3],
    /// Size of UINTN: 1 for 32 bits, 2 for 64.
    pub uintn_size: u8,
    /// TPM_ALG_ID and digest size of each active bank; every event has exactly these digests.
    pub banks: Vec<Bank>,
    /// Vendor's own.
    pub vendor_info: Vec<u8>,
}

/// An active bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bank {
    /// TPM_ALG_ID.
    pub alg: u16,
    /// Bytes of a digest.
    pub digest_size: u16,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The PCR that it went into; at most 31 unless nothing was extended.
    pub pcr: u32,
    /// What kind.
    pub kind: EventType,
    /// Digests by TPM_ALG_ID.
    pub digests: BTreeMap<u16, Vec<u8>>,
    /// Event data. Not covered by any PCR; see the module's documentation.
    pub data: Vec<u8>,
}

/// TCG_EVENTTYPE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventType(pub u32);

/// Why bytes are not an event log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventLogError {
    /// More than [`MAX_LOG_BYTES`].
    #[error("event log has {len} bytes, more than the limit of {MAX_LOG_BYTES}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// More than [`MAX_EVENTS`].
    #[error("event log has more than {MAX_EVENTS} events")]
    TooManyEvents,
    /// The bytes end inside a field.
    #[error("event {index} ends inside {field}")]
    Short {
        /// Index of the event, the header being 0.
        index: usize,
        /// The field being read.
        field: &'static str,
    },
    /// A field has a value that it must not have.
    #[error("event {index} has {field} {value:#x}")]
    Invalid {
        /// Index of the event, the header being 0.
        index: usize,
        /// The field being read.
        field: &'static str,
        /// The value found.
        value: u32,
    },
}

impl EventLog {
    /// A crypto-agile log of the SHA-256 bank alone, without events yet.
    pub fn sha256() -> Self {
        let banks = vec![Bank { alg: alg_id::SHA256, digest_size: 32 }];
        let spec = SpecId { platform_class: 0, version: [0, 2, 0], uintn_size: 2, banks, vendor_info: Vec::new() };
        Self { format: LogFormat::CryptoAgile(spec), events: Vec::new() }
    }

    /// The log in `bytes`, with nothing after it.
    pub fn parse(bytes: &[u8]) -> Result<Self, EventLogError> {
        Ok(LogRef::parse(bytes)?.to_owned())
    }

    /// The encoding.
    pub fn encode(&self) -> Vec<u8> {
        encode::log(self)
    }
}

impl Event {
    /// An event of a SHA-256 log whose digest is given, as for the measurement of a file.
    pub fn of_digest(pcr: u32, kind: EventType, digest: Sha256Digest, data: impl Into<Vec<u8>>) -> Self {
        Self { pcr, kind, digests: BTreeMap::from([(alg_id::SHA256, digest.to_vec())]), data: data.into() }
    }

    /// An event of a SHA-256 log whose digest is that of its data.
    pub fn of_data(pcr: u32, kind: EventType, data: impl Into<Vec<u8>>) -> Self {
        let data = data.into();
        Self::of_digest(pcr, kind, Sha256::digest(&data).into(), data)
    }

    /// What was extended into the SHA-256 bank; `None` where nothing was.
    pub fn measured_sha256(&self) -> Option<Sha256Digest> {
        if self.kind == EventType::NO_ACTION {
            return None;
        }
        self.digests.get(&alg_id::SHA256)?.as_slice().try_into().ok()
    }

    /// Whether the event was measured and its digest is the SHA-256 of its data, so that a matching replay covers the data.
    pub fn data_is_digested(&self) -> bool {
        self.measured_sha256().is_some_and(|digest| digest == *Sha256::digest(&self.data))
    }
}

/// The SHA-256 PCR values that `events` lead to, for every PCR that one of them extends; see [`LogRef::replay`].
pub fn replay_sha256(events: &[Event]) -> BTreeMap<u32, Sha256Digest> {
    let mut replay = view::Replay::new(HashAlg::Sha256);
    for event in events {
        let measured = event.measured_sha256();
        replay.event(event.pcr, event.kind, &event.data, measured.as_ref().map(<[u8; 32]>::as_slice));
    }
    let value = |digest: crate::tpm::Digest| digest.as_slice().try_into().expect("SHA-256 has 32 bytes");
    replay.finish().into_iter().map(|(pcr, digest)| (pcr, value(digest))).collect()
}

/// The value of a SHA-256 PCR after `digest` is extended into it.
pub fn extend_sha256(value: &Sha256Digest, digest: &Sha256Digest) -> Sha256Digest {
    let mut hash = Sha256::new();
    hash.update(value);
    hash.update(digest);
    hash.finalize().into()
}

const SPEC_ID_03: &[u8; 16] = b"Spec ID Event03\0";
