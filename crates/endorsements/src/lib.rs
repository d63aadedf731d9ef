//! Vendors' endorsements: certificates, revocation lists, TCB info and manifests, fetched from where their vendors publish them (or
//! from a mirror), kept on disk, and handed to whoever judges evidence.
//!
//! * [`Fetcher::snp`]: AMD's Key Distribution Service, version 1.
//! * [`Fetcher::tdx`]: Intel's Provisioning Certification Service, version 4, or a caching service (PCCS) with its paths.
//! * [`Fetcher::gpu`]: NVIDIA's service of reference manifests, and its OCSP responder.
//!
//! Nothing here is trusted and nothing is judged: who fetches can only withhold. What is checked is the form, so that the page of a
//! proxy is not kept as a certificate. The verifier judges signatures, chains and times.
//!
//! What is handed out is never older than the [`Floor`], also while a service cannot be reached: then there is an error, which
//! says how old the copy is that is there. Every answer, redirect, wait and retry is bounded by [`Limits`]; the same question that is
//! asked several times at once is sent once.

#![forbid(unsafe_code)]

mod amd;
mod error;
mod fetcher;
mod form;
mod http;
mod intel;
mod nvidia;
mod sources;
mod store;

pub use amd::{SnpEndorsements, SnpHints};
pub use error::{EndorsementError, FetchError, SetupError};
pub use fetcher::{Fetcher, Settings};
pub use http::Limits;
pub use intel::TdxEndorsements;
pub use nvidia::{GpuEndorsements, Manifest};
pub use sources::Sources;
pub use store::Floor;
