//! Options of fetching.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct Endorsements {
    #[command(subcommand)]
    pub(crate) command: EndorsementsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EndorsementsCommand {
    /// Fetch what the vendors publish about the processor and the GPUs of some evidence: JSON as in a request's `endorsements`.
    Fetch {
        /// A request (docs/api/appraisal.md), an SEV-SNP report, a TDX quote, evidence of a confidential VM or of GPUs.
        #[arg(long, value_name = "FILE")]
        evidence: PathBuf,
        /// File for the JSON; standard output by default.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        options: FetchOptions,
    },
}

/// Where endorsements come from, and how old they may be.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Fetching")]
pub(crate) struct FetchOptions {
    /// Folder in which answers are kept (default: casemate/endorsements in the user's cache folder).
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<PathBuf>,
    /// Use nothing that was fetched longer ago than this (default: a day; certificates 30 days).
    #[arg(long, value_name = "SECONDS")]
    pub(crate) max_age: Option<u64>,
    /// The processor of an SEV-SNP report of version 2, which does not name it.
    #[arg(long, value_enum)]
    pub(crate) product: Option<Product>,
    /// Certificate of the VLEK that signed an SEV-SNP report, DER or PEM: only the cloud provider can fetch it.
    #[arg(long, value_name = "FILE")]
    pub(crate) vlek: Option<PathBuf>,
    /// AMD's Key Distribution Service, or a mirror.
    #[arg(long, env = "CASEMATE_AMD_KDS", value_name = "URL")]
    pub(crate) amd_kds: Option<String>,
    /// Intel's Provisioning Certification Service, or a PCCS.
    #[arg(long, env = "CASEMATE_INTEL_PCS", value_name = "URL")]
    pub(crate) intel_pcs: Option<String>,
    /// The revocation list of Intel's root.
    #[arg(long, env = "CASEMATE_INTEL_ROOT_CRL", value_name = "URL")]
    pub(crate) intel_root_crl: Option<String>,
    /// NVIDIA's service of reference manifests, or a mirror.
    #[arg(long, env = "CASEMATE_NVIDIA_RIM", value_name = "URL")]
    pub(crate) nvidia_rim: Option<String>,
    /// NVIDIA's OCSP responder, or a mirror.
    #[arg(long, env = "CASEMATE_NVIDIA_OCSP", value_name = "URL")]
    pub(crate) nvidia_ocsp: Option<String>,
}

/// A generation of AMD processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Product {
    Milan,
    Genoa,
    Turin,
}
