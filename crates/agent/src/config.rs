//! The agent's configuration: one TOML file, parsed to checked types, all faults reported together.

mod dedicated;
mod network;
mod placement;
mod runtimes;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use casemate_api::workload::Isolation;
use casemate_image::{Access, Mirror};
use casemate_sandbox::{Placement, oci::Runtime};
use serde::Deserialize;

pub(crate) use self::dedicated::Look;
pub use self::{dedicated::DedicatedFile, network::NetworkFile, placement::PlacementFile, runtimes::RuntimeFile};
use crate::{failpoint::Failpoint, platform, tpm::Logs};

/// The file as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Identity, journals, spools, image cache. Only root should reach it.
    pub state_dir: PathBuf,
    /// Sockets and `agent.json`; a short path.
    pub run_dir: PathBuf,
    /// `https://host:port` of the platform's node service; a list where it has several servers, of which any will do.
    #[serde(deserialize_with = "platform::one_or_more")]
    pub platform: Vec<String>,
    /// The platform's CA certificate, PEM; no other is trusted.
    pub platform_ca: PathBuf,
    /// One-time token; read only while the node is not enrolled.
    pub bootstrap_token_file: Option<PathBuf>,
    /// `device:/dev/tpmrm0` or `unix:/path`.
    pub tpm: String,
    /// Certificates between the TPM's own and its vendor's root, PEM files; most TPMs need none.
    #[serde(default)]
    pub ek_intermediates: Vec<PathBuf>,
    /// The firmware's TCG event log.
    pub event_log: PathBuf,
    /// Events in the same form, without a header and with a digest for each bank, of what else was measured: the node's own software.
    pub software_log: Option<PathBuf>,
    /// The kernel's list of files (IMA), binary; absent: none is sent.
    pub ima_log: Option<PathBuf>,
    /// Folder of the guest OS image.
    pub guest_os: PathBuf,
    /// The only driver: `qemu`, `runc`, `crun`, `runsc`, `fake` or the name of a `[[runtime]]`. Either this or `drivers`.
    pub driver: Option<String>,
    /// Several of them, but for `fake`; of those with the same level the first one runs new instances. What this machine cannot have is left
    /// out, and the inventory says why.
    pub drivers: Option<Vec<String>>,
    /// OCI runtimes beside those that are known. Their order gives them their user ids: new ones come last.
    #[serde(default)]
    pub runtime: Vec<RuntimeFile>,
    /// `auto`, `kvm` or `tcg`.
    pub accel: String,
    /// Longest time from the start of a machine to its guest's answer.
    #[serde(default = "defaults::boot_timeout_ms")]
    pub boot_timeout_ms: u64,
    /// Most instances at the same time.
    #[serde(default = "defaults::max_instances")]
    pub max_instances: usize,
    /// Memory that instances never get.
    #[serde(default = "defaults::memory_reserve_mib")]
    pub memory_reserve_mib: u64,
    /// Registries that images may be pulled from; absent: any that is not on this host.
    pub registries: Option<Vec<String>>,
    /// Control group, at the root of version 2, that those of all instances lie in; the monitor ends that one. Absent: the root.
    pub cgroup: Option<String>,
    /// The network of instances; absent: they have none.
    pub network: Option<NetworkFile>,
    /// Where machines lie on this host; absent: wherever the kernel puts them.
    pub placement: Option<PlacementFile>,
    /// What this host may have beside being a node; absent: that is not looked at.
    pub dedicated: Option<DedicatedFile>,
    /// By registry: servers that are asked for its content first, in order.
    #[serde(default)]
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Credentials for registries, in the form of Docker's `config.json`; absent: that of the user who runs the agent.
    pub registry_auth_file: Option<PathBuf>,
    /// What the image cache may take; layers that instances need are never removed, and may take more.
    #[serde(default = "defaults::image_cache_mib")]
    pub image_cache_mib: u64,
    /// Layers that are converted at the same time, of all instances; absent: half the CPUs, and at least 2.
    pub layers_at_once: Option<usize>,
    /// For tests only: where the agent dies; see [`crate::failpoint`].
    pub failpoint: Option<String>,
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) platform: Vec<String>,
    pub(crate) platform_ca: PathBuf,
    pub(crate) bootstrap_token_file: Option<PathBuf>,
    pub(crate) tpm: String,
    pub(crate) ek_intermediates: Vec<PathBuf>,
    pub(crate) logs: Logs,
    pub(crate) guest_os: PathBuf,
    pub(crate) drivers: Vec<DriverKind>,
    pub(crate) runtimes: Vec<Runtime>,
    pub(crate) accel: Accel,
    pub(crate) boot_timeout: Duration,
    pub(crate) max_instances: usize,
    pub(crate) memory_reserve_mib: u64,
    pub(crate) registries: Registries,
    pub(crate) cgroup: Option<String>,
    pub(crate) network: Option<crate::network::Settings>,
    pub(crate) placement: Vec<Placement>,
    pub(crate) dedicated: Option<Look>,
    pub(crate) access: Access,
    pub(crate) image_cache_bytes: u64,
    pub(crate) layers_at_once: usize,
    pub(crate) failpoint: Option<Failpoint>,
}

