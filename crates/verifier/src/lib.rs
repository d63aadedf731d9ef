//! Appraises (evidence, endorsements, reference values, policy, expectation, now) to an attestation result.
//!
//! The same code runs on the platform and in the tenant's CLI. It is pure: no files, no network, no clock, no randomness;
//! the same inputs give the same result at any time.
//!
//! * [`appraise_instance`], [`container::appraise_container`]: may keys be released to this guest?
//! * [`appraise_node`], [`ek`], [`credential`]: may this node have a certificate?
//! * [`boot::appraise_boot`], [`ima::appraise_ima`]: what came up on a node, and what it executed since?
//! * [`request`]: one question as one JSON document, of any kind of evidence.
//! * [`verify_receipt`]: did a node of the platform sign this?
//!
//! Everything fails closed. A value of a type such as [`quote::AuthenticQuote`] or [`VerifiedGuest`] exists only after its
//! check, each stage consumes the value of the stage before, and a verdict is good only if every check of a fixed list was
//! entered, in order, and passed. What it says is limited by the platform kind: see [`AttestationResult::warnings`].

#![forbid(unsafe_code)]

mod anchors;
pub mod boot;
mod cbor;
mod checks;
pub mod confidential;
pub mod container;
pub mod corim;
pub mod credential;
#[doc(hidden)]
pub mod decoders;
pub mod ear;
pub mod ek;
mod envelope;
pub mod gpu;
pub mod iak;
pub mod ima;
mod instance;
mod launch;
pub mod log;
mod node;
pub mod node_certificate;
mod policy;
pub mod quote;
mod receipt;
mod references;
pub mod rego;
pub mod request;
mod result;
pub mod revocation;
mod signature;
pub mod snp;
pub mod tdx;
mod time;
pub mod x509;

pub use anchors::{AnchorError, MAX_ROOTS, TrustAnchors, VendorRoot};
pub use boot::BOOT_CHECKS;
pub use casemate_evidence::container::ContainerLevel;
pub use cbor::CborError;
pub use checks::{Appraised, CONTAINER_CHECKS, Check, CheckName, INSTANCE_CHECKS, NODE_CHECKS, Outcome};
pub use envelope::EnvelopeError;
pub use ima::IMA_CHECKS;
pub use instance::{Endorsements, Expectation, RelyingParty, appraise_instance};
pub use node::{Demand, ImaMemory, ImaPart, NodeAppraisal, NodeBeliefs, NodePolicy, NodeQuoteInput, VerifiedNode, appraise_node};
pub use policy::{PlatformKind, Policy, Simulated};
pub use receipt::{ReceiptError, VerifiedReceipt, verify_receipt};
pub use references::{ConfidentialGuest, Machine, Processor, ReferenceError, ReferenceValues, TSC_KHZ, TdxReference};
pub use result::{
    Anchor, AttestationResult, Kind, MicrovmClaims, MonitorClaims, NodeClaims, Silicon, Submodule, Tier, TrustVector,
    VerifiedGuest, claim,
};
pub use time::UnixTime;

// One for the unit tests and for `tests/it`.
#[cfg(test)]
#[path = "../tests/support/vectors.rs"]
mod vectors;
