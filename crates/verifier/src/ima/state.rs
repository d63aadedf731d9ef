//! Up to where a list was appraised.

use casemate_evidence::tpm::{Digest, HashAlg};
use serde::{Deserialize, Serialize};

/// Up to where a list was appraised; see the module's documentation on where to keep it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct ImaState {
    bank: HashAlg,
    count: u64,
    offset: u64,
    pcr: Digest,
}

impl ImaState {
    /// The start of a boot, in the bank that will be quoted: SHA-256 or longer.
    pub fn start(bank: HashAlg) -> Self {
        Self { bank, count: 0, offset: 0, pcr: Digest::zero(bank) }
    }

    /// The bank.
    pub fn bank(&self) -> HashAlg {
        self.bank
    }

    /// Entries appraised.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Bytes of the list (in the form in which it was sent) that they take: what comes next begins there.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The PCR's value after them.
    pub(super) fn pcr(&self) -> &Digest {
        &self.pcr
    }

    pub(super) fn after(&self, entries: u64, bytes: usize, pcr: Digest) -> Self {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        Self { bank: self.bank, count: self.count + entries, offset: self.offset.saturating_add(bytes), pcr }
    }
}

/// How a state is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    bank: String,
    count: u64,
    offset: u64,
    pcr: String,
}

impl From<ImaState> for Stored {
    fn from(state: ImaState) -> Self {
        Self { bank: state.bank.name().to_owned(), count: state.count, offset: state.offset, pcr: state.pcr.to_string() }
    }
}

impl TryFrom<Stored> for ImaState {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let bank = HashAlg::from_name(&stored.bank).ok_or("an unknown bank")?;
        let pcr = hex::decode(&stored.pcr).ok().and_then(|bytes| Digest::from_slice(&bytes));
        let pcr = pcr.filter(|pcr| pcr.as_slice().len() == bank.size()).ok_or("a PCR value of the wrong size")?;
        Ok(Self { bank, count: stored.count, offset: stored.offset, pcr })
    }
}
