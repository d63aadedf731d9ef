//! Selections of PCRs (sections 10.6.2 TPMS_PCR_SELECTION, 10.9.7 TPML_PCR_SELECTION) and the digest over their values.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::{
    HashAlg, TpmDecodeError,
    wire::{Reader, Writer},
};
use crate::Sha256Digest;

/// Highest PCR index that a selection can name here (a PC has 0 to 23).
pub const MAX_PCR: u32 = 31;

/// Some PCRs of one bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrSelection {
    /// The bank.
    pub hash: HashAlg,
    /// The PCRs, ascending, each once, at most [`MAX_PCR`].
    pub pcrs: Vec<u32>,
}

impl PcrSelection {
    /// These PCRs of the SHA-256 bank; order and repetitions do not matter.
    pub fn sha256(pcrs: &[u32]) -> Self {
        let mut pcrs = pcrs.to_vec();
        pcrs.sort_unstable();
        pcrs.dedup();
        Self { hash: HashAlg::Sha256, pcrs }
    }
}

/// Reads a TPML_PCR_SELECTION. The size of the bit map (3 octets on a PC) is not kept.
pub fn decode_selections(reader: &mut Reader<'_>) -> Result<Vec<PcrSelection>, TpmDecodeError> {
    let count = reader.count("PCR selection count", MAX_SELECTIONS)?;
    (0..count).map(|_| decode_selection(reader)).collect()
}

/// Writes a TPML_PCR_SELECTION, with bit maps of 3 octets unless a PCR above 23 is named; PCRs above [`MAX_PCR`] are left out.
pub fn encode_selections(writer: Writer, selections: &[PcrSelection]) -> Writer {
    let count = u32::try_from(selections.len()).expect("there are few PCR banks");
    selections.iter().fold(writer.u32(count), |writer, selection| {
        let bits = selection.pcrs.iter().filter(|pcr| **pcr <= MAX_PCR).fold(0u32, |bits, pcr| bits | 1 << pcr);
        let octets: u8 = if bits >> 24 == 0 { 3 } else { 4 };
        writer.u16(selection.hash.id()).u8(octets).bytes(&bits.to_le_bytes()[..usize::from(octets)])
    })
}

/// What a quote's `pcrDigest` is where it covers `pcrs` of the SHA-256 bank and the signing scheme's hash is SHA-256:
/// the SHA-256 of the values, in ascending order of their index.
pub fn pcr_digest_sha256<'a>(pcrs: impl IntoIterator<Item = (&'a u32, &'a Sha256Digest)>) -> Sha256Digest {
    let ascending: BTreeMap<_, _> = pcrs.into_iter().collect();
    let mut hash = Sha256::new();
    for value in ascending.values() {
        hash.update(value);
    }
    hash.finalize().into()
}

fn decode_selection(reader: &mut Reader<'_>) -> Result<PcrSelection, TpmDecodeError> {
    let hash = HashAlg::decode("PCR bank", reader.u16("PCR bank")?)?;
    let octets = usize::from(reader.u8("PCR bit map size")?);
    if octets > MAX_OCTETS {
        return Err(TpmDecodeError::TooLarge { field: "PCR bit map", size: octets, limit: MAX_OCTETS });
    }
    let mut bits = [0; MAX_OCTETS];
    bits[..octets].copy_from_slice(reader.take("PCR bit map", octets)?);
    let bits = u32::from_le_bytes(bits);
    Ok(PcrSelection { hash, pcrs: (0..=MAX_PCR).filter(|pcr| bits >> pcr & 1 == 1).collect() })
}

/// HASH_COUNT of any TPM known is well below this.
const MAX_SELECTIONS: usize = 16;
/// PCR_SELECT_MAX: 3 on a PC.
const MAX_OCTETS: usize = 4;
