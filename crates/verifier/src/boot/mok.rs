//! shim's variables, which it extends into PCR 14 beside whatever else a node measures there.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::HexDigest;

/// Which measurements by shim are accepted. Machine owner keys let their owner's kernels start, so their digests matter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MokRule {
    /// None.
    Refuse,
    /// Of each variable (`MokList`, `MokListX`, `MokListTrusted`, …), these digests of its value.
    Listed(BTreeMap<String, BTreeSet<HexDigest>>),
    /// Any.
    DangerAny,
}

impl MokRule {
    /// Whether a measurement of the variable `name` with this digest is accepted.
    pub fn accepts(&self, name: &str, digest: HexDigest) -> bool {
        match self {
            Self::Refuse => false,
            Self::Listed(listed) => listed.get(name).is_some_and(|digests| digests.contains(&digest)),
            Self::DangerAny => true,
        }
    }
}
