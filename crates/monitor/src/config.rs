//! The configuration file: what is guarded, where the record goes, what is done about what.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use thiserror::Error;

use crate::{
    detector::{Action, Actions, Detector},
    devices::Kind,
    kernel::layout::{Role, guard},
};

/// Why a configuration is refused.
#[derive(Debug, Error)]
pub enum Error {
    /// It could not be read.
    #[error("read the configuration {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("read the configuration {} as TOML", path.display())]
    Parse {
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: toml::de::Error,
    },
    /// Its values cannot be.
    #[error("the configuration {} is refused: {}", path.display(), faults.join("; "))]
    Refused {
        /// Which file.
        path: PathBuf,
        /// Everything that is wrong with it.
        faults: Vec<String>,
    },
}

/// What is guarded about a file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    /// Contents and attributes.
    Write,
    /// Opening it at all.
    Read,
    /// Its name: unlink, rename, link, mount over.
    Name,
    /// Of a folder: what is in it.
    Entries,
    /// A program that keeps the label of whoever executes it.
    Keeps,
}

/// Whose a file is: who else than the monitor may do what is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// The monitor alone.
    Monitor,
    /// The agent, too.
    Agent,
}

/// A guarded file or folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuardedFile {
    /// Where it is at the start; afterwards it is known by its inode.
    pub path: PathBuf,
    /// What is guarded.
    pub guard: Vec<Guard>,
    /// Whose it is.
    #[serde(default = "agent")]
    pub owner: Owner,
    /// Whether the device below is guarded, too.
    #[serde(default)]
    pub device: bool,
}

impl GuardedFile {
    /// As the programs know it.
    pub fn bits(&self) -> u32 {
        self.guard.iter().fold(0, |bits, one| {
            bits | match one {
                Guard::Write => guard::WRITE,
                Guard::Read => guard::READ,
                Guard::Name => guard::NAME,
                Guard::Entries => guard::ENTRIES,
                Guard::Keeps => guard::KEEPS,
            }
        })
    }

    /// As the programs know it.
    pub fn role(&self) -> Role {
        match self.owner {
            Owner::Monitor => Role::Monitor,
            Owner::Agent => Role::Agent,
        }
    }
}

/// Whether hooks that can refuse are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// As far as the kernel lets us.
    #[default]
    Enforce,
    /// Never: what is seen is noted and ends the instances. The class says so.
    Observe,
}

/// What follows from what a scan finds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFindings {
    /// It is in status and record.
    #[default]
    State,
    /// No work is accepted.
    Refuse,
}

/// Settings that the monitor makes where it is told to: each only takes possibilities away.
const SETTINGS: [&str; 6] = [
    "kernel.modules_disabled",
    "kernel.kexec_load_disabled",
    "kernel.yama.ptrace_scope",
    "kernel.unprivileged_bpf_disabled",
    "kernel.perf_event_paranoid",
    "kernel.sysrq",
];

/// The configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder of spool and status; the monitor's alone.
    pub state: PathBuf,
    /// Folder for pins, on a bpffs.
    #[serde(default = "pins")]
    pub pins: PathBuf,
    /// cgroup (version 2) that the cgroups of all instances lie in: one write ends them.
    pub instances: PathBuf,
    /// Whether hooks that can refuse are used.
    #[serde(default)]
    pub mode: Mode,
    /// How often each group's canary tries.
    #[serde(default = "canary_interval_ms")]
    canary_interval_ms: u64,
    /// After how long a canary that does not answer counts as silenced.
    #[serde(default = "canary_timeout_ms")]
    canary_timeout_ms: u64,
    /// After how long guard and worker, who watch each other, take silence for the other's end.
    #[serde(default = "watchdog_ms")]
    watchdog_ms: u64,
    /// After how long an agent that does not say that it lives, though instances are watched, counts as stopped.
    #[serde(default = "agent_silence_ms")]
    agent_silence_ms: u64,
    /// Room for the record that is set aside on the disk, so that a full one loses no report.
    #[serde(default = "record_reserve_kib")]
    record_reserve_kib: u64,
    /// What else is guarded.
    #[serde(default)]
    pub files: Vec<GuardedFile>,
    /// Kinds of devices that only agent and machines open.
    #[serde(default = "devices")]
    pub devices: Vec<Kind>,
    /// Sockets that only the agent reaches: of container engines, and its own. Each must be there at the start.
    #[serde(default)]
    pub sockets: Vec<PathBuf>,
    /// Types of BPF programs that others may load while the node is sealed, as libbpf names them.
    #[serde(default = "foreign_bpf")]
    foreign_bpf: Vec<String>,
    /// What follows from what was open, loaded or attached before the start.
    #[serde(default)]
    pub scan: OnFindings,
    /// Modules that may be loaded at the start; without the list, all.
    pub modules: Option<Vec<String>>,
    /// Settings of the kernel (`kernel.NAME`) that are made at the start. Some cannot be undone before a reboot.
    #[serde(default)]
    pub settings: BTreeMap<String, u32>,
    /// Detector -> what is done, where it is not the usual.
    #[serde(default)]
    policy: BTreeMap<String, Vec<Action>>,
}

/// Kinds that only see what passes one cgroup or interface: service managers and container runtimes load them.
const HARMLESS: [(&str, u32); 7] = [
    ("socket_filter", 1),
    ("cgroup_skb", 8),
    ("cgroup_sock", 9),
    ("cgroup_device", 15),
    ("cgroup_sock_addr", 18),
    ("cgroup_sockopt", 25),
    ("sk_reuseport", 21),
];

