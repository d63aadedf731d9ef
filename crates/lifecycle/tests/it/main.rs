//! Proofs over the whole state space of platform, network and node.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not inside test functions")]

mod model;
mod schedule;
mod world;
