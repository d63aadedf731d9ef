//! Writing reports, for simulated devices and tests.

use super::{
    BLOCK_HEADER_BYTES, DMTF, GET_MEASUREMENTS, MEASUREMENTS, Opaque, Report, Request, Response, SIGNATURE_BYTES, VERSION,
};

impl Report<'_> {
    /// The bytes of the report. Lengths beyond what a report can say are cut, so that [`Report::parse`] refuses the result.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.request.encode();
        self.response.encode(&mut bytes);
        bytes
    }

    /// The bytes that are signed.
    pub fn encode_signed(&self) -> Vec<u8> {
        let mut bytes = self.encode();
        bytes.truncate(bytes.len() - SIGNATURE_BYTES);
        bytes
    }
}

impl Request {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, GET_MEASUREMENTS, self.param1, self.param2];
        bytes.extend_from_slice(&self.nonce);
        bytes.push(self.slot);
        bytes
    }
}

impl Response<'_> {
    fn encode(&self, bytes: &mut Vec<u8>) {
        let mut record = Vec::new();
        for block in &self.blocks {
            let len = low_word(block.value.len());
            record.extend_from_slice(&[block.index, DMTF]);
            record.extend_from_slice(&len.saturating_add(BLOCK_HEADER_BYTES as u16).to_le_bytes());
            record.push(block.value_type);
            record.extend_from_slice(&len.to_le_bytes());
            record.extend_from_slice(block.value);
        }
        let opaque = self.opaque.encode();
        bytes.extend_from_slice(&[VERSION, MEASUREMENTS, self.param1, self.param2, self.blocks.len() as u8]);
        bytes.extend_from_slice(&(record.len() as u32).to_le_bytes()[..3]);
        bytes.extend_from_slice(&record);
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(&low_word(opaque.len()).to_le_bytes());
        bytes.extend_from_slice(&opaque);
        bytes.extend_from_slice(&self.signature);
    }
}

impl Opaque<'_> {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (field, value) in &self.0 {
            bytes.extend_from_slice(&field.0.to_le_bytes());
            bytes.extend_from_slice(&low_word(value.len()).to_le_bytes());
            bytes.extend_from_slice(value);
        }
        bytes
    }
}

fn low_word(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}