/// Who runs machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverKind {
    /// QEMU.
    Qemu,
    /// An OCI runtime.
    Oci(Runtime),
    /// Nobody: they are played. Evidence names the machine `fake`, which no verifier takes for a real one.
    Fake,
}

impl DriverKind {
    /// As in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Oci(runtime) => runtime.name(),
            Self::Fake => "fake",
        }
    }

    /// The level that its instances have.
    pub(crate) fn level(self) -> Isolation {
        match self {
            Self::Qemu | Self::Fake => Isolation::Microvm,
            Self::Oci(runtime) if runtime.isolation() == casemate_sandbox::Isolation::Sandbox => Isolation::Sandbox,
            Self::Oci(_) => Isolation::Container,
        }
    }
}

/// Which accelerator machines get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// KVM where it really works, else TCG.
    Auto,
    /// KVM or nothing.
    Kvm,
    /// Emulation.
    Tcg,
}

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error(transparent)]
    Load(#[from] casemate_daemon::config::ConfigError),
    /// Its values, all faults at once.
    #[error("configuration {}: {}", path.display(), faults.join("; "))]
    Faults {
        /// Which file.
        path: PathBuf,
        /// What is wrong, field by field.
        faults: Vec<String>,
    },
}

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file: File = casemate_daemon::config::load(path)?;
        Self::check(file).map_err(|faults| ConfigError::Faults { path: path.to_owned(), faults })
    }

    /// Checks every value.
    pub fn check(file: File) -> Result<Self, Vec<String>> {
        let mut faults = Vec::new();
        let accel = accel(&file.accel).unwrap_or_else(|| {
            faults.push(format!("accel: must be auto, kvm or tcg, got {:?}", file.accel));
            Accel::Auto
        });
        let failpoint = file
            .failpoint
            .as_deref()
            .and_then(|name| name.parse().map_err(|problem: String| faults.push(format!("failpoint: {problem}"))).ok());
        let runtimes = runtimes::runtimes(&file.runtime, &mut faults);
        let drivers = runtimes::drivers(&file, &runtimes, &mut faults);
        let network = file.network.as_ref().and_then(|network| network::settings(network, &mut faults));
        let placement = placement::wishes(file.placement.as_ref(), &drivers, &mut faults);
        let dedicated = dedicated::look(file.dedicated.as_ref(), &mut faults);
        let mirrors = mirrors(&file.mirrors, &mut faults);
        check_values(&file, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            state_dir: file.state_dir,
            run_dir: file.run_dir,
            platform: file.platform,
            platform_ca: file.platform_ca,
            bootstrap_token_file: file.bootstrap_token_file,
            tpm: file.tpm,
            ek_intermediates: file.ek_intermediates,
            logs: Logs { firmware: file.event_log, software: file.software_log, ima: file.ima_log },
            guest_os: file.guest_os,
            drivers,
            runtimes,
            accel,
            boot_timeout: Duration::from_millis(file.boot_timeout_ms),
            max_instances: file.max_instances,
            memory_reserve_mib: file.memory_reserve_mib,
            registries: Registries(file.registries),
            cgroup: file.cgroup,
            network,
            placement,
            dedicated,
            access: Access { mirrors, auth_file: file.registry_auth_file },
            image_cache_bytes: file.image_cache_mib << 20,
            layers_at_once: file.layers_at_once.unwrap_or_else(defaults::layers_at_once),
            failpoint,
        })
    }

    pub(crate) fn instances_dir(&self) -> PathBuf {
        self.state_dir.join("instances")
    }
}

fn mirrors(texts: &BTreeMap<String, Vec<String>>, faults: &mut Vec<String>) -> BTreeMap<String, Vec<Mirror>> {
    let mut parse = |registry: &String, text: &String| match Mirror::parse(text) {
        Ok(mirror) => Some(mirror),
        Err(error) => {
            faults.push(format!("mirrors of {registry}: {error}"));
            None
        }
    };
    let pairs =
        texts.iter().map(|(registry, texts)| (registry.clone(), texts.iter().filter_map(|text| parse(registry, text)).collect()));
    pairs.collect()
}

