//! `casemate dev up`.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::Value;

use super::{
    down,
    firmware::{self, Software},
    layout::Layout,
    monitor, postgres,
    process::{self, Process},
    servers::{self, Listening, SERVERS, Told},
    tpm,
};
use crate::{
    args::DevUp,
    context::{self, ContextFile, write_private},
    exit::Hinted,
    printer::Printer,
    resolve,
};

/// Longest wait for the node to be enrolled and connected.
const AGENT_LIMIT: Duration = Duration::from_secs(60);

/// Starts everything, or nothing: what was started is ended again on failure.
pub(super) async fn run(layout: &Layout, printer: &Printer, args: &DevUp) -> anyhow::Result<()> {
    if down::PROCESSES.iter().any(|name| Process::find(layout, name).is_some()) {
        let hint = "`casemate dev status` shows it, `casemate dev down` ends it".to_owned();
        return Err(Hinted { message: "a development platform runs already".into(), hint }.into());
    }
    let started = start(layout, printer, args).await;
    if started.is_err() {
        down::run(layout, printer).await.context("clean up after a failed start")?;
    }
    started
}

async fn start(layout: &Layout, printer: &Printer, args: &DevUp) -> anyhow::Result<()> {
    layout.create()?;
    let parts = Parts::find(args)?;
    let vendor_root = tpm::manufacture(layout)?;
    tpm::power_on(layout).await?;
    let software = Software::measure(&parts.agent, &parts.vmm, &parts.runtimes)?;
    firmware::boot(layout, &software)?;
    printer.done("tpm", "software TPM with a simulated vendor root; agent, QEMU and OCI runtimes are measured");
    let reference_key = sign_references(layout, &parts.reference_values, &software)?;
    let root_path = layout.state.join("vendor-root.pem");
    write_private(&root_path, vendor_root.as_bytes())?;
    let count = usize::from(args.replicas).min(SERVERS.len());
    let store = if args.postgres || count > 1 { Some(postgres::start(layout).await?) } else { None };
    if store.is_some() {
        printer.done("database", &format!("PostgreSQL, data in {}", layout.postgres_data().display()));
    }
    let told = Told {
        program: &parts.server,
        vendor_root: &root_path,
        reference_key: &reference_key,
        extra: &args.server_config,
        store: store.as_deref(),
    };
    let server = servers::start(layout, &told, count).await?;
    for (rest, node) in server.rest.iter().zip(&server.node) {
        printer.done("server", &format!("REST at https://{rest}, nodes at {node}"));
    }
    let tokens = Tokens { tenant: parts.token(layout, "tenant")?, operator: parts.token(layout, "operator")? };
    write_private(&layout.bootstrap_token(), parts.token(layout, "bootstrap")?.as_bytes())?;
    let node = start_agent(layout, &parts, &server, args).await?;
    printer.done("node", &format!("{node} is enrolled, attested and connected"));
    write_contexts(layout, &server, tokens, &reference_key, vendor_root)?;
    printer.done("context", &format!("{}; stop with `casemate dev down`", layout.context().display()));
    Ok(())
}

/// Executables and images.
struct Parts {
    server: PathBuf,
    agent: PathBuf,
    vmm: PathBuf,
    /// Name, level and program of each OCI runtime that this machine has.
    runtimes: Vec<(&'static str, &'static str, PathBuf)>,
    guest_os: PathBuf,
    reference_values: PathBuf,
}

