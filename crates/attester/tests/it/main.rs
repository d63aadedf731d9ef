//! Against a real TPM implementation (swtpm), judged by outside tools (tpm2-tools) and by our own verifier.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not inside test functions")]

mod enrol;
mod keys;
mod quote;
#[cfg(feature = "sim")]
mod sim;
mod swtpm;
mod tools;
mod transport;
mod verifier;
