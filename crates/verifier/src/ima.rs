//! What a node's kernel opened and executed since it was started: the IMA list, replayed to the quoted PCR 10, and every file on
//! it looked up in an allow-list.
//!
//! A list only grows, so a caller that keeps the [`ImaState`] of the last appraisal has only what was added judged again:
//!
//! ```text
//! ImaState::start ──list──> VerifiedIma::state ──what was added──> VerifiedIma::state ──> …
//! ```
//!
//! A state is of one boot. After another one PCR 10 begins anew, what was added does not replay, and the caller starts over;
//! [`AuthenticQuote::clock`](crate::quote::AuthenticQuote::clock) says so in advance. Whoever can change a stored state can hide
//! entries, so it is kept like the verdict itself.
//!
//! The kernel goes on measuring between quote and reading of the list: entries after the one that leads to the quoted value are
//! not proven, are not judged, and come again the next time.

mod policy;
mod state;

use casemate_evidence::{
    ima::{Entry, Format, ImaError, Reader},
    tpm::{Digest, HashAlg},
};
use serde::{Deserialize, Serialize};

pub use self::{
    policy::{BootAggregateRule, ExtensionRule, FileDigest, ImaPolicy, ImaPolicyError, Sha1Rule, ViolationRule},
    state::ImaState,
};
use crate::{
    checks::{Appraised, CheckName, Finding, Ledger},
    quote::QuotedBanks,
};

/// The checks of [`appraise_ima`].
pub const IMA_CHECKS: &[CheckName] = &[CheckName::NodeIma];

/// The PCR that the kernel extends.
pub const IMA_PCR: u32 = 10;

/// A list that leads to the quoted PCR and names only known files.
#[derive(Debug)]
pub struct VerifiedIma {
    state: ImaState,
}

impl VerifiedIma {
    /// From where the next appraisal may go on.
    pub fn state(&self) -> &ImaState {
        &self.state
    }
}

/// What a list says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImaClaims {
    /// The bank that was read: `sha256`.
    pub bank: String,
    /// Entries before this part of the list, appraised earlier.
    pub earlier_entries: u64,
    /// Entries of this part that were read, up to the quoted value.
    pub entries: u64,
    /// Bytes of the list after that.
    pub bytes_beyond_quote: u64,
    /// Entries that say only that a file changed while it was measured.
    pub violations: u64,
    /// Entries that are not in the allow-list.
    pub unlisted: u64,
    /// Of those, the ones in folders where the policy allows it.
    pub allowed_unlisted: u64,
    /// The first that is not allowed, escaped.
    pub first_unlisted: Option<String>,
    /// The digest over the boot's PCRs that the list starts with, as listed, hex.
    pub boot_aggregate: Option<String>,
    /// Options of the policy that weaken it.
    pub warnings: Vec<String>,
}

/// Why a list is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ImaAppraisalError {
    /// The quote does not cover what is needed.
    #[error("the quote does not cover {bank:?} PCR {IMA_PCR}")]
    NotQuoted {
        /// The bank that the state is of.
        bank: HashAlg,
    },
    /// The list does not decode.
    #[error("read the IMA list")]
    Format(#[source] ImaError),
    /// More entries than the policy allows.
    #[error("the list has more than {limit} entries")]
    TooMany {
        /// The policy's.
        limit: u64,
    },
    /// An entry for another PCR.
    #[error("entry {index} is for PCR {pcr}, expected {IMA_PCR}")]
    Pcr {
        /// Which, from 0 at the boot.
        index: u64,
        /// Found.
        pcr: u32,
    },
    /// An entry that is not what its digest says.
    #[error("the template digest of entry {index} is {listed}, computed {computed}")]
    TemplateDigest {
        /// Which, from 0 at the boot.
        index: u64,
        /// Hex.
        listed: String,
        /// Hex.
        computed: String,
    },
    /// Another value than the quoted one.
    #[error("the list replays to {replayed}, the quote says {quoted}")]
    Replay {
        /// Hex.
        replayed: String,
        /// Hex.
        quoted: String,
    },
    /// An entry that the policy does not accept.
    #[error(transparent)]
    Policy(ImaPolicyError),
}

/// Appraises `list`: what the kernel listed after `from`, at least up to the quote.
pub fn appraise_ima(
    list: &[u8],
    format: Format,
    from: &ImaState,
    quoted: &QuotedBanks,
    policy: &ImaPolicy,
) -> Appraised<VerifiedIma, ImaClaims> {
    let mut ledger = Ledger::new(IMA_CHECKS);
    let claims = ImaClaims {
        bank: from.bank().name().to_owned(),
        earlier_entries: from.count(),
        warnings: policy.warnings(),
        ..ImaClaims::default()
    };
    let mut judge = Judge { policy, quoted, from, claims, refusal: None };
    let found = judge.run(list, format).map(|state| {
        let detail = format!("{} entries after {}, each known", judge.claims.entries, judge.claims.earlier_entries);
        Finding::new(VerifiedIma { state }, detail)
    });
    let found = ledger.enter(CheckName::NodeIma, found);
    Appraised::close(ledger, Some(judge.claims), found)
}

