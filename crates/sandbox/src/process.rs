//! Processes by what holds them: an instance's processes are those in its cgroup, whoever started them.

use std::{
    fs,
    os::fd::OwnedFd,
    process::Child,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags, Signal},
};

use crate::cgroup::Group;

/// The two users of an instance; no other instance of this host has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Users {
    /// The VMM.
    pub(crate) vmm: u32,
    /// Its vTPM, so that a VMM which a guest has taken over cannot read the vTPM's keys.
    pub(crate) vtpm: u32,
}

impl Users {
    /// Of the pair numbered `slot`.
    pub(crate) fn of(base: u32, slot: u32) -> Self {
        Self { vmm: base + 2 * slot, vtpm: base + 2 * slot + 1 }
    }
}

/// A process that cannot be confused with a later one of the same id.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) handle: OwnedFd,
}

/// Our own children, of all instances: whatever they are waited for by elsewhere, somebody must reap them.
#[derive(Debug, Default)]
pub(crate) struct Children(Mutex<Vec<Child>>);

impl Children {
    /// Takes a child, and reaps those that have ended.
    pub(crate) fn adopt(&self, child: Child) {
        self.reap();
        self.held().push(child);
    }

    /// Reaps those that have ended.
    pub(crate) fn reap(&self) {
        self.held().retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    }

    fn held(&self) -> MutexGuard<'_, Vec<Child>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds the VMM: process 1 of a PID namespace below ours, in the instance's cgroup.
pub(crate) fn find_init(group: &Group) -> Option<Process> {
    group.processes().into_iter().filter(|pid| is_namespace_init(*pid)).find_map(|pid| open_member(pid, group))
}

/// Whether the VMM's parent is still writing down the end.
pub(crate) fn supervisor_lives(group: &Group, user: u32) -> bool {
    group.processes().into_iter().any(|pid| status_of(pid).is_some_and(|status| status.real_user() == Some(user)))
}

/// The handle is taken first and the membership looked at afterwards, so that a reused id is noticed.
fn open_member(pid: i32, group: &Group) -> Option<Process> {
    let handle = rustix::process::pidfd_open(pid_of(pid)?, PidfdFlags::empty()).ok()?;
    group.processes().contains(&pid).then_some(Process { pid, handle })
}

fn is_namespace_init(pid: i32) -> bool {
    inner_ids(pid).last() == Some(&1)
}

/// Finds a process of the group by its ids in the PID namespaces below ours, outermost first.
pub(crate) fn find_inner(group: &Group, wanted: impl Fn(&[i32]) -> bool) -> Option<Process> {
    group.processes().into_iter().filter(|pid| wanted(&inner_ids(*pid))).find_map(|pid| open_member(pid, group))
}

fn inner_ids(pid: i32) -> Vec<i32> {
    let status = status_of(pid);
    let ids = status.as_ref().and_then(|status| status.field("NSpid")).unwrap_or_default();
    ids.split_whitespace().skip(1).filter_map(|id| id.parse().ok()).collect()
}

impl Process {
    /// Ends it and waits for that; false when it did not end in time.
    pub(crate) fn kill(&self, limit: Duration) -> bool {
        let _ = rustix::process::pidfd_send_signal(&self.handle, Signal::KILL);
        self.ends_within(limit)
    }

    /// Waits for its end; false when it did not come in time.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        let begin = Instant::now();
        loop {
            let left = limit.saturating_sub(begin.elapsed());
            let timeout =
                Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
            match rustix::event::poll(&mut [PollFd::new(&self.handle, PollFlags::IN)], Some(&timeout)) {
                Ok(count) => return count > 0,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

/// Sends SIGKILL to the member of a cgroup that is being ended.
pub(crate) fn signal_kill(pid: i32) {
    if let Some(pid) = pid_of(pid) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// What /proc says of a process or thread.
#[derive(Debug)]
pub(crate) struct Status(String);

impl Status {
    pub(crate) fn parse(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.split_once(':').filter(|(key, _)| *key == name)).map(|(_, value)| value.trim())
    }

    /// Real, effective, saved and file system user.
    pub(crate) fn users(&self) -> Vec<u32> {
        self.field("Uid").unwrap_or_default().split_whitespace().filter_map(|id| id.parse().ok()).collect()
    }

    fn real_user(&self) -> Option<u32> {
        self.users().first().copied()
    }
}

fn status_of(pid: i32) -> Option<Status> {
    fs::read_to_string(format!("/proc/{pid}/status")).ok().map(Status::parse)
}

/// Every user that has a process on this host.
pub(crate) fn users_in_use() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    pids.filter_map(status_of).flat_map(|status| status.users()).collect()
}

fn pid_of(raw: i32) -> Option<Pid> {
    Pid::from_raw(raw).filter(|_| raw > 1)
}
