//! The line between guard and worker: the worker beats, the guard beats back. Whoever hears nothing for too long ends the instances.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::setpriority_process;

use crate::first::go_before_ordinary_processes;

/// The kernel's own end of memory takes others first. Root can still take it, by a limit on the monitor's cgroup.
const LAST_TO_GO: &str = "-1000";
/// The best of the ordinary priorities, where no better place is to be had.
const FIRST_TO_RUN: i32 = -20;

/// One end of the line.
#[derive(Debug)]
pub struct Line(UnixStream);

/// What came over the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// At least one beat.
    Beat,
    /// Nothing.
    Nothing,
    /// The other end is closed.
    Closed,
}

impl Line {
    /// Over a connected socket.
    pub fn new(socket: UnixStream) -> Result<Self> {
        socket.set_nonblocking(true).context("set up the line between guard and worker")?;
        Ok(Self(socket))
    }

    /// The worker's end, which it was started with as its standard input.
    pub fn of_standard_input() -> Result<Self> {
        let socket: OwnedFd = std::io::stdin().as_fd().try_clone_to_owned().context("take the line to the guard")?;
        Self::new(socket.into())
    }

    /// One beat. A line that is full has enough of them, and one that is closed is heard of otherwise.
    pub fn beat(&mut self) {
        let _ = self.0.write(&[1]);
    }

    /// What has come.
    pub fn hear(&mut self) -> Heard {
        let mut bytes = [0; 64];
        match self.0.read(&mut bytes) {
            Ok(0) => Heard::Closed,
            Ok(_) => Heard::Beat,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Heard::Nothing,
            Err(_) => Heard::Closed,
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How often whoever listens looks in the time that counts as silence, at least.
pub const LOOKS: u32 = 8;

/// How long nothing was heard. Time in which the listener itself did not run counts as one look: after a pause of the whole machine the other
/// end gets its chance to speak first.
#[derive(Debug)]
pub struct Silence {
    limit: Duration,
    looked: Instant,
    passed: Duration,
}

impl Silence {
    /// Begins now.
    pub fn new(limit: Duration, now: Instant) -> Self {
        Self { limit, looked: now, passed: Duration::ZERO }
    }

    /// Something was heard.
    pub fn end(&mut self, now: Instant) {
        *self = Self::new(self.limit, now);
    }

    /// Looks: whether it has lasted too long.
    pub fn too_long(&mut self, now: Instant) -> bool {
        self.passed += now.saturating_duration_since(self.looked).min(self.limit / LOOKS);
        self.looked = now;
        self.passed >= self.limit
    }

    /// How long it has lasted.
    pub fn passed(&self) -> Duration {
        self.passed
    }
}

/// Asks the kernel to run this process first, and to take it last when memory ends. Where it may not be asked, the watch over each other has
/// to do. Children inherit the latter: it is for after they were started.
pub fn go_first_and_last() {
    let _ = fs::write("/proc/self/oom_score_adj", LAST_TO_GO);
    let _ = setpriority_process(None, FIRST_TO_RUN);
    let _ = go_before_ordinary_processes();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_too_long_after_its_limit_but_a_pause_of_the_listener_is_one_look() {
        let (start, limit) = (Instant::now(), Duration::from_secs(8));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut silence = Silence::new(limit, start);
        assert!((1..8).all(|second| !silence.too_long(at(second))));
        assert!(silence.too_long(at(8)));
        silence.end(at(8));
        assert!(!silence.too_long(at(1000)));
        assert_eq!(silence.passed(), limit / LOOKS);
        assert!((1001..1007).all(|second| !silence.too_long(at(second))));
        assert!(silence.too_long(at(1007)));
    }

    #[test]
    fn beats_are_heard_once_and_an_end_is_heard_as_one() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (Line::new(one).unwrap(), Line::new(other).unwrap());
        assert_eq!(other.hear(), Heard::Nothing);
        one.beat();
        one.beat();
        assert_eq!(other.hear(), Heard::Beat);
        assert_eq!(other.hear(), Heard::Nothing);
        drop(one);
        assert_eq!(other.hear(), Heard::Closed);
        other.beat();
    }
}
