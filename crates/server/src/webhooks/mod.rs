//! Calls to addresses that tenants, hosters and the platform named: how they are signed, when they are repeated, and where they may go.
//!
//! Whoever names an address has this server connect to it. So it connects to public addresses only, to exactly those that were
//! looked at, follows no redirect, and tells of an answer no more than its status.

mod address;
mod schedule;
mod sender;
mod signature;

pub use address::{Reach, is_public};
pub use schedule::{ATTEMPTS, pause_ms};
pub use sender::{Call, CallError, Sender, checked_url};
pub use signature::{Secret, verify};
