//! Evidence of NVIDIA GPUs and NVSwitches: SPDM measurements.
//!
//! A report is the GET_MEASUREMENTS request and the MEASUREMENTS response, one after the other, of SPDM 1.1 (DMTF DSP0274,
//! section "GET_MEASUREMENTS request message and MEASUREMENTS response message"). Everything but the last 96 bytes is signed.
//! The response's opaque data are NVIDIA's: a list of typed fields, see [`Field`].

mod encode;
mod opaque;
#[cfg(test)]
mod tests;

use sha2::{Digest as _, Sha256};

pub use opaque::{Field, Opaque, VersionError, switch_bios_version, vbios_version};

/// Largest report, in bytes. Devices send some four thousand; the driver's buffer has 8192.
pub const MAX_REPORT_BYTES: usize = 16 << 10;
/// Length of the request, in bytes.
pub const REQUEST_BYTES: usize = 37;
/// Length of the signature, in bytes: r and s of ECDSA P-384, big endian.
pub const SIGNATURE_BYTES: usize = 96;
/// Most devices whose evidence is looked at together: eight GPUs and their switches, with room.
pub const MAX_DEVICES: usize = 32;
/// Most certificates of one device.
pub const MAX_CERTIFICATES: usize = 6;

/// The nonce that every GPU and switch of an instance must answer, so that their evidence belongs to this processor's evidence:
/// `SHA-256("casemate/gpu-nonce/v1" || SHA-256(cpu_evidence))`.
pub fn nonce_for(cpu_evidence: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(NONCE_LABEL).chain_update(Sha256::digest(cpu_evidence)).finalize().into()
}

/// What kind of device made a report. The numbers of the opaque fields mean different things by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// A GPU.
    Gpu,
    /// An NVSwitch.
    Switch,
}

/// What one device sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceEvidence {
    /// What it is said to be.
    pub kind: DeviceKind,
    /// The report; see [`Report`].
    pub report: Vec<u8>,
    /// The device's certificates, DER, leaf first, with the root.
    pub chain: Vec<Vec<u8>>,
}

/// Why bytes are not a report.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReportError {
    /// Too many bytes.
    #[error("the report has {len} bytes, more than the limit of {MAX_REPORT_BYTES}")]
    TooLong {
        /// Found.
        len: usize,
    },
    /// It ends too early.
    #[error("the report ends within {what}")]
    Truncated {
        /// Where.
        what: &'static str,
    },
    /// Bytes after the end.
    #[error("{len} bytes are left after {what}")]
    Trailing {
        /// Of what.
        what: &'static str,
        /// Found.
        len: usize,
    },
    /// A fixed value that is another one.
    #[error("{what} is 0x{seen:02x}, expected 0x{expected:02x}")]
    Constant {
        /// Which.
        what: &'static str,
        /// As it must be.
        expected: u8,
        /// Found.
        seen: u8,
    },
    /// A measurement's index is 0 or was there before.
    #[error("measurement index {index} is reserved or occurs twice")]
    Index {
        /// Found.
        index: u8,
    },
    /// A measurement whose two sizes do not agree.
    #[error("measurement {index} has {outer} bytes, but its value says {inner}")]
    Size {
        /// Which.
        index: u8,
        /// Size of the block.
        outer: usize,
        /// Size of the value and its header.
        inner: usize,
    },
    /// A type of field that occurs twice.
    #[error("opaque field {id} occurs twice")]
    DuplicateField {
        /// Which.
        id: u16,
    },
    /// A field of the wrong length.
    #[error("opaque field {id} has {len} bytes, which do not fit its type")]
    FieldSize {
        /// Which.
        id: u16,
        /// Found.
        len: usize,
    },
}

/// GET_MEASUREMENTS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Request attributes; bit 0 asks for a signature.
    pub param1: u8,
    /// Which measurements: 0xff for all, 0 for their number only.
    pub param2: u8,
    /// The requester's nonce.
    pub nonce: [u8; 32],
    /// Slot of the certificate chain.
    pub slot: u8,
}

/// One measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block<'a> {
    /// Counted from 1. Reference manifests count from 0.
    pub index: u8,
    /// DMTFSpecMeasurementValueType: bit 7 says raw (1) or digest (0).
    pub value_type: u8,
    /// DMTFSpecMeasurementValue.
    pub value: &'a [u8],
}

/// MEASUREMENTS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response<'a> {
    /// Number of measurements, where it was asked for.
    pub param1: u8,
    /// Slot of the certificate chain.
    pub param2: u8,
    /// The measurements, in the sender's order, each index once.
    pub blocks: Vec<Block<'a>>,
    /// The responder's nonce.
    pub nonce: [u8; 32],
    /// NVIDIA's fields.
    pub opaque: Opaque<'a>,
    /// r and s, big endian.
    pub signature: [u8; SIGNATURE_BYTES],
}

