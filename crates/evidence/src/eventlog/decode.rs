//! Bytes to events, without copying.

use super::{
    Bank, EventLogError, EventRef, EventType, LogFormat, LogRef, MAX_EVENTS, MAX_LOG_BYTES, SPEC_ID_03, SpecId, view::Digests,
};
use crate::tpm::{HashAlg, MAX_PCR, alg_id};

pub(super) fn log(bytes: &[u8]) -> Result<LogRef<'_>, EventLogError> {
    if bytes.len() > MAX_LOG_BYTES {
        return Err(EventLogError::TooLong { len: bytes.len() });
    }
    let mut cursor = Cursor { rest: bytes, index: 0 };
    // The first event has the old form in both formats.
    let first = cursor.sha1_event()?;
    let mut log = match spec_id(&first)? {
        Some(spec) => LogRef { format: LogFormat::CryptoAgile(spec), events: Vec::new() },
        None => LogRef { format: LogFormat::Sha1, events: vec![first] },
    };
    while !cursor.rest.is_empty() {
        if cursor.index >= MAX_EVENTS {
            return Err(EventLogError::TooManyEvents);
        }
        cursor.index += 1;
        log.events.push(match &log.format {
            LogFormat::Sha1 => cursor.sha1_event()?,
            LogFormat::CryptoAgile(spec) => cursor.agile_event(&spec.banks)?,
        });
    }
    Ok(log)
}

/// The header where `first` is one.
fn spec_id(first: &EventRef<'_>) -> Result<Option<SpecId>, EventLogError> {
    if first.kind != EventType::NO_ACTION || !first.data.starts_with(SPEC_ID_03) {
        return Ok(None);
    }
    let mut cursor = Cursor { rest: &first.data[SPEC_ID_03.len()..], index: 0 };
    let platform_class = cursor.u32("platform class")?;
    let version = cursor.array("version")?;
    let [uintn_size] = cursor.array("UINTN size")?;
    let banks = cursor.banks()?;
    let [vendor_info_size] = cursor.array("vendor info size")?;
    let vendor_info = cursor.take("vendor info", vendor_info_size.into())?.to_vec();
    match cursor.rest.len() {
        0 => Ok(Some(SpecId { platform_class, version, uintn_size, banks, vendor_info })),
        left => Err(cursor.invalid("bytes after the header", u32::try_from(left).unwrap_or(u32::MAX))),
    }
}

struct Cursor<'a> {
    rest: &'a [u8],
    index: usize,
}

impl<'a> Cursor<'a> {
    fn banks(&mut self) -> Result<Vec<Bank>, EventLogError> {
        let count = self.u32("number of algorithms")?;
        if count == 0 || usize::try_from(count).is_ok_and(|count| count > MAX_BANKS) {
            return Err(self.invalid("number of algorithms", count));
        }
        let mut banks: Vec<Bank> = Vec::new();
        for _ in 0..count {
            let bank = Bank { alg: self.u16("algorithm")?, digest_size: self.u16("digest size")? };
            let fits = match HashAlg::from_id(bank.alg) {
                Some(hash) => hash.size() == usize::from(bank.digest_size),
                None => bank.digest_size <= MAX_DIGEST,
            };
            if !fits {
                return Err(self.invalid("digest size", bank.digest_size.into()));
            }
            if banks.iter().any(|known| known.alg == bank.alg) {
                return Err(self.invalid("repeated algorithm", bank.alg.into()));
            }
            banks.push(bank);
        }
        Ok(banks)
    }

    /// TCG_PCR_EVENT.
    fn sha1_event(&mut self) -> Result<EventRef<'a>, EventLogError> {
        let index = self.index;
        let (pcr, kind) = self.pcr_and_kind()?;
        let mut digests = Digests::default();
        digests.push(alg_id::SHA1, self.take("digest", 20)?);
        Ok(EventRef { index, pcr, kind, digests, data: self.data()? })
    }

    /// TCG_PCR_EVENT2: exactly one digest for each bank. An event without a digest of some bank would be invisible in that bank's
    /// replay and yet be there to be read.
    fn agile_event(&mut self, banks: &[Bank]) -> Result<EventRef<'a>, EventLogError> {
        let index = self.index;
        let (pcr, kind) = self.pcr_and_kind()?;
        let count = self.u32("number of digests")?;
        if usize::try_from(count) != Ok(banks.len()) {
            return Err(self.invalid("number of digests", count));
        }
        let mut digests = Digests::default();
        for _ in 0..count {
            let alg = self.u16("digest algorithm")?;
            let Some(bank) = banks.iter().find(|bank| bank.alg == alg) else {
                return Err(self.invalid("unannounced algorithm", alg.into()));
            };
            let digest = self.take("digest", bank.digest_size.into())?;
            if digests.of(alg).is_some() {
                return Err(self.invalid("repeated algorithm", alg.into()));
            }
            digests.push(alg, digest);
        }
        Ok(EventRef { index, pcr, kind, digests, data: self.data()? })
    }

    fn pcr_and_kind(&mut self) -> Result<(u32, EventType), EventLogError> {
        let pcr = self.u32("PCR index")?;
        let kind = EventType(self.u32("event type")?);
        // Informative events may stand at no PCR at all (0xffffffff).
        if pcr > MAX_PCR && kind != EventType::NO_ACTION {
            return Err(self.invalid("PCR index", pcr));
        }
        Ok((pcr, kind))
    }

    fn data(&mut self) -> Result<&'a [u8], EventLogError> {
        let size = self.u32("event size")?;
        let size = usize::try_from(size).map_err(|_| self.invalid("event size", size))?;
        self.take("event data", size)
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, EventLogError> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, EventLogError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], EventLogError> {
        Ok(self.take(field, N)?.try_into().expect("take returned N bytes"))
    }

    fn take(&mut self, field: &'static str, count: usize) -> Result<&'a [u8], EventLogError> {
        let short = EventLogError::Short { index: self.index, field };
        let (head, rest) = self.rest.split_at_checked(count).ok_or(short)?;
        self.rest = rest;
        Ok(head)
    }

    fn invalid(&self, field: &'static str, value: u32) -> EventLogError {
        EventLogError::Invalid { index: self.index, field, value }
    }
}

/// More than any TPM has.
pub(super) const MAX_BANKS: usize = 8;
/// SHA-512.
const MAX_DIGEST: u16 = 64;
