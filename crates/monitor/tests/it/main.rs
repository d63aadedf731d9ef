//! The monitor in node guests, and on this machine as far as its kernel lets it.

#![allow(clippy::unwrap_used, reason = "a failed helper fails the test")]

mod command;
mod observe;
mod suite;
