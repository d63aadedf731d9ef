//! Collects evidence from a TPM 2.0: the node's own, a guest's vTPM, or (feature `sim`) a stand-in in software.
//!
//! This is the attester's side only: it makes evidence and judges none. It speaks the few commands that it needs as bytes
//! ("TPM 2.0 Library, Part 3: Commands") over a [`Transport`], one command at a time, and starts no thread and no task. It is
//! part of the guest's PID 1, therefore small and without cryptography beyond SHA-256.
//!
//! Passwords of hierarchies are taken to be empty, as they are on TPMs that nobody has taken ownership of.
//!
//! - [`Tpm`]: the commands;
//! - [`Attester`]: what the rest of the system wants of any of the three: public key, PCRs, quotes;
//! - [`guest_provision`], [`quote_bundle`]: what agent and guest do with it.

#![forbid(unsafe_code)]

mod attester;
mod command;
mod ek;
mod error;
mod provision;
#[cfg(feature = "sim")]
pub mod sim;
mod template;
mod tpm;
mod transport;

pub use attester::{Attester, TpmAttester, quote_bundle};
pub use ek::EK_CERTIFICATE_NV_INDEX;
pub use error::{ResponseCode, TpmError};
pub use provision::{GuestMeasurements, guest_provision};
pub use template::{ak_template, ek_template};
pub use tpm::{Key, Tpm};
pub use transport::{AccessError, Device, Exchange, MAX_COMMAND_BYTES, MAX_RESPONSE_BYTES, Transport, UnixSocket, open};
