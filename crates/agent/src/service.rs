//! The agent put together: what is started in which order, and what ends it.

use std::{
    fs::{File, OpenOptions},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use casemate_sandbox::SystemKind;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::{Notify, watch};

use crate::{
    config::Config,
    context::Context,
    credential::{self, Credential},
    dedicated::Dedication,
    drivers::Drivers,
    enroll::Enroller,
    evidence::Batcher,
    failure::chain,
    files,
    images::Images,
    instances::Registry,
    inventory,
    measure::DigestCache,
    monitor::Monitor,
    platform::Platform,
    session::Sessions,
    tpm::NodeTpm,
};

/// Largest CA file, in bytes.
const MAX_CA: u64 = 1 << 20;
/// How long a lock of a dying agent is waited for, and the time between two tries.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(50);
/// The file in the run folder that asks an agent to end, how often it looks for it, and how long whoever asked waits.
const LEAVE: &str = "leave";
const LEAVE_LOOK: Duration = Duration::from_millis(200);
const LEAVE_LIMIT: Duration = Duration::from_secs(180);
/// How long the platform has to take the last receipts of an agent that ends everything.
const FAREWELL: Duration = Duration::from_secs(10);

/// Runs the agent until `stop` becomes true. Machines that run then go on running, for the next agent to adopt: an update
/// of the agent ends no tenant's work. Who wants them ended calls [`leave`].
pub async fn run(config: Config, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let _lock = lock(&config, LOCK_WAIT)?;
    let asked = asked_to_leave(&config)?;
    tokio::select! {
        ended = serve(config, None, asked) => ended,
        _ = stop.wait_for(|stop| *stop) => {
            tracing::info!("shutting down; running instances go on and are adopted by the next start");
            Ok(())
        }
    }
}

/// Runs the agent under the monitor at the other end of `socket` until `stop` becomes true. Nothing runs unguarded: then every instance
/// is ended and wiped, and the monitor is asked to end.
pub async fn run_monitored(config: Config, socket: OwnedFd, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let _lock = lock(&config, LOCK_WAIT)?;
    let asked = asked_to_leave(&config)?;
    let (monitor, talk) = Monitor::attach(socket).await?;
    let stopped = async {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            () = asked => {}
        }
        tracing::info!("shutting down; all instances are ended, since nothing runs unguarded");
    };
    let work = async {
        serve(config, Some(monitor.clone()), stopped).await?;
        Ok(monitor.stop().await?)
    };
    tokio::select! {
        ended = work => ended,
        error = talk => Err(error.into()),
    }
}

/// Asks a running agent to end every instance, to tell the platform, and to end, and waits for it. Under a monitor this is how anybody but
/// the host's first process ends an agent in order: a signal of his would be a violation.
pub fn leave(config: &Config) -> anyhow::Result<String> {
    let path = config.run_dir.join(LEAVE);
    if lock(config, Duration::ZERO).is_ok() {
        return Ok("no agent runs\n".to_owned());
    }
    files::replace(&path, b"").context("ask the agent to end")?;
    let _lock = lock(config, LEAVE_LIMIT).context("hint: its log says what it waits for")?;
    let _ = std::fs::remove_file(&path);
    Ok("the agent has ended, and everything of its instances with it\n".to_owned())
}

/// Ready when somebody has called [`leave`]; what was asked of an earlier agent does not count.
fn asked_to_leave(config: &Config) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let path = config.run_dir.join(LEAVE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove {}", path.display()));
        }
        _ => {}
    }
    Ok(async move {
        while !path.exists() {
            tokio::time::sleep(LEAVE_LOOK).await;
        }
    })
}

/// Ends and wipes every instance, also without a platform, until that is done or `stop` becomes true. The number of those that
/// were not wiped before; their receipts are sent by the next [`run`].
pub async fn drain(config: Config, mut stop: watch::Receiver<bool>) -> anyhow::Result<usize> {
    let _lock = lock(&config, LOCK_WAIT)?;
    tokio::select! {
        count = drain_all(config) => count,
        _ = stop.wait_for(|stop| *stop) => anyhow::bail!("stopped before everything was wiped; the next start goes on with it"),
    }
}

