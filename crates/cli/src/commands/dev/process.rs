//! Processes that outlive this command: started in the background, found again by pid and start time.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal};

use super::layout::Layout;

/// A running process, identified beyond the reuse of its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    start_time: u64,
}

impl Process {
    /// Starts `command` in the background; its output goes to `logs/<name>.log`.
    pub(super) fn spawn(layout: &Layout, name: &'static str, mut command: Command) -> anyhow::Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let path = layout.logs().join(format!("{name}.log"));
        let log =
            fs::File::options().create(true).append(true).open(&path).with_context(|| format!("open {}", path.display()))?;
        // A process group of its own: Ctrl-C at this terminal is not meant for it.
        command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
        let pid = i32::try_from(child.id()).context("a process number is positive")?;
        let start_time = start_time(pid).with_context(|| format!("{name} ended at once; see {}", path.display()))?;
        let process = Self { pid, start_time };
        fs::write(layout.pid_file(name), format!("{pid} {start_time}\n"))?;
        Ok(process)
    }

    /// Remembers a process that another one started.
    pub(super) fn note(layout: &Layout, name: &str, pid: i32) -> anyhow::Result<()> {
        let start_time = start_time(pid).with_context(|| format!("{name} ended at once"))?;
        fs::write(layout.pid_file(name), format!("{pid} {start_time}\n")).with_context(|| format!("remember {name}"))
    }

    /// The process of that name, if it still runs.
    pub(super) fn find(layout: &Layout, name: &str) -> Option<Self> {
        let text = fs::read_to_string(layout.pid_file(name)).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let process = Self { pid: pid.parse().ok()?, start_time: started.parse().ok()? };
        process.runs().then_some(process)
    }

    pub(super) fn runs(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// Asks it to end; after `limit` it is killed.
    pub(super) async fn end(&self, limit: Duration) -> anyhow::Result<()> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        let deadline = Instant::now() + limit;
        if self.runs() {
            rustix::process::kill_process(pid, Signal::TERM).context("end a process")?;
        }
        while self.runs() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if self.runs() {
            rustix::process::kill_process(pid, Signal::KILL).context("kill a process")?;
        }
        while self.runs() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// Waits until `ready` gives something; ends early when the process ended.
pub(super) async fn wait_for<T>(
    layout: &Layout,
    name: &str,
    process: &Process,
    limit: Duration,
    mut ready: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = ready() {
            return Ok(value);
        }
        let log = layout.logs().join(format!("{name}.log"));
        anyhow::ensure!(process.runs(), "{name} ended: {}", last_lines(&log));
        anyhow::ensure!(Instant::now() < deadline, "{name} was not ready within {} s: {}", limit.as_secs(), last_lines(&log));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// Field 22 of /proc/PID/stat: clock ticks after boot at which it started; `None` for a zombie.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything; the fields begin after its last ')'.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields.first()? == &"Z" { None } else { fields.get(19)?.parse().ok() }
}
