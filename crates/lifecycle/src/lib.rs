//! States, events and refusals of an instance as pure functions.
//!
//! What a workload may ask of the network is here too: who writes it and who holds it read it alike.
//!
//! Run alike by the platform, the agent and the simulator: no clock, no I/O, no randomness.

#![forbid(unsafe_code)]

mod course;
mod id;
mod instance;
pub mod network;
mod reconcile;
mod recover;

pub use course::{Course, Reported, believed, due_for_appraisal, wiped};
pub use id::{IdError, InstanceId, NodeId};
pub use instance::{Actual, Admission, Event, Failure, Intent, Refusal, Request, Step, admit, apply};
pub use reconcile::{Action, Held, Hold, Scope, Wanted, reconcile};
pub use recover::{Interrupted, Launch, Machine, Recorded, Recovery, recover};
