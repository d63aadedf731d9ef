//! The whole of Casemate on one machine, for end-to-end tests and benchmarks: real platform, real node, real VMs, driven
//! through the real command line, with a hostile platform in between where a test wants one.
//!
//! Needs root, the executables of this workspace and the guest OS image (`make build`).

#![forbid(unsafe_code)]

mod bed;
mod leaks;
pub mod node_guest;
mod oci;
mod outcome;
mod proxy;

pub use bed::{Bed, BedOptions, build_dir, guest_os_dir};
pub use oci::{ImageBuilder, static_program};
pub use outcome::Outcome;
pub use proxy::{Alter, Proxy};
