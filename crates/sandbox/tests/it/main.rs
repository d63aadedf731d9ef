//! The promises of the driver trait, held by every driver, and those that only a real machine can show.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

mod ask;
mod conformance;
mod containers;
mod fake;
mod guest;
mod layers;
mod monitors;
mod network;
mod oci;
mod old_kernel;
mod places;
mod probes;
mod qemu;
