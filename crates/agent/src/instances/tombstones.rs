//! Memory of instances that are gone, for as long as their old orders could still start them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use casemate_lifecycle::{Held, Hold, InstanceId};
use serde::{Deserialize, Serialize};

use crate::{
    clock,
    files::{self, FileError},
};

/// Largest file, in bytes.
const MAX_BYTES: u64 = 16 << 20;
/// How much longer than an order's own limit it is remembered: clocks may be set.
const MARGIN_MS: u64 = 3_600_000;

/// An instance that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Gone {
    pub(super) generation: u64,
    /// From then on none of its orders can start it.
    pub(super) until_ms: u64,
}

impl Gone {
    pub(super) fn new(generation: u64, start_before_ms: u64) -> Self {
        Self { generation, until_ms: start_before_ms.saturating_add(MARGIN_MS) }
    }
}

/// All of them, in one file.
#[derive(Debug)]
pub(super) struct Tombstones {
    path: PathBuf,
    gone: BTreeMap<String, Gone>,
}

impl Tombstones {
    pub(super) fn load(state_dir: &Path) -> Result<Self, FileError> {
        let path = state_dir.join("gone.json");
        let bytes = files::read(&path, MAX_BYTES)?.unwrap_or_else(|| b"{}".to_vec());
        let gone = serde_json::from_slice(&bytes).map_err(std::io::Error::other).map_err(FileError::at("parse", &path))?;
        Ok(Self { path, gone })
    }

    /// Remembers one more, and forgets those that are too old to matter.
    pub(super) fn add(&mut self, id: &InstanceId, gone: Gone) -> Result<(), FileError> {
        let now = clock::now_ms();
        self.gone.retain(|_, gone| gone.until_ms > now);
        self.gone.insert(id.to_string(), gone);
        let bytes = serde_json::to_vec(&self.gone).expect("a map of numbers always serialises");
        files::replace(&self.path, &bytes)
    }

    pub(super) fn held(&self) -> impl Iterator<Item = (InstanceId, Held)> {
        self.gone
            .iter()
            .filter_map(|(id, gone)| Some((id.parse().ok()?, Held { generation: gone.generation, hold: Hold::Forgotten })))
    }

    pub(super) fn contains(&self, id: &InstanceId) -> bool {
        self.gone.contains_key(id.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_over_a_restart_while_it_matters() {
        let dir = tempfile::tempdir().unwrap();
        let (old, young) = ("i-old".parse().unwrap(), "i-young".parse().unwrap());
        let mut tombstones = Tombstones::load(dir.path()).unwrap();
        tombstones.add(&old, Gone { generation: 1, until_ms: 5 }).unwrap();
        tombstones.add(&young, Gone::new(2, clock::now_ms())).unwrap();
        let tombstones = Tombstones::load(dir.path()).unwrap();
        assert!(!tombstones.contains(&old));
        assert_eq!(tombstones.held().map(|(_, held)| held.generation).collect::<Vec<_>>(), [2]);
    }
}
