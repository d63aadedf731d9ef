//! What agent and guest want of a TPM, whichever it is.

use std::collections::BTreeMap;

use casemate_evidence::{
    Sha256Digest,
    instance::{Pcr, QuoteBundle},
    tpm::{Attest, AttestBody, pcr_digest_sha256},
};

use crate::{Key, Tpm, TpmError, Transport};

/// A started TPM with its attestation key loaded.
pub trait Attester {
    /// TPMT_PUBLIC of the attestation key.
    fn public(&self) -> &[u8];
    /// Extends `digest` into `pcr` of the SHA-256 bank.
    fn pcr_extend(&mut self, pcr: u32, digest: Sha256Digest) -> Result<(), TpmError>;
    /// PCRs of the SHA-256 bank, all of one moment.
    fn pcr_read(&mut self, pcrs: &[u32]) -> Result<BTreeMap<u32, Sha256Digest>, TpmError>;
    /// TPMS_ATTEST and TPMT_SIGNATURE over `qualifying` (at most 64 bytes) and `pcrs` of the SHA-256 bank.
    fn quote(&mut self, qualifying: &[u8], pcrs: &[u32]) -> Result<(Vec<u8>, Vec<u8>), TpmError>;
}

/// A TPM and its attestation key.
#[derive(Debug)]
pub struct TpmAttester<T> {
    tpm: Tpm<T>,
    key: Key,
}

/// A quote together with the PCR values that it covers.
pub fn quote_bundle(attester: &mut dyn Attester, qualifying: &[u8], pcrs: &[u32]) -> Result<QuoteBundle, TpmError> {
    for _ in 0..QUOTE_ATTEMPTS {
        let (attest, signature) = attester.quote(qualifying, pcrs)?;
        let values = attester.pcr_read(pcrs)?;
        if covers(&attest, &values)? {
            let pcrs = values.into_iter().map(|(pcr, value)| (pcr, Pcr(value))).collect();
            return Ok(QuoteBundle { attest, signature, ak_public: attester.public().to_vec(), pcrs });
        }
    }
    Err(TpmError::PcrsChanging { attempts: QUOTE_ATTEMPTS })
}

impl<T: Transport> TpmAttester<T> {
    /// Makes the attestation key; `tpm` must have been started.
    pub fn new(mut tpm: Tpm<T>) -> Result<Self, TpmError> {
        let key = tpm.create_ak()?;
        Ok(Self { tpm, key })
    }

    /// The attestation key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The TPM, for commands that are not in [`Attester`]; the attestation key must stay loaded.
    pub fn tpm_mut(&mut self) -> &mut Tpm<T> {
        &mut self.tpm
    }

    /// Opens a credential that was made for `ek` and this attestation key; see [`Tpm::activate_credential`].
    pub fn activate_credential(&mut self, ek: &Key, blob: &[u8], encrypted_secret: &[u8]) -> Result<Vec<u8>, TpmError> {
        self.tpm.activate_credential(&self.key, ek, blob, encrypted_secret)
    }
}

impl<T: Transport> Attester for TpmAttester<T> {
    fn public(&self) -> &[u8] {
        &self.key.public
    }

    fn pcr_extend(&mut self, pcr: u32, digest: Sha256Digest) -> Result<(), TpmError> {
        self.tpm.pcr_extend(pcr, digest)
    }

    fn pcr_read(&mut self, pcrs: &[u32]) -> Result<BTreeMap<u32, Sha256Digest>, TpmError> {
        self.tpm.pcr_read(pcrs)
    }

    fn quote(&mut self, qualifying: &[u8], pcrs: &[u32]) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        self.tpm.quote(&self.key, qualifying, pcrs)
    }
}

/// Whether the quote was made over these values. They are read by another command, between which somebody may extend.
fn covers(attest: &[u8], values: &BTreeMap<u32, Sha256Digest>) -> Result<bool, TpmError> {
    let parsed = Attest::parse(attest).map_err(|source| TpmError::Malformed { command: QUOTE, source })?;
    match parsed.body {
        AttestBody::Quote { pcr_digest, .. } => Ok(pcr_digest == pcr_digest_sha256(values)),
        AttestBody::Other(_) => Err(TpmError::Unexpected { command: QUOTE, detail: "it is no quote" }),
    }
}

const QUOTE: &str = "TPM2_Quote";
/// Quotes made while others extend PCRs.
const QUOTE_ATTEMPTS: u32 = 3;
