//! Evidence of real machines.

#![allow(clippy::unwrap_used, reason = "helpers of tests are not inside test functions")]

mod vectors;
