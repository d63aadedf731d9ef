//! The policy file.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use crate::config::{self, ConfigError};

/// Most entries of one list.
const MAX_ENTRIES: usize = 1000;
/// Longest entry, in bytes.
const MAX_ENTRY: usize = 512;

/// What a machine that is dedicated to being a node may have; what a section that is left out would say is not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Always 1.
    pub version: u32,
    /// What a finding leads to.
    #[serde(default)]
    pub on_finding: OnFinding,
    /// Programs that may run beside instances, by the paths of their files.
    pub programs: Option<Limit>,
    /// Who may take what comes from the network: `tcp/22`, `udp/68`, `raw/58`, and `loopback` for all that only the machine reaches.
    pub sockets: Option<Limit>,
    /// Kernel parameters (`kernel.kptr_restrict`), each with the values that will do.
    #[serde(default)]
    pub parameters: BTreeMap<String, Vec<String>>,
    /// Kernel modules that may be loaded.
    pub modules: Option<Limit>,
    /// The kernel's command line.
    #[serde(default)]
    pub command_line: CommandLine,
    /// Which drivers PCI devices may have.
    #[serde(default)]
    pub devices: Vec<DeviceRule>,
}

/// What a finding leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFinding {
    /// It is reported.
    #[default]
    Report,
    /// It is reported, and the node takes no new instances until it is gone.
    Hold,
}

/// The names that are allowed. One that ends with `*` stands for all that begin as it does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// The names.
    pub allowed: Vec<String>,
}

impl Limit {
    /// Whether a name is allowed.
    pub fn permits(&self, name: &str) -> bool {
        self.allowed.iter().any(|pattern| fits(pattern, name))
    }
}

/// Words of the kernel's command line, whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandLine {
    /// Must be there.
    #[serde(default)]
    pub required: Vec<String>,
    /// Must not.
    #[serde(default)]
    pub forbidden: Vec<String>,
}

/// Which drivers devices of a kind may have.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceRule {
    /// Vendor and device as `lspci -n` writes them, `10de:2330`; `10de:*` for all of a vendor.
    pub id: String,
    /// The drivers that will do; an empty name: none.
    pub drivers: Vec<String>,
}

impl DeviceRule {
    /// Whether it speaks of this device.
    pub(super) fn is_of(&self, id: &str) -> bool {
        fits(&self.id, id)
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => name == pattern,
    }
}

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read or parsed.
    #[error(transparent)]
    File(#[from] ConfigError),
    /// It says what cannot be.
    #[error("the dedicated-node policy: {0}")]
    Content(String),
}

/// Reads and checks the file at `path`.
pub fn load(path: &Path) -> Result<Policy, PolicyError> {
    let policy: Policy = config::load(path)?;
    check(&policy).map_err(PolicyError::Content)?;
    Ok(policy)
}

fn check(policy: &Policy) -> Result<(), String> {
    if policy.version != 1 {
        return Err(format!("version: must be 1, got {}", policy.version));
    }
    let list = |limit: &Option<Limit>| limit.as_ref().map(|limit| limit.allowed.clone()).unwrap_or_default();
    let names = policy.parameters.keys().cloned().collect();
    let devices = policy.devices.iter().map(|rule| rule.id.clone()).collect();
    let lists: [(&str, Vec<String>); 7] = [
        ("programs.allowed", list(&policy.programs)),
        ("sockets.allowed", list(&policy.sockets)),
        ("modules.allowed", list(&policy.modules)),
        ("command_line.required", policy.command_line.required.clone()),
        ("command_line.forbidden", policy.command_line.forbidden.clone()),
        ("parameters", names),
        ("devices", devices),
    ];
    for (name, entries) in &lists {
        if entries.len() > MAX_ENTRIES {
            return Err(format!("{name}: has {} entries, at most {MAX_ENTRIES} are read", entries.len()));
        }
        if let Some(entry) = entries.iter().find(|entry| entry.is_empty() || entry.len() > MAX_ENTRY) {
            return Err(format!("{name}: an entry must have 1 to {MAX_ENTRY} bytes, one has {}", entry.len()));
        }
        // `*` alone would allow everything without looking so.
        if let Some(entry) = entries.iter().find(|entry| entry.strip_suffix('*').unwrap_or(entry).contains('*') || *entry == "*")
        {
            return Err(format!("{name}: {entry:?}: a * stands at the end of a name only; leave the section out to allow all"));
        }
    }
    if let Some(name) = policy.parameters.keys().find(|name| !is_parameter(name)) {
        return Err(format!("parameters: {name:?} is not the name of a kernel parameter, such as kernel.kptr_restrict"));
    }
    if let Some((name, _)) = policy.parameters.iter().find(|(_, values)| values.is_empty()) {
        return Err(format!("parameters: {name} has no value that would do"));
    }
    match policy.programs.iter().flat_map(|limit| &limit.allowed).find(|path| !path.starts_with('/')) {
        Some(path) => Err(format!("programs.allowed: {path:?} is not an absolute path")),
        None => Ok(()),
    }
}

/// Its name becomes a path below `/proc/sys`.
pub(super) fn is_parameter(name: &str) -> bool {
    let is_part =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    name.contains('.') && name.split('.').all(is_part)
}
