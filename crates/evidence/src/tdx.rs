//! Intel TDX: quotes of a trust domain, and its event log.
//!
//! Formats: "Intel TDX DCAP Quoting Library API", appendix A (quote versions 4 and 5), "Intel SGX ECDSA Quote Library Reference",
//! appendix A (version 3). All integers are little-endian. The same container carries quotes of SGX enclaves; they decode, so
//! that a judge can call them by their name.
//!
//! A quote is a chain of statements, none of which is checked here: the CPU's PCK key signs the report of the quoting enclave,
//! which names an attestation key, which signs header and body.

pub mod ccel;
mod enclave;
mod quote;
mod reader;
mod report;
#[cfg(test)]
mod tests;

pub use enclave::{ENCLAVE_REPORT_BYTES, EnclaveReport};
pub use quote::{AuthData, Body, HEADER_BYTES, Header, MAX_QUOTE_BYTES, Quote, TeeKind};
pub use report::{TD_REPORT_10_BYTES, TD_REPORT_15_BYTES, Td15, TdReport};

/// A SHA-384 digest: measurement registers and most names in a TD report are of this size.
pub type Sha384Digest = [u8; 48];

/// Why bytes are not a quote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// More than [`MAX_QUOTE_BYTES`].
    #[error("the quote has {len} bytes, more than the limit of {MAX_QUOTE_BYTES}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// The bytes end inside a field.
    #[error("the quote ends inside {field}: {need} bytes are needed, {have} are left")]
    Short {
        /// The field.
        field: &'static str,
        /// Bytes that it takes.
        need: usize,
        /// Bytes that there are.
        have: usize,
    },
    /// A field has a value that is not known.
    #[error("{field} is {value:#x}, which is not known")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u32,
    },
    /// A size is not the one that its content has.
    #[error("{field} is {seen} bytes, but its content takes {expected}")]
    Size {
        /// The field.
        field: &'static str,
        /// Size of the content.
        expected: usize,
        /// Size that is stated.
        seen: usize,
    },
    /// The certification data is of a kind that does not bring the PCK certificate along.
    #[error("the certification data inside is of type {seen}; only type 5, a PCK certificate chain, is accepted")]
    CertificationData {
        /// The type.
        seen: u16,
    },
    /// Bytes after the quote that are not padding.
    #[error("{count} bytes follow the quote and are not all zero")]
    Trailing {
        /// How many.
        count: usize,
    },
}
