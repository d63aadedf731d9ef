//! The verifier against evidence made by software keys, by a real swtpm, and by attackers.

// Clippy knows tests by their attribute; these are helpers of tests.
#![allow(clippy::unwrap_used)]

mod attacks;
mod banks;
mod boot;
mod certificates;
mod flips;
mod golden;
mod iak;
mod ima;
mod names;
mod node;
mod quotes;
mod receipt;
mod references;
mod swtpm;
mod vectors;
mod world;
