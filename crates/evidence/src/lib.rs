//! Bounded codecs of still unverified evidence.
//!
//! Everything here is *claimed*, nothing is *checked*: only the verifier's types say "verified". Decoders take a byte
//! slice, have a stated limit, and never panic.

#![forbid(unsafe_code)]

pub mod confidential;
pub mod container;
pub mod eventlog;
pub mod ima;
pub mod instance;
pub mod merkle;
pub mod nvidia;
pub mod snp;
pub mod tdx;
pub mod tpm;

/// A SHA-256 digest.
pub type Sha256Digest = [u8; 32];
