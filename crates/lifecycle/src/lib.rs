//! States, events and refusals of an instance as pure functions.
//!
//! What a workload may ask of the network is here too: who writes it and who holds it read it alike. So is the choice of its node.
//!
//! Run alike by the platform, the agent and the simulator: no clock, no I/O, no randomness.

#![forbid(unsafe_code)]

mod course;
mod id;
mod instance;
pub mod maintenance;
pub mod network;
mod overdue;
mod reconcile;
mod recover;
pub mod schedule;

pub use course::{Course, Reported, believed, due_for_appraisal, wiped};
pub use id::{IdError, InstanceId, NodeId};
pub use instance::{Actual, Admission, Event, Failure, Intent, Refusal, Request, Step, admit, apply};
pub use overdue::{AGENT_PATIENCE_MS, Dates, Overdue, PLATFORM_PATIENCE_MS, Reach, Times, ends_at_ms, overdue, reach};
pub use reconcile::{Action, Held, Hold, Scope, Wanted, reconcile};
pub use recover::{Interrupted, Launch, Machine, Recorded, Recovery, recover};
