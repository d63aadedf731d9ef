//! TPMS_ATTEST (section 10.12.8): what a TPM signs.

use super::{
    PcrSelection, TpmDecodeError,
    pcr::{decode_selections, encode_selections},
    wire::{Reader, Writer},
};

/// TPM_GENERATED_VALUE (section 6.2): a restricted key signs nothing from outside that starts with it.
pub const MAGIC: u32 = 0xff54_4347;

/// Structure tags (section 6.9, TPM_ST) of attestations.
pub mod st {
    /// TPM_ST_ATTEST_QUOTE.
    pub const ATTEST_QUOTE: u16 = 0x8018;
}

/// An attestation structure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attest {
    /// Qualified name of the signing key.
    pub qualified_signer: Vec<u8>,
    /// Qualifying data that the caller gave.
    pub extra_data: Vec<u8>,
    /// Clock and counters.
    pub clock: ClockInfo,
    /// Vendor-specific.
    pub firmware_version: u64,
    /// What is attested.
    pub body: AttestBody,
}

/// TPMS_CLOCK_INFO (section 10.11.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockInfo {
    /// Milliseconds that the TPM has been powered.
    pub clock_ms: u64,
    /// Number of TPM resets.
    pub reset_count: u32,
    /// Number of suspends since the last reset.
    pub restart_count: u32,
    /// Whether the clock has not gone back.
    pub safe: bool,
}

/// TPMU_ATTEST (section 10.12.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttestBody {
    /// TPMS_QUOTE_INFO (section 10.12.1).
    Quote {
        /// The PCRs covered.
        selections: Vec<PcrSelection>,
        /// Digest over their values, by the hash of the signing scheme.
        pcr_digest: Vec<u8>,
    },
    /// Another kind of attestation, by its tag; its body was not looked at.
    Other(u16),
}

impl Attest {
    /// The attestation in `bytes`, which are the whole structure as signed.
    pub fn parse(bytes: &[u8]) -> Result<Self, TpmDecodeError> {
        if bytes.len() > MAX_BYTES {
            return Err(TpmDecodeError::TooLarge { field: "TPMS_ATTEST", size: bytes.len(), limit: MAX_BYTES });
        }
        let mut reader = Reader::new(bytes);
        let found = reader.u32("attest magic")?;
        if found != MAGIC {
            return Err(TpmDecodeError::Magic { found });
        }
        let kind = reader.u16("attest type")?;
        let attest = Self {
            qualified_signer: reader.sized("qualifiedSigner", MAX_NAME)?.to_vec(),
            extra_data: reader.sized("extraData", MAX_DATA)?.to_vec(),
            clock: ClockInfo::decode(&mut reader)?,
            firmware_version: reader.u64("firmwareVersion")?,
            body: AttestBody::decode(kind, &mut reader)?,
        };
        match attest.body {
            AttestBody::Quote { .. } => reader.finish("TPMS_ATTEST")?,
            AttestBody::Other(_) => {}
        }
        Ok(attest)
    }

    /// The encoding of a quote; `None` for [`AttestBody::Other`], whose body is not known.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let AttestBody::Quote { selections, pcr_digest } = &self.body else {
            return None;
        };
        let head = Writer::new().u32(MAGIC).u16(st::ATTEST_QUOTE).sized(&self.qualified_signer).sized(&self.extra_data);
        let head = self.clock.encode(head).u64(self.firmware_version);
        Some(encode_selections(head, selections).sized(pcr_digest).finish())
    }
}

impl ClockInfo {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, TpmDecodeError> {
        Ok(Self {
            clock_ms: reader.u64("clock")?,
            reset_count: reader.u32("resetCount")?,
            restart_count: reader.u32("restartCount")?,
            safe: match reader.u8("clock safe")? {
                0 => false,
                1 => true,
                id => return Err(TpmDecodeError::Unsupported { field: "clock safe", id: id.into() }),
            },
        })
    }

    fn encode(&self, writer: Writer) -> Writer {
        writer.u64(self.clock_ms).u32(self.reset_count).u32(self.restart_count).u8(self.safe.into())
    }
}

impl AttestBody {
    fn decode(kind: u16, reader: &mut Reader<'_>) -> Result<Self, TpmDecodeError> {
        if kind != st::ATTEST_QUOTE {
            return Ok(Self::Other(kind));
        }
        Ok(Self::Quote { selections: decode_selections(reader)?, pcr_digest: reader.sized("pcrDigest", MAX_DIGEST)?.to_vec() })
    }
}

/// Larger than any quote over all banks.
const MAX_BYTES: usize = 1024;
/// TPM2B_NAME: algorithm and the largest digest.
const MAX_NAME: usize = 2 + MAX_DIGEST;
/// TPM2B_DATA: algorithm and the largest digest.
const MAX_DATA: usize = 2 + MAX_DIGEST;
/// SHA-512.
const MAX_DIGEST: usize = 64;
