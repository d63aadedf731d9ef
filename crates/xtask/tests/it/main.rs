//! The repository's own rules, held as tests.

#![allow(clippy::unwrap_used, reason = "a failed helper fails the test")]

mod dependencies;
mod distro;
mod ignored;
mod purity;
mod size;
mod sources;
