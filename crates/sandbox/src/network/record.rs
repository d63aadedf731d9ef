//! What is written down of an instance's network before it is made, so that an agent that died can take it up or away.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    num::NonZeroU64,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use casemate_lifecycle::{InstanceId, network::Policy};
use serde::{Deserialize, Serialize};

use super::{Link, NetworkError};

/// One file per instance.
#[derive(Debug)]
pub(super) struct Records(PathBuf);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    version: u32,
    pub(super) slot: u16,
    mtu: u32,
    egress: Vec<String>,
    published: Vec<String>,
    send_limit: Option<NonZeroU64>,
    receive_limit: Option<NonZeroU64>,
    new_connections_limit: Option<NonZeroU64>,
}

impl Record {
    pub(super) fn new(slot: u16, mtu: u32, policy: &Policy) -> Self {
        Self {
            version: VERSION,
            slot,
            mtu,
            egress: policy.egress.iter().map(ToString::to_string).collect(),
            published: policy.published.iter().map(ToString::to_string).collect(),
            send_limit: policy.send_limit,
            receive_limit: policy.receive_limit,
            new_connections_limit: policy.new_connections_limit,
        }
    }

    pub(super) fn link(&self, id: &InstanceId) -> Link {
        Link::of(id, self.slot, self.mtu)
    }

    /// Written by us, but the disk is not ours alone.
    pub(super) fn policy(&self) -> Result<Policy, NetworkError> {
        let policy = Policy {
            egress: self.egress.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            published: self.published.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            send_limit: self.send_limit,
            receive_limit: self.receive_limit,
            new_connections_limit: self.new_connections_limit,
        };
        policy.check()?;
        Ok(policy)
    }
}

impl Records {
    pub(super) fn open(directory: &Path) -> Result<Self, NetworkError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| NetworkError::Record { attempt: "create", path: directory.to_owned(), source })?;
        Ok(Self(directory.to_owned()))
    }

    /// All of them; a damaged one has no content, but its instance is known.
    pub(super) fn all(&self) -> Result<BTreeMap<InstanceId, Option<Record>>, NetworkError> {
        let failed = |source| NetworkError::Record { attempt: "list", path: self.0.clone(), source };
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.0).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let Some(id) = name.strip_suffix(SUFFIX).and_then(|name| name.parse::<InstanceId>().ok()) else { continue };
            let record = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
            found.insert(id, record.filter(|record| record.version == VERSION));
        }
        Ok(found)
    }

    /// Found after a crash, whole.
    pub(super) fn save(&self, id: &InstanceId, record: &Record) -> Result<(), NetworkError> {
        let path = self.path(id);
        let text = serde_json::to_vec_pretty(record).expect("a record has only texts and numbers");
        self.replace(&path, &text).map_err(|source| NetworkError::Record { attempt: "write", path, source })
    }

    pub(super) fn remove(&self, id: &InstanceId) -> Result<(), NetworkError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(NetworkError::Record { attempt: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let new = path.with_extension("new");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(&self.0)?.sync_all()
    }

    fn path(&self, id: &InstanceId) -> PathBuf {
        self.0.join(format!("{id}{SUFFIX}"))
    }
}

const SUFFIX: &str = ".json";
const VERSION: u32 = 1;
