//! TPM quotes. The same four steps for a node's TPM and a guest's: key, signature, PCRs, qualifying data.
//!
//! [`AttestationKey`] -> [`AuthenticQuote`] -> [`QuotedPcrs`]: each exists only after its check.

use std::collections::BTreeMap;

use casemate_evidence::{
    instance::Pcr,
    tpm::{
        Attest, AttestBody, Curve, HashAlg, KeyScheme, PcrSelection, Public, PublicParams, Signature, Symmetric, TpmDecodeError,
        pcr_digest_sha256,
    },
};
use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
use rsa::{BoxedUint, RsaPublicKey, pkcs1v15, pss};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Why a key is not accepted as an attestation key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not a public area.
    #[error("read the public area of the attestation key")]
    Format(#[source] TpmDecodeError),
    /// It could sign what the TPM did not make, or could leave the TPM.
    #[error(
        "the attestation key has attributes {seen:?}; it must be fixedTPM, fixedParent, sensitiveDataOrigin, restricted, sign and not decrypt"
    )]
    Attributes {
        /// Its attributes.
        seen: casemate_evidence::tpm::ObjectAttributes,
    },
    /// Another name algorithm.
    #[error("the attestation key's name algorithm is not SHA-256")]
    NameAlgorithm,
    /// Another kind of key or scheme.
    #[error("the attestation key is neither ECC P-256 with ECDSA nor RSA-2048 with RSASSA or RSAPSS, with SHA-256")]
    Scheme,
    /// Not a point of the curve, or not a modulus.
    #[error("the attestation key's numbers are not those of a public key")]
    Numbers,
}

/// Why a quote is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum QuoteError {
    /// The signature does not decode.
    #[error("read the signature of the quote")]
    SignatureFormat(#[source] TpmDecodeError),
    /// Not in the key's scheme.
    #[error("the signature is not of the attestation key's scheme")]
    Scheme,
    /// It does not verify.
    #[error("the signature is not that of the attestation key")]
    Signature,
    /// The attestation does not decode, or has not the magic number.
    #[error("read the quote")]
    Attest(#[source] TpmDecodeError),
    /// Another kind of attestation.
    #[error("the attestation is of type {kind:#06x}, not a quote")]
    Kind {
        /// TPM_ST.
        kind: u16,
    },
}

/// Why listed PCR values are not the quoted ones.
#[derive(Debug, thiserror::Error)]
pub enum PcrError {
    /// Other PCRs or banks than expected.
    #[error("expected a quote of exactly SHA-256 PCRs {expected:?}, seen {seen}")]
    Selection {
        /// The PCRs.
        expected: Vec<u32>,
        /// What the quote says.
        seen: String,
    },
    /// The list has other PCRs than the quote.
    #[error("expected values of exactly PCRs {expected:?}, seen {seen:?}")]
    Listed {
        /// The PCRs.
        expected: Vec<u32>,
        /// Those listed.
        seen: Vec<u32>,
    },
    /// The values are not those that were quoted.
    #[error("the listed values have digest {listed}, the quote says {quoted}")]
    Digest {
        /// Of the list, hex.
        listed: String,
        /// In the quote, hex.
        quoted: String,
    },
}

/// The public half of a key that signs nothing but what its TPM made.
#[derive(Debug, Clone)]
pub struct AttestationKey {
    name: Vec<u8>,
    key: Verifier,
}

#[derive(Debug, Clone)]
enum Verifier {
    Ecdsa(p256::ecdsa::VerifyingKey),
    Rsassa(RsaPublicKey),
    Rsapss(RsaPublicKey),
}

impl AttestationKey {
    /// The key in a TPMT_PUBLIC.
    pub fn from_public(bytes: &[u8]) -> Result<Self, KeyError> {
        let public = Public::parse(bytes).map_err(KeyError::Format)?;
        let a = public.attributes;
        let held = a.fixed_tpm() && a.fixed_parent() && a.sensitive_data_origin() && a.is_restricted();
        if !held || !a.is_sign() || a.is_decrypt() {
            return Err(KeyError::Attributes { seen: a });
        }
        if public.name_alg != HashAlg::Sha256 {
            return Err(KeyError::NameAlgorithm);
        }
        Ok(Self { name: public.name(), key: Verifier::new(&public.params)? })
    }

    /// The TPM name: what a certificate or a credential binds.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The quote in `attest` (TPMS_ATTEST), if this key signed it with `signature` (TPMT_SIGNATURE).
    pub fn quote(&self, attest: &[u8], signature: &[u8]) -> Result<AuthenticQuote, QuoteError> {
        let signature = Signature::parse(signature).map_err(QuoteError::SignatureFormat)?;
        // Nothing of the attestation is looked at before its signature was.
        self.key.verify(attest, &signature)?;
        let parsed = Attest::parse(attest).map_err(QuoteError::Attest)?;
        match parsed.body {
            AttestBody::Quote { selections, pcr_digest } => {
                Ok(AuthenticQuote { qualifying: parsed.extra_data, selections, pcr_digest })
            }
            AttestBody::Other(kind) => Err(QuoteError::Kind { kind }),
        }
    }
}

impl Verifier {
    fn new(params: &PublicParams) -> Result<Self, KeyError> {
        match params {
            PublicParams::Ecc {
                symmetric: Symmetric::Null,
                scheme: KeyScheme::Ecdsa(HashAlg::Sha256),
                curve: Curve::P256,
                x,
                y,
            } => {
                let key = p256_point(x, y).ok_or(KeyError::Numbers)?;
                Ok(Self::Ecdsa(key.into()))
            }
            PublicParams::Rsa { symmetric: Symmetric::Null, scheme, bits: 2048, exponent, n } => {
                let key = rsa_2048(n, *exponent).ok_or(KeyError::Numbers)?;
                match scheme {
                    KeyScheme::Rsassa(HashAlg::Sha256) => Ok(Self::Rsassa(key)),
                    KeyScheme::Rsapss(HashAlg::Sha256) => Ok(Self::Rsapss(key)),
                    KeyScheme::Null | KeyScheme::Ecdsa(_) | KeyScheme::Rsassa(_) | KeyScheme::Rsapss(_) => Err(KeyError::Scheme),
                }
            }
            PublicParams::Ecc { .. } | PublicParams::Rsa { .. } => Err(KeyError::Scheme),
        }
    }

    fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), QuoteError> {
        let digest = Sha256::digest(message);
        let wrong = |_| QuoteError::Signature;
        match (self, signature) {
            (Self::Ecdsa(key), Signature::Ecdsa { hash: HashAlg::Sha256, r, s }) => {
                let (r, s) = (padded(r).ok_or(QuoteError::Signature)?, padded(s).ok_or(QuoteError::Signature)?);
                let signature = p256::ecdsa::Signature::from_scalars(r, s).map_err(wrong)?;
                key.verify_prehash(&digest, &signature).map_err(wrong)
            }
            (Self::Rsassa(key), Signature::Rsassa { hash: HashAlg::Sha256, sig }) => {
                let signature = pkcs1v15::Signature::try_from(sig.as_slice()).map_err(wrong)?;
                pkcs1v15::VerifyingKey::<Sha256>::new(key.clone()).verify_prehash(&digest, &signature).map_err(wrong)
            }
            (Self::Rsapss(key), Signature::Rsapss { hash: HashAlg::Sha256, sig }) => {
                let signature = pss::Signature::try_from(sig.as_slice()).map_err(wrong)?;
                // TPMs differ in the length of the salt: as long as fits, or as long as the digest.
                pss::VerifyingKey::<Sha256>::new_with_auto_salt_len(key.clone())
                    .verify_prehash(&digest, &signature)
                    .map_err(wrong)
            }
            (Self::Ecdsa(_) | Self::Rsassa(_) | Self::Rsapss(_), _) => Err(QuoteError::Scheme),
        }
    }
}

