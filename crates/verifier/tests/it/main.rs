//! The verifier against evidence made by software keys, by a real swtpm, and by attackers.

// Clippy knows tests by their attribute; these are helpers of tests.
#![allow(clippy::unwrap_used)]

mod attacks;
mod banks;
mod boot;
mod boot_claims;
mod certificates;
mod confidential;
mod confidential_attacks;
mod confidential_flips;
mod confidential_world;
mod container;
mod corim;
mod ear;
mod examples;
mod flips;
mod golden;
mod gpu;
mod gpu_flips;
mod gpu_limits;
mod gpu_manifest;
mod gpu_status;
mod gpu_vectors;
mod gpu_wanted;
mod gpu_world;
mod iak;
mod ima;
mod names;
mod node;
mod quote_vectors;
mod quotes;
mod receipt;
mod references;
mod rego;
mod rego_limits;
mod request;
mod revocation;
mod snp;
mod snp_checks;
mod snp_rules;
mod snp_world;
mod statements;
mod swtpm;
mod tdx;
mod tdx_checks;
mod tdx_collateral;
mod tdx_kept;
mod tdx_world;
mod uefi;
mod uefi_machine;
#[path = "../support/vectors.rs"]
mod vectors;
mod world;