async fn drain_all(config: Config) -> anyhow::Result<usize> {
    let drivers = drivers_off_thread(&config).await?;
    let Some(credential) = Credential::load(&config.state_dir)? else {
        // Never enrolled: nobody could order an instance, but remains are wiped in any case.
        let remains = drivers.list().await?;
        for (id, held) in &remains {
            held.driver.wipe(id).await?;
            held.driver.forget(id).await?;
        }
        return Ok(remains.len());
    };
    let platform =
        Platform::new(&config.platform, &ca_pem(&config)?, &credential).context("set up the connection to the platform")?;
    let (_platform, watch_platform) = watch::channel(Arc::new(platform));
    let inventory = inventory::take(&config, &drivers, None);
    let tpm = NodeTpm::start(config.tpm.clone(), config.logs.clone());
    let (context, batcher) = context(
        config,
        drivers,
        &inventory,
        tpm,
        &credential,
        watch_platform,
        Guards { monitor: None, dedicated: Dedication::start(None)? },
    )?;
    let (registry, instances) = Registry::recover(context).await.context("take over what an earlier agent left")?;
    tokio::select! {
        () = instances => anyhow::bail!("the registry of instances ended"),
        () = batcher => anyhow::bail!("the batcher of evidence ended"),
        count = registry.drain() => Ok(count),
    }
}

/// Prints what the node has and how its machines would run; changes nothing on the platform. Not beside a running agent, whose drivers
/// and network it would take up.
pub fn check(config: &Config) -> anyhow::Result<String> {
    let _lock = lock(config, Duration::ZERO).context("hint: a check takes up drivers and network; stop the agent first")?;
    let drivers = Drivers::set_up(config)?;
    let inventory = inventory::take(config, &drivers, None);
    let guest_os = crate::guest_os::GuestOs::load(&config.guest_os)?;
    let mut lines = vec![
        ("host".to_owned(), inventory.hostname),
        ("kernel".to_owned(), inventory.kernel),
        ("cpu".to_owned(), format!("{} x {}", inventory.cpus, inventory.cpu_model)),
        ("memory for instances".to_owned(), format!("{} MiB", inventory.memory_mib)),
        ("disk for instances".to_owned(), format!("{} MiB", inventory.disk_mib)),
    ];
    if let Some(look) = Dedication::start(config.dedicated.as_ref())?.inventory() {
        let state = if look.held { "; the node would take no instances" } else { "" };
        lines.push(("against the dedicated-node policy".to_owned(), format!("{} findings{state}", look.findings)));
    }
    lines.extend(inventory.drivers.into_iter().map(|driver| {
        let state = if driver.problem.is_empty() { driver.version } else { format!("not available: {}", driver.problem) };
        (format!("level {} by {}", driver.level, driver.name), state)
    }));
    let capabilities = drivers.first().capabilities();
    if capabilities.system == SystemKind::Machine {
        let command_line = guest_os.command_line(capabilities.accel, capabilities.tsc_khz).map_err(anyhow::Error::msg)?.0;
        lines.push(("accelerator".to_owned(), format!("{} ({})", capabilities.accel, capabilities.accel_reason)));
        lines.extend(config.placement.iter().map(|wish| {
            let had = capabilities
                .topology
                .offers(*wish)
                .map_or_else(|error| format!("REFUSED: {}", chain(&error)), |()| "yes".to_owned());
            (format!("placement: {wish}"), had)
        }));
        lines.push(("guest kernel".to_owned(), guest_os.kernel.display().to_string()));
        lines.push(("guest command line".to_owned(), command_line));
    }
    let program = guest_os.guest.map_or("none".to_owned(), |program| program.display().to_string());
    lines.push(("guest program of containers".to_owned(), program));
    Ok(lines.into_iter().map(|(name, value)| format!("{name}: {value}\n")).collect())
}

/// Fetches and converts images before anybody needs them, beside a running agent or without one; a line for each.
pub async fn prefetch(config: &Config, references: &[String]) -> anyhow::Result<String> {
    let images = Images::open(config).context("open the image cache")?;
    let mut lines = String::new();
    for reference in references {
        let prefetched = images.prefetch(reference).await;
        let (manifest, layers) =
            prefetched.map_err(|failure| anyhow::anyhow!("prefetch {reference}: {}: {}", failure.check, failure.detail))?;
        lines += &format!("{reference}: {manifest}, {layers} layers are ready\n");
    }
    images.cache.collect(images.most_bytes).context("collect in the image cache")?;
    Ok(lines)
}

