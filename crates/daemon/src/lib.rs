//! What every service shares: configuration, telemetry, signals, TLS provider. Small on purpose.

#![forbid(unsafe_code)]

pub mod config;
pub mod dedicated;
pub mod memory;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
