//! Certificates: a strict path check for the two short kinds of chain that there are (RFC 5280, section 6, without
//! policies, name constraints and revocation).
//!
//! * node certificate <- platform CA, and
//! * EK certificate <- intermediates <- TPM vendor root.
//!
//! The order is the sender's, leaf first; there is no path building. What is not understood is refused.

mod certificate;
mod path;
mod signature;

pub(crate) use certificate::Certificate;
pub use certificate::CertificateError;
pub use path::PathError;
pub(crate) use path::{Profile, TrustAnchor, verify_path};
pub use signature::SignatureError;
