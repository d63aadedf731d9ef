//! The keeper of a container: who stands between agent, runtime and container.
//!
//! ```text
//! agent                              helper                         keeper (process 1 of its PID namespace)
//!   | spawn, specification ---------->  | own mounts, almost empty root  |
//!   | go ---------------------------->  |                                |
//!   |                                   | fork, end ------------------>  | in the control groups, in the root
//!   |                                                                    | user namespace of the instance: from here on nobody here has
//!   |                                   |                                | a privilege over the host, the runtime included
//!   | <--- network namespace, go --------------------------------------> | (where the container is to be connected)
//!   | <--- ready, or why not ----------------------------------------    | runtime run --detach
//!   |                                                                    | drops its capabilities; channel, log, exit status
//! ```
//!
//! All mounts are in the keeper's mount namespace, and every process of the instance is below the keeper's PID namespace: when
//! the keeper ends, in whatever way, the kernel ends the container and takes the mounts away.

mod layers;
mod loops;
mod relay;
mod root;
mod trial;
mod users;

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    process::{Command, ExitCode, Stdio},
};

use rustix::{
    mount::MountFlags,
    process::{Gid, Pid, Resource, Uid},
    thread::{CapabilitySet, CapabilitySets, LinkNameSpaceType, UnshareFlags},
};

use super::{
    runtime::LOG,
    spec::{Answer, Connection, ContainerSpec, Order, inside},
};
use crate::{
    jail::{self, Attempt, Failed, Failure},
    sys::{self, Fork},
};

/// Entry point; the process has one thread.
pub(crate) fn main() -> ExitCode {
    let mut control = match jail::open_control() {
        Ok(control) => Some(control),
        Err(failure) => return failure.complain(),
    };
    match enter(&mut control) {
        Ok(code) => code,
        Err(failure) => {
            let code = failure.complain();
            if let Some(control) = &control {
                let failed = Failed { attempt: failure.attempt, detail: failure.source.to_string() };
                jail::report(control, &Answer::Failed(failed));
            }
            code
        }
    }
}

fn enter(control: &mut Option<OwnedFd>) -> Result<ExitCode, Failure> {
    let (order, descriptors): (Order, Vec<OwnedFd>) =
        jail::receive(control.as_ref().ok_or_else(jail::missing).attempt("find the control socket")?)?;
    let null = File::options().read(true).write(true).open("/dev/null").attempt("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).attempt("replace standard input")?;
    rustix::process::setsid().attempt("start a session")?;
    fs::write("/proc/self/coredump_filter", "0").attempt("exclude memory from core dumps")?;
    jail::lower(Resource::Core, 1)?;
    let spec = match order {
        Order::Run(spec) => spec,
        Order::Try(trial) => {
            let mounted = trial::run(&trial)?;
            if let Some(control) = &control {
                jail::report(control, &Answer::Mounts(mounted));
            }
            return Ok(ExitCode::SUCCESS);
        }
    };
    let entrance = spec.group.entrance().attempt("open the instance's control groups")?;
    let users = users::make(spec.first_user)?;
    sys::unshare(UnshareFlags::NEWNS).attempt("unshare the mount namespace")?;
    root::build(&spec, users.as_fd())?;
    jail::hear(control.as_ref().ok_or_else(jail::missing).attempt("find the control socket")?).attempt("wait for the start")?;
    match entrance.fork().attempt("fork into the instance's control groups")? {
        Fork::Parent(_) => {
            // The answer is the keeper's to give.
            drop(control.take());
            Ok(ExitCode::SUCCESS)
        }
        Fork::Child => keep(&spec, descriptors, users, control).map(|()| ExitCode::SUCCESS),
    }
}

fn keep(spec: &ContainerSpec, descriptors: Vec<OwnedFd>, users: OwnedFd, control: &mut Option<OwnedFd>) -> Result<(), Failure> {
    sys::unshare(UnshareFlags::NEWCGROUP).attempt("unshare the cgroup namespace")?;
    root::enter(spec)?;
    let mut descriptors = descriptors.into_iter();
    let mut next = |what: &str| descriptors.next().ok_or_else(jail::missing).attempt(format!("take {what}"));
    let (log, ended, listener) = (next("the log")?, next("the file for the exit status")?, next("the channel's socket")?);
    root::close()?;
    become_user(&users)?;
    drop(users);
    if spec.network == Connection::Link {
        let agent = control.as_ref().ok_or_else(jail::missing).attempt("find the control socket")?;
        jail::report(agent, &Answer::Network);
        jail::hear(agent).attempt("wait for the network")?;
    }
    let (guest, theirs) = UnixStream::pair().attempt("make the channel")?;
    let (output, input) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).attempt("make the console pipe")?;
    // One execution of the runtime in place of two: nothing of ours comes between "create" and "start".
    run(spec, &["run", "--detach", "--bundle", inside::BUNDLE, "--pid-file", PID_FILE, &spec.instance], &theirs, &input)?;
    let init = read_pid()?;
    drop((theirs, input));
    drop_privileges().attempt("drop privileges")?;
    if let Some(control) = control.take() {
        jail::report(&control, &Answer::Ready { init: init.as_raw_nonzero().get() });
    }
    // Whoever reads standard error is gone, or will be.
    let null = File::options().write(true).open("/dev/null").attempt("open /dev/null")?;
    rustix::stdio::dup2_stderr(&null).attempt("let go of standard error")?;
    let console = relay::Console { output: File::from(output), log: File::from(log) };
    relay::serve(init, UnixListener::from(listener), guest, console, File::from(ended))
}

