//! The guard: starts the worker, and ends the instances when the worker is gone.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::{config::Config, spool::Spool};

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
    let mut worker = Command::new(own_path()?);
    worker.arg("worker").arg("--config").arg(config_path);
    if !agent.is_empty() {
        worker.arg("--").args(agent);
    }
    let mut worker = worker.spawn().context("start the worker")?;
    let ended = worker.wait().context("wait for the worker")?;
    if ended.success() {
        return Ok(());
    }
    let killed = switch.pull();
    record(&config, ended, &killed)?;
    killed.context("end the instances")?;
    bail!("the worker ended with {ended}: the instances are ended, and the programs go on denying until the next boot");
}

fn record(config: &Config, ended: ExitStatus, killed: &io::Result<()>) -> Result<()> {
    let mut spool = Spool::open(&config.spool())?;
    let outcome = killed.as_ref().map_or_else(ToString::to_string, |()| "done".to_owned());
    spool.append(json!({"kind": "monitor_ended", "how": ended.to_string(), "kill": outcome}))?;
    Ok(())
}

/// This program, as it was started.
pub fn own_path() -> Result<PathBuf> {
    std::env::current_exe().context("find the monitor's own program")
}
