//! The channel between the host's connections and the container, the bounded console log, and the container's end.
//!
//! One connection at a time, as with a virtio-serial port. What the container says while nobody listens is lost; sessions begin
//! with a preamble that both sides find again.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, WaitOptions, pidfd_open},
};

use crate::jail::{Attempt, Ended, Failure, append};

/// What the container and the runtime print.
pub(super) struct Console {
    pub(super) output: File,
    pub(super) log: File,
}

/// Serves until the container's first process has ended, and writes down how.
pub(super) fn serve(
    init: Pid,
    listener: UnixListener,
    guest: UnixStream,
    console: Console,
    mut ended: File,
) -> Result<(), Failure> {
    // A process of ours that has ended already can still be opened: nobody has waited for it.
    let handle = pidfd_open(init, PidfdFlags::empty()).attempt("watch the container")?;
    rustix::io::ioctl_fionbio(&console.output, true).attempt("read the console without waiting")?;
    listener.set_nonblocking(true).attempt("listen without waiting")?;
    guest.set_nonblocking(true).attempt("talk to the container without waiting")?;
    let mut relay = Relay { listener, guest, host: None, to_guest: Vec::new(), to_host: Vec::new(), console };
    let end = loop {
        if let Some(end) = reap(init) {
            break end;
        }
        relay.wait(&handle).attempt("wait for the container")?;
        relay.pass();
    };
    relay.last_words();
    let text = serde_json::to_vec(&end).expect("an end is a number");
    ended.write_all(&text).attempt("write the exit status")?;
    ended.sync_data().attempt("write the exit status")
}

/// Takes the ends of all processes that have none but us to do it; that of `init` is the answer.
fn reap(init: Pid) -> Option<Ended> {
    let mut found = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == init {
            let code = || status.exit_status().map(Ended::Code);
            found = status.terminating_signal().map(Ended::Signal).or_else(code).or(found);
        }
    }
    found
}

struct Relay {
    listener: UnixListener,
    guest: UnixStream,
    host: Option<UnixStream>,
    to_guest: Vec<u8>,
    to_host: Vec<u8>,
    console: Console,
}

impl Relay {
    /// Until something can be done, or for a while.
    fn wait(&self, init: &impl AsFd) -> io::Result<()> {
        let read = |room: bool| if room { PollFlags::IN } else { PollFlags::empty() };
        let write = |full: bool| if full { PollFlags::OUT } else { PollFlags::empty() };
        let mut watched = vec![PollFd::new(init, PollFlags::IN), PollFd::new(&self.console.output, PollFlags::IN)];
        watched.push(PollFd::new(&self.guest, read(self.to_host.len() < BUFFER) | write(!self.to_guest.is_empty())));
        match &self.host {
            Some(host) => {
                watched.push(PollFd::new(host, read(self.to_guest.len() < BUFFER) | write(!self.to_host.is_empty())));
            }
            // What the last connection left for the container goes before a new one.
            None if self.to_guest.is_empty() => watched.push(PollFd::new(&self.listener, PollFlags::IN)),
            None => {}
        }
        match poll(&mut watched, Some(&ROUND)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn pass(&mut self) {
        self.drain_console();
        if self.host.is_none() && self.to_guest.is_empty() {
            self.host = self.listener.accept().ok().map(|(host, _)| host).filter(|host| host.set_nonblocking(true).is_ok());
        }
        // The container's end of the channel stays open in its first process; without it there is nothing to be passed on.
        let _ = fill(&mut self.guest, &mut self.to_host);
        if let Some(host) = &mut self.host {
            let lives = fill(host, &mut self.to_guest).and_then(|()| drain(host, &mut self.to_host));
            if lives.is_err() {
                self.host = None;
            }
        }
        if self.host.is_none() {
            self.to_host.clear();
        }
        if drain(&mut self.guest, &mut self.to_guest).is_err() {
            self.to_guest.clear();
        }
    }

    /// At most a piece at a time: a container that floods its console must not stop the channel.
    fn drain_console(&mut self) {
        let mut buffer = [0; PIECE];
        if let Ok(count @ 1..) = self.console.output.read(&mut buffer) {
            // A full disk must not stop the container; the log then has a gap.
            let _ = append(&mut self.console.log, &buffer[..count]);
        }
    }

    /// What the container said before its end still goes out.
    fn last_words(&mut self) {
        let mut buffer = [0; PIECE];
        while let Ok(count @ 1..) = self.console.output.read(&mut buffer) {
            let _ = append(&mut self.console.log, &buffer[..count]);
        }
        let begin = Instant::now();
        while begin.elapsed() < LAST_WORDS {
            let more = fill(&mut self.guest, &mut self.to_host);
            let Some(host) = &mut self.host else { return };
            if drain(host, &mut self.to_host).is_err() || (self.to_host.is_empty() && more.is_err()) {
                return;
            }
            if !self.to_host.is_empty() {
                let _ = poll(&mut [PollFd::new(host, PollFlags::OUT)], Some(&ROUND));
            } else if more.is_ok() {
                return;
            }
        }
    }
}

/// Reads what is there, up to a full buffer. An error is an end.
fn fill(from: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut piece = [0; PIECE];
    while buffer.len() < BUFFER {
        match from.read(&mut piece) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => buffer.extend(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes what is taken.
fn drain(to: &mut impl Write, buffer: &mut Vec<u8>) -> io::Result<()> {
    while !buffer.is_empty() {
        match to.write(buffer) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => drop(buffer.drain(..count)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Most bytes that wait in one direction, but for a piece.
const BUFFER: usize = 256 * 1024;

const PIECE: usize = 16 * 1024;

/// Orphans are reaped at least this often.
const ROUND: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// From the container's end to the end of its channel.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_bounded_and_an_end_is_noticed() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut sent = vec![7; 4 * BUFFER];
        drain(&mut theirs, &mut sent).unwrap();
        assert!(!sent.is_empty(), "a socket takes less than this at once");
        let mut seen = Vec::new();
        let mut total = 0;
        while total < 4 * BUFFER {
            fill(&mut ours, &mut seen).unwrap();
            assert!(seen.len() <= BUFFER + PIECE);
            total += seen.len();
            seen.clear();
            drain(&mut theirs, &mut sent).unwrap();
        }
        drop(theirs);
        assert!(fill(&mut ours, &mut seen).is_err());
    }
}
