//! Which files a node may open and execute.

use std::collections::HashMap;

use casemate_evidence::{
    ima::{DigestKind, Entry},
    tpm::{Digest, HashAlg},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::BOOT_AGGREGATE;
use crate::quote::QuotedBanks;

/// Rules for an IMA list. There is no default; begin with [`ImaPolicy::strict`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImaPolicy {
    /// Digests by path (or by name, for buffers such as `kexec-cmdline`).
    pub allowed: HashMap<String, Vec<FileDigest>>,
    /// Folders (with a final `/`) and files in which anything is accepted, known or not.
    pub allow_unlisted_under: Vec<String>,
    /// What to do with files that changed while they were measured.
    pub violations: ViolationRule,
    /// Whether the list must start with the boot's PCRs.
    pub boot_aggregate: BootAggregateRule,
    /// What the kernel extends into banks other than SHA-1.
    pub extension: ExtensionRule,
    /// Whether files may be named by their SHA-1.
    pub sha1_digests: Sha1Rule,
    /// Most entries since the boot.
    pub max_entries: u64,
}

/// What to do with violations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViolationRule {
    /// Refuse.
    Refuse,
    /// Count them: what was executed then is not known.
    DangerCounted,
}

/// Whether the list must start with the digest over the quoted boot PCRs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootAggregateRule {
    /// It must, and the quote must cover them: 0 to 9 (0 to 7 for SHA-1) in the bank of that digest.
    Required,
    /// Any.
    DangerAny,
}

/// What the kernel extends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExtensionRule {
    /// The template data's digest of the bank's algorithm (Linux 5.8 and later).
    Hashed,
    /// Its SHA-1, filled up with zeros (before): no stronger than SHA-1.
    DangerPaddedSha1,
}

/// Whether SHA-1 names a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sha1Rule {
    /// No.
    Refuse,
    /// Yes, although two files can be made to share one.
    DangerAccept,
}

/// A file's digest; in files as `sha256:…`, or `verity:sha256:…` for an fs-verity digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileDigest {
    /// What it is of.
    pub kind: DigestKind,
    /// The algorithm.
    pub alg: HashAlg,
    /// The digest.
    pub digest: Digest,
}

/// Why an entry is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImaPolicyError {
    /// A violation.
    #[error("entry {index} says that {name} changed while it was measured")]
    Violation {
        /// Which, from 0 at the boot.
        index: u64,
        /// Escaped.
        name: String,
    },
    /// Another first entry.
    #[error("the list does not start with the boot aggregate")]
    NoBootAggregate,
    /// The quote does not cover the boot's PCRs.
    #[error("the quote does not cover the PCRs that the boot aggregate is over")]
    BootNotQuoted,
    /// Another boot.
    #[error("the boot aggregate is {listed}, the quoted PCRs give {computed}")]
    BootAggregate {
        /// Hex.
        listed: String,
        /// Hex.
        computed: String,
    },
    /// A file that is not known.
    #[error("entry {index}: {name} with {digest} is not in the allow-list")]
    Unlisted {
        /// Which, from 0 at the boot.
        index: u64,
        /// Escaped.
        name: String,
        /// Algorithm and hex.
        digest: String,
    },
}

impl ImaPolicy {
    /// Nothing accepted that is not listed, and nothing listed yet; no violations; the boot aggregate must be that of the quote.
    pub fn strict() -> Self {
        Self {
            allowed: HashMap::new(),
            allow_unlisted_under: Vec::new(),
            violations: ViolationRule::Refuse,
            boot_aggregate: BootAggregateRule::Required,
            extension: ExtensionRule::Hashed,
            sha1_digests: Sha1Rule::Refuse,
            max_entries: 1 << 20,
        }
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let options = [
            (!self.allow_unlisted_under.is_empty(), "unlisted files are accepted in some places"),
            (self.violations == ViolationRule::DangerCounted, "files that changed while they were measured are accepted"),
            (self.boot_aggregate == BootAggregateRule::DangerAny, "the list need not be of the quoted boot"),
            (self.extension == ExtensionRule::DangerPaddedSha1, "entries are covered by SHA-1 only"),
            (self.sha1_digests == Sha1Rule::DangerAccept, "files may be named by SHA-1"),
        ];
        options.iter().filter(|(set, _)| *set).map(|(_, text)| (*text).to_owned()).collect()
    }

