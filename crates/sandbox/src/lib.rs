//! One driver trait over the isolation levels.
//!
//! A driver owns what is outside the guest: jail, VMM process, vTPM process, guest memory, scratch file, and their wipe.
//! It knows nothing of evidence or the platform. All of its state can be found again from disk, so that an agent which was
//! killed at any point can adopt or clean up.

#![deny(unsafe_code)]

mod plan;

pub use plan::{Capabilities, Disk, Exit, ExitCause, JailReport, Plan, Presence, Prepared, Started, WipeEvidence, WipedItem};

use std::{io, path::PathBuf};

use async_trait::async_trait;
use casemate_lifecycle::InstanceId;
use tokio::io::{AsyncRead, AsyncWrite};

/// The host's end of the guest channel: one reliable byte stream.
pub trait Channel: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Channel for T {}

/// Talks to the fresh vTPM before the machine exists; returns what the launch record should endorse (TPMT_PUBLIC of the
/// attestation key). Called with a TPM that has been started (`TPM2_Startup(CLEAR)`).
pub trait VtpmProvisioner: Send + Sync {
    /// `transact` sends one command and returns its response.
    fn provision(&self, transact: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>>;
}

/// A way to run machines.
///
/// Order: `prepare`, `start`, `connect` (again after a lost connection), `wait`, `wipe`. Every method is idempotent and may
/// be repeated after a crash of the caller; dropping a returned future leaves a state that `wipe` cleans up.
#[async_trait]
pub trait Driver: Send + Sync {
    /// What this driver can do on this host, found out once.
    fn capabilities(&self) -> &Capabilities;

    /// Makes jail root, cgroup, guest memory, scratch and vTPM; runs nothing of the tenant. On failure nothing is left.
    async fn prepare(&self, plan: &Plan, vtpm: &dyn VtpmProvisioner) -> Result<Prepared, DriverError>;

    /// Starts the VMM in its jail and observes the jail from outside.
    async fn start(&self, plan: &Plan) -> Result<Started, DriverError>;

    /// Connects to the guest channel; the VMM allows one connection at a time.
    async fn connect(&self, id: &InstanceId) -> Result<Box<dyn Channel>, DriverError>;

    /// Waits for the end of the VMM (also one that another process started) and says why it ended.
    async fn wait(&self, id: &InstanceId) -> Result<Exit, DriverError>;

    /// Ends the VMM now; returns when it is gone.
    async fn kill(&self, id: &InstanceId) -> Result<(), DriverError>;

    /// Ends the VMM if it still runs, wipes and removes everything. Works from disk state alone, also on half-prepared
    /// instances; a second call finds nothing and says so.
    async fn wipe(&self, id: &InstanceId) -> Result<WipeEvidence, DriverError>;

    /// Every instance of which anything exists on this host.
    async fn list(&self) -> Result<Vec<(InstanceId, Presence)>, DriverError>;
}

/// Why a driver could not do it.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The plan asks for something that [`Capabilities`] rule out.
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
    /// There is no such instance here.
    #[error("there is no instance {0} on this host")]
    NoSuchInstance(InstanceId),
}
