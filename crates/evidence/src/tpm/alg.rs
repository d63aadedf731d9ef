//! Algorithm identifiers (section 6.3, TPM_ALG_ID; section 6.4, TPM_ECC_CURVE).

use super::TpmDecodeError;

/// Values of TPM_ALG_ID that occur in evidence.
pub mod alg_id {
    /// TPM_ALG_RSA.
    pub const RSA: u16 = 0x0001;
    /// TPM_ALG_SHA1.
    pub const SHA1: u16 = 0x0004;
    /// TPM_ALG_AES.
    pub const AES: u16 = 0x0006;
    /// TPM_ALG_SHA256.
    pub const SHA256: u16 = 0x000b;
    /// TPM_ALG_SHA384.
    pub const SHA384: u16 = 0x000c;
    /// TPM_ALG_SHA512.
    pub const SHA512: u16 = 0x000d;
    /// TPM_ALG_NULL.
    pub const NULL: u16 = 0x0010;
    /// TPM_ALG_RSASSA.
    pub const RSASSA: u16 = 0x0014;
    /// TPM_ALG_RSAPSS.
    pub const RSAPSS: u16 = 0x0016;
    /// TPM_ALG_ECDSA.
    pub const ECDSA: u16 = 0x0018;
    /// TPM_ALG_ECC.
    pub const ECC: u16 = 0x0023;
    /// TPM_ALG_CFB.
    pub const CFB: u16 = 0x0043;
}

/// A hash algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlg {
    /// SHA-1; only ever as a PCR bank or in old logs, a verifier accepts nothing signed with it.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl HashAlg {
    /// The algorithm with this TPM_ALG_ID.
    pub fn from_id(id: u16) -> Option<Self> {
        match id {
            alg_id::SHA1 => Some(Self::Sha1),
            alg_id::SHA256 => Some(Self::Sha256),
            alg_id::SHA384 => Some(Self::Sha384),
            alg_id::SHA512 => Some(Self::Sha512),
            _ => None,
        }
    }

    /// Its TPM_ALG_ID.
    pub fn id(self) -> u16 {
        match self {
            Self::Sha1 => alg_id::SHA1,
            Self::Sha256 => alg_id::SHA256,
            Self::Sha384 => alg_id::SHA384,
            Self::Sha512 => alg_id::SHA512,
        }
    }

    /// Bytes of a digest.
    pub fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    pub(super) fn decode(field: &'static str, id: u16) -> Result<Self, TpmDecodeError> {
        Self::from_id(id).ok_or(TpmDecodeError::Unsupported { field, id })
    }
}

/// An elliptic curve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
}

impl Curve {
    /// Its TPM_ECC_CURVE.
    pub fn id(self) -> u16 {
        match self {
            Self::P256 => 0x0003,
            Self::P384 => 0x0004,
            Self::P521 => 0x0005,
        }
    }

    pub(super) fn decode(id: u16) -> Result<Self, TpmDecodeError> {
        match id {
            0x0003 => Ok(Self::P256),
            0x0004 => Ok(Self::P384),
            0x0005 => Ok(Self::P521),
            id => Err(TpmDecodeError::Unsupported { field: "curve", id }),
        }
    }
}
