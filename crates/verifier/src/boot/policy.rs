//! What a relying party wants of a boot.

use std::collections::{BTreeMap, BTreeSet};

use casemate_evidence::{
    eventlog::LogRef,
    tpm::{Digest, HashAlg},
};
use serde::{Deserialize, Serialize};

use super::{BootClaims, HexDigest, MokRule};
use crate::quote::QuotedBanks;

/// Rules for a boot. There is no default; begin with [`BootPolicy::strict`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootPolicy {
    /// Whether secure boot must be on.
    pub secure_boot: SecureBootRule,
    /// What may let images start: SHA-256 of the certificate, or of the variable's value where it is none.
    pub authorities: DigestRule,
    /// Fewest entries in dbx.
    pub min_dbx_entries: u64,
    /// For these PCRs, the digests of all events that may be in them (in the quoted bank; an event without a listed digest is
    /// refused, and so is a PCR that the quote does not cover). The separator need not be listed.
    pub digests: BTreeMap<u32, BTreeSet<HexDigest>>,
    /// Which kernel command lines are accepted.
    pub command_lines: CommandLineRule,
    /// Which measurements by shim are accepted, where the quote covers PCR 14.
    pub shim: MokRule,
    /// What may be in the firmware's PCRs after it handed over.
    pub late_events: LateRule,
    /// What to do with types of events that the specification does not know.
    pub unknown_events: UnknownRule,
}

/// Whether secure boot must be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecureBootRule {
    /// On, with platform key and key exchange key installed.
    Required,
    /// It does not matter.
    DangerAny,
}

/// Digests that are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DigestRule {
    /// These.
    Listed(BTreeSet<HexDigest>),
    /// Any.
    DangerAny,
}

/// Command lines that are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandLineRule {
    /// At least one was measured, and each is one of these, whole.
    ///
    /// GRUB extends its commands into the same PCR in the same form, and an EFI stub its initrd: whoever writes those could make
    /// one look like a good command line and the real one like something else. So theirs count only beside a list of
    /// [`digests`](BootPolicy::digests) for PCR 8 or 9.
    Listed(BTreeSet<String>),
    /// Any, or none at all.
    DangerAny,
}

/// What may follow the hand-over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LateRule {
    /// Nothing that does not belong there.
    Refuse,
    /// These digests. Some firmware measures its last drivers and tables so late.
    Listed(BTreeSet<HexDigest>),
    /// Anything: whoever started after the firmware may have put it there.
    DangerAny,
}

/// What to do with unknown types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownRule {
    /// Refuse.
    Refuse,
    /// Count them.
    AllowCounted,
}

/// Why a boot is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootPolicyError {
    /// The log contradicts itself.
    #[error("{0}")]
    Problem(String),
    /// A PCR that a rule needs is not quoted.
    #[error("the policy has a rule for PCR {0}, which the quote does not cover")]
    NotQuoted(u32),
    /// Secure boot is off, or nothing says that it is on.
    #[error("secure boot is not on")]
    SecureBoot,
    /// An authority that is not listed.
    #[error("the authority {sha256} from {variable} is not accepted")]
    Authority {
        /// The variable, escaped.
        variable: String,
        /// SHA-256, hex.
        sha256: String,
    },
    /// An old list of revocations.
    #[error("dbx has {seen} entries, expected at least {expected}")]
    Dbx {
        /// The policy's.
        expected: u64,
        /// In the log.
        seen: u64,
    },
    /// A digest that is not listed.
    #[error("event {index} of the log, in PCR {pcr}, has the digest {digest}, which is not accepted")]
    Digest {
        /// Which event.
        index: usize,
        /// Where.
        pcr: u32,
        /// Hex.
        digest: String,
    },
    /// A command line that is not listed.
    #[error("the kernel command line {0} is not accepted")]
    CommandLine(String),
    /// A command line that could as well be something else.
    #[error("the kernel command line by {0} counts only with a list of digests for PCR {1}, which the policy does not have")]
    CommandLineAlone(String, u32),
    /// No command line.
    #[error("no kernel command line was measured")]
    NoCommandLine,
    /// A measurement by shim that is not listed.
    #[error("shim measured {name} with the digest {digest}, which is not accepted")]
    Shim {
        /// The variable.
        name: String,
        /// Hex.
        digest: String,
    },
    /// Something after the hand-over.
    #[error("after the firmware handed over, PCR {pcr} was extended with {digest} ({kind}), which is not accepted")]
    Late {
        /// Where.
        pcr: u32,
        /// Its type.
        kind: String,
        /// Hex.
        digest: String,
    },
    /// Unknown types.
    #[error("{0} events are of types that are not known")]
    Unknown(u64),
}