fn check_values(file: &File, faults: &mut Vec<String>) {
    let mut ensure = |ok: bool, fault: &str| {
        if !ok {
            faults.push(fault.to_owned());
        }
    };
    ensure(file.state_dir.is_absolute(), "state_dir: must be an absolute path");
    ensure(file.run_dir.is_absolute(), "run_dir: must be an absolute path");
    // sun_path holds 107 bytes; the driver adds an instance id and a name.
    ensure(file.run_dir.as_os_str().len() <= 60, "run_dir: must have at most 60 bytes, sockets are made in it");
    ensure(file.cgroup.as_deref().is_none_or(is_group_name), "cgroup: must be a name of 1 to 64 of a-z, A-Z, 0-9, _ and -");
    ensure(is_tpm_access(&file.tpm), "tpm: must be device:/path or unix:/path");
    ensure(platform::are_addresses(&file.platform), "platform: 1 to 64 addresses that begin with https://");
    ensure((1_000..=3_600_000).contains(&file.boot_timeout_ms), "boot_timeout_ms: must be 1000 to 3600000");
    ensure((1..=1_000).contains(&file.max_instances), "max_instances: must be 1 to 1000");
    ensure(file.image_cache_mib <= 1 << 40, "image_cache_mib: must be at most 1099511627776");
    ensure(file.layers_at_once.is_none_or(|count| (1..=64).contains(&count)), "layers_at_once: must be 1 to 64");
    ensure(
        file.registry_auth_file.as_ref().is_none_or(|path| path.is_absolute()),
        "registry_auth_file: must be an absolute path",
    );
}

fn is_group_name(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

fn is_tpm_access(text: &str) -> bool {
    text.split_once(':').is_some_and(|(kind, path)| matches!(kind, "device" | "unix") && Path::new(path).is_absolute())
}

fn accel(text: &str) -> Option<Accel> {
    match text {
        "auto" => Some(Accel::Auto),
        "kvm" => Some(Accel::Kvm),
        "tcg" => Some(Accel::Tcg),
        _ => None,
    }
}

/// Which registries this node pulls from. A tenant names the registry, and the agent is root on the host's network, so
/// services of this host are not reachable that way unless the hoster lists them.
#[derive(Debug, Clone)]
pub(crate) struct Registries(pub(crate) Option<Vec<String>>);

impl Registries {
    /// Whether images may come from `registry` (`host` or `host:port`); if not, why.
    pub(crate) fn admit(&self, registry: &str) -> Result<(), String> {
        match &self.0 {
            Some(listed) if listed.iter().any(|known| known == registry) => Ok(()),
            Some(_) => Err(format!("registry {registry} is not in this node's list")),
            None if is_this_host(registry) => Err(format!("registry {registry} is on the node itself and not in its list")),
            None => Ok(()),
        }
    }
}

fn is_this_host(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let address = host.parse::<IpAddr>().ok();
    host == "localhost"
        || host.ends_with(".localhost")
        || address.is_some_and(|ip| ip.is_loopback() || ip.is_unspecified() || is_link_local(ip))
}

/// Link-local addresses hold the metadata services of clouds.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => {
            ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback() || ip.is_link_local())
        }
    }
}

mod defaults {
    pub(super) fn boot_timeout_ms() -> u64 {
        120_000
    }
    pub(super) fn max_instances() -> usize {
        8
    }
    pub(super) fn memory_reserve_mib() -> u64 {
        512
    }
    pub(super) fn image_cache_mib() -> u64 {
        50 << 10
    }
    /// One conversion keeps two CPUs busy: one decompresses, one writes and hashes.
    pub(super) fn layers_at_once() -> usize {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        (cpus / 2).clamp(2, 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const EXAMPLE: &str = include_str!("../agent.example.toml");

    #[test]
    fn the_example_file_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, EXAMPLE).unwrap();
        let config = Config::load(&path).unwrap();
        assert_eq!(config.boot_timeout, Duration::from_secs(120));
        assert_eq!(config.tpm, "device:/dev/tpmrm0");
    }

    #[test]
    fn reports_all_faults_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        let broken =
            EXAMPLE.replace("device:/dev/tpmrm0", "usb").replace("\"qemu\"", "\"quemu\"").replace("https://", "http://").replace(
                "accel = \"auto\"",
                "accel = \"fast\"\nlayers_at_once = 0\nfailpoint = \"lunch\"\nmirrors = { \"docker.io\" = [\"http://m.example\"] }",
            );
        std::fs::write(&path, broken).unwrap();
        let text = Config::load(&path).unwrap_err().to_string();
        for field in ["tpm:", "driver:", "platform:", "accel:", "failpoint:", "layers_at_once:", "mirrors of docker.io:"] {
            assert!(text.contains(field), "{field} in {text}");
        }
    }

    #[test]
    fn tenants_do_not_reach_services_of_the_host_through_a_registry_name() {
        let any = Registries(None);
        for bad in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "[::1]:80",
            "127.9.9.9",
            "0.0.0.0:1",
            "169.254.169.254",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(any.admit(bad).is_err(), "{bad}");
        }
        assert!(any.admit("docker.io").is_ok());
        let listed = Registries(Some(vec!["127.0.0.1:5000".into()]));
        assert!(listed.admit("127.0.0.1:5000").is_ok());
        assert!(listed.admit("docker.io").is_err());
    }
}
