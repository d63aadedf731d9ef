//! Digests in policies.

use casemate_evidence::tpm::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A digest, in files as hexadecimal text; 20, 32, 48 or 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HexDigest(pub Digest);

impl Serialize for HexDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for HexDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = hex::decode(&text).map_err(|_| D::Error::custom("a digest is hexadecimal text"))?;
        Digest::from_slice(&bytes).map(Self).ok_or_else(|| D::Error::custom("a digest has 20, 32, 48 or 64 bytes"))
    }
}
