//! What drivers share in how they work: one operation per instance at a time, off the runtime's threads, and one driver per
//! state directory.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use casemate_lifecycle::InstanceId;
use rustix::fs::FlockOperation;
use tokio::sync::OwnedMutexGuard;

use crate::{DriverError, error::Context};

/// A lock per instance.
#[derive(Debug, Default)]
pub(crate) struct Locks(Mutex<HashMap<InstanceId, Arc<tokio::sync::Mutex<()>>>>);

impl Locks {
    /// Ends when no other operation on the instance runs.
    pub(crate) async fn lock(&self, id: &InstanceId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(id.clone()).or_default())
        };
        lock.lock_owned().await
    }
}

/// Does blocking work on another thread; it goes on when the returned future is dropped.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Err(DriverError::Process { program: "agent", detail: "the runtime is shutting down".to_owned() }),
    })
}

/// Runs a callback that blocks and borrows; other tasks go on where the runtime has other threads.
pub(crate) fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// Makes a directory and finds its one name.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, DriverError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).context("create", path)?;
    fs::canonicalize(path).context("find", path)
}

/// A driver that was just dropped may still be finishing an operation.
pub(crate) fn lock(path: &Path) -> Result<File, DriverError> {
    let file = File::options().write(true).create(true).truncate(false).open(path).context("open", path)?;
    let begin = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) if begin.elapsed() < LOCK_LIMIT => std::thread::sleep(LOCK_PAUSE),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "another agent works with this state"))
                    .context("lock", path);
            }
            Err(error) => return Err(error).context("lock", path),
        }
    }
}

/// How long another driver on the same state may take to finish.
const LOCK_LIMIT: Duration = Duration::from_secs(20);

const LOCK_PAUSE: Duration = Duration::from_millis(20);