impl Parts {
    fn find(args: &DevUp) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("find this executable")?;
        let dir = own.parent().context("an executable is in a folder")?;
        let default_guest_os = dir.parent().unwrap_or(dir).join("guest-os");
        let guest_os = args.guest_os.clone().unwrap_or_else(|| default_guest_os.clone());
        let reference_values = args.reference_values.clone().unwrap_or_else(|| default_guest_os.join("reference-values.json"));
        let build_hint = "build it with `make guest-os` (or `make demo`, which does everything)";
        Ok(Self {
            server: existing(dir.join("casemate-server"), "build it with `cargo build`")?,
            agent: existing(dir.join("casemate-agent"), "build it with `cargo build`")?,
            vmm: program("qemu-system-x86_64")?,
            runtimes: runtimes(),
            reference_values: existing(reference_values, build_hint)?,
            guest_os: existing(guest_os, build_hint)?.canonicalize()?,
        })
    }

    /// What the node is told to offer.
    fn drivers(&self) -> Vec<&'static str> {
        std::iter::once("qemu").chain(self.runtimes.iter().map(|(name, ..)| *name)).collect()
    }

    /// The same holder at every `up`: a tenant sees his earlier instances and their receipts.
    fn token(&self, layout: &Layout, role: &str) -> anyhow::Result<String> {
        let output = Command::new(&self.server)
            .args(["token", "--role", role, "--subject", &format!("{role}-dev"), "--config"])
            .arg(layout.server_config(SERVERS[0]))
            .output()
            .context("ask the server for a token")?;
        anyhow::ensure!(output.status.success(), "the server gave no token: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8(output.stdout).context("a token is text")?.trim().to_owned())
    }
}

