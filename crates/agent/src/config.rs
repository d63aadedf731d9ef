//! The agent's configuration: one TOML file, parsed to checked types, all faults reported together.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use casemate_api::workload::Isolation;
use casemate_sandbox::{
    network::{Uplink, is_interface_name, parse_interface_address},
    oci::Runtime,
};
use serde::Deserialize;

use crate::{failpoint::Failpoint, network, tpm::Logs};

/// The file as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Identity, journals, spools, image cache. Only root should reach it.
    pub state_dir: PathBuf,
    /// Sockets and `agent.json`; a short path.
    pub run_dir: PathBuf,
    /// `https://host:port` of the platform's node service.
    pub platform: String,
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
    /// The only driver: `qemu`, `runc`, `crun`, `runsc` or `fake`. Either this or `drivers`.
    pub driver: Option<String>,
    /// Several of them, but for `fake`; of those with the same level the first one runs new instances. What this machine cannot have is left
    /// out, and the inventory says why.
    pub drivers: Option<Vec<String>>,
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
    /// The network of instances; absent: they have none.
    pub network: Option<NetworkFile>,
    /// For tests only: where the agent dies; see [`crate::failpoint`].
    pub failpoint: Option<String>,
}

/// What the host gives for the network of instances; see docs/network.md.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkFile {
    /// An interface of the host that becomes the router's own.
    pub uplink: String,
    /// What the router's namespace is called; several agents on one host need several.
    #[serde(default = "router_name")]
    pub router: String,
    /// Its addresses, `ADDRESS/LENGTH`.
    pub addresses: Vec<String>,
    /// What it sends everything to, at most one of each family.
    pub gateways: Vec<IpAddr>,
    /// Who is asked for names; absent: those whom the host asks.
    #[serde(default)]
    pub resolvers: Vec<IpAddr>,
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) platform: String,
    pub(crate) platform_ca: PathBuf,
    pub(crate) bootstrap_token_file: Option<PathBuf>,
    pub(crate) tpm: String,
    pub(crate) ek_intermediates: Vec<PathBuf>,
    pub(crate) logs: Logs,
    pub(crate) guest_os: PathBuf,
    pub(crate) drivers: Vec<DriverKind>,
    pub(crate) accel: Accel,
    pub(crate) boot_timeout: Duration,
    pub(crate) max_instances: usize,
    pub(crate) memory_reserve_mib: u64,
    pub(crate) registries: Registries,
    pub(crate) network: Option<network::Settings>,
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
            Self::Oci(Runtime::Runc | Runtime::Crun) => Isolation::Container,
            Self::Oci(Runtime::Runsc) => Isolation::Sandbox,
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
        let drivers = drivers(&file, &mut faults);
        let network = file.network.as_ref().and_then(|network| network_settings(network, &mut faults));
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
            accel,
            boot_timeout: Duration::from_millis(file.boot_timeout_ms),
            max_instances: file.max_instances,
            memory_reserve_mib: file.memory_reserve_mib,
            registries: Registries(file.registries),
            network,
            failpoint,
        })
    }

    pub(crate) fn instances_dir(&self) -> PathBuf {
        self.state_dir.join("instances")
    }
}

fn drivers(file: &File, faults: &mut Vec<String>) -> Vec<DriverKind> {
    let (field, names) = match (&file.driver, &file.drivers) {
        (Some(name), None) => ("driver", std::slice::from_ref(name)),
        (None, Some(names)) if (1..=MOST_DRIVERS).contains(&names.len()) => ("drivers", names.as_slice()),
        (None, Some(_)) => {
            faults.push(format!("drivers: must name 1 to {MOST_DRIVERS}"));
            return Vec::new();
        }
        (Some(_), Some(_)) | (None, None) => {
            faults.push("driver: give either this or drivers".to_owned());
            return Vec::new();
        }
    };
    let mut kinds = Vec::new();
    for name in names {
        match driver_kind(name) {
            Some(kind) if kinds.contains(&kind) => faults.push(format!("{field}: {name:?} is there twice")),
            Some(kind) => kinds.push(kind),
            None => faults.push(format!("{field}: must be qemu, runc, crun, runsc or fake, got {name:?}")),
        }
    }
    if kinds.len() > 1 && kinds.contains(&DriverKind::Fake) {
        faults.push(format!("{field}: \"fake\" stands alone"));
    }
    kinds
}

fn driver_kind(text: &str) -> Option<DriverKind> {
    match text {
        "qemu" => Some(DriverKind::Qemu),
        "fake" => Some(DriverKind::Fake),
        runtime => runtime.parse().ok().map(DriverKind::Oci),
    }
}

