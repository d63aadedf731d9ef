//! The guard: starts the worker, and ends the instances when the worker is gone or does not answer.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde_json::json;

use crate::{
    config::Config,
    heart::{Heard, LOOKS, Line, Silence, go_first_and_last},
    spool::Spool,
};

/// What ends all instances at once: `cgroup.kill` of the cgroup that they lie in, opened before it is needed.
#[derive(Debug)]
pub struct KillSwitch(File);

impl KillSwitch {
    /// Makes the cgroup where it is missing, and opens its switch.
    pub fn open(instances: &Path) -> Result<Self> {
        std::fs::create_dir_all(instances).with_context(|| format!("make the cgroup {}", instances.display()))?;
        let path = instances.join("cgroup.kill");
        let file = OpenOptions::new().write(true).open(&path).with_context(|| {
            format!("open {} (hint: a cgroup of version 2 is needed, on a kernel from 5.14 on)", path.display())
        })?;
        Ok(Self(file))
    }

    /// Ends every process below it.
    pub fn pull(&self) -> io::Result<()> {
        (&self.0).write_all(b"1")
    }
}

/// Runs the worker to its end. `agent` is the command that the worker starts.
pub fn run(config_path: &Path, agent: &[std::ffi::OsString]) -> Result<()> {
    let config = Config::load(config_path)?;
    let switch = KillSwitch::open(&config.instances)?;
    let (ours, theirs) = UnixStream::pair().context("make the line to the worker")?;
    let mut worker = Command::new(own_path()?);
    worker.arg("worker").arg("--config").arg(config_path).stdin(Stdio::from(OwnedFd::from(theirs)));
    if !agent.is_empty() {
        worker.arg("--").args(agent);
    }
    let mut worker = worker.spawn().context("start the worker")?;
    // Not before: it would be handed on to the agent and its machines.
    go_first_and_last();
    let silent = answer(&worker, Line::new(ours)?, config.watchdog())?;
    let killed = silent.then(|| switch.pull());
    if silent {
        // It may be stopped, not gone: two must not write one record.
        worker.kill().context("end the worker")?;
    }
    let ended = worker.wait().context("wait for the worker")?;
    if ended.success() && !silent {
        return Ok(());
    }
    let killed = killed.unwrap_or_else(|| switch.pull());
    let why = if silent { format!("it did not answer for {:?}", config.watchdog()) } else { ended.to_string() };
    record(&config, &why, ended, &killed)?;
    killed.context("end the instances")?;
    bail!("the worker ended ({why}): the instances are ended, and programs that were pinned go on denying until the next boot");
}

/// Answers the worker's beats until it ends; true if it is there, but silent.
fn answer(worker: &Child, mut line: Line, limit: Duration) -> Result<bool> {
    let number = i32::try_from(worker.id()).ok().and_then(Pid::from_raw).context("the worker has a number")?;
    let worker = pidfd_open(number, PidfdFlags::empty()).context("open the worker's process")?;
    // Until its first beat it guards nobody.
    let mut silence: Option<Silence> = None;
    let look = limit / LOOKS;
    let timeout = Timespec { tv_sec: look.as_secs() as i64, tv_nsec: look.subsec_nanos().into() };
    loop {
        let mut fds = [PollFd::new(&worker, PollFlags::IN), PollFd::new(&line, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for the worker"),
        }
        if !fds[0].revents().is_empty() {
            return Ok(false);
        }
        match line.hear() {
            Heard::Beat => {
                silence = Some(Silence::new(limit, Instant::now()));
                line.beat();
            }
            // Its end follows.
            Heard::Closed => std::thread::sleep(Duration::from_millis(1)),
            Heard::Nothing => {}
        }
        if silence.as_mut().is_some_and(|silence| silence.too_long(Instant::now())) {
            return Ok(true);
        }
    }
}

fn record(config: &Config, why: &str, ended: ExitStatus, killed: &io::Result<()>) -> Result<()> {
    let mut spool = Spool::open(&config.spool(), config.reserve_bytes())?;
    let outcome = killed.as_ref().map_or_else(ToString::to_string, |()| "done".to_owned());
    spool.append(json!({"kind": "monitor_ended", "how": ended.to_string(), "why": why, "kill": outcome}))?;
    Ok(())
}

/// This program, as it was started.
pub fn own_path() -> Result<PathBuf> {
    std::env::current_exe().context("find the monitor's own program")
}
