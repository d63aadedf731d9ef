//! Certificates: a strict path check for the short kinds of chain that there are (RFC 5280, section 6, without policies and name
//! constraints), and revocation lists.
//!
//! * node certificate <- platform CA,
//! * EK certificate <- intermediates <- TPM vendor root, and
//! * the chains of processors and GPUs to their vendor's root.
//!
//! The order is the sender's, leaf first; there is no path building. What is not understood is refused.

mod certificate;
mod crl;
mod path;
mod signature;

pub(crate) use certificate::Certificate;
pub use certificate::CertificateError;
pub use crl::CrlError;
pub(crate) use crl::VerifiedCrl;
pub use path::PathError;
pub(crate) use path::{Profile, TrustAnchor, verify_path};
pub(crate) use signature::Algorithm;
pub use signature::SignatureError;
pub(crate) use signature::verify as verify_signature;
