//! A TPM in software for guests that are none: an attestation key, a SHA-256 bank, quotes.
//!
//! It protects nothing, its key is in plain memory. Its structures are bit by bit those of a TPM, so that all the rest is the
//! same: it is an [`Attester`], and, for code that speaks to a TPM in commands, a [`Transport`].

mod commands;

use std::{collections::BTreeMap, io};

use casemate_evidence::{
    Sha256Digest,
    eventlog::extend_sha256,
    tpm::{Attest, AttestBody, ClockInfo, HashAlg, PcrSelection, PublicParams, Signature, pcr_digest_sha256, wire::Writer},
};
use p256::ecdsa::{SigningKey, signature::Signer as _};
use sha2::{Digest as _, Sha256};

use crate::{Attester, TpmError, Transport, template::ak_template};

/// The stand-in.
pub struct SoftTpm {
    key: SigningKey,
    public: Vec<u8>,
    name: Vec<u8>,
    pcrs: [Sha256Digest; PCRS as usize],
    updates: u32,
    /// Starts of the machine.
    resets: u32,
}

impl SoftTpm {
    /// A fresh TPM; the same seed gives the same attestation key.
    pub fn new(seed: &[u8; 32]) -> Self {
        let key = (0u32..)
            .find_map(|attempt| {
                let hash = Sha256::new().chain_update(b"casemate/soft-tpm-ak/v1").chain_update(seed);
                SigningKey::from_slice(&hash.chain_update(attempt.to_be_bytes()).finalize()).ok()
            })
            .expect("nearly every digest is a scalar of P-256");
        let point = key.verifying_key().to_sec1_point(false);
        let (px, py) = (point.x().map(|v| v.to_vec()), point.y().map(|v| v.to_vec()));
        let mut public = ak_template();
        if let PublicParams::Ecc { x, y, .. } = &mut public.params {
            *x = px.expect("an uncompressed point has x");
            *y = py.expect("an uncompressed point has y");
        }
        Self { key, public: public.encode(), name: public.name(), pcrs: [[0; 32]; PCRS as usize], updates: 0, resets: 1 }
    }

    /// What a start of its machine does: every PCR begins anew.
    pub fn reset(&mut self) {
        self.pcrs = [[0; 32]; PCRS as usize];
        self.resets = self.resets.wrapping_add(1);
    }

    /// The attestation key's name.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    fn extend(&mut self, pcr: u32, digest: &Sha256Digest) -> Option<()> {
        let value = self.pcrs.get_mut(usize::try_from(pcr).ok()?)?;
        *value = extend_sha256(value, digest);
        self.updates = self.updates.wrapping_add(1);
        Some(())
    }

    fn read(&self, pcrs: &[u32]) -> BTreeMap<u32, Sha256Digest> {
        pcrs.iter().filter_map(|pcr| Some((*pcr, *self.pcrs.get(usize::try_from(*pcr).ok()?)?))).collect()
    }

    fn sign_quote(&self, qualifying: &[u8], pcrs: &[u32]) -> (Vec<u8>, Vec<u8>) {
        let values = self.read(pcrs);
        let present: Vec<u32> = values.keys().copied().collect();
        let attest = Attest {
            qualified_signer: self.qualified_name(),
            extra_data: qualifying.to_vec(),
            clock: ClockInfo { clock_ms: 0, reset_count: self.resets, restart_count: 0, safe: true },
            firmware_version: FIRMWARE_VERSION,
            body: AttestBody::Quote {
                selections: vec![PcrSelection::sha256(&present)],
                pcr_digest: pcr_digest_sha256(&values).to_vec(),
            },
        };
        let attest = attest.encode().expect("a quote has an encoding");
        let signature: p256::ecdsa::Signature = self.key.sign(&attest);
        let (r, s) = signature.split_bytes();
        (attest, Signature::Ecdsa { hash: HashAlg::Sha256, r: r.to_vec(), s: s.to_vec() }.encode())
    }

    /// Part 1, section 16: of a primary key, `nameAlg || H(hierarchy || name)`.
    fn qualified_name(&self) -> Vec<u8> {
        let digest = Sha256::new().chain_update(RH_OWNER.to_be_bytes()).chain_update(&self.name).finalize();
        Writer::new().u16(HashAlg::Sha256.id()).bytes(&digest).finish()
    }
}

impl Attester for SoftTpm {
    fn public(&self) -> &[u8] {
        &self.public
    }

    fn pcr_extend(&mut self, pcr: u32, digest: Sha256Digest) -> Result<(), TpmError> {
        self.extend(pcr, &digest).ok_or(TpmError::NoSuchPcr { pcr })
    }

    fn pcr_read(&mut self, pcrs: &[u32]) -> Result<BTreeMap<u32, Sha256Digest>, TpmError> {
        let values = self.read(pcrs);
        match pcrs.iter().find(|pcr| !values.contains_key(pcr)) {
            Some(pcr) => Err(TpmError::NoSuchPcr { pcr: *pcr }),
            None => Ok(values),
        }
    }

    fn quote(&mut self, qualifying: &[u8], pcrs: &[u32]) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        crate::tpm::check_length(crate::command::Code::QUOTE, "qualifying data", qualifying, MAX_QUALIFYING)?;
        Ok(self.sign_quote(qualifying, pcrs))
    }
}

impl Transport for SoftTpm {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        Ok(commands::answer(self, command))
    }
}

impl std::fmt::Debug for SoftTpm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SoftTpm").field("pcrs", &self.pcrs).finish_non_exhaustive()
    }
}

/// TPM_RH_OWNER.
const RH_OWNER: u32 = 0x4000_0001;
/// A PC's TPM has 24.
const PCRS: u32 = 24;
/// "CMSM" 1.
const FIRMWARE_VERSION: u64 = 0x434d_534d_0000_0001;
const MAX_QUALIFYING: usize = 64;
