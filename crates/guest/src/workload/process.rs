//! The running workload, seen from PID 1.

use std::{
    fs,
    io::{self, Write as _},
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use casemate_api::guest;
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, pidfd_send_signal, wait, waitid},
};
use tokio::{
    io::{AsyncReadExt as _, Interest, unix::AsyncFd},
    net::unix::pipe::Receiver,
    time::timeout,
};

use super::{cgroup, container, container::Plan};
use crate::{
    fatal::{Check, Fatal, OrFatal},
    home::Running,
    observe, sys,
};

/// The workload's first process and everything that it started.
pub(crate) struct Process {
    pidfd: AsyncFd<OwnedFd>,
}

/// Its output.
pub(crate) struct Streams {
    pub(crate) stdout: Receiver,
    pub(crate) stderr: Receiver,
}

impl Process {
    /// Forks into the control group, which exists, and waits until the image's program runs or the child says why it does not.
    pub(crate) async fn start(plan: &Plan) -> Result<(Self, Streams), Fatal> {
        let group = cgroup::open().or_fatal(Check::WorkloadStart, "open the control group")?;
        let (mut failure, pidfd, streams) =
            fork(plan, group.as_fd()).or_fatal(Check::WorkloadStart, "fork the workload's process")?;
        let process = Self { pidfd };
        let mut said = String::new();
        // Closed by the execution of the program, or with what went wrong before it.
        let read = timeout(START_LIMIT, failure.read_to_string(&mut said)).await;
        match read {
            Ok(Ok(_)) if said.is_empty() => Ok((process, streams)),
            Ok(Ok(_)) => Err(Fatal::new(Check::WorkloadStart, said)),
            Ok(Err(error)) => Err(Fatal::new(Check::WorkloadStart, format!("watch the start of the process: {error}"))),
            Err(_) => Err(Fatal::new(Check::WorkloadStart, "the program was not executed within 60 s")),
        }
    }
}

impl Process {
    /// What /proc says of it, while it lives.
    fn status(&self) -> io::Result<String> {
        let about = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.pidfd.as_raw_fd()))?;
        let pid = about.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
        fs::read_to_string(format!("/proc/{}/status", pid.ok_or(io::ErrorKind::NotFound)?))
    }
}

impl Running for Process {
    /// Its namespace, and so all others, ended with it.
    async fn exited(&self) -> io::Result<i32> {
        loop {
            let mut ready = self.pidfd.readable().await?;
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)? {
                Some(status) => return Ok(exit_code(&status)),
                None => ready.clear_ready(),
            }
        }
    }

    fn observe(&self) -> Option<guest::Observation> {
        observe::workload(&self.status().ok()?)
    }

    fn terminate(&self) {
        // It may be gone already.
        let _ = pidfd_send_signal(self.pidfd.get_ref(), Signal::TERM);
    }

    fn kill(&self) {
        let _ = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
        let _ = cgroup::kill();
    }
}

/// Collects children that were left to PID 1.
pub(crate) fn reap_orphans() {
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

fn fork(plan: &Plan, group: BorrowedFd<'_>) -> io::Result<(Receiver, AsyncFd<OwnedFd>, Streams)> {
    let (failure, failure_end, streams, ends) = pipes()?;
    let pidfd = match sys::fork_into_namespaces(group, plan.network)? {
        sys::Fork::Parent { pidfd } => pidfd,
        sys::Fork::Child => {
            // PID 1's hook would say that the machine ends.
            std::panic::set_hook(Box::new(|_| sys::exit_child(SETUP_FAILED)));
            let said = container::become_workload(plan, ends.stdout.as_fd(), ends.stderr.as_fd());
            let _ = std::fs::File::from(failure_end).write_all(said.as_bytes());
            sys::exit_child(SETUP_FAILED)
        }
    };
    Ok((failure, sys::watch(pidfd, Interest::READABLE)?, streams))
}

/// The child's ends of its output.
pub(crate) struct Ends {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// What is said of a failed start (both ends), and the workload's output (both ends).
pub(crate) fn pipes() -> io::Result<(Receiver, OwnedFd, Streams, Ends)> {
    let (stdout, stdout_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let (failure, failure_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let streams = Streams { stdout: Receiver::from_owned_fd(stdout)?, stderr: Receiver::from_owned_fd(stderr)? };
    Ok((Receiver::from_owned_fd(failure)?, failure_end, streams, Ends { stdout: stdout_end, stderr: stderr_end }))
}

fn exit_code(status: &WaitIdStatus) -> i32 {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(SETUP_FAILED)
}

/// From the fork to the execution of the image's program.
pub(crate) const START_LIMIT: std::time::Duration = std::time::Duration::from_secs(60);
/// Exit status of a child that could not become the workload.
pub(crate) const SETUP_FAILED: i32 = 127;
