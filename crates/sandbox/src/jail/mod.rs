//! The jail: a helper process that closes itself in and then becomes a VMM or vTPM process.
//!
//! ```text
//! agent                                   helper (one thread)
//!   | spawn, stdin = socket pair            | waits
//!   | moves it into the instance's cgroups  |
//!   | specification + open descriptors ---> | own mount, net, ipc, uts, cgroup (and pid) namespaces
//!   |                                       | almost empty read-only root, limits
//!   | <--- failed: why -------------------- | fork; both drop user id, groups, capabilities
//!   | <--- what Landlock holds ------------ | child: Landlock's rules, system call filter
//!   | <--- end of connection -------------- | child: exec          parent: bounded log, exit status
//! ```
//!
//! The helper does nothing before it has read a whole specification, and the agent sends that only once the helper is in its
//! cgroup: when the agent dies in between, the helper ends by itself; later, whatever it started is found in the cgroup.
//!
//! Nothing secret is in arguments or environment, and a crash leaves no core: the limit 1 makes the kernel skip files
//! and pipes alike, and the core filter excludes every mapping.

mod filter;
mod landlock;
mod launch;
mod privileges;
pub(crate) mod root;
mod spec;
mod supervise;

pub(crate) use launch::{Heard, Helper, LaunchError, launch};
pub(crate) use spec::{Access, CONSOLE_FD, Ended, FIRST_FD, Failed, JailMount, JailSpec, Mode};
pub(crate) use supervise::{LOG_LIMIT, append};

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, ExitCode},
};

use rustix::{
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags},
    process::{Resource, Rlimit},
    thread::{CpuSet, UnshareFlags},
};

use crate::sys::{self, Fork};
use spec::{DESCRIPTOR_LIMIT, SPEC_LIMIT, Said};

/// Entry point of the jail helper. Must be called before the process has a second thread; its specification comes by standard
/// input from the driver. The only argument that there is, `container`, makes it the keeper of a container.
pub fn main(args: Vec<OsString>) -> ExitCode {
    if args == [CONTAINER] {
        return crate::oci::keeper();
    }
    if !args.is_empty() {
        eprintln!("jail: takes no such arguments; the driver talks to it by standard input");
        return ExitCode::FAILURE;
    }
    let mut control = match open_control() {
        Ok(control) => Some(control),
        Err(failure) => return failure.complain(),
    };
    enter(&mut control).unwrap_or_else(|failure| {
        let code = failure.complain();
        if let Some(control) = &control {
            report(control, &Said::Failed(Failed { attempt: failure.attempt, detail: failure.source.to_string() }));
        }
        code
    })
}

/// What the helper could not do.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) attempt: String,
    pub(crate) source: io::Error,
}

impl Failure {
    pub(crate) fn complain(&self) -> ExitCode {
        eprintln!("jail: {}: {}", self.attempt, self.source);
        ExitCode::FAILURE
    }
}

/// Names what was attempted.
pub(crate) trait Attempt<T> {
    fn attempt(self, what: impl Into<String>) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl Into<String>) -> Result<T, Failure> {
        self.map_err(|error| Failure { attempt: what.into(), source: error.into() })
    }
}

pub(crate) fn open_control() -> Result<OwnedFd, Failure> {
    sys::close_from(3).attempt("close descriptors")?;
    // Out of the way of the numbers that descriptors get later.
    rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), HIGH_FD).attempt("keep the control socket")
}

fn enter(control: &mut Option<OwnedFd>) -> Result<ExitCode, Failure> {
    let (spec, descriptors): (JailSpec, _) = receive(control.as_ref().ok_or_else(missing).attempt("find the control socket")?)?;
    let null = File::options().read(true).write(true).open("/dev/null").attempt("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).attempt("replace standard input")?;
    rustix::process::setsid().attempt("start a session")?;
    fs::write("/proc/self/coredump_filter", "0").attempt("exclude memory from core dumps")?;
    sys::unshare(namespaces(spec.mode)).attempt("unshare namespaces")?;
    root::enter(&spec)?;
    limit(&spec)?;
    match spec.mode {
        Mode::Become => become_program(&spec, descriptors, control.as_ref()),
        Mode::Supervise => fork_program(&spec, descriptors, &null, control),
    }
}

fn namespaces(mode: Mode) -> UnshareFlags {
    let common =
        UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWCGROUP;
    match mode {
        // A PID namespace begins with a child; without /proc and with a user id of its own, the program sees nobody anyway.
        Mode::Become => common,
        Mode::Supervise => common | UnshareFlags::NEWPID,
    }
}

fn limit(spec: &JailSpec) -> Result<(), Failure> {
    lower(Resource::Core, 1)?;
    lower(Resource::Nofile, 1024)?;
    lower(Resource::Fsize, spec.file_size_limit)?;
    stay_on(&spec.cpus)
}

/// Processors of the host. What is executed later inherits them; that it does not ask for others is for its own filter to see to (QEMU
/// refuses itself that), and for the look from outside.
fn stay_on(cpus: &[u32]) -> Result<(), Failure> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    for cpu in cpus {
        let number = usize::try_from(*cpu).ok().filter(|number| *number < CpuSet::MAX_CPU);
        set.set(number.ok_or(io::ErrorKind::InvalidInput).attempt(format!("choose processor {cpu}"))?);
    }
    rustix::thread::sched_setaffinity(None, &set).attempt(format!("stay on processors {cpus:?}"))
}

