//! A log that was read in place: what a verifier judges.

use std::collections::BTreeMap;

use super::{Coverage, Event, EventLog, EventLogError, EventType, LogFormat, decode};
use crate::tpm::{Digest, HashAlg, MAX_PCR};

/// A log whose events borrow from the bytes that were read.
#[derive(Debug, Clone)]
pub struct LogRef<'a> {
    /// Which format, and the header of the crypto-agile one.
    pub format: LogFormat,
    /// The events after the header, in order.
    pub events: Vec<EventRef<'a>>,
}

/// One event, borrowed.
#[derive(Debug, Clone)]
pub struct EventRef<'a> {
    /// Where it stands; the header of a crypto-agile log is 0.
    pub index: usize,
    /// The PCR that it went into; at most 31 unless nothing was extended.
    pub pcr: u32,
    /// What kind. Covered by no PCR.
    pub kind: EventType,
    /// Event data. Covered only as far as [`EventRef::coverage`] says.
    pub data: &'a [u8],
    pub(super) digests: Digests<'a>,
}

impl<'a> LogRef<'a> {
    /// The log in `bytes`, with nothing after it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EventLogError> {
        decode::log(bytes)
    }

    /// A copy that stands for itself.
    pub fn to_owned(&self) -> EventLog {
        EventLog { format: self.format.clone(), events: self.events.iter().map(EventRef::to_owned).collect() }
    }

    /// Whether the log has digests of this bank.
    pub fn has_bank(&self, alg: HashAlg) -> bool {
        match &self.format {
            LogFormat::Sha1 => alg == HashAlg::Sha1,
            LogFormat::CryptoAgile(spec) => spec.banks.iter().any(|bank| bank.alg == alg.id()),
        }
    }

    /// The PCR values of bank `alg` that the events lead to, for every PCR that one of them extends.
    pub fn replay(&self, alg: HashAlg) -> BTreeMap<u32, Digest> {
        let mut replay = Replay::new(alg);
        for event in &self.events {
            replay.event(event.pcr, event.kind, event.data, event.measured(alg));
        }
        replay.finish()
    }
}

impl<'a> EventRef<'a> {
    /// What was extended into bank `alg`; `None` where nothing was.
    pub fn measured(&self, alg: HashAlg) -> Option<&'a [u8]> {
        if self.kind == EventType::NO_ACTION {
            return None;
        }
        self.digests.of(alg.id()).filter(|digest| digest.len() == alg.size())
    }

    /// How much of the event the digest of bank `alg` covers, found by computing it again.
    pub fn coverage(&self, alg: HashAlg) -> Coverage<'a> {
        Coverage::of(self.kind, self.data, alg, self.measured(alg))
    }

    /// A copy that stands for itself.
    pub fn to_owned(&self) -> Event {
        let digests = self.digests.all().map(|(alg, digest)| (alg, digest.to_vec())).collect();
        Event { pcr: self.pcr, kind: self.kind, digests, data: self.data.to_vec() }
    }
}

/// Digests by TPM_ALG_ID; there are few.
#[derive(Debug, Clone, Default)]
pub(super) struct Digests<'a> {
    len: usize,
    list: [(u16, &'a [u8]); decode::MAX_BANKS],
}

impl<'a> Digests<'a> {
    /// The decoder adds no more than there are banks.
    pub(super) fn push(&mut self, alg: u16, digest: &'a [u8]) {
        self.list[self.len] = (alg, digest);
        self.len += 1;
    }

    pub(super) fn of(&self, alg: u16) -> Option<&'a [u8]> {
        self.all().find(|(id, _)| *id == alg).map(|(_, digest)| digest)
    }

    fn all(&self) -> impl Iterator<Item = (u16, &'a [u8])> + '_ {
        self.list[..self.len].iter().copied()
    }
}

/// PCRs of one bank while a log is replayed.
///
/// PCRs start at zero; PCR 0 at the locality of TPM2_Startup where a `StartupLocality` event comes before anything is extended
/// into it, and at 4 where the first thing in it is what an H-CRTM measured (TPM 2.0 Library, Part 1, section 34.3).
/// (PCRs 17 to 22 start at zero after a dynamic launch only.)
pub(super) struct Replay {
    alg: HashAlg,
    pcrs: [Option<Digest>; MAX_PCR as usize + 1],
    locality: Option<u8>,
}

impl Replay {
    pub(super) fn new(alg: HashAlg) -> Self {
        Self { alg, pcrs: [None; MAX_PCR as usize + 1], locality: None }
    }

    pub(super) fn event(&mut self, pcr: u32, kind: EventType, data: &[u8], measured: Option<&[u8]>) {
        if let (Some(locality), None) = (startup_locality(pcr, kind, data), self.pcrs[0]) {
            self.locality = Some(locality);
        }
        let Some(digest) = measured else {
            return;
        };
        let Some(slot) = usize::try_from(pcr).ok().and_then(|pcr| self.pcrs.get_mut(pcr)) else {
            return;
        };
        let value = slot.unwrap_or_else(|| {
            let h_crtm = (kind == EventType::EFI_HCRTM_EVENT).then_some(H_CRTM_LOCALITY);
            start(self.alg, self.locality.or(h_crtm).filter(|_| pcr == 0))
        });
        *slot = Some(value.extended(self.alg, digest));
    }

    pub(super) fn finish(self) -> BTreeMap<u32, Digest> {
        (0..).zip(self.pcrs).filter_map(|(pcr, value)| Some((pcr, value?))).collect()
    }
}

fn start(alg: HashAlg, locality: Option<u8>) -> Digest {
    let mut bytes = [0; 64];
    bytes[alg.size() - 1] = locality.unwrap_or(0);
    Digest::from_slice(&bytes[..alg.size()]).expect("the size of a digest")
}

fn startup_locality(pcr: u32, kind: EventType, data: &[u8]) -> Option<u8> {
    let (locality, signature) = data.split_last()?;
    (kind == EventType::NO_ACTION && pcr == 0 && signature == STARTUP_LOCALITY).then_some(*locality)
}

const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";
const H_CRTM_LOCALITY: u8 = 4;
