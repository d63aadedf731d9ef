//! Proofs over the whole state space of platform, network and node.

mod model;
mod world;
