//! The promises of the driver trait, held by every driver, and those that only a real machine can show.

mod conformance;
mod fake;
mod guest;
mod qemu;
