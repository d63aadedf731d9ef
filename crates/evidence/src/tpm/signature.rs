//! TPMT_SIGNATURE (section 11.3.4).

use super::{
    HashAlg, TpmDecodeError, alg_id,
    wire::{Reader, Writer},
};

/// A signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// ECDSA. TPMs leave leading zeros out or in as they like.
    Ecdsa {
        /// Hash of what is signed.
        hash: HashAlg,
        /// Big-endian.
        r: Vec<u8>,
        /// Big-endian.
        s: Vec<u8>,
    },
    /// RSASSA-PKCS1-v1_5.
    Rsassa {
        /// Hash of what is signed.
        hash: HashAlg,
        /// Big-endian.
        sig: Vec<u8>,
    },
    /// RSASSA-PSS.
    Rsapss {
        /// Hash of what is signed and of the mask.
        hash: HashAlg,
        /// Big-endian.
        sig: Vec<u8>,
    },
}

impl Signature {
    /// The signature in `bytes`, which are the whole structure.
    pub fn parse(bytes: &[u8]) -> Result<Self, TpmDecodeError> {
        let mut reader = Reader::new(bytes);
        let scheme = reader.u16("signature scheme")?;
        if !matches!(scheme, alg_id::ECDSA | alg_id::RSASSA | alg_id::RSAPSS) {
            return Err(TpmDecodeError::Unsupported { field: "signature scheme", id: scheme });
        }
        let hash = HashAlg::decode("signature hash", reader.u16("signature hash")?)?;
        let mut number = |field, limit| reader.sized(field, limit).map(<[u8]>::to_vec);
        let signature = match scheme {
            alg_id::ECDSA => Self::Ecdsa { hash, r: number("signature r", MAX_ECC)?, s: number("signature s", MAX_ECC)? },
            alg_id::RSASSA => Self::Rsassa { hash, sig: number("signature", MAX_RSA)? },
            _ => Self::Rsapss { hash, sig: number("signature", MAX_RSA)? },
        };
        reader.finish("TPMT_SIGNATURE")?;
        Ok(signature)
    }

    /// The encoding.
    pub fn encode(&self) -> Vec<u8> {
        let head = |scheme: u16, hash: &HashAlg| Writer::new().u16(scheme).u16(hash.id());
        match self {
            Self::Ecdsa { hash, r, s } => head(alg_id::ECDSA, hash).sized(r).sized(s),
            Self::Rsassa { hash, sig } => head(alg_id::RSASSA, hash).sized(sig),
            Self::Rsapss { hash, sig } => head(alg_id::RSAPSS, hash).sized(sig),
        }
        .finish()
    }
}

/// P-521.
const MAX_ECC: usize = 66;
/// RSA-4096.
const MAX_RSA: usize = 512;