impl BootPolicy {
    /// Secure boot on, nothing accepted that is not listed, and nothing listed yet: accepts no real boot until it is filled.
    pub fn strict() -> Self {
        Self {
            secure_boot: SecureBootRule::Required,
            authorities: DigestRule::Listed(BTreeSet::new()),
            min_dbx_entries: 1,
            digests: BTreeMap::new(),
            command_lines: CommandLineRule::Listed(BTreeSet::new()),
            shim: MokRule::Refuse,
            late_events: LateRule::Refuse,
            unknown_events: UnknownRule::Refuse,
        }
    }

    /// The options that weaken it.
    pub(super) fn warnings(&self) -> Vec<String> {
        let options = [
            (self.secure_boot == SecureBootRule::DangerAny, "secure boot may be off"),
            (self.authorities == DigestRule::DangerAny, "anything may have let images start"),
            (self.command_lines == CommandLineRule::DangerAny, "the kernel command line may be any"),
            (self.shim == MokRule::DangerAny, "machine owner keys may be any"),
            (self.late_events == LateRule::DangerAny, "the firmware's PCRs may have been extended after it handed over"),
            (self.unknown_events == UnknownRule::AllowCounted, "events of unknown types are counted only"),
        ];
        options.iter().filter(|(set, _)| *set).map(|(_, text)| (*text).to_owned()).collect()
    }

    pub(super) fn judge(
        &self,
        claims: &BootClaims,
        log: &LogRef<'_>,
        bank: HashAlg,
        quoted: &QuotedBanks,
    ) -> Result<(), BootPolicyError> {
        if let Some(problem) = claims.problems.first() {
            return Err(BootPolicyError::Problem(problem.clone()));
        }
        if let Some(pcr) = self.needed_pcrs().into_iter().find(|pcr| quoted.value(bank, *pcr).is_none()) {
            return Err(BootPolicyError::NotQuoted(pcr));
        }
        self.judge_secure_boot(claims)?;
        self.judge_digests(log, bank)?;
        self.judge_command_lines(claims, bank)?;
        self.judge_shim(claims)?;
        self.judge_rest(claims)
    }

    fn needed_pcrs(&self) -> BTreeSet<u32> {
        let secure = self.secure_boot == SecureBootRule::Required || self.authorities != DigestRule::DangerAny;
        let secure = secure || self.min_dbx_entries > 0;
        self.digests.keys().copied().chain(secure.then_some(7)).collect()
    }

    fn judge_secure_boot(&self, claims: &BootClaims) -> Result<(), BootPolicyError> {
        if self.secure_boot == SecureBootRule::Required && !claims.secure_boot {
            return Err(BootPolicyError::SecureBoot);
        }
        if claims.dbx_entries < self.min_dbx_entries {
            return Err(BootPolicyError::Dbx { expected: self.min_dbx_entries, seen: claims.dbx_entries });
        }
        let DigestRule::Listed(listed) = &self.authorities else {
            return Ok(());
        };
        let known = |sha256: &str| contains(listed, sha256);
        match claims.authorities.iter().find(|authority| !known(&authority.sha256)) {
            None => Ok(()),
            Some(authority) => Err(BootPolicyError::Authority {
                variable: authority.variable.escape_debug().to_string(),
                sha256: authority.sha256.clone(),
            }),
        }
    }

