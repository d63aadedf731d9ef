//! The fetcher against services that behave, and against services that do not.

// Clippy knows tests by their attribute; these are helpers of tests.
#![allow(clippy::unwrap_used)]

mod hostile;
mod kept;
mod server;
mod vendors;
