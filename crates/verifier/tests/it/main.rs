//! The verifier against evidence made by software keys, by a real swtpm, and by attackers.

// Clippy knows tests by their attribute; these are helpers of tests.
#![allow(clippy::unwrap_used)]

mod attacks;
mod certificates;
mod corim;
mod ear;
mod flips;
mod golden;
mod node;
mod quotes;
mod receipt;
mod references;
mod rego;
mod revocation;
mod swtpm;
mod vectors;
mod world;
