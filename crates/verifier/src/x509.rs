//! Certificates: a strict path check for the short kinds of chain that there are (RFC 5280, section 6; name constraints of
//! directory names, no policy constraints), and revocation lists.
//!
//! * node certificate <- platform CA,
//! * EK certificate <- intermediates <- TPM vendor root,
//! * IAK certificate <- intermediates <- device manufacturer's root, and
//! * the chains of processors and GPUs to their vendor's root.
//!
//! The order is the sender's, leaf first; there is no path building. What is not understood is refused.

mod certificate;
mod crl;
mod key;
mod names;
mod path;
mod signature;

pub use certificate::CertificateError;
pub(crate) use certificate::{Certificate, Seen};
pub use crl::CrlError;
pub(crate) use crl::VerifiedCrl;
pub(crate) use key::public_key;
pub use path::PathError;
pub(crate) use path::{Profile, TrustAnchor, verify_decoded_path, verify_path};
pub(crate) use signature::Algorithm;
pub use signature::SignatureError;
pub(crate) use signature::verify as verify_signature;