async fn start_agent(layout: &Layout, parts: &Parts, server: &Listening, args: &DevUp) -> anyhow::Result<String> {
    let mut config = String::new();
    writeln!(config, "state_dir = {}\nrun_dir = {}", toml_text(&layout.agent_data()), toml_text(&layout.agent_run()))?;
    let servers: Vec<String> = server.node.iter().map(|node| format!("https://{node}")).collect();
    writeln!(config, "platform = {}\nplatform_ca = {}", Value::from(servers), toml_text(&server.ca_path))?;
    writeln!(
        config,
        "bootstrap_token_file = {}\ntpm = \"unix:{}\"",
        toml_text(&layout.bootstrap_token()),
        layout.tpm_socket().display()
    )?;
    writeln!(
        config,
        "event_log = {}\nguest_os = {}\ndrivers = {}",
        toml_text(&layout.event_log()),
        toml_text(&parts.guest_os),
        Value::from(parts.drivers())
    )?;
    writeln!(config, "accel = {}", Value::from(args.accel.as_str()))?;
    // Before the lines that are added: one of them may begin a table.
    if args.monitor {
        writeln!(config, "{}", monitor::agent_line(layout))?;
    }
    args.agent_config.iter().try_for_each(|line| writeln!(config, "{line}"))?;
    write_private(&layout.agent_config(), config.as_bytes())?;
    let run_file = layout.agent_run().join("agent.json");
    let _ = fs::remove_file(&run_file);
    let name = if args.monitor { monitor::NAME } else { "agent" };
    let command = if args.monitor {
        monitor::command(layout, &parts.agent)?
    } else {
        let mut command = Command::new(&parts.agent);
        command.args(["run", "--config"]).arg(layout.agent_config());
        command
    };
    let process = Process::spawn(layout, name, command)?;
    let run = process::wait_for(layout, name, &process, AGENT_LIMIT, || read_json(&run_file)).await?;
    if args.monitor {
        // The monitor ends with the agent, which is asked to end.
        let pid = run["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).context("the agent says its number")?;
        Process::note(layout, "agent", pid)?;
    }
    Ok(run["node"].as_str().unwrap_or("?").to_owned())
}

/// The build's reference values plus the digests of this node's software, signed by a key made here.
fn sign_references(layout: &Layout, build: &Path, software: &Software) -> anyhow::Result<String> {
    let attempt = || format!("read reference values {}", build.display());
    let signed: Value = serde_json::from_slice(&fs::read(build).with_context(attempt)?).with_context(attempt)?;
    let payload = signed["payload"].as_str().with_context(attempt)?;
    let mut payload: Value = serde_json::from_str(payload).with_context(attempt)?;
    let of_level = |level: &str| {
        let runtimes = software.runtimes.iter().filter(|runtime| runtime.level == level);
        runtimes.map(|runtime| hex::encode(runtime.digest)).collect::<Vec<_>>()
    };
    let node_software = &mut payload["node_software"];
    node_software["agent"] = serde_json::json!([hex::encode(software.agent)]);
    node_software["vmm"] = serde_json::json!([hex::encode(software.vmm)]);
    node_software["container_runtime"] = serde_json::json!(of_level("container"));
    node_software["sandbox_runtime"] = serde_json::json!(of_level("sandbox"));
    let payload = String::from_utf8(casemate_api::canonical::to_vec(&payload)).context("JSON is UTF-8")?;
    let key = reference_key(&layout.reference_key())?;
    let signature = key.sign(&[b"casemate/reference-values/v1\0", payload.as_bytes()].concat());
    let public = BASE64.encode(key.verifying_key().as_bytes());
    let out = serde_json::json!({"payload": payload, "signature": BASE64.encode(signature.to_bytes()), "key": public});
    write_private(&layout.reference_values(), &serde_json::to_vec_pretty(&out)?)?;
    Ok(public)
}

fn reference_key(path: &Path) -> anyhow::Result<SigningKey> {
    if !path.exists() {
        write_private(path, &*zeroize::Zeroizing::new(resolve::random32()?))?;
    }
    let bytes = zeroize::Zeroizing::new(fs::read(path).with_context(|| format!("read {}", path.display()))?);
    let seed: &[u8; 32] = bytes.as_slice().try_into().with_context(|| format!("{} does not have 32 bytes", path.display()))?;
    Ok(SigningKey::from_bytes(seed))
}

/// Tokens of the two accounts that there are here.
struct Tokens {
    tenant: String,
    operator: String,
}

fn write_contexts(
    layout: &Layout,
    server: &Listening,
    tokens: Tokens,
    reference_key: &str,
    vendor_root: String,
) -> anyhow::Result<()> {
    let mut addresses = server.rest.iter().map(|rest| format!("https://{rest}"));
    let file = ContextFile {
        platform: addresses.next().context("at least one server listens")?,
        replicas: addresses.collect(),
        platform_ca: server.ca.clone(),
        token: tokens.tenant,
        reference_key: reference_key.to_owned(),
        reference_values: layout.reference_values(),
        revocation_key: Some(server.revocation_key.clone()),
        vendor_roots: vec![vendor_root],
        allow_simulated: true,
        dev_state: Some(layout.state.clone()),
    };
    file.save(&layout.context())?;
    ContextFile { token: tokens.operator, ..file.clone() }.save(&layout.operator_context())?;
    // The default context belongs to the user: only taken where there is none.
    let default = context::default_path()?;
    if default.exists() { Ok(()) } else { file.save(&default) }
}

fn existing(path: PathBuf, hint: &str) -> anyhow::Result<PathBuf> {
    if path.exists() {
        return Ok(path);
    }
    Err(Hinted { message: format!("{} is missing", path.display()), hint: hint.to_owned() }.into())
}

/// Of several runtimes with the same level the first is enough: what is not offered need not be measured.
fn runtimes() -> Vec<(&'static str, &'static str, PathBuf)> {
    let container = ["crun", "runc"].into_iter().find_map(|name| Some((name, "container", program(name).ok()?)));
    let sandbox = program("runsc").ok().map(|path| ("runsc", "sandbox", path));
    container.into_iter().chain(sandbox).collect()
}

fn program(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    let missing =
        || Hinted { message: format!("{name} is not installed"), hint: "`casemate doctor` shows what is missing".into() };
    Ok(found.ok_or_else(missing)?.canonicalize()?)
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// A path as a TOML (and JSON) string.
pub(super) fn toml_text(path: &Path) -> String {
    Value::from(path.to_string_lossy()).to_string()
}
