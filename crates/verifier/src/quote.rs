//! TPM quotes. The same four steps for a node's TPM and a guest's: key, signature, PCRs, qualifying data.
//!
//! [`AttestationKey`] -> [`AuthenticQuote`] -> [`QuotedPcrs`]: each exists only after its check.

mod banks;
mod key;

use std::collections::BTreeMap;

use casemate_evidence::{
    instance::Pcr,
    tpm::{Attest, AttestBody, ClockInfo, Digest, HashAlg, PcrSelection, Public, Signature, TpmDecodeError},
};
use subtle::ConstantTimeEq as _;

pub use self::banks::{BankValues, QuotedBanks};
use self::key::Verifier;
pub(crate) use self::key::{Key, p256_point, p384_point, rsa_key};

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
    #[error("the attestation key's name algorithm is neither SHA-256 nor SHA-384")]
    NameAlgorithm,
    /// Another kind of key or scheme.
    #[error(
        "the attestation key is neither ECC P-256 or P-384 with ECDSA nor RSA of 2048 to 4096 bits with RSASSA or RSAPSS, with SHA-256 or SHA-384"
    )]
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
    /// Other banks or PCRs than expected.
    #[error("expected a quote of exactly {expected}, seen {seen}")]
    Banks {
        /// Bank by bank.
        expected: String,
        /// What the quote says.
        seen: String,
    },
    /// The list has other banks or PCRs than the quote, or values of another size.
    #[error("expected values of exactly {expected}, seen {seen}")]
    ListedBanks {
        /// Bank by bank.
        expected: String,
        /// Those listed.
        seen: String,
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

impl AttestationKey {
    /// The key in a TPMT_PUBLIC.
    pub fn from_public(bytes: &[u8]) -> Result<Self, KeyError> {
        let public = Public::parse(bytes).map_err(KeyError::Format)?;
        let a = public.attributes;
        let held = a.fixed_tpm() && a.fixed_parent() && a.sensitive_data_origin() && a.is_restricted();
        if !held || !a.is_sign() || a.is_decrypt() {
            return Err(KeyError::Attributes { seen: a });
        }
        if !matches!(public.name_alg, HashAlg::Sha256 | HashAlg::Sha384) {
            return Err(KeyError::NameAlgorithm);
        }
        Ok(Self { name: public.name(), key: Verifier::new(&public.params)? })
    }

    /// The TPM name: what a certificate or a credential binds.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The key itself.
    pub(crate) fn key(&self) -> &Key {
        self.key.key()
    }

    /// The quote in `attest` (TPMS_ATTEST), if this key signed it with `signature` (TPMT_SIGNATURE).
    pub fn quote(&self, attest: &[u8], signature: &[u8]) -> Result<AuthenticQuote, QuoteError> {
        let signature = Signature::parse(signature).map_err(QuoteError::SignatureFormat)?;
        // Nothing of the attestation is looked at before its signature was.
        let hash = self.key.verify(attest, &signature)?;
        let parsed = Attest::parse(attest).map_err(QuoteError::Attest)?;
        match parsed.body {
            AttestBody::Quote { selections, pcr_digest } => Ok(AuthenticQuote {
                qualifying: parsed.extra_data,
                selections,
                pcr_digest,
                hash,
                clock: parsed.clock,
                firmware_version: parsed.firmware_version,
            }),
            AttestBody::Other(kind) => Err(QuoteError::Kind { kind }),
        }
    }
}

/// A quote that its key signed.
#[derive(Debug, Clone)]
pub struct AuthenticQuote {
    qualifying: Vec<u8>,
    selections: Vec<PcrSelection>,
    pcr_digest: Vec<u8>,
    hash: HashAlg,
    clock: ClockInfo,
    firmware_version: u64,
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

    /// The TPM's clock and its counts of resets and restarts: a count that changed says that the machine was started anew.
    pub fn clock(&self) -> ClockInfo {
        self.clock
    }

    /// The TPM's firmware version, as its vendor counts.
    pub fn firmware_version(&self) -> u64 {
        self.firmware_version
    }

    /// `listed` as the quoted values, if the quote covers exactly `expected` (ascending) of the SHA-256 bank, and they are
    /// exactly what is listed.
    pub fn pcrs(&self, expected: &[u32], listed: &BTreeMap<u32, Pcr>) -> Result<QuotedPcrs, PcrError> {
        match self.selections.as_slice() {
            [only] if only.hash == HashAlg::Sha256 && only.pcrs == expected => {}
            _ => return Err(PcrError::Selection { expected: expected.to_vec(), seen: banks::selection_text(&self.selections) }),
        }
        if !listed.keys().eq(expected) {
            return Err(PcrError::Listed { expected: expected.to_vec(), seen: listed.keys().copied().collect() });
        }
        let values: BTreeMap<u32, [u8; 32]> = listed.iter().map(|(index, value)| (*index, value.0)).collect();
        let parts: Vec<&[u8]> = values.values().map(<[u8; 32]>::as_slice).collect();
        self.require_digest(&parts)?;
        Ok(QuotedPcrs { values })
    }

    /// `listed` as the quoted values, if the quote covers exactly `expected`, bank by bank in this order, and they are exactly
    /// what is listed.
    pub fn banks(&self, expected: &[PcrSelection], listed: &BankValues) -> Result<QuotedBanks, PcrError> {
        if self.selections != expected {
            let (expected, seen) = (banks::selection_text(expected), banks::selection_text(&self.selections));
            return Err(PcrError::Banks { expected, seen });
        }
        let values = banks::in_order(expected, listed).ok_or_else(|| PcrError::ListedBanks {
            expected: banks::selection_text(expected),
            seen: banks::listed_text(listed),
        })?;
        let parts: Vec<&[u8]> = values.iter().map(Digest::as_slice).collect();
        self.require_digest(&parts)?;
        Ok(QuotedBanks::new(listed.clone()))
    }

    /// The digest is by the hash of the signing scheme, whatever the banks are (Part 3, section 18.4.1).
    fn require_digest(&self, parts: &[&[u8]]) -> Result<(), PcrError> {
        let digest = self.hash.digest(parts);
        if bool::from(digest.as_slice().ct_eq(&self.pcr_digest)) {
            return Ok(());
        }
        Err(PcrError::Digest { listed: digest.to_string(), quoted: hex::encode(&self.pcr_digest) })
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

    /// The same as values of a bank.
    pub fn to_banks(&self) -> QuotedBanks {
        let digest = |value: &[u8; 32]| Digest::from_slice(value).expect("32 bytes are a digest");
        let values = self.values.iter().map(|(pcr, value)| (*pcr, digest(value))).collect();
        QuotedBanks::new(BTreeMap::from([(HashAlg::Sha256, values)]))
    }
}
