//! The node's security monitor.
//!
//! It guards the agent, the machines, their memory and itself against everybody else on the node, root included: BPF programs deny on
//! kernel objects that carry a label, keep what happened in maps, and this process ends the instances, writes it down, and says so.
//! It never decides by path, name or process id, and never touches what has no label.
//!
//! ```text
//! guard (run) ── pidfd ──> worker ── BPF programs, pinned ── labels: tasks, inodes, cgroups
//!      └─────── pidfd ──────┘  └── control socket ──> agent, started by the worker
//! ```
//!
//! Either of the two processes ends the instances when the other is gone; the pinned programs go on denying.

#![deny(unsafe_code)]

pub mod canary;
pub mod class;
pub mod config;
pub mod control;
pub mod detector;
pub mod devices;
#[allow(unsafe_code, reason = "no library that is here asks for a place before ordinary processes")]
mod first;
pub mod guard;
pub mod heart;
pub mod kernel;
pub mod spool;
pub mod worker;
