//! The crate from outside: real archives, real file systems, a real registry, and attackers.
#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod cache;
mod downloads;
mod encrypted;
mod golden;
mod layers;
mod leases;
mod oracles;
mod random;
mod refusals;
mod registry;
mod sources;
mod support;
