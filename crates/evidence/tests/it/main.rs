//! Evidence of real machines.

mod vectors;
