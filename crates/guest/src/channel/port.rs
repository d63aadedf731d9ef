//! The virtio-serial port.
//!
//! Its ways: it opens once; a read gives 0 while no host is connected, which is no end of anything; hang-up is a level
//! that comes and goes with the host, but the runtime keeps "closed" for ever once it saw it. So each session registers
//! the descriptor anew, and between sessions a bounded poll waits for the host.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::OpenOptionsExt as _,
    },
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use casemate_api::guest::PORT;
use futures::{AsyncRead, AsyncWrite};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, read, write},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{Sleep, sleep},
};

use crate::sys;

use super::{
    frames::Boundary,
    preamble::{Preamble, Scanner},
};

/// The port, between and during sessions.
pub(crate) struct Port {
    file: File,
    scanner: Scanner,
    // Input that came after a preamble, or that no longer belonged to a session.
    pending: Vec<u8>,
}

impl Port {
    /// Of a machine: finds it by its name and opens it.
    pub(crate) fn of_machine() -> io::Result<Self> {
        for entry in fs::read_dir("/sys/class/virtio-ports")? {
            let entry = entry?;
            if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim_end() == PORT) {
                let node = std::path::Path::new("/dev").join(entry.file_name());
                let mut options = OpenOptions::new();
                let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open(node)?;
                return Ok(Self { file, scanner: Scanner::default(), pending: Vec::new() });
            }
        }
        Err(io::Error::other(format!("no virtio port is named {PORT}")))
    }

    /// Of a container: a connected socket, whose other end stays open while the host comes and goes.
    pub(crate) fn of_socket(file: File) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&file, true)?;
        Ok(Self { file, scanner: Scanner::default(), pending: Vec::new() })
    }

    /// Waits for a host and its preamble. Dropping the future loses nothing.
    pub(crate) async fn next_preamble(&mut self) -> io::Result<Preamble> {
        let mut buffer = vec![0; READ];
        loop {
            let input = std::mem::take(&mut self.pending);
            if let Some((preamble, rest)) = self.scanner.feed(&input) {
                self.pending = rest;
                return Ok(preamble);
            }
            // No await between the read and keeping what was read.
            match read(&self.file, &mut buffer) {
                Ok(0) => self.scanner.reset(),
                Ok(count) => {
                    self.pending = buffer[..count].to_vec();
                    continue;
                }
                Err(Errno::AGAIN) if self.is_connected()? => {
                    self.readable().await?;
                    continue;
                }
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
            sleep(NO_HOST).await;
        }
    }

    /// Answers the preamble; what follows is the session.
    pub(crate) async fn begin(&mut self, preamble: &Preamble) -> io::Result<SessionIo<'_>> {
        let fd = sys::watch(self.file.as_fd(), Interest::READABLE | Interest::WRITABLE)?;
        let pending = &mut self.pending;
        let mut io = SessionIo { fd, pending, boundary: Boundary::default(), stall: None, over: false };
        futures::AsyncWriteExt::write_all(&mut io, preamble).await?;
        Ok(io)
    }

    fn is_connected(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.file, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(!fds[0].revents().contains(PollFlags::HUP))
    }

    async fn readable(&self) -> io::Result<()> {
        let fd = sys::watch(self.file.as_fd(), Interest::READABLE)?;
        fd.readable().await.map(drop)
    }
}

/// The bytes of one session: ends where the host goes away or something other than the session follows.
pub(crate) struct SessionIo<'a> {
    fd: AsyncFd<BorrowedFd<'a>>,
    pending: &'a mut Vec<u8>,
    boundary: Boundary,
    // Runs while the host is silent in the middle of a frame.
    stall: Option<Pin<Box<Sleep>>>,
    over: bool,
}

impl SessionIo<'_> {
    /// Passes on what belongs to the session and keeps the rest for the next preamble.
    fn accept(&mut self, buffer: &[u8]) -> usize {
        self.stall = None;
        let own = self.boundary.own(buffer);
        if own < buffer.len() {
            self.over = true;
            self.pending.splice(..0, buffer[own..].iter().copied());
        }
        own
    }

    fn take_pending(&mut self, buffer: &mut [u8]) -> usize {
        let count = self.pending.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(self.pending.drain(..count)) {
            *to = from;
        }
        self.accept(&buffer[..count])
    }

    fn poll_stall(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.boundary.inside() {
            return Poll::Pending;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(STALL)));
        stall.as_mut().poll(cx)
    }
}

impl AsyncRead for SessionIo<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            if this.over {
                return Poll::Ready(Ok(0));
            }
            if !this.pending.is_empty() {
                return Poll::Ready(Ok(this.take_pending(buffer)));
            }
            let Poll::Ready(guard) = this.fd.poll_read_ready(cx) else {
                ready!(this.poll_stall(cx));
                this.over = true;
                continue;
            };
            let mut guard = guard?;
            match read(guard.get_inner(), &mut *buffer) {
                Ok(0) => this.over = true,
                Ok(count) => return Poll::Ready(Ok(this.accept(&buffer[..count]))),
                // The host was gone in between, even if it is back already.
                Err(Errno::AGAIN) if guard.ready().is_read_closed() => this.over = true,
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl AsyncWrite for SessionIo<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            match write(guard.get_inner(), bytes) {
                Err(Errno::AGAIN) if guard.ready().is_write_closed() => {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                result => return Poll::Ready(result.map_err(io::Error::from)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const READ: usize = 4096;
/// How often a port without a host is looked at.
const NO_HOST: Duration = Duration::from_millis(20);
/// How long a host may pause in the middle of a frame.
const STALL: Duration = Duration::from_secs(5);
