//! The platform's servers: one with a database of its own, or several replicas on one PostgreSQL.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::Value;

use super::{
    layout::Layout,
    process::{self, Process},
    up::toml_text,
};
use crate::context::write_private;

/// Names of the servers, in order; more are not started here.
pub(super) const SERVERS: [&str; 5] = ["server", "server-2", "server-3", "server-4", "server-5"];
/// Longest wait for a server to listen.
const LIMIT: Duration = Duration::from_secs(30);

/// What all servers are told.
pub(super) struct Told<'a> {
    pub(super) program: &'a Path,
    pub(super) vendor_root: &'a Path,
    pub(super) reference_key: &'a str,
    /// Lines of the one who starts them.
    pub(super) extra: &'a [String],
    /// The database that they share, where there is one.
    pub(super) store: Option<&'a str>,
}

/// Where they listen, and what is pinned for them.
pub(super) struct Listening {
    pub(super) rest: Vec<String>,
    pub(super) node: Vec<String>,
    pub(super) ca: String,
    pub(super) ca_path: PathBuf,
    pub(super) revocation_key: String,
}

/// Starts the first `count` of them.
pub(super) async fn start(layout: &Layout, told: &Told<'_>, count: usize) -> anyhow::Result<Listening> {
    let public = layout.shared(told.store.is_some()).join("public");
    let (mut rest, mut node) = (Vec::new(), Vec::new());
    for name in &SERVERS[..count] {
        let run = start_one(layout, told, name).await?;
        let field = |name: &str| run[name].as_str().map(str::to_owned).with_context(|| format!("run.json has no {name}"));
        rest.push(field("rest")?);
        node.push(field("node")?);
    }
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("read {}", path.display()));
    let ca_path = public.join("ca.pem");
    let revocation_key = read(&public.join("revocation-key"))?;
    Ok(Listening { rest, node, ca: read(&ca_path)?, ca_path, revocation_key })
}

async fn start_one(layout: &Layout, told: &Told<'_>, name: &'static str) -> anyhow::Result<Value> {
    let data = layout.server_data(name);
    let mut config = String::new();
    writeln!(config, "data_dir = {}", toml_text(&data))?;
    writeln!(config, "rest_addr = \"127.0.0.1:0\"\nnode_addr = \"127.0.0.1:0\"\nnames = [\"localhost\", \"127.0.0.1\"]")?;
    writeln!(config, "reference_values = {}", toml_text(&layout.reference_values()))?;
    writeln!(config, "reference_key = \"{}\"\nvendor_roots = [{}]", told.reference_key, toml_text(told.vendor_root))?;
    // Nobody revokes anything here; the list that says so is there all the same.
    writeln!(config, "allow_simulated = true\nown_revocation_list = true")?;
    told.extra.iter().try_for_each(|line| writeln!(config, "{line}"))?;
    if let Some(url) = told.store {
        writeln!(config, "shared_dir = {}\n[store]\nurl = {}", toml_text(&layout.shared(true)), Value::from(url))?;
    }
    write_private(&layout.server_config(name), config.as_bytes())?;
    let run_file = data.join("run.json");
    let _ = fs::remove_file(&run_file);
    let mut command = Command::new(told.program);
    command.args(["serve", "--config"]).arg(layout.server_config(name));
    let process = Process::spawn(layout, name, command)?;
    process::wait_for(layout, name, &process, LIMIT, || serde_json::from_slice(&fs::read(&run_file).ok()?).ok()).await
}
