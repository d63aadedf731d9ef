//! The workload's process: from the image's configuration to an exit code.

pub(crate) mod cgroup;
mod container;
mod deadline;
pub(crate) mod output;
pub(crate) mod process;
mod program;
pub(crate) mod seccomp;
pub(crate) mod spool;
mod tar;
pub(crate) mod user;

pub(crate) use container::{Bind, Network, Plan, become_neighbour};
pub(crate) use deadline::{Deadlines, Due};