/// A quote that its key signed.
#[derive(Debug, Clone)]
pub struct AuthenticQuote {
    qualifying: Vec<u8>,
    selections: Vec<PcrSelection>,
    pcr_digest: Vec<u8>,
}

impl AuthenticQuote {
    /// The data that whoever asked for the quote gave to it.
    pub fn qualifying(&self) -> &[u8] {
        &self.qualifying
    }

    /// Whether the quote was made for exactly this data.
    pub fn is_for(&self, qualifying: &[u8]) -> bool {
        self.qualifying.ct_eq(qualifying).into()
    }

    /// `listed` as the quoted values, if the quote covers exactly `expected` (ascending) of the SHA-256 bank, and they are
    /// exactly what is listed.
    pub fn pcrs(&self, expected: &[u32], listed: &BTreeMap<u32, Pcr>) -> Result<QuotedPcrs, PcrError> {
        match self.selections.as_slice() {
            [only] if only.hash == HashAlg::Sha256 && only.pcrs == expected => {}
            _ => return Err(PcrError::Selection { expected: expected.to_vec(), seen: self.selection_text() }),
        }
        if !listed.keys().eq(expected) {
            return Err(PcrError::Listed { expected: expected.to_vec(), seen: listed.keys().copied().collect() });
        }
        let values: BTreeMap<u32, [u8; 32]> = listed.iter().map(|(index, value)| (*index, value.0)).collect();
        let digest = pcr_digest_sha256(&values);
        if !bool::from(digest.as_slice().ct_eq(&self.pcr_digest)) {
            return Err(PcrError::Digest { listed: hex::encode(digest), quoted: hex::encode(&self.pcr_digest) });
        }
        Ok(QuotedPcrs { values })
    }

    fn selection_text(&self) -> String {
        let one = |selection: &PcrSelection| format!("{:?} PCRs {:?}", selection.hash, selection.pcrs);
        self.selections.iter().map(one).collect::<Vec<_>>().join(" and ")
    }
}

/// PCR values that a quote covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotedPcrs {
    values: BTreeMap<u32, [u8; 32]>,
}

impl QuotedPcrs {
    /// The values by index.
    pub fn values(&self) -> &BTreeMap<u32, [u8; 32]> {
        &self.values
    }
}

/// A point of P-256 from coordinates that may lack leading zeros.
pub(crate) fn p256_point(x: &[u8], y: &[u8]) -> Option<p256::PublicKey> {
    let encoded = [&[0x04][..], &padded(x)?, &padded(y)?].concat();
    p256::PublicKey::from_sec1_bytes(&encoded).ok()
}

/// An RSA-2048 key; exponent 0 stands for 65537.
pub(crate) fn rsa_2048(n: &[u8], exponent: u32) -> Option<RsaPublicKey> {
    if n.len() != 256 || n[0] & 0x80 == 0 {
        return None;
    }
    let exponent = if exponent == 0 { 65537 } else { exponent };
    RsaPublicKey::new(BoxedUint::from_be_slice(n, 2048).ok()?, BoxedUint::from(u64::from(exponent))).ok()
}

/// 32 bytes, zeros first.
fn padded(number: &[u8]) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    out[32usize.checked_sub(number.len())?..].copy_from_slice(number);
    Some(out)
}
