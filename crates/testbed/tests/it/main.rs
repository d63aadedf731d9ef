//! End-to-end tests: real platform, real node, real VMs, driven through the real command line.
//!
//! They need root, the executables and the guest OS image: `make test` builds all that first.

#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

mod bad_input;
mod deaths;
mod dev_down;
mod encrypted;
mod failpoints;
mod guest_init;
mod handover;
mod hook;
mod images;
mod kills;
mod levels;
mod main_job;
mod memory;
mod monitor;
mod network;
mod protection;
mod refusals;
mod renewal;
mod replicas;
mod support;