/// Less than this is a stall of an ordinary machine.
const MIN_WATCHDOG_MS: u64 = 1_000;
/// The agent says each second that it lives.
const MIN_AGENT_SILENCE_MS: u64 = 5_000;
/// A breach is a few kilobytes; the room is renewed when half of it is used.
const MIN_RESERVE_KIB: u64 = 256;
const MAX_RESERVE_KIB: u64 = 1 << 20;

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let config: Self = toml::from_str(&text).map_err(|source| Error::Parse { path: path.to_owned(), source })?;
        match config.faults() {
            faults if faults.is_empty() => Ok(config),
            faults => Err(Error::Refused { path: path.to_owned(), faults }),
        }
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let paths = [&self.state, &self.pins, &self.instances].into_iter().chain(&self.sockets);
        let paths = paths.chain(self.files.iter().map(|file| &file.path));
        faults.extend(paths.filter(|path| !path.is_absolute()).map(|path| format!("{} is not an absolute path", path.display())));
        faults.extend(
            self.policy
                .keys()
                .filter(|name| Detector::named(name).is_none())
                .map(|name| format!("there is no detector {name:?} (hint: `casemate-monitor detectors` lists them)")),
        );
        let unknown = self.foreign_bpf.iter().filter(|name| !HARMLESS.iter().any(|(known, _)| known == name));
        faults.extend(unknown.map(|name| format!("BPF programs of type {name:?} cannot be left to others")));
        let unknown = self.settings.keys().filter(|name| !SETTINGS.contains(&name.as_str()));
        faults
            .extend(unknown.map(|name| format!("{name:?} is no setting that the monitor makes (hint: {})", SETTINGS.join(", "))));
        if self.canary_interval_ms == 0 {
            faults.push("canary_interval_ms is 0".to_owned());
        }
        if self.watchdog_ms < MIN_WATCHDOG_MS {
            faults.push(format!("watchdog_ms is below {MIN_WATCHDOG_MS}: a busy machine would end its instances"));
        }
        if self.agent_silence_ms < MIN_AGENT_SILENCE_MS {
            faults.push(format!("agent_silence_ms is below {MIN_AGENT_SILENCE_MS}: a busy agent would lose its instances"));
        }
        if !(MIN_RESERVE_KIB..=MAX_RESERVE_KIB).contains(&self.record_reserve_kib) {
            faults.push(format!("record_reserve_kib is not from {MIN_RESERVE_KIB} to {MAX_RESERVE_KIB}"));
        }
        faults
    }

    /// What is done about `detector`.
    pub fn actions(&self, detector: Detector) -> Actions {
        self.policy.get(detector.name()).map_or(detector.usual(), |words| words.iter().copied().collect())
    }

    /// Bit N: others may load programs of type N.
    pub fn foreign_bpf(&self) -> u64 {
        let known = HARMLESS.iter().filter(|(name, _)| self.foreign_bpf.iter().any(|one| one == name));
        known.fold(0, |bits, (_, number)| bits | 1 << number)
    }

    /// How often each group's canary tries.
    pub fn canary_interval(&self) -> Duration {
        Duration::from_millis(self.canary_interval_ms)
    }

    /// After how long a canary that does not answer counts as silenced.
    pub fn canary_timeout(&self) -> Duration {
        Duration::from_millis(self.canary_timeout_ms)
    }

    /// After how long silence counts as an end.
    pub fn watchdog(&self) -> Duration {
        Duration::from_millis(self.watchdog_ms)
    }

    /// After how long a silent agent counts as stopped.
    pub fn agent_silence(&self) -> Duration {
        Duration::from_millis(self.agent_silence_ms)
    }

    /// Room for the record that is set aside on the disk.
    pub fn reserve_bytes(&self) -> u64 {
        self.record_reserve_kib << 10
    }

    /// The spool's file.
    pub fn spool(&self) -> PathBuf {
        self.state.join("spool.jsonl")
    }

    /// The status' file.
    pub fn status(&self) -> PathBuf {
        self.state.join("status.json")
    }
}

fn agent() -> Owner {
    Owner::Agent
}

fn pins() -> PathBuf {
    "/sys/fs/bpf/casemate".into()
}

fn canary_interval_ms() -> u64 {
    5_000
}

fn canary_timeout_ms() -> u64 {
    15_000
}

fn watchdog_ms() -> u64 {
    10_000
}

fn agent_silence_ms() -> u64 {
    30_000
}

fn record_reserve_kib() -> u64 {
    1024
}

fn devices() -> Vec<Kind> {
    Kind::ALL.to_vec()
}

fn foreign_bpf() -> Vec<String> {
    HARMLESS.iter().map(|(name, _)| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        Config::load(file.path())
    }

    #[test]
    fn the_example_is_accepted() {
        let config = load(include_str!("../monitor.example.toml")).unwrap();
        assert_eq!(config.actions(Detector::PtraceInspect), Actions(Actions::DENY | Actions::NOTE));
        assert_eq!(config.foreign_bpf() >> 29 & 1, 0, "LSM programs are never left to others");
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let text = "state = \"here\"\ninstances = \"/i\"\ncanary_interval_ms = 0\nwatchdog_ms = 9\nagent_silence_ms = 9\nrecord_reserve_kib = 1\nforeign_bpf = [\"lsm\"]\n[settings]\n\"kernel.panic\" = 1\n[policy]\nnone = []\n";
        let error = load(text).unwrap_err().to_string();
        for part in [
            "here is not an absolute path",
            "no detector \"none\"",
            "type \"lsm\"",
            "canary_interval_ms is 0",
            "watchdog_ms is below",
            "agent_silence_ms is below",
            "record_reserve_kib is not from",
            "\"kernel.panic\" is no setting",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(matches!(load("state = \"/s\"\ninstances = \"/i\"\nother = 1"), Err(Error::Parse { .. })));
    }
}