    pub(super) fn judge_violation(&self, index: u64, name: &[u8]) -> Result<(), ImaPolicyError> {
        match self.violations {
            ViolationRule::DangerCounted => Ok(()),
            ViolationRule::Refuse => Err(ImaPolicyError::Violation { index, name: name_text(name) }),
        }
    }

    pub(super) fn judge_boot_aggregate(&self, entry: &Entry<'_>, quoted: &QuotedBanks) -> Result<(), ImaPolicyError> {
        if self.boot_aggregate == BootAggregateRule::DangerAny {
            return Ok(());
        }
        let alg = entry.digest_alg().filter(|_| entry.name() == BOOT_AGGREGATE).ok_or(ImaPolicyError::NoBootAggregate)?;
        let last = if alg == HashAlg::Sha1 { 7 } else { 9 };
        let values = (0..=last).map(|pcr| quoted.value(alg, pcr).map(Digest::as_slice)).collect::<Option<Vec<_>>>();
        let computed = alg.digest(&values.ok_or(ImaPolicyError::BootNotQuoted)?);
        if computed.as_slice() == entry.digest() {
            return Ok(());
        }
        Err(ImaPolicyError::BootAggregate { listed: hex::encode(entry.digest()), computed: computed.to_string() })
    }

    pub(super) fn judge_file(&self, entry: &Entry<'_>, index: u64) -> Result<(), ImaPolicyError> {
        let alg = entry.digest_alg().filter(|alg| *alg != HashAlg::Sha1 || self.sha1_digests == Sha1Rule::DangerAccept);
        let listed = std::str::from_utf8(entry.name()).ok().and_then(|name| self.allowed.get(name));
        let is = |known: &FileDigest| {
            Some(known.alg) == alg && known.kind == entry.digest_kind() && known.digest.as_slice() == entry.digest()
        };
        if listed.is_some_and(|known| known.iter().any(is)) {
            return Ok(());
        }
        let alg = entry.digest_alg().map_or("an unknown algorithm", HashAlg::name);
        let digest = format!("{alg}:{}", hex::encode(entry.digest()));
        Err(ImaPolicyError::Unlisted { index, name: name_text(entry.name()), digest })
    }

    /// A path with `..` is in no folder.
    pub(super) fn may_be_unlisted(&self, name: &[u8]) -> bool {
        let within =
            |place: &str| if place.ends_with('/') { name.starts_with(place.as_bytes()) } else { name == place.as_bytes() };
        let climbs = name.split(|byte| *byte == b'/').any(|part| part == b"..");
        !climbs && self.allow_unlisted_under.iter().any(|place| within(place))
    }
}

impl Serialize for FileDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = if self.kind == DigestKind::Verity { "verity:" } else { "" };
        serializer.collect_str(&format_args!("{kind}{}:{}", self.alg.name(), self.digest))
    }
}

impl<'de> Deserialize<'de> for FileDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (kind, rest) = match text.strip_prefix("verity:") {
            Some(rest) => (DigestKind::Verity, rest),
            None => (DigestKind::Ima, text.as_str()),
        };
        let parsed = rest.split_once(':').and_then(|(alg, digest)| {
            let alg = HashAlg::from_name(alg)?;
            let digest = Digest::from_slice(&hex::decode(digest).ok()?)?;
            (digest.as_slice().len() == alg.size()).then_some(Self { kind, alg, digest })
        });
        parsed.ok_or_else(|| D::Error::custom("a file's digest is written as \"sha256:\" and hexadecimal text"))
    }
}

/// A name for people.
pub(super) fn name_text(name: &[u8]) -> String {
    name.escape_ascii().take(MAX_NAME_TEXT).map(char::from).collect()
}

const MAX_NAME_TEXT: usize = 256;