pub(crate) fn lower(resource: Resource, value: u64) -> Result<(), Failure> {
    let value = rustix::process::getrlimit(resource).maximum.map_or(value, |most| most.min(value));
    let limit = Rlimit { current: Some(value), maximum: Some(value) };
    rustix::process::setrlimit(resource, limit).attempt(format!("set limit {resource:?} to {value}"))
}

/// Never returns on success.
fn become_program(spec: &JailSpec, descriptors: Vec<OwnedFd>, control: Option<&OwnedFd>) -> Result<ExitCode, Failure> {
    let mut descriptors = descriptors.into_iter();
    let log = descriptors.next().ok_or_else(missing).attempt("take the log")?;
    privileges::drop_all(spec)?;
    Err(execute(spec, control, log.as_fd(), None, descriptors.collect()))
}

/// Returns in the parent when the program has ended; never in the child, except with a failure.
fn fork_program(
    spec: &JailSpec,
    descriptors: Vec<OwnedFd>,
    null: &File,
    control: &mut Option<OwnedFd>,
) -> Result<ExitCode, Failure> {
    let mut descriptors = descriptors.into_iter();
    let log = descriptors.next().ok_or_else(missing).attempt("take the log")?;
    let ended = descriptors.next().ok_or_else(missing).attempt("take the file for the exit status")?;
    let (output, input) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).attempt("make the console pipe")?;
    match sys::fork().attempt("fork")? {
        Fork::Child => {
            privileges::drop_all(spec)?;
            let console = sys::duplicate_above(&input, HIGH_FD).attempt("keep the console")?;
            Err(execute(spec, control.as_ref(), input.as_fd(), Some(console), descriptors.collect()))
        }
        Fork::Parent(pid) => {
            // The connection ends when the child executes its program, so it must be the child's alone.
            drop((control.take(), input, descriptors));
            rustix::stdio::dup2_stderr(null).attempt("let go of standard error")?;
            privileges::drop_all(spec)?;
            supervise::supervise(pid, File::from(output), File::from(log), File::from(ended))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

pub(crate) fn missing() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "the specification came without it")
}

/// Puts descriptors where the program expects them and becomes the program.
fn execute(
    spec: &JailSpec,
    control: Option<&OwnedFd>,
    output: std::os::fd::BorrowedFd<'_>,
    console: Option<OwnedFd>,
    descriptors: Vec<OwnedFd>,
) -> Failure {
    let place = || -> Result<(), Failure> {
        rustix::stdio::dup2_stdout(output).attempt("replace standard output")?;
        rustix::stdio::dup2_stderr(output).attempt("replace standard error")?;
        for (number, descriptor) in (FIRST_FD..).zip(descriptors) {
            sys::place(descriptor, number).attempt("place a descriptor")?;
        }
        if let Some(console) = console {
            sys::place(console, CONSOLE_FD).attempt("place the console")?;
        }
        let landlock = landlock::apply(spec)?;
        filter::apply()?;
        if let Some(control) = control {
            report(control, &Said::Restricted { landlock });
        }
        Ok(())
    };
    if let Err(failure) = place() {
        return failure;
    }
    let source = Command::new(&spec.program).args(&spec.args).env_clear().exec();
    Failure { attempt: format!("execute {}", spec.program.display()), source }
}

/// The specification and the descriptors that came with it.
pub(crate) fn receive<S: serde::de::DeserializeOwned>(control: &OwnedFd) -> Result<(S, Vec<OwnedFd>), Failure> {
    let mut bytes = vec![0_u8; SPEC_LIMIT];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTOR_LIMIT))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let packet = rustix::net::recvmsg(control, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .attempt("receive the specification")?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            for descriptor in rights {
                descriptors.push(sys::duplicate_above(&descriptor, HIGH_FD).attempt("move a descriptor")?);
            }
        }
    }
    let spec = serde_json::from_slice(&bytes[..packet.bytes]).attempt("read the specification")?;
    Ok((spec, descriptors))
}

/// Waits for a word of the agent's; its end is an error.
pub(crate) fn hear(control: &OwnedFd) -> io::Result<()> {
    let mut word = [0; 16];
    match rustix::net::recv(control, word.as_mut_slice(), RecvFlags::empty())?.1 {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// Best effort: an agent that went away is told nothing.
pub(crate) fn report(control: &OwnedFd, report: &impl serde::Serialize) {
    let bytes = serde_json::to_vec(report).expect("a report has only texts");
    let mut none = SendAncillaryBuffer::default();
    let _ = rustix::net::sendmsg(control, &[IoSlice::new(&bytes)], &mut none, SendFlags::NOSIGNAL);
}

/// Makes the helper the keeper of a container.
pub(crate) const CONTAINER: &str = "container";

/// Descriptors are moved to this number or higher before they get their final ones.
const HIGH_FD: i32 = 200;