/// Removes what no instance needs until the image cache has at most `most_bytes` (if not said, what the configuration allows).
pub fn collect(config: &Config, most_bytes: Option<u64>) -> anyhow::Result<String> {
    let images = Images::open(config).context("open the image cache")?;
    let most = most_bytes.unwrap_or(images.most_bytes);
    let done = images.cache.collect(most).context("collect in the image cache")?;
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let (freed, left, leased) = (mib(done.freed_bytes), mib(done.left_bytes), mib(done.leased_bytes));
    Ok(format!("{} removed, {freed} MiB freed; {left} MiB left, {leased} MiB of it needed by instances\n", done.removed))
}

/// Serves until `stopped`; then ends and wipes every instance, and tells the platform of it, where that can be reached.
async fn serve(config: Config, monitor: Option<Monitor>, stopped: impl Future<Output = ()>) -> anyhow::Result<()> {
    // It says that a session is open, which is not so yet.
    if let Err(error) = std::fs::remove_file(config.run_dir.join("agent.json"))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).context("remove agent.json of an earlier agent");
    }
    let ca_pem = ca_pem(&config)?;
    let drivers = drivers_off_thread(&config).await?;
    let inventory = inventory::take(&config, &drivers, monitor.as_ref());
    let dedicated = look_at_host(&config).await?;
    let receipt_key = credential::receipt_key(&config.state_dir)?;
    let tpm = NodeTpm::start(config.tpm.clone(), config.logs.clone());
    let enroller = Enroller {
        config: config.clone(),
        ca_pem: ca_pem.clone(),
        tpm: tpm.clone(),
        receipt_key: receipt_key.verifying_key().to_bytes(),
        inventory: inventory.clone(),
    };
    tokio::pin!(stopped);
    let credential = tokio::select! {
        credential = credential(&enroller) => credential?,
        // Never enrolled: nobody could order an instance.
        () = &mut stopped => return Ok(()),
    };
    let platform = Platform::new(&config.platform, &ca_pem, &credential).context("connect to the platform")?;
    let (platform, watch_platform) = watch::channel(Arc::new(platform));

    let (context, batcher) = context(
        config,
        drivers,
        &inventory,
        tpm,
        &credential,
        watch_platform.clone(),
        Guards { monitor: monitor.clone(), dedicated: dedicated.clone() },
    )?;
    let recovered = tokio::select! {
        recovered = Registry::recover(context.clone()) => recovered,
        // It may wipe for long beside machines that are guarded again already.
        () = Monitor::keep_alive(monitor.as_ref(), || async {}) => anyhow::bail!("the signs of life to the monitor ended"),
    };
    let (registry, instances) = recovered.context("take over what an earlier agent left")?;
    let attest = Arc::new(Notify::new());
    let alive = {
        let (registry, monitor) = (registry.clone(), monitor.clone());
        async move { Monitor::keep_alive(monitor.as_ref(), || registry.answers()).await }
    };
    let farewell = farewell(registry.clone(), context.clone(), stopped);
    let sessions = Sessions {
        registry,
        platform: watch_platform,
        inventory,
        node: context.node.clone(),
        run_dir: context.config.run_dir.clone(),
        monitor,
        dedicated: dedicated.clone(),
        attest: attest.clone(),
    };
    tokio::select! {
        () = instances => anyhow::bail!("the registry of instances ended"),
        () = batcher => anyhow::bail!("the batcher of evidence ended"),
        () = alive => anyhow::bail!("the signs of life to the monitor ended"),
        () = enroller.keep_renewed(credential, platform, &attest) => anyhow::bail!("the renewal of the certificate ended"),
        () = farewell => Ok(()),
        () = dedicated.keep_looking() => anyhow::bail!("the look at the host ended"),
        () = sessions.run() => anyhow::bail!("the session ended"),
    }
}

