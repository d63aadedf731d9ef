//! The two files about packages: roles with their possible names, and the lock.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    apt::{self, Candidate},
    release::Release,
};
use crate::files;

const HEADER: &str = "# Written by `cargo xtask lock`: the packages that the guest OS and the demo image are made of.\n\n";

/// One package, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Locked {
    /// Its name in this release.
    pub(crate) package: String,
    /// Its version.
    pub(crate) version: String,
    /// Its architecture (`amd64` or `all`).
    pub(crate) architecture: String,
    /// SHA-256 of the `.deb`, in hexadecimal.
    pub(crate) sha256: String,
    /// Length of the `.deb` in bytes.
    pub(crate) size: u64,
}

/// The lock file: release, role, package.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct LockFile(BTreeMap<String, BTreeMap<String, Locked>>);

impl LockFile {
    /// The file at `path`; empty where there is none.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        toml::from_str(&files::read_text(path)?).with_context(|| format!("reading {} as a lock file", path.display()))
    }

    /// Writes it to `path`.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self).context("writing the lock file as TOML")?;
        files::write(path, format!("{HEADER}{text}").as_bytes())
    }

    /// Takes the packages of `release` out of it.
    pub(crate) fn take(&mut self, release: &Release) -> Option<BTreeMap<String, Locked>> {
        self.0.remove(release.as_str())
    }

    /// Sets the packages of `release`.
    pub(crate) fn put(&mut self, release: &Release, packages: BTreeMap<String, Locked>) {
        self.0.insert(release.as_str().to_owned(), packages);
    }
}

/// Which packages are needed, by role.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Roles {
    package: Vec<Role>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Role {
    role: String,
    /// The first of these that the archive has.
    #[serde(default)]
    names: Vec<String>,
    /// Or: what this meta package depends on first.
    follow: Option<String>,
}

impl Roles {
    /// The roles in the file at `path`.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        toml::from_str(&files::read_text(path)?).with_context(|| format!("reading {} as the list of packages", path.display()))
    }

    /// The packages that the archive offers for them now.
    pub(crate) fn resolve(&self) -> Result<BTreeMap<String, Locked>> {
        let metas: Vec<&str> = self.package.iter().filter_map(|role| role.follow.as_deref()).collect();
        let followed = apt::candidates(&metas)?;
        let mut names = Vec::new();
        for role in &self.package {
            names.push(role.names_with(&followed)?);
        }
        let flat: Vec<&str> = names.iter().flatten().map(String::as_str).collect();
        let offered = apt::candidates(&flat)?;
        self.package.iter().zip(&names).map(|(role, names)| Ok((role.role.clone(), role.choose(names, &offered)?))).collect()
    }
}

impl Role {
    fn names_with(&self, followed: &BTreeMap<String, Candidate>) -> Result<Vec<String>> {
        let Some(meta) = &self.follow else { return Ok(self.names.clone()) };
        let real = followed.get(meta).and_then(|candidate| candidate.first_dependency.clone());
        Ok(vec![real.with_context(|| format!("{meta} (for {:?}) is {}", self.role, apt::NOT_OFFERED))?])
    }

    fn choose(&self, names: &[String], offered: &BTreeMap<String, Candidate>) -> Result<Locked> {
        match names.iter().find_map(|name| offered.get(name)) {
            Some(candidate) => candidate.locked(),
            None => bail!("{} (for {:?}): {}", names.join(" or "), self.role, apt::NOT_OFFERED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_survives_writing_and_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("packages.lock");
        let package = Locked {
            package: "e2fsprogs".into(),
            version: "1.47.0-2+b2".into(),
            architecture: "amd64".into(),
            sha256: "ab".into(),
            size: 7,
        };
        let release = Release::named("ubuntu-24.04");
        let mut lock = LockFile::default();
        lock.put(&release, BTreeMap::from([("mke2fs".to_owned(), package.clone())]));
        lock.save(&path).unwrap();
        let mut read = LockFile::load(&path).unwrap();
        assert_eq!(read.take(&release), Some(BTreeMap::from([("mke2fs".to_owned(), package)])));
    }
}
