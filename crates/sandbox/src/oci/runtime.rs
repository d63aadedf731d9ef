//! The runtimes: what they are called, what they are told beside the common words of their command line.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::spec::{Connection, inside};
use crate::{
    Capabilities, DriverError, Features, GuestChannel, Isolation, Support, SystemKind, Topology, error::Context, qemu::host,
};

/// An OCI runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// runc: namespaces of the host's kernel.
    Runc,
    /// crun: the same.
    Crun,
    /// runsc of gVisor: a kernel in user space.
    Runsc,
    /// One that the host's configuration names; made by [`Compatible::runtime`].
    Other(&'static Compatible),
}

/// A runtime that nobody here knows, with the command line of the others: `--root`, `--log`, `--log-format json`, `run --detach --bundle
/// --pid-file`, and `--version`. It lives without privileges, as the others do, and has to leave control groups alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compatible {
    /// What it is called in configuration, inventories and messages: 1 to 32 of a-z, 0-9 and -.
    pub name: String,
    /// Its program.
    pub program: PathBuf,
    /// The level that its containers have, in the words of the host's owner: a container, or a sandbox with a kernel of its own.
    pub isolation: Isolation,
    /// Arguments before the command, at most 32: for a container that has loopback only,
    pub arguments: Vec<String>,
    /// and for one that is connected through its network namespace.
    pub connected: Vec<String>,
}

impl Compatible {
    /// The runtime. What is told of it is kept for the life of the process: there are as many as its configuration names.
    pub fn runtime(self) -> Result<Runtime, String> {
        let is_name = |text: &str| {
            (1..=32).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        if !is_name(&self.name) {
            return Err(format!("{:?} is no name of a runtime; hint: 1 to 32 of a-z, 0-9 and -", self.name));
        }
        if self.name.parse::<Runtime>().is_ok() {
            return Err(format!("{} is known, and needs no description", self.name));
        }
        if !self.program.is_absolute() {
            return Err(format!("the program of {} must be an absolute path", self.name));
        }
        if !matches!(self.isolation, Isolation::Container | Isolation::Sandbox) {
            return Err(format!("{} makes no machines; hint: level container or sandbox", self.name));
        }
        if [&self.arguments, &self.connected].iter().any(|list| list.len() > MOST_ARGUMENTS) {
            return Err(format!("{} has more than {MOST_ARGUMENTS} arguments", self.name));
        }
        Ok(Runtime::Other(Box::leak(Box::new(self))))
    }
}

impl Runtime {
    /// All that are known.
    pub const ALL: [Self; 3] = [Self::Runc, Self::Crun, Self::Runsc];

    /// Its program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Crun => "crun",
            Self::Runsc => "runsc",
            Self::Other(other) => &other.name,
        }
    }

    /// The level that its containers have.
    pub fn isolation(self) -> Isolation {
        match self {
            Self::Runc | Self::Crun => Isolation::Container,
            Self::Runsc => Isolation::Sandbox,
            Self::Other(other) => other.isolation,
        }
    }

    /// Where this host has it: by the usual places, or by its configuration.
    pub fn find(self) -> PathBuf {
        match self {
            Self::Other(other) => other.program.clone(),
            known => host::find_program(known.name()),
        }
    }

    /// Arguments before the command: no privilege over the host is assumed, and cgroups are ours.
    pub(super) fn arguments(self, network: Connection) -> Vec<String> {
        let own: &[&str] = match (self, network) {
            (Self::Runc, _) => &["--rootless", "true"],
            (Self::Crun, _) => &["--cgroup-manager", "disabled"],
            // The platform that needs nothing of the host.
            (Self::Runsc, Connection::None) => &["--platform", "ptrace", "--network", "none", "--ignore-cgroups"],
            // "host" is the namespace that it is started in, the instance's own. To take the link over with a stack of its own, it would
            // need privileges over that namespace.
            (Self::Runsc, Connection::Link) => &["--platform", "ptrace", "--network", "host", "--ignore-cgroups"],
            (Self::Other(_), _) => &[],
        };
        let told: &[String] = match (self, network) {
            (Self::Other(other), Connection::None) => &other.arguments,
            (Self::Other(other), Connection::Link) => &other.connected,
            _ => &[],
        };
        let common = ["--root", inside::STATE, "--log", LOG, "--log-format", "json"];
        told.iter().cloned().chain(own.iter().copied().chain(common).map(str::to_owned)).collect()
    }

    /// What it can do on this host, found out by starting it once.
    pub(super) fn capabilities(self, program: &Path, network: Support) -> Result<Capabilities, DriverError> {
        let level = self.isolation();
        Ok(Capabilities {
            name: self.name(),
            version: self.version(program)?,
            digest: host::digest(program).context("read the runtime", program)?,
            machine: level.as_str(),
            accel: "none",
            accel_reason: "no processor is virtualised at this level".to_owned(),
            isolation: level,
            system: SystemKind::Container,
            channel: GuestChannel::Stdio,
            max_disks: MOST_DISKS,
            max_cpus: MOST_CPUS,
            memory_mib: LEAST_MIB..=MOST_MIB,
            scratch_mib: 1..=MOST_MIB,
            tsc_khz: None,
            topology: Topology::default(),
            features: Features {
                vtpm: Support::no(format!("level {level} has no machine that a TPM could belong to")),
                gpu: Support::no(format!("level {level} cannot give back a GPU whose memory is proven to be clean")),
                network,
                sev_snp: Support::no(format!("level {level} runs in the host's memory")),
                tdx: Support::no(format!("level {level} runs in the host's memory")),
                pause: Support::no("the evidence of a container that stood still is not made"),
                snapshot: Support::no("a copy of the container's memory would outlive its wipe"),
                hot_plug: Support::no("containers have no devices that come and go"),
                placement: Support::no("containers take what the host gives them"),
            },
        })
    }

    fn version(self, program: &Path) -> Result<String, DriverError> {
        let asked = Command::new(program).arg("--version").env_clear().stdin(Stdio::null()).output();
        let output = asked.context("execute the runtime", program)?;
        let text = String::from_utf8_lossy(&output.stdout);
        // A program that is not what its name says is found out; what another one says of itself is for its owner to know.
        let is_named = |line: &&str| matches!(self, Self::Other(_)) || line.starts_with(self.name());
        match text.lines().next().filter(|line| output.status.success() && !line.is_empty()).filter(is_named) {
            Some(line) => Ok(line.chars().filter(|c| !c.is_control()).take(VERSION_LIMIT).collect()),
            None => Err(DriverError::Process { program: self.name(), detail: format!("--version: {}", output.status) }),
        }
    }
}

impl std::str::FromStr for Runtime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|runtime| runtime.name() == text);
        known.ok_or_else(|| format!("{text:?} is no runtime that is known; hint: runc, crun or runsc"))
    }
}

/// The runtime's log, in the keeper's root.
pub(super) const LOG: &str = "/state/log";

const MOST_DISKS: usize = 64;

const MOST_CPUS: u32 = 1024;

/// Less than this and a runtime does not start.
const LEAST_MIB: u64 = 64;

/// Sixteen TiB; a typing error beyond that shall not become arithmetic.
const MOST_MIB: u64 = 16 << 20;

const MOST_ARGUMENTS: usize = 32;

const VERSION_LIMIT: usize = 120;
