//! Digests of any of the algorithms that a bank may have.

use std::fmt;

use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};

use super::HashAlg;

/// A digest, or the value of a PCR: 20 to 64 bytes on the stack.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    len: u8,
    bytes: [u8; MAX],
}

impl Digest {
    /// The digest in `bytes`, if it has as many bytes as one of the algorithms gives.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        matches!(bytes.len(), 20 | 32 | 48 | 64).then(|| Self::filled(bytes))
    }

    /// All bytes zero: a PCR of this bank after a reset.
    pub fn zero(alg: HashAlg) -> Self {
        Self::filled(&[0; MAX][..alg.size()])
    }

    /// All bits set: what a violation extends.
    pub fn ones(alg: HashAlg) -> Self {
        Self::filled(&[0xff; MAX][..alg.size()])
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Whether all bytes are zero.
    pub fn is_zero(&self) -> bool {
        self.as_slice().iter().all(|byte| *byte == 0)
    }

    /// The value of a PCR after `digest` is extended into this one.
    pub fn extended(&self, alg: HashAlg, digest: &[u8]) -> Self {
        alg.digest(&[self.as_slice(), digest])
    }

    fn filled(from: &[u8]) -> Self {
        let mut bytes = [0; MAX];
        bytes[..from.len()].copy_from_slice(from);
        Self { len: u8::try_from(from.len()).expect("at most 64 bytes"), bytes }
    }
}

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl HashAlg {
    /// The digest of `parts`, one after the other.
    pub fn digest(self, parts: &[&[u8]]) -> Digest {
        match self {
            Self::Sha1 => of::<Sha1>(parts),
            Self::Sha256 => of::<Sha256>(parts),
            Self::Sha384 => of::<Sha384>(parts),
            Self::Sha512 => of::<Sha512>(parts),
        }
    }

    /// As evidence and people write it: `sha256`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The algorithm of this [name](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512].into_iter().find(|alg| alg.name() == name)
    }
}

fn of<H: sha2::Digest>(parts: &[&[u8]]) -> Digest {
    let mut hash = H::new();
    parts.iter().for_each(|part| hash.update(part));
    Digest::filled(&hash.finalize())
}

/// SHA-512.
const MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standard() {
        let abc = |alg: HashAlg| alg.digest(&[b"a", b"", b"bc"]).to_string();
        assert_eq!(abc(HashAlg::Sha1), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert!(abc(HashAlg::Sha256).starts_with("ba7816bf8f01cfea"));
        assert!(abc(HashAlg::Sha384).starts_with("cb00753f45a35e8b"));
        assert!(abc(HashAlg::Sha512).starts_with("ddaf35a193617aba"));
    }

    #[test]
    fn only_lengths_of_digests_are_digests() {
        for len in 0..70 {
            assert_eq!(Digest::from_slice(&vec![1; len]).is_some(), [20, 32, 48, 64].contains(&len), "{len}");
        }
    }
}
