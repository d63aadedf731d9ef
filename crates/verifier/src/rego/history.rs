//! Policies by name, with their history: who stores them cannot change the past unnoticed.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{AppraisalPolicy, MAX_TEXT, PolicyError};
use crate::time::UnixTime;

/// Longest name, in bytes.
pub const MAX_NAME: usize = 64;
/// Most versions of one policy.
pub const MAX_HISTORY: usize = 10_000;

/// One version of a named policy.
///
/// `digest` is SHA-256 over `"casemate/policy/v1" || 0x00 || len(name) || name || version || created_at || previous ||
/// SHA-256(text)`, lengths and numbers as eight bytes, big endian; so each version vouches for all before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPolicy {
    /// 1 to 64 lower case letters, digits and hyphens.
    pub name: String,
    /// 1, 2, 3 and so on.
    pub version: u64,
    /// Of this version, hex.
    pub digest: String,
    /// When it was written.
    pub created_at: UnixTime,
    /// The policy, in Rego.
    pub text: String,
    /// The digest of the version before, hex; 64 zeros for the first.
    pub previous: String,
}

/// Why a history is not one.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// Nothing in it, or too much.
    #[error("a policy has 1 to {MAX_HISTORY} versions, here are {0}")]
    Length(usize),
    /// A name that is not allowed.
    #[error("a policy's name has 1 to {MAX_NAME} lower case letters, digits and hyphens")]
    Name,
    /// A gap, a repetition or another name.
    #[error("expected version {expected} of policy \"{name}\", seen version {seen} of \"{seen_name}\"")]
    Order {
        /// Version that is due.
        expected: u64,
        /// Of this policy.
        name: String,
        /// Version found.
        seen: u64,
        /// Of this policy.
        seen_name: String,
    },
    /// A version that does not name the one before.
    #[error("version {0} does not follow from the version before it")]
    Previous(u64),
    /// Content that its digest is not of.
    #[error("version {0} is not what its digest says")]
    Digest(u64),
    /// Older than the version before.
    #[error("version {0} is dated before the version before it")]
    Date(u64),
    /// Not a policy.
    #[error("version {version} is not a policy")]
    Policy {
        /// Which.
        version: u64,
        /// Why.
        #[source]
        source: PolicyError,
    },
}

impl NamedPolicy {
    /// The first version of a policy, or the next one after `previous`. The text must compile.
    pub fn next(name: &str, text: &str, created_at: UnixTime, previous: Option<&Self>) -> Result<Self, HistoryError> {
        let mut policy = Self {
            name: name.to_owned(),
            version: previous.map_or(1, |previous| previous.version.saturating_add(1)),
            digest: String::new(),
            created_at,
            text: text.to_owned(),
            previous: previous.map_or_else(first, |previous| previous.digest.clone()),
        };
        policy.compile()?;
        policy.digest = policy.computed();
        policy.follows(previous)?;
        Ok(policy)
    }

    /// The policy, ready to be evaluated. Its identifier names this version.
    pub fn compile(&self) -> Result<AppraisalPolicy, HistoryError> {
        let name = format!("{}/{}", self.name, self.version);
        AppraisalPolicy::compile(&name, &self.text).map_err(|source| HistoryError::Policy { version: self.version, source })
    }

    fn follows(&self, previous: Option<&Self>) -> Result<(), HistoryError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if self.name.is_empty() || self.name.len() > MAX_NAME || !self.name.bytes().all(allowed) {
            return Err(HistoryError::Name);
        }
        let expected = previous.map_or(1, |previous| previous.version.saturating_add(1));
        let name = previous.map_or(&self.name, |previous| &previous.name);
        if self.version != expected || &self.name != name {
            let (name, seen_name) = (name.clone(), self.name.clone());
            return Err(HistoryError::Order { expected, name, seen: self.version, seen_name });
        }
        if self.previous != previous.map_or_else(first, |previous| previous.digest.clone()) {
            return Err(HistoryError::Previous(self.version));
        }
        if previous.is_some_and(|previous| previous.created_at > self.created_at) {
            return Err(HistoryError::Date(self.version));
        }
        if self.text.len() > MAX_TEXT || self.digest != self.computed() {
            return Err(HistoryError::Digest(self.version));
        }
        Ok(())
    }

    fn computed(&self) -> String {
        let number = |number: u64| number.to_be_bytes();
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        hash.update(number(self.name.len() as u64));
        hash.update(&self.name);
        hash.update(number(self.version));
        hash.update(number(self.created_at.0));
        // Hex of fixed length, or the comparison with the version before has failed.
        hash.update(&self.previous);
        hash.update(Sha256::digest(&self.text));
        hex::encode(hash.finalize())
    }
}

/// Verifies all versions of a policy, oldest first; the last one is the policy in force. Whoever remembers the digest of a
/// version that it saw finds it again in an honest history.
pub fn verify_history(versions: &[NamedPolicy]) -> Result<&NamedPolicy, HistoryError> {
    let Some(last) = versions.last().filter(|_| versions.len() <= MAX_HISTORY) else {
        return Err(HistoryError::Length(versions.len()));
    };
    let mut previous = None;
    for policy in versions {
        policy.follows(previous)?;
        previous = Some(policy);
    }
    Ok(last)
}

fn first() -> String {
    "0".repeat(64)
}

const DOMAIN: &[u8] = b"casemate/policy/v1\0";
