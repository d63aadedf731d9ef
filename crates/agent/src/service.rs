//! The agent put together: what is started in which order, and what ends it.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use casemate_image::Cache;
use casemate_sandbox::SystemKind;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::watch;

use crate::{
    config::Config,
    context::Context,
    credential::{self, Credential},
    drivers::Drivers,
    enroll::Enroller,
    evidence::Batcher,
    files,
    images::Images,
    instances::Registry,
    inventory,
    measure::DigestCache,
    platform::Platform,
    session::Sessions,
    tpm::NodeTpm,
};

/// Largest CA file, in bytes.
const MAX_CA: u64 = 1 << 20;
/// How long a lock of a dying agent is waited for, and the time between two tries.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Runs the agent until `stop` becomes true. Machines that run then go on running, for the next agent to adopt: an update
/// of the agent ends no tenant's work.
pub async fn run(config: Config, mut stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let _lock = lock(&config)?;
    tokio::select! {
        ended = serve(config) => ended,
        _ = stop.wait_for(|stop| *stop) => {
            tracing::info!("shutting down; running instances go on and are adopted by the next start");
            Ok(())
        }
    }
}

/// Ends and wipes every instance, also without a platform, until that is done or `stop` becomes true. The number of those that
/// were not wiped before; their receipts are sent by the next [`run`].
pub async fn drain(config: Config, mut stop: watch::Receiver<bool>) -> anyhow::Result<usize> {
    let _lock = lock(&config)?;
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
    let inventory = inventory::take(&config, &drivers);
    let tpm = NodeTpm::start(config.tpm.clone(), config.logs.clone());
    let (context, batcher) = context(config, drivers, &inventory, tpm, &credential, watch_platform)?;
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
    let _lock = lock(config)?;
    let drivers = Drivers::set_up(config)?;
    let inventory = inventory::take(config, &drivers);
    let guest_os = crate::guest_os::GuestOs::load(&config.guest_os)?;
    let mut lines = vec![
        ("host".to_owned(), inventory.hostname),
        ("kernel".to_owned(), inventory.kernel),
        ("cpu".to_owned(), format!("{} x {}", inventory.cpus, inventory.cpu_model)),
        ("memory for instances".to_owned(), format!("{} MiB", inventory.memory_mib)),
        ("disk for instances".to_owned(), format!("{} MiB", inventory.disk_mib)),
    ];
    lines.extend(inventory.drivers.into_iter().map(|driver| {
        let state = if driver.problem.is_empty() { driver.version } else { format!("not available: {}", driver.problem) };
        (format!("level {} by {}", driver.level, driver.name), state)
    }));
    let capabilities = drivers.first().capabilities();
    if capabilities.system == SystemKind::Machine {
        let command_line = guest_os.command_line(capabilities.accel, capabilities.tsc_khz).map_err(anyhow::Error::msg)?.0;
        lines.push(("accelerator".to_owned(), format!("{} ({})", capabilities.accel, capabilities.accel_reason)));
        lines.push(("guest kernel".to_owned(), guest_os.kernel.display().to_string()));
        lines.push(("guest command line".to_owned(), command_line));
    }
    let program = guest_os.guest.map_or("none".to_owned(), |program| program.display().to_string());
    lines.push(("guest program of containers".to_owned(), program));
    Ok(lines.into_iter().map(|(name, value)| format!("{name}: {value}\n")).collect())
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // It says that a session is open, which is not so yet.
    if let Err(error) = std::fs::remove_file(config.run_dir.join("agent.json"))
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).context("remove agent.json of an earlier agent");
    }
    let ca_pem = ca_pem(&config)?;
    let drivers = drivers_off_thread(&config).await?;
    let inventory = inventory::take(&config, &drivers);
    let receipt_key = credential::receipt_key(&config.state_dir)?;
    let tpm = NodeTpm::start(config.tpm.clone(), config.logs.clone());
    let enroller = Enroller {
        config: config.clone(),
        ca_pem: ca_pem.clone(),
        tpm: tpm.clone(),
        receipt_key: receipt_key.verifying_key().to_bytes(),
        inventory: inventory.clone(),
    };
    let credential = credential(&enroller).await?;
    let platform = Platform::new(&config.platform, &ca_pem, &credential).context("connect to the platform")?;
    let (platform, watch_platform) = watch::channel(Arc::new(platform));

    let (context, batcher) = context(config, drivers, &inventory, tpm, &credential, watch_platform.clone())?;
    let (registry, instances) = Registry::recover(context.clone()).await.context("take over what an earlier agent left")?;
    let sessions = Sessions {
        registry,
        platform: watch_platform,
        inventory,
        node: context.node.clone(),
        run_dir: context.config.run_dir.clone(),
    };
    tokio::select! {
        () = instances => anyhow::bail!("the registry of instances ended"),
        () = batcher => anyhow::bail!("the batcher of evidence ended"),
        () = enroller.keep_renewed(credential, platform) => anyhow::bail!("the renewal of the certificate ended"),
        () = sessions.run() => anyhow::bail!("the session ended"),
    }
}

/// What every instance needs, and the task that answers its requests for evidence.
fn context(
    config: Config,
    drivers: Drivers,
    inventory: &casemate_api::node::Inventory,
    tpm: NodeTpm,
    credential: &Credential,
    platform: watch::Receiver<Arc<Platform>>,
) -> anyhow::Result<(Arc<Context>, impl Future<Output = ()> + use<>)> {
    let (evidence, batcher) = Batcher::new(move |root| {
        let tpm = tpm.clone();
        async move { tpm.quote(root).await }
    });
    let context = Context {
        images: images(&config)?,
        node: credential.node.clone(),
        capacity: inventory::capacity(&config, inventory),
        drivers,
        digests: Arc::new(DigestCache::default()),
        evidence,
        receipt_key: credential::receipt_key(&config.state_dir)?,
        platform,
        config,
    };
    Ok((Arc::new(context), batcher))
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
    tracing::info!(platform = enroller.config.platform, "enrolling this node");
    let credential = enroller.enrol_until_done().await;
    tracing::info!(node.id = %credential.node, "node enrolled");
    Ok(credential)
}

fn images(config: &Config) -> anyhow::Result<Images> {
    let cache = Cache::open(config.state_dir.join("images")).context("open the image cache")?;
    Ok(Images { cache, registries: config.registries.clone() })
}

async fn drivers_off_thread(config: &Config) -> anyhow::Result<Drivers> {
    let config = config.clone();
    files::off_thread(move || Drivers::set_up(&config)).await
}

/// One agent per state folder, for as long as the returned file is open.
fn lock(config: &Config) -> anyhow::Result<File> {
    for folder in [&config.state_dir, &config.run_dir] {
        files::make_dir(folder)?;
    }
    let path = config.state_dir.join("agent.lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    // A killed agent's lock lives until the last of its threads is gone.
    let deadline = Instant::now() + LOCK_WAIT;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if Instant::now() > deadline {
            return Err(error).with_context(|| format!("another agent works with {}", Path::display(&config.state_dir)));
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Ok(file)
}
