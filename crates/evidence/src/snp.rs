//! AMD SEV-SNP attestation reports.
//!
//! Source: "SEV Secure Nested Paging Firmware ABI Specification" (AMD 56860), ATTESTATION_REPORT, in the versions 2, 3 (adds
//! family, model and stepping of the processor) and 5 (adds the mitigation vectors). All integers are little-endian. Other
//! versions are refused, and so is a report whose reserved bytes are not zero: what they would mean is not known.

mod fields;
mod report;
mod tcb;

pub use fields::{Cpuid, FirmwareVersion, GuestPolicy, Mitigations, PlatformInfo, SigningKey, Version};
pub use report::{AttestationReport, REPORT_BYTES, ReportSignature, SIGNED_BYTES};
pub use tcb::{Generation, Tcb, TcbBytes};

/// Why bytes are not an attestation report, or a field of one has no meaning.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnpDecodeError {
    /// A report has one size.
    #[error("an attestation report has {REPORT_BYTES} bytes, this has {len}")]
    Length {
        /// Found.
        len: usize,
    },
    /// Not 2, 3 or 5.
    #[error("report version {version} is not known here")]
    Version {
        /// Found.
        version: u32,
    },
    /// Bytes or bits without a meaning are not zero.
    #[error("reserved bits of {field} (offset {offset:#x}) are not zero")]
    Reserved {
        /// Where.
        field: &'static str,
        /// From the start of the structure, in bytes.
        offset: usize,
    },
    /// A value that is reserved.
    #[error("{field} has the reserved value {value}")]
    Value {
        /// Where.
        field: &'static str,
        /// Found.
        value: u32,
    },
    /// A processor that is none of the known generations.
    #[error("family {family:#x} model {model:#x} is no processor generation known here")]
    Processor {
        /// Combined family.
        family: u8,
        /// Combined model.
        model: u8,
    },
}

#[cfg(test)]
mod tests;