struct Judge<'a> {
    policy: &'a ImaPolicy,
    quoted: &'a QuotedBanks,
    from: &'a ImaState,
    claims: ImaClaims,
    /// The first thing that the policy does not accept. It counts only for a list that leads to the quoted value: before that it is
    /// nobody's word.
    refusal: Option<ImaAppraisalError>,
}

impl Judge<'_> {
    fn run(&mut self, list: &[u8], format: Format) -> Result<ImaState, ImaAppraisalError> {
        let bank = self.from.bank();
        let quoted = self.quoted.value(bank, IMA_PCR).filter(|_| bank != HashAlg::Sha1);
        let quoted = *quoted.ok_or(ImaAppraisalError::NotQuoted { bank })?;
        let mut reader = Reader::new(list, format);
        let mut pcr = *self.from.pcr();
        while pcr != quoted {
            let index = self.from.count() + reader.count();
            if index >= self.policy.max_entries {
                return Err(ImaAppraisalError::TooMany { limit: self.policy.max_entries });
            }
            let Some(entry) = reader.next_entry().map_err(ImaAppraisalError::Format)? else {
                return Err(ImaAppraisalError::Replay { replayed: pcr.to_string(), quoted: quoted.to_string() });
            };
            pcr = pcr.extended(bank, self.entry(&entry, index)?.as_slice());
        }
        self.claims.bytes_beyond_quote = u64::try_from(list.len() - reader.offset()).unwrap_or(u64::MAX);
        match self.refusal.take() {
            Some(refusal) => Err(refusal),
            None => Ok(self.from.after(reader.count(), reader.offset(), pcr)),
        }
    }

    /// What `entry` extends.
    fn entry(&mut self, entry: &Entry<'_>, index: u64) -> Result<Digest, ImaAppraisalError> {
        if entry.pcr() != IMA_PCR {
            return Err(ImaAppraisalError::Pcr { index, pcr: entry.pcr() });
        }
        self.claims.entries += 1;
        let bank = self.from.bank();
        if entry.is_violation() {
            self.claims.violations += 1;
            let refusal = self.policy.judge_violation(index, entry.name());
            self.refuse(refusal);
            return Ok(match self.policy.extension {
                ExtensionRule::Hashed => Digest::ones(bank),
                ExtensionRule::DangerPaddedSha1 => padded(&Digest::ones(HashAlg::Sha1), bank),
            });
        }
        let computed = entry.template_digest(entry.listed_alg());
        if computed != entry.listed() {
            let (listed, computed) = (entry.listed().to_string(), computed.to_string());
            return Err(ImaAppraisalError::TemplateDigest { index, listed, computed });
        }
        if index == 0 {
            self.claims.boot_aggregate = (entry.name() == BOOT_AGGREGATE).then(|| hex::encode(entry.digest()));
            let refusal = self.policy.judge_boot_aggregate(entry, self.quoted);
            self.refuse(refusal);
        } else {
            self.file(entry, index);
        }
        Ok(match self.policy.extension {
            ExtensionRule::Hashed if bank == entry.listed_alg() => computed,
            ExtensionRule::Hashed => entry.template_digest(bank),
            ExtensionRule::DangerPaddedSha1 => padded(&computed, bank),
        })
    }

    fn file(&mut self, entry: &Entry<'_>, index: u64) {
        if let Err(refusal) = self.policy.judge_file(entry, index) {
            self.claims.unlisted += 1;
            if self.policy.may_be_unlisted(entry.name()) {
                self.claims.allowed_unlisted += 1;
                return;
            }
            if self.claims.first_unlisted.is_none() {
                self.claims.first_unlisted = Some(policy::name_text(entry.name()));
            }
            self.refuse(Err(refusal));
        }
    }

    fn refuse(&mut self, judged: Result<(), ImaPolicyError>) {
        if let (Err(refusal), None) = (judged, &self.refusal) {
            self.refusal = Some(ImaAppraisalError::Policy(refusal));
        }
    }
}

/// Kernels before 5.8 extend the SHA-1 digest, filled up with zeros, into every bank.
fn padded(digest: &Digest, bank: HashAlg) -> Digest {
    let mut bytes = [0; 64];
    bytes[..digest.as_slice().len()].copy_from_slice(digest.as_slice());
    Digest::from_slice(&bytes[..bank.size()]).expect("the size of a digest")
}

/// The name of the first entry after a boot.
const BOOT_AGGREGATE: &[u8] = b"boot_aggregate";