/// All that there are, but for `fake`.
const MOST_DRIVERS: usize = 4;

fn network_settings(file: &NetworkFile, faults: &mut Vec<String>) -> Option<network::Settings> {
    let before = faults.len();
    if !is_interface_name(&file.uplink) {
        faults.push(format!("network.uplink: {:?} is no name of an interface", file.uplink));
    }
    if !is_interface_name(&file.router) {
        faults.push(format!("network.router: {:?} is no name of a namespace", file.router));
    }
    let addresses: Vec<_> = file.addresses.iter().filter_map(|text| parse_interface_address(text)).collect();
    if addresses.is_empty() || addresses.len() != file.addresses.len() {
        faults.push("network.addresses: must be one or more like 198.51.100.2/30".to_owned());
    }
    let of_family = |v6: bool| file.gateways.iter().filter(|gateway| gateway.is_ipv6() == v6).count();
    if of_family(false) > 1 || of_family(true) > 1 || file.gateways.is_empty() {
        faults.push("network.gateways: must be one of IPv4, one of IPv6, or both".to_owned());
    }
    let uplink = Uplink { interface: file.uplink.clone(), addresses, gateways: file.gateways.clone() };
    let resolvers = file.resolvers.iter().map(|address| (*address, 53).into()).collect();
    (faults.len() == before).then_some(network::Settings { router: file.router.clone(), uplink, resolvers })
}

fn router_name() -> String {
    "casemate".to_owned()
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
    ensure(is_tpm_access(&file.tpm), "tpm: must be device:/path or unix:/path");
    ensure(file.platform.starts_with("https://"), "platform: must begin with https://");
    ensure((1_000..=3_600_000).contains(&file.boot_timeout_ms), "boot_timeout_ms: must be 1000 to 3600000");
    ensure((1..=1_000).contains(&file.max_instances), "max_instances: must be 1 to 1000");
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../agent.example.toml");

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
        let broken = EXAMPLE
            .replace("device:/dev/tpmrm0", "usb")
            .replace("\"qemu\"", "\"quemu\"")
            .replace("https://", "http://")
            .replace("accel = \"auto\"", "accel = \"fast\"\nfailpoint = \"lunch\"");
        std::fs::write(&path, broken).unwrap();
        let text = Config::load(&path).unwrap_err().to_string();
        for field in ["tpm:", "driver:", "platform:", "accel:", "failpoint:"] {
            assert!(text.contains(field), "{field} in {text}");
        }
    }

    #[test]
    fn names_one_driver_or_several_once_each() {
        let of = |lines: &str| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("agent.toml");
            std::fs::write(&path, EXAMPLE.replace("driver = \"qemu\"", lines)).unwrap();
            Config::load(&path).map(|config| config.drivers).map_err(|error| error.to_string())
        };
        assert_eq!(of("driver = \"fake\"").unwrap(), [DriverKind::Fake]);
        let several = of("drivers = [\"qemu\", \"crun\", \"runsc\"]").unwrap();
        assert_eq!(several, [DriverKind::Qemu, DriverKind::Oci(Runtime::Crun), DriverKind::Oci(Runtime::Runsc)]);
        for (lines, told) in [
            ("", "either this or drivers"),
            ("driver = \"qemu\"\ndrivers = [\"crun\"]", "either this or drivers"),
            ("drivers = []", "must name 1 to 4"),
            ("drivers = [\"crun\", \"crun\"]", "twice"),
            ("drivers = [\"qemu\", \"fake\"]", "stands alone"),
            ("drivers = [\"youki\"]", "got \"youki\""),
        ] {
            assert!(of(lines).unwrap_err().contains(told), "{lines}");
        }
    }

    #[test]
    fn a_network_is_checked_like_everything_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        let load = |network: &str| {
            std::fs::write(&path, format!("{EXAMPLE}\n[network]\n{network}\n")).unwrap();
            Config::load(&path).map(|config| config.network).map_err(|error| error.to_string())
        };
        let good = "uplink = \"cmup0\"\naddresses = [\"198.51.100.2/30\"]\ngateways = [\"198.51.100.1\"]";
        assert!(load(good).unwrap().is_some());
        let bad = good.replace("cmup0", "a b").replace("/30", "/33").replace("[\"198.51.100.1\"]", "[]");
        let text = load(&bad).unwrap_err();
        for field in ["network.uplink:", "network.addresses:", "network.gateways:"] {
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
