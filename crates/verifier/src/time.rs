//! Time as an argument.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use x509_cert::der::DateTime;

/// Seconds since 1970-01-01T00:00:00Z. The verifier has no clock: its caller says what time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixTime(pub u64);

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::from_unix_duration(Duration::from_secs(self.0)) {
            Ok(date) => date.fmt(f),
            Err(_) => write!(f, "{} s after 1970", self.0),
        }
    }
}
