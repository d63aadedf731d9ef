//! Network namespaces, and the tools that change them: `ip` and `nft`. All calls block.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    process::{Pid, PidfdFlags, pidfd_open},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde_json::Value;

use super::NetworkError;

/// Longest run of one tool.
const LIMIT: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
/// How much of an answer is read; that of a full node has some MiB.
const MAX_ANSWER: u64 = 64 << 20;
/// How much of an error text is kept.
const MAX_ERROR: usize = 1000;
/// Where network namespaces have names.
const NAMED: &str = "/run/netns";

/// A network namespace. It lives for as long as this does.
#[derive(Debug, Clone)]
pub struct Place(Arc<File>);

impl Place {
    /// That of the calling thread.
    pub fn here() -> Result<Self, NetworkError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// One with a name.
    pub fn named(name: &str) -> Result<Self, NetworkError> {
        Self::open(&Path::new(NAMED).join(name))
    }

    /// That of a process.
    pub(crate) fn of_process(pid: i32) -> Result<Self, NetworkError> {
        Self::open(&PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    fn open(path: &Path) -> Result<Self, NetworkError> {
        let file = File::open(path).map_err(|source| NetworkError::Namespace { path: path.to_owned(), source })?;
        Ok(Self(Arc::new(file)))
    }

    /// How tools find it.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Does `work` in it, on a thread of its own: what that thread opens or starts belongs there.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T, NetworkError> {
        let failed = |source| NetworkError::Namespace { path: self.path().into(), source };
        let inside = || {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        };
        let done = thread::scope(|scope| scope.spawn(inside).join());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(failed)
    }

    /// Runs `ip` with these lines as a batch; nothing is done after the first line that fails.
    pub(super) fn ip(&self, lines: &str) -> Result<(), NetworkError> {
        self.run(Command::new("ip").args(["-batch", "-"]), lines).map(drop)
    }

    /// Asks `ip` for JSON.
    pub(super) fn ask_ip(&self, arguments: &[&str]) -> Result<Value, NetworkError> {
        parsed("ip", &self.run(Command::new("ip").arg("-j").args(arguments), "")?)
    }

    /// Applies a ruleset: all of it, or nothing.
    pub(super) fn nft(&self, ruleset: &str) -> Result<(), NetworkError> {
        self.run(Command::new("nft").args(["-f", "-"]), ruleset).map(drop)
    }

    /// Asks `nft` for JSON.
    pub(super) fn ask_nft(&self, arguments: &[&str]) -> Result<Value, NetworkError> {
        parsed("nft", &self.run(Command::new("nft").args(["-j", "-a"]).args(arguments), "")?)
    }

    /// Sets a kernel parameter of this namespace.
    pub(super) fn set(&self, parameter: &str, value: &str) -> Result<(), NetworkError> {
        let path = Path::new("/proc/sys/net").join(parameter);
        // The kernel shows the parameters of whoever looks.
        self.within(|| fs::write(&path, value)).map_err(|error| match error {
            NetworkError::Namespace { source, .. } => NetworkError::Namespace { path, source },
            other => other,
        })
    }

    /// Input and output are files in memory, so that nothing has to be passed on while the tool runs.
    fn run(&self, command: &mut Command, input: &str) -> Result<Vec<u8>, NetworkError> {
        let program = format!("{command:?}");
        let failed = |detail: String| NetworkError::Tool { program: program.clone(), detail };
        let done = self.within(|| {
            let mut given = memory()?;
            given.write_all(input.as_bytes())?;
            given.rewind()?;
            let (output, errors) = (memory()?, memory()?);
            command.env_clear().env("PATH", PATH).stdin(Stdio::from(given));
            command.stdout(Stdio::from(output.try_clone()?)).stderr(Stdio::from(errors.try_clone()?));
            let status = wait(command)?;
            Ok((status, content(output)?, content(errors)?))
        });
        let (status, output, errors) = match done {
            Err(NetworkError::Namespace { source, .. }) => {
                return Err(failed(format!("{source}; hint: packages iproute2 and nftables have ip and nft")));
            }
            other => other?,
        };
        if status.success() {
            return Ok(output);
        }
        let told: String = String::from_utf8_lossy(&errors).trim().chars().take(MAX_ERROR).collect();
        Err(failed(format!("{status}: {told}")))
    }
}

fn memory() -> io::Result<File> {
    Ok(memfd_create(c"casemate-network", MemfdFlags::CLOEXEC)?.into())
}

fn content(mut file: File) -> io::Result<Vec<u8>> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(MAX_ANSWER).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Runs it to its end, or ends it.
fn wait(command: &mut Command) -> io::Result<ExitStatus> {
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("the kernel gives positive numbers");
    // A child that nobody has waited for keeps its number.
    let ended = pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from).and_then(|handle| {
        loop {
            match poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&LIMIT)) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no end within {} s", LIMIT.tv_sec))),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    });
    if ended.is_err() {
        child.kill().ok();
    }
    let status = child.wait()?;
    ended.map(|()| status)
}

fn parsed(program: &str, answer: &[u8]) -> Result<Value, NetworkError> {
    // Older versions of `ip` say nothing at all where there is nothing.
    if answer.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Array(Vec::new()));
    }
    serde_json::from_slice(answer)
        .map_err(|error| NetworkError::Tool { program: program.into(), detail: format!("its answer is not JSON: {error}") })
}

/// Where the tools are; the caller's environment is not handed on.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
