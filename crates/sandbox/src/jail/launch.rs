//! The driver's side of the helper.

use std::{
    ffi::OsString,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt},
};
use serde::Serialize;

use super::spec::{DESCRIPTOR_LIMIT, Failed, JailSpec, SPEC_LIMIT, Said};

/// Why a program was not started in a jail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("start the jail helper {program:?}")]
    Spawn {
        program: OsString,
        #[source]
        source: io::Error,
    },
    #[error("move the jail helper into its cgroup")]
    Join(#[source] io::Error),
    #[error("talk to the jail helper")]
    Talk(#[source] io::Error),
    #[error("the jail helper could not {attempt}: {detail}")]
    Failed { attempt: String, detail: String },
}

/// A helper that was started; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Helper {
    /// `None` only while it is given away or dropped.
    child: Option<Child>,
    control: OwnedFd,
}

impl Helper {
    /// Starts one, which waits for its specification.
    pub(crate) fn spawn(command: &[OsString]) -> Result<Self, LaunchError> {
        let (control, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| LaunchError::Talk(error.into()))?;
        Ok(Self { child: Some(spawn(command, theirs)?), control })
    }

    /// Its process id, by which it is moved into cgroups.
    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Tells it what to do.
    pub(crate) fn order(&self, spec: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> Result<(), LaunchError> {
        send(&self.control, spec, descriptors).map_err(LaunchError::Talk)
    }

    /// A word that it waits for. One that has given up has said why, and that is heard later.
    pub(crate) fn tell(&self, word: &[u8]) {
        let _ = rustix::net::send(&self.control, word, SendFlags::NOSIGNAL);
    }

    /// Waits for its last answer, which is empty when it hung up. `reply` is asked what to say to an answer.
    pub(crate) fn hear(
        mut self,
        limit: Duration,
        mut reply: impl FnMut(&[u8]) -> io::Result<Heard>,
    ) -> Result<(Child, Vec<u8>), LaunchError> {
        loop {
            let answer = answer(&self.control, limit).map_err(LaunchError::Talk)?;
            match reply(&answer).map_err(LaunchError::Talk)? {
                Heard::Question(reply) => self.tell(reply),
                Heard::Word => {}
                Heard::Last => return Ok((self.child.take().expect("only this takes it"), answer)),
            }
        }
    }
}

/// What an answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It waits for this.
    Question(&'static [u8]),
    /// It goes on.
    Word,
    /// Nothing follows that is for us.
    Last,
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A program that was executed.
#[derive(Debug)]
pub(crate) struct Launched {
    /// What was the helper, or stays as the program's parent; the caller reaps it.
    pub(crate) helper: Child,
    /// Version of Landlock by which its rules are in force; 0: the kernel has none.
    pub(crate) landlock: u32,
}

/// Starts `spec` by the helper `command`; `join` moves the helper, given by its id, into its cgroups. Returns once the program has been
/// executed.
pub(crate) fn launch(
    command: &[OsString],
    spec: &JailSpec,
    descriptors: &[BorrowedFd<'_>],
    join: impl FnOnce(u32) -> io::Result<()>,
) -> Result<Launched, LaunchError> {
    let helper = Helper::spawn(command)?;
    join(helper.id()).map_err(LaunchError::Join)?;
    helper.order(spec, descriptors)?;
    let mut closed = None;
    let (mut helper, answer) = helper.hear(ANSWER_LIMIT, |answer| {
        let Ok(Said::Restricted { landlock }) = serde_json::from_slice(answer) else { return Ok(Heard::Last) };
        closed = Some(landlock);
        Ok(Heard::Word)
    })?;
    if let (Some(landlock), true) = (closed, answer.is_empty()) {
        return Ok(Launched { helper, landlock });
    }
    let _ = helper.kill();
    let _ = helper.wait();
    match serde_json::from_slice(&answer) {
        Ok(Said::Failed(Failed { attempt, detail })) => Err(LaunchError::Failed { attempt, detail }),
        Ok(Said::Restricted { .. }) | Err(_) => Err(LaunchError::Talk(io::ErrorKind::UnexpectedEof.into())),
    }
}

fn spawn(command: &[OsString], control: OwnedFd) -> Result<Child, LaunchError> {
    let program = command.first().cloned().unwrap_or_default();
    Command::new(&program)
        .args(command.iter().skip(1))
        .env_clear()
        .stdin(Stdio::from(control))
        .stdout(Stdio::null())
        .spawn()
        .map_err(|source| LaunchError::Spawn { program, source })
}

fn send(control: &OwnedFd, spec: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(spec)?;
    if bytes.len() > SPEC_LIMIT || descriptors.len() > DESCRIPTOR_LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the specification is too large"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTOR_LIMIT))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    rustix::net::sendmsg(control, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn answer(control: &OwnedFd, limit: Duration) -> io::Result<Vec<u8>> {
    sockopt::set_socket_timeout(control, sockopt::Timeout::Recv, Some(limit))?;
    let mut buffer = vec![0_u8; REPORT_LIMIT];
    // With a limit in time the kernel does not go on after a signal by itself.
    let mut receive = || rustix::io::retry_on_intr(|| rustix::net::recv(control, buffer.as_mut_slice(), RecvFlags::empty()));
    // Who ended before he had read all that he was told; what he said himself comes after that.
    let (_, count) = receive().or_else(|error| if error == Errno::CONNRESET { receive() } else { Err(error) })?;
    buffer.truncate(count);
    Ok(buffer)
}

/// From the specification to the program's execution; it takes milliseconds on an idle machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Most bytes of one report.
const REPORT_LIMIT: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::spec::Mode;

    #[test]
    fn a_helper_that_ends_without_a_word_has_started_nothing() {
        let spec = JailSpec {
            program: "/none".into(),
            args: Vec::new(),
            uid: 1,
            groups: Vec::new(),
            root: "/none".into(),
            mounts: Vec::new(),
            file_size_limit: 0,
            mode: Mode::Become,
            cpus: Vec::new(),
        };
        // It hears what it is told, and ends well.
        let command = ["/usr/bin/head", "-c", "1"].map(OsString::from);
        let error = launch(&command, &spec, &[], |_| Ok(())).unwrap_err();
        assert!(matches!(&error, LaunchError::Talk(cause) if cause.kind() == io::ErrorKind::UnexpectedEof), "{error:?}");
    }
}