/// Ends every instance once `stopped` is ready. The platform then has a while to hear of the ends and to take the receipts; what it does not
/// take is sent by the next agent.
async fn farewell(registry: Registry, context: Arc<Context>, stopped: impl Future<Output = ()>) {
    stopped.await;
    context.leaving.store(true, Ordering::Relaxed);
    registry.drain().await;
    let mut directory = registry.directory.clone();
    let _ = tokio::time::timeout(FAREWELL, directory.wait_for(|directory| directory.is_empty())).await;
}

/// What every instance needs, and the task that answers its requests for evidence.
fn context(
    config: Config,
    drivers: Drivers,
    inventory: &casemate_api::node::Inventory,
    tpm: NodeTpm,
    credential: &Credential,
    platform: watch::Receiver<Arc<Platform>>,
    guards: Guards,
) -> anyhow::Result<(Arc<Context>, impl Future<Output = ()> + use<>)> {
    let (evidence, batcher) = Batcher::new(move |root| {
        let tpm = tpm.clone();
        async move { tpm.quote(root).await }
    });
    let context = Context {
        images: Images::open(&config).context("open the image cache")?,
        node: credential.node.clone(),
        capacity: inventory::capacity(&config, inventory),
        drivers,
        digests: Arc::new(DigestCache::default()),
        evidence,
        receipt_key: credential::receipt_key(&config.state_dir)?,
        platform,
        monitor: guards.monitor,
        dedicated: guards.dedicated,
        leaving: AtomicBool::new(false),
        config,
    };
    Ok((Arc::new(context), batcher))
}

/// What watches over the host.
struct Guards {
    monitor: Option<Monitor>,
    dedicated: Dedication,
}

async fn look_at_host(config: &Config) -> anyhow::Result<Dedication> {
    let wanted = config.dedicated.clone();
    files::off_thread(move || Dedication::start(wanted.as_ref())).await.context("hint: see docs/dedicated-node.md")
}

fn ca_pem(config: &Config) -> anyhow::Result<String> {
    let ca = files::read(&config.platform_ca, MAX_CA)?.context("the file of platform_ca does not exist")?;
    String::from_utf8(ca).context("the file of platform_ca is no PEM text")
}

/// The kept credential, also an expired one: instances that run are looked after in any case.
async fn credential(enroller: &Enroller) -> anyhow::Result<Credential> {
    if let Some(credential) = Credential::load(&enroller.config.state_dir)? {
        return Ok(credential);
    }
    tracing::info!(platform = enroller.config.platform.join(", "), "enrolling this node");
    let credential = enroller.enrol_until_done().await;
    tracing::info!(node.id = %credential.node, "node enrolled");
    Ok(credential)
}

async fn drivers_off_thread(config: &Config) -> anyhow::Result<Drivers> {
    let config = config.clone();
    files::off_thread(move || Drivers::set_up(&config)).await
}

/// One agent per state folder, for as long as the returned file is open. `wait` is for a dying one.
fn lock(config: &Config, wait: Duration) -> anyhow::Result<File> {
    for folder in [&config.state_dir, &config.run_dir] {
        files::make_dir(folder)?;
    }
    let path = config.state_dir.join("agent.lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    // A killed agent's lock lives until the last of its threads is gone.
    let deadline = Instant::now() + wait;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if Instant::now() > deadline {
            return Err(error).with_context(|| format!("another agent works with {}", Path::display(&config.state_dir)));
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instances::tests::config;

    #[test]
    fn a_check_is_refused_beside_a_running_agent_and_touches_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (state, run) = (dir.path().join("state"), dir.path().join("run"));
        let config = Config { run_dir: run.clone(), ..config(&state) };
        let agent = lock(&config, Duration::ZERO).unwrap();
        let refused = format!("{:#}", check(&config).unwrap_err());
        assert!(refused.contains("another agent works with") && refused.contains("hint:"), "{refused}");
        let left: Vec<_> = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["agent.lock"]);
        assert_eq!(std::fs::read_dir(&run).unwrap().count(), 0);
        drop(agent);
        // Now it looks for what is not there.
        let looked = format!("{:#}", check(&config).unwrap_err());
        assert!(!looked.contains("another agent"), "{looked}");
    }
}
