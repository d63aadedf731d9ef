//! What is known of an instance on disk: written before anything of it is made, so that a wipe needs nothing else.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    DriverError, WipedItem,
    cgroup::Group,
    error::Context,
    layout::Places,
    memory::Overwritten,
    process::{self, Process},
};

/// The record of one instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// Of this format.
    pub(crate) version: u32,
    /// The boot of the host in which memory and processes were made.
    pub(crate) boot: String,
    /// Which pair of user ids the instance has; `None` when the record was made up for remains without one.
    pub(crate) slot: Option<u32>,
    /// Its cgroups.
    pub(crate) group: Group,
    /// Serials of its disks, in the order of their device numbers in the guest.
    pub(crate) serials: Vec<String>,
    /// How far it came.
    pub(crate) stage: Stage,
    /// What the wipe has done already.
    pub(crate) wiped: BTreeMap<String, WipedNote>,
    /// What was found when guest memory was overwritten.
    #[serde(default)]
    pub(crate) overwritten: Option<Overwritten>,
    /// Of a container: the number of its first process among those that its keeper sees.
    #[serde(default)]
    pub(crate) init: Option<i32>,
    /// Version of Landlock by which the VMM's rules are in force, 0 on a kernel without; `None`: it was not executed in a jail.
    #[serde(default)]
    pub(crate) landlock: Option<u32>,
}

/// How far an instance came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// Anything may or may not exist.
    Preparing,
    /// Everything exists; no guest runs.
    Prepared,
    /// The VMM was told to run, or is about to be.
    Started,
    /// A wipe began.
    Wiping,
}

/// A [`WipedItem`] on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WipedNote {
    method: String,
    verified: bool,
    detail: String,
    bytes: u64,
    duration_ms: u64,
}

impl From<&WipedItem> for WipedNote {
    fn from(item: &WipedItem) -> Self {
        Self {
            method: item.method.to_owned(),
            verified: item.verified,
            detail: item.detail.clone(),
            bytes: item.bytes,
            duration_ms: item.duration_ms,
        }
    }
}

impl WipedNote {
    /// The item, if its method is one that exists.
    pub(crate) fn item(&self) -> Option<WipedItem> {
        let method = *METHODS.iter().find(|method| **method == self.method)?;
        Some(WipedItem {
            method,
            verified: self.verified,
            detail: self.detail.clone(),
            bytes: self.bytes,
            duration_ms: self.duration_ms,
        })
    }
}

impl Record {
    /// Of an instance that is about to be made.
    pub(crate) fn new(slot: Option<u32>, group: Group, serials: Vec<String>) -> Self {
        let (stage, wiped) = (Stage::Preparing, BTreeMap::new());
        Self {
            version: VERSION,
            boot: boot_id(),
            slot,
            group,
            serials,
            stage,
            wiped,
            overwritten: None,
            init: None,
            landlock: None,
        }
    }

    /// Reads it; `None` where there is none. An unreadable one is an error of its own kind, so that a wipe can go on.
    pub(crate) fn load(places: &Places) -> Result<Option<Self>, DriverError> {
        let path = places.record();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("read the record", &path),
        };
        let record: Self = serde_json::from_slice(&bytes).map_err(io::Error::from).context("read the record", &path)?;
        if record.version != VERSION {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it has another version")).context("read the record", &path);
        }
        Ok(Some(record))
    }

    /// Writes it so that it is found after a crash, whole.
    pub(crate) fn save(&self, places: &Places) -> Result<(), DriverError> {
        let path = places.record();
        let text = serde_json::to_vec_pretty(self).expect("a record has only texts and numbers");
        replace(&path, &text).context("write the record", &path)
    }

    /// Writes it so that whoever comes after this process finds it whole. A host that crashes may lose this version, not the whole record
    /// once [`Record::settle`] was called.
    pub(crate) fn note(&self, places: &Places) -> Result<(), DriverError> {
        let path = places.record();
        let text = serde_json::to_vec_pretty(self).expect("a record has only texts and numbers");
        let new = path.with_extension("new");
        let write = || {
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?.write_all(&text)?;
            fs::rename(&new, &path)
        };
        write().context("write the record", &path)
    }

    /// Makes sure that the record which is on disk now, in whatever version, outlives a crash of the host.
    pub(crate) fn settle(places: &Places) -> Result<(), DriverError> {
        let path = places.record();
        let settle = || {
            File::open(&path)?.sync_all()?;
            sync_directory(&path)?;
            sync_directory(&places.state)
        };
        settle().context("write the record to disk", &path)
    }

    /// The VMM, if it was told to run. Before that it may exist, but no guest does.
    pub(crate) fn running_vmm(&self) -> Option<Process> {
        if matches!(self.stage, Stage::Preparing | Stage::Prepared) { None } else { self.vmm() }
    }

    /// The VMM's process.
    pub(crate) fn vmm(&self) -> Option<Process> {
        if self.host_restarted() { None } else { process::find_init(&self.group) }
    }

    /// Whether the host has started anew since; then its memory and processes are gone.
    pub(crate) fn host_restarted(&self) -> bool {
        self.boot != boot_id()
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_directory(path)
}

/// Makes the entry of `path` in its directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    let directory: PathBuf = path.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned);
    File::open(directory)?.sync_all()
}

/// Empty where the kernel does not say; then no restart is ever noticed, and everything is looked at.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The words for how something was wiped.
const METHODS: [&str; 5] = ["overwritten", "crypto-erased", "removed", "released-by-kernel", "never-existed"];

const VERSION: u32 = 1;