/// Root of the instance's user namespace: all capabilities there, none over the host.
fn become_user(users: &OwnedFd) -> Result<(), Failure> {
    rustix::thread::move_into_link_name_space(users.as_fd(), Some(LinkNameSpaceType::User))
        .attempt("enter the instance's user namespace")?;
    rustix::thread::set_thread_groups(&[]).attempt("set groups")?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).attempt("set the group id")?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).attempt("set the user id")?;
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    sys::unshare(flags).attempt("unshare namespaces of the instance's users")
}

fn run(spec: &ContainerSpec, words: &[&str], channel: &UnixStream, console: &OwnedFd) -> Result<(), Failure> {
    let what = || format!("{} {}", spec.runtime, words.first().copied().unwrap_or_default());
    let status = Command::new(inside::RUNTIME)
        .args(&spec.arguments)
        .args(words)
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(channel.try_clone().attempt(what())?)))
        .stdout(Stdio::from(console.try_clone().attempt(what())?))
        .stderr(Stdio::from(console.try_clone().attempt(what())?))
        .status()
        .attempt(what())?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{status}: {}", last_words()))).attempt(what()) }
}

/// The last message in the runtime's log.
fn last_words() -> String {
    let text = fs::read(LOG).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let message = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["msg"].as_str().map(str::to_owned);
    let last = text.lines().rev().find_map(message).unwrap_or_else(|| "it said nothing".to_owned());
    last.chars().filter(|character| !character.is_control()).take(WORDS_LIMIT).collect()
}

fn read_pid() -> Result<Pid, Failure> {
    let text = fs::read_to_string(PID_FILE).attempt("read the container's process number")?;
    let pid = text.trim().parse::<i32>().ok().filter(|pid| *pid > 1).and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData)).attempt("read the container's process number")
}

/// The relay needs none.
fn drop_privileges() -> io::Result<()> {
    let none = CapabilitySet::empty();
    rustix::thread::set_no_new_privs(true)?;
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

/// Flags of mounts that hold no programs.
const NO_PROGRAMS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

const PID_FILE: &str = "/state/pid";

/// Most characters of a runtime's complaint.
const WORDS_LIMIT: usize = 512;