    fn judge_digests(&self, log: &LogRef<'_>, bank: HashAlg) -> Result<(), BootPolicyError> {
        if self.digests.is_empty() {
            return Ok(());
        }
        let ends = [0, u32::MAX].map(|value: u32| bank.digest(&[&value.to_le_bytes()]));
        for event in &log.events {
            let (Some(listed), Some(measured)) = (self.digests.get(&event.pcr), event.measured(bank)) else {
                continue;
            };
            let digest = Digest::from_slice(measured).expect("the size of the bank");
            if !listed.contains(&HexDigest(digest)) && !ends.contains(&digest) {
                return Err(BootPolicyError::Digest { index: event.index, pcr: event.pcr, digest: digest.to_string() });
            }
        }
        Ok(())
    }

    fn judge_command_lines(&self, claims: &BootClaims, bank: HashAlg) -> Result<(), BootPolicyError> {
        let CommandLineRule::Listed(listed) = &self.command_lines else {
            return Ok(());
        };
        if claims.command_lines.is_empty() {
            return Err(BootPolicyError::NoCommandLine);
        }
        for line in &claims.command_lines {
            let shared = match line.source.as_str() {
                "grub" => Some(8),
                "efi-stub" => Some(9),
                _ => None,
            };
            if let Some(pcr) = shared.filter(|pcr| !self.digests.contains_key(pcr)) {
                return Err(BootPolicyError::CommandLineAlone(line.source.clone(), pcr));
            }
            let known = match &line.text {
                Some(text) => listed.contains(text),
                None => listed.iter().any(|text| utf16_digests(text, bank).contains(&line.digest)),
            };
            if !known {
                let what = line.text.as_ref().map_or_else(|| line.digest.clone(), |text| format!("{text:?}"));
                return Err(BootPolicyError::CommandLine(what));
            }
        }
        Ok(())
    }

    fn judge_shim(&self, claims: &BootClaims) -> Result<(), BootPolicyError> {
        let accepted = |digest: &str, name: &str| parsed(digest).is_some_and(|digest| self.shim.accepts(name, digest));
        match claims.shim.iter().find(|event| !accepted(&event.digest, &event.label)) {
            None => Ok(()),
            Some(event) => Err(BootPolicyError::Shim { name: event.label.clone(), digest: event.digest.clone() }),
        }
    }

    fn judge_rest(&self, claims: &BootClaims) -> Result<(), BootPolicyError> {
        let late = |digest: &str| match &self.late_events {
            LateRule::Refuse => false,
            LateRule::Listed(listed) => contains(listed, digest),
            LateRule::DangerAny => true,
        };
        if let Some(event) = claims.late.iter().find(|event| !late(&event.digest)) {
            let (kind, digest) = (event.kind.clone(), event.digest.clone());
            return Err(BootPolicyError::Late { pcr: event.pcr, kind, digest });
        }
        match (self.unknown_events, claims.unknown_events) {
            (UnknownRule::Refuse, count) if count > 0 => Err(BootPolicyError::Unknown(count)),
            (UnknownRule::Refuse | UnknownRule::AllowCounted, _) => Ok(()),
        }
    }
}

/// The digests that an EFI stub's measurement of `text` may have: its load options are UTF-16, mostly with a final zero.
fn utf16_digests(text: &str, bank: HashAlg) -> [String; 2] {
    let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    [bank.digest(&[&bytes, &[0, 0]]).to_string(), bank.digest(&[&bytes]).to_string()]
}

fn contains(listed: &BTreeSet<HexDigest>, digest: &str) -> bool {
    parsed(digest).is_some_and(|digest| listed.contains(&digest))
}

fn parsed(digest: &str) -> Option<HexDigest> {
    Digest::from_slice(&hex::decode(digest).ok()?).map(HexDigest)
}
