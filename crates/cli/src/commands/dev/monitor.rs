//! The node under the security monitor, which only observes here: a machine for development stays as it is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use super::{layout::Layout, sibling, up::toml_text};
use crate::{context::write_private, exit::Hinted};

/// Its name among the processes.
pub(super) const NAME: &str = "monitor";

/// The line of the agent's configuration that says where its instances' control groups lie.
pub(super) fn agent_line(layout: &Layout) -> String {
    format!("cgroup = \"{}\"", group_name(layout))
}

/// A command that runs `agent` with `config` under the monitor.
pub(super) fn command(layout: &Layout, agent: &Path) -> anyhow::Result<Command> {
    let program = sibling("casemate-monitor")?;
    if !program.is_file() {
        let message = format!("{} is missing", program.display());
        return Err(Hinted { message, hint: "build it with `cargo build --workspace`".to_owned() }.into());
    }
    let file = layout.state.join("monitor.toml");
    let (state, instances) = (layout.state.join("monitor"), group(layout)?);
    let mut text = format!("mode = \"observe\"\nstate = {}\ninstances = {}\n", toml_text(&state), toml_text(&instances));
    text += &format!("[[files]]\npath = {}\nguard = [\"write\", \"name\", \"keeps\"]\n", toml_text(agent));
    write_private(&file, text.as_bytes())?;
    let mut command = Command::new(program);
    command.args(["run", "--config"]).arg(file).arg("--").arg(agent);
    command.args(["run", "--monitored", "--config"]).arg(layout.agent_config());
    Ok(command)
}

/// Removes the empty control groups that the instances lay in, one in each hierarchy.
pub(super) fn forget(layout: &Layout) {
    for hierarchy in hierarchies(|kind| kind == "cgroup" || kind == "cgroup2").unwrap_or_default() {
        // It may never have been made.
        let _ = fs::remove_dir(hierarchy.join(group_name(layout)));
    }
}

/// Where the monitor expects the instances.
fn group(layout: &Layout) -> anyhow::Result<PathBuf> {
    let missing = || Hinted {
        message: "no cgroup hierarchy of version 2 is mounted".to_owned(),
        hint: "mount one (`mount -t cgroup2 none /sys/fs/cgroup/unified`), or leave --monitor out".to_owned(),
    };
    let unified = hierarchies(|kind| kind == "cgroup2")?.into_iter().next();
    Ok(unified.ok_or_else(missing)?.join(group_name(layout)))
}

/// Where control groups of a kind are mounted.
fn hierarchies(wanted: impl Fn(&str) -> bool) -> anyhow::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let place = |line: &str| {
        let (place, rest) = line.split_once(" - ")?;
        wanted(rest.split(' ').next()?).then(|| place.split(' ').nth(4).map(PathBuf::from))?
    };
    Ok(mounts.lines().filter_map(place).collect())
}

fn group_name(layout: &Layout) -> String {
    let digest = Sha256::digest(layout.state.as_os_str().as_encoded_bytes());
    format!("casemate-dev-{}", hex::encode(&digest[..4]))
}
