//! Why a driver could not do it.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use casemate_lifecycle::InstanceId;

/// Why a driver could not do it.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The plan asks for something that [`Capabilities`](crate::Capabilities) rule out.
    #[error("this driver does not support {what}: {reason}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why not.
        reason: String,
    },
    /// An operation of the operating system failed.
    #[error("{attempt} {}", path.display())]
    Io {
        /// What was attempted, e.g. `create cgroup`.
        attempt: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A helper process (VMM, swtpm, jail) failed.
    #[error("{program} failed: {detail}")]
    Process {
        /// Which.
        program: &'static str,
        /// Exit status and the end of its error output.
        detail: String,
    },
    /// The jail around a started VMM does not hold what it must.
    #[error("jail check {check} failed: {detail}")]
    Jail {
        /// Which check.
        check: &'static str,
        /// What was seen.
        detail: String,
    },
    /// A named limit in time was reached.
    #[error("{attempt} took longer than {limit_ms} ms")]
    Timeout {
        /// What was attempted.
        attempt: &'static str,
        /// The limit.
        limit_ms: u64,
    },
    /// The instance's network could not be made or taken away.
    #[error("the network of an instance")]
    Network(#[from] crate::network::NetworkError),
    /// There is no such instance here.
    #[error("there is no instance {0} on this host")]
    NoSuchInstance(InstanceId),
}

/// An error and its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Adds what was attempted, and on what.
pub(crate) trait Context<T> {
    fn context(self, attempt: &'static str, path: &Path) -> Result<T, DriverError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, attempt: &'static str, path: &Path) -> Result<T, DriverError> {
        self.map_err(|error| DriverError::Io { attempt, path: path.to_owned(), source: error.into() })
    }
}

/// For errors.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
