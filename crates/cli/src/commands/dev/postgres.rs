//! A PostgreSQL for development: Debian's programs, data below the state folder, a socket in the run folder and no port.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;

use super::{
    layout::Layout,
    process::{self, Process},
};
use crate::exit::Hinted;

/// Longest wait for it to take connections, also after a crash.
const LIMIT: Duration = Duration::from_secs(60);
/// Role and database.
const NAME: &str = "casemate";

/// Starts it, and makes the database where there is none. The answer is the `url` for servers.
pub(super) async fn start(layout: &Layout) -> anyhow::Result<String> {
    let data = layout.postgres_data();
    if !data.exists() {
        let fresh = data.with_extension("new");
        // What an interrupted start left.
        let _ = fs::remove_dir_all(&fresh);
        let mut command = unprivileged(&program("initdb")?);
        // Only root comes near the socket.
        command.arg("-D").arg(&fresh).args(["-U", NAME, "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8"]);
        done(command).context("make the database's folder")?;
        fs::rename(&fresh, &data).with_context(|| format!("rename {}", fresh.display()))?;
    }
    let mut command = unprivileged(&program("postgres")?);
    command.arg("-D").arg(&data).arg("-k").arg(&layout.run).args(["-c", "listen_addresses="]);
    let process = Process::spawn(layout, "postgres", command)?;
    let (run, ready) = (layout.run.clone(), program("pg_isready")?);
    let is_ready = || done(at(&ready, &run)).ok();
    process::wait_for(layout, "postgres", &process, LIMIT, is_ready).await?;
    let psql = program("psql")?;
    let ask = |sql: &str| {
        let mut command = at(&psql, &layout.run);
        command.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", sql]);
        done(command)
    };
    if ask(&format!("SELECT 1 FROM pg_database WHERE datname = '{NAME}'"))?.trim().is_empty() {
        ask(&format!("CREATE DATABASE {NAME}")).context("make the database")?;
    }
    let socket = layout.run.to_string_lossy().replace('/', "%2F");
    Ok(format!("postgres://{NAME}@{socket}/{NAME}"))
}

/// PostgreSQL refuses to be root. In a user namespace it is somebody else, who has no rights outside and still owns its folder.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user=65534", "--map-group=65534"]).arg(program);
    command
}

fn at(program: &Path, socket: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["-U", NAME, "-h"]).arg(socket);
    command
}

fn done(mut command: Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("run {}", command.get_program().display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{} failed: {}", command.get_program().display(), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Debian keeps the programs of each version in a folder of its own.
fn program(name: &str) -> anyhow::Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|entry| entry.path().join("bin").join(name)).filter(|path| path.is_file()).max();
    let missing = || Hinted {
        message: format!("PostgreSQL's {name} is not installed"),
        hint: "install the package `postgresql` (`make setup` does)".into(),
    };
    Ok(found.ok_or_else(missing)?)
}