/// A report as a device sent it: nothing about it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report<'a> {
    /// What was asked.
    pub request: Request,
    /// What was answered.
    pub response: Response<'a>,
}

impl<'a> Report<'a> {
    /// Reads a report of at most [`MAX_REPORT_BYTES`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ReportError> {
        if bytes.len() > MAX_REPORT_BYTES {
            return Err(ReportError::TooLong { len: bytes.len() });
        }
        let mut reader = Reader(bytes);
        let request = request(&mut reader)?;
        let response = response(&mut reader)?;
        reader.finish("the signature")?;
        Ok(Self { request, response })
    }

    /// The measurement with `index`, counted from 0 as reference manifests do.
    pub fn measurement(&self, index: u16) -> Option<&'a [u8]> {
        let index = u8::try_from(index.checked_add(1)?).ok()?;
        self.response.blocks.iter().find(|block| block.index == index).map(|block| block.value)
    }
}

/// The signed part of a report and its signature, by length alone.
pub fn split_signature(report: &[u8]) -> Option<(&[u8], &[u8; SIGNATURE_BYTES])> {
    report.split_last_chunk()
}

fn request(reader: &mut Reader<'_>) -> Result<Request, ReportError> {
    let at = "the request";
    constant("the version of the request", VERSION, reader.byte(at)?)?;
    constant("the code of the request", GET_MEASUREMENTS, reader.byte(at)?)?;
    Ok(Request { param1: reader.byte(at)?, param2: reader.byte(at)?, nonce: *reader.array(at)?, slot: reader.byte(at)? })
}

fn response<'a>(reader: &mut Reader<'a>) -> Result<Response<'a>, ReportError> {
    let at = "the header of the response";
    constant("the version of the response", VERSION, reader.byte(at)?)?;
    constant("the code of the response", MEASUREMENTS, reader.byte(at)?)?;
    let (param1, param2, count) = (reader.byte(at)?, reader.byte(at)?, reader.byte(at)?);
    let [a, b, c] = *reader.array(at)?;
    let record = reader.take(u32::from_le_bytes([a, b, c, 0]) as usize, "the measurements")?;
    let blocks = blocks(record, count)?;
    let nonce = *reader.array("the responder's nonce")?;
    let len = usize::from(reader.word("the length of the opaque data")?);
    let opaque = Opaque::parse(reader.take(len, "the opaque data")?)?;
    Ok(Response { param1, param2, blocks, nonce, opaque, signature: *reader.array("the signature")? })
}

fn blocks(record: &[u8], count: u8) -> Result<Vec<Block<'_>>, ReportError> {
    let mut reader = Reader(record);
    let mut blocks = Vec::with_capacity(usize::from(count));
    let mut seen = [false; 256];
    for _ in 0..count {
        let block = block(&mut reader)?;
        if block.index == 0 || std::mem::replace(&mut seen[usize::from(block.index)], true) {
            return Err(ReportError::Index { index: block.index });
        }
        blocks.push(block);
    }
    reader.finish("the measurements")?;
    Ok(blocks)
}

fn block<'a>(reader: &mut Reader<'a>) -> Result<Block<'a>, ReportError> {
    let at = "a measurement";
    let index = reader.byte(at)?;
    constant("the specification of a measurement", DMTF, reader.byte(at)?)?;
    let outer = usize::from(reader.word(at)?);
    let mut value = Reader(reader.take(outer, at)?);
    let value_type = value.byte(at)?;
    let inner = usize::from(value.word(at)?) + BLOCK_HEADER_BYTES;
    if inner != outer {
        return Err(ReportError::Size { index, outer, inner });
    }
    Ok(Block { index, value_type, value: value.0 })
}

fn constant(what: &'static str, expected: u8, seen: u8) -> Result<(), ReportError> {
    if seen == expected { Ok(()) } else { Err(ReportError::Constant { what, expected, seen }) }
}

/// What is left of the bytes. Numbers are little endian.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], ReportError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(ReportError::Truncated { what })?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<&'a [u8; N], ReportError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(ReportError::Truncated { what })?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, ReportError> {
        self.array(what).map(|[byte]| *byte)
    }

    fn word(&mut self, what: &'static str) -> Result<u16, ReportError> {
        self.array(what).map(|bytes| u16::from_le_bytes(*bytes))
    }

    fn finish(self, what: &'static str) -> Result<(), ReportError> {
        if self.0.is_empty() { Ok(()) } else { Err(ReportError::Trailing { what, len: self.0.len() }) }
    }
}

const NONCE_LABEL: &[u8] = b"casemate/gpu-nonce/v1";
/// SPDM 1.1.
const VERSION: u8 = 0x11;
const GET_MEASUREMENTS: u8 = 0xe0;
const MEASUREMENTS: u8 = 0x60;
/// MeasurementSpecification: bit 0 is DMTF.
const DMTF: u8 = 1;
const BLOCK_HEADER_BYTES: usize = 3;
