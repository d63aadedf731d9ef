//! The driver's side of the helper.

use std::{
    ffi::OsString,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    process::Stdio,
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sockopt,
};

use super::spec::{DESCRIPTOR_LIMIT, JailSpec, Report, SPEC_LIMIT};

/// Why a program was not started in a jail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("start the jail helper {program:?}")]
    Spawn {
        program: OsString,
        #[source]
        source: io::Error,
    },
    #[error("talk to the jail helper")]
    Talk(#[source] io::Error),
    #[error("the jail helper could not {attempt}: {detail}")]
    Failed { attempt: String, detail: String },
}

/// Starts `spec` by the helper `command`; `join` moves the helper, given by its id, into its cgroups. Returns the id of the
/// process that was made, once it has executed its program. Must be called within a runtime, which reaps the helper.
pub(crate) fn launch(
    command: &[OsString],
    spec: &JailSpec,
    descriptors: &[BorrowedFd<'_>],
    join: impl FnOnce(u32) -> io::Result<()>,
) -> Result<i32, LaunchError> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| LaunchError::Talk(error.into()))?;
    let helper = spawn(command, theirs)?;
    join(helper).map_err(LaunchError::Talk)?;
    send(&ours, spec, descriptors).map_err(LaunchError::Talk)?;
    answer(&ours, helper)
}

fn spawn(command: &[OsString], control: OwnedFd) -> Result<u32, LaunchError> {
    let program = command.first().cloned().unwrap_or_default();
    let spawned = tokio::process::Command::new(&program)
        .args(command.iter().skip(1))
        .env_clear()
        .stdin(Stdio::from(control))
        .stdout(Stdio::null())
        .kill_on_drop(false)
        .spawn();
    // Dropping the child leaves its reaping to the runtime; its life is watched by other means, as after a restart.
    let id = spawned.map(|child| child.id());
    match id {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(LaunchError::Spawn { program, source: io::Error::other("it ended at once") }),
        Err(source) => Err(LaunchError::Spawn { program, source }),
    }
}

fn send(control: &OwnedFd, spec: &JailSpec, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
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

fn answer(control: &OwnedFd, helper: u32) -> Result<i32, LaunchError> {
    sockopt::set_socket_timeout(control, sockopt::Timeout::Recv, Some(ANSWER_LIMIT))
        .map_err(|error| LaunchError::Talk(error.into()))?;
    let mut pid = i32::try_from(helper).map_err(|_| LaunchError::Talk(io::ErrorKind::InvalidData.into()))?;
    let mut buffer = vec![0_u8; REPORT_LIMIT];
    loop {
        let (_, count) = rustix::net::recv(control, buffer.as_mut_slice(), RecvFlags::empty())
            .map_err(|error| LaunchError::Talk(error.into()))?;
        if count == 0 {
            return Ok(pid);
        }
        let bytes = buffer.get(..count).unwrap_or_default();
        match serde_json::from_slice(bytes).map_err(|error| LaunchError::Talk(error.into()))? {
            Report::Forked { pid: child } => pid = child,
            Report::Failed { attempt, detail } => return Err(LaunchError::Failed { attempt, detail }),
        }
    }
}

/// From the specification to the program's execution; it takes milliseconds on an idle machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Most bytes of one report.
const REPORT_LIMIT: usize = 4096;
