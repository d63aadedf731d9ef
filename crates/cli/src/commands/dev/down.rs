//! `casemate dev down`.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    layout::Layout,
    monitor,
    process::{self, Process},
    servers::SERVERS,
};
use crate::{
    client::Client,
    context::{self, ContextFile},
    printer::Printer,
};

/// Longest wait until all instances are wiped.
const WIPE_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for a service to end.
const END_LIMIT: Duration = Duration::from_secs(15);

/// In the order in which they are ended.
pub(super) const PROCESSES: [&str; 9] =
    ["agent", monitor::NAME, SERVERS[0], SERVERS[1], SERVERS[2], SERVERS[3], SERVERS[4], "postgres", "tpm"];

/// Stops instances, then agent, server and TPM. What the agent did not wipe, because it was dead or there was no platform to tell
/// it to, is wiped by an agent that is started for nothing else. Calling it twice is fine.
pub(super) async fn run(layout: &Layout, printer: &Printer) -> anyhow::Result<()> {
    if SERVERS.iter().any(|server| Process::find(layout, server).is_some()) && Process::find(layout, "agent").is_some() {
        match tokio::time::timeout(WIPE_LIMIT, stop_instances(layout, printer)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => printer.failed("instances", &format!("{error:#}")),
            Err(_) => printer.failed("instances", "not all of them were wiped in time"),
        }
    }
    let mut drained = Ok(());
    for name in PROCESSES {
        if name == "agent" && Process::find(layout, monitor::NAME).is_some() {
            leave(layout).await?;
        }
        if let Some(process) = Process::find(layout, name) {
            process.end(END_LIMIT).await.with_context(|| format!("end {name}"))?;
            printer.done("ended", name);
        }
        let _ = fs::remove_file(layout.pid_file(name));
        if name == "agent" {
            drained = drain(layout, printer).await;
        }
    }
    // Machines that still run have their memory in the folders below.
    drained?;
    monitor::forget(layout);
    remove_run_folder(layout)?;
    forget_default_context(layout)
}

/// Ends the agent and its monitor in order: a signal of ours would be a violation. What does not end by this is ended otherwise.
async fn leave(layout: &Layout) -> anyhow::Result<()> {
    let mut command = Command::new(super::sibling("casemate-agent")?);
    command.args(["leave", "--config"]).arg(layout.agent_config()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut asking = command.spawn().context("ask the agent to end")?;
    let deadline = Instant::now() + WIPE_LIMIT;
    let runs = |name| Process::find(layout, name).is_some();
    while (runs("agent") || runs(monitor::NAME)) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let _ = asking.kill();
    asking.wait().context("wait for who asked the agent to end").map(drop)
}

async fn stop_instances(layout: &Layout, printer: &Printer) -> anyhow::Result<()> {
    let text = fs::read_to_string(layout.context()).context("read the context")?;
    let client = Client::new(&serde_json::from_str::<ContextFile>(&text)?)?;
    loop {
        let live: Vec<_> =
            client.instances().await?.instances.into_iter().filter(|i| !matches!(i.step.as_str(), "wiped" | "gone")).collect();
        if live.is_empty() {
            return Ok(());
        }
        for instance in live {
            if instance.intent == "run" {
                printer.note("stopping", &instance.id);
                client.stop(&instance.id).await?;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Lets an agent end and wipe what is left of machines; their receipts are sent at the next `up`.
async fn drain(layout: &Layout, printer: &Printer) -> anyhow::Result<()> {
    let count = remains(layout).len();
    if count == 0 {
        return Ok(());
    }
    printer.note("wiping", &format!("{count} machine(s) left by an agent that does not run; starting one that wipes them"));
    let mut command = Command::new(super::sibling("casemate-agent")?);
    command.args(["drain", "--config"]).arg(layout.agent_config());
    let process = Process::spawn(layout, "agent", command)?;
    let deadline = Instant::now() + WIPE_LIMIT;
    while process.runs() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    process.end(END_LIMIT).await.context("end the wiping agent")?;
    let _ = fs::remove_file(layout.pid_file("agent"));
    let left = remains(layout);
    let log = layout.logs().join("agent.log");
    anyhow::ensure!(left.is_empty(), "not wiped: {left:?}; the agent says: {}", process::last_lines(&log));
    printer.done("wiped", &format!("{count} machine(s); the receipts are sent at the next `casemate dev up`"));
    Ok(())
}

/// The instances of which the agent's driver still has anything.
fn remains(layout: &Layout) -> BTreeSet<String> {
    let (state, run) = (layout.agent_data().join("machines"), layout.agent_run());
    [state.join("instances"), run.join("instances"), run.join("ram")]
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect()
}

/// The agent's tmpfs of guest memory is below it; the agent unmounts it when nothing is left in it.
fn remove_run_folder(layout: &Layout) -> anyhow::Result<()> {
    let below = format!("{}/", layout.run.display());
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let mut points: Vec<&str> =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.starts_with(&below)).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.len()));
    for point in points {
        rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).with_context(|| format!("unmount {point}"))?;
    }
    match fs::remove_dir_all(&layout.run) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", layout.run.display()))
        }
        _ => Ok(()),
    }
}

/// Removes the default context if `up` made it for this platform.
fn forget_default_context(layout: &Layout) -> anyhow::Result<()> {
    let path = context::default_path()?;
    let ours = fs::read_to_string(&path)
        .ok()
        .and_then(|text| serde_json::from_str::<ContextFile>(&text).ok())
        .is_some_and(|context| context.dev_state.as_ref() == Some(&layout.state));
    if ours {
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}
