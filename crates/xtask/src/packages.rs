//! Packages of the distribution as build inputs: named by role, pinned by a lock file, verified by digest before use.
//!
//! ```text
//! guest-os/packages.toml   role -> names it has in the releases      (written by people)
//! guest-os/packages.lock   release -> role -> version, digest, size  (written by `cargo xtask lock`)
//! <cache>/debs/<digest>.deb
//! ```

mod apt;
mod deb;
mod lock;
mod release;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use self::{
    apt::Apt,
    lock::{LockFile, Roles},
};
pub(crate) use self::{deb::read_tree, lock::Locked, release::Release};
use crate::{
    digest, files,
    paths::{self, Workspace},
    progress::{Progress, note},
};

/// The packages that one release of a distribution supplies.
#[derive(Debug)]
pub(crate) struct Packages {
    release: Release,
    locked: BTreeMap<String, Locked>,
    store: PathBuf,
}

impl Packages {
    /// The locked packages of this machine's release; of a release that the lock file does not know, what its archive offers now.
    pub(crate) fn of_this_machine(workspace: &Workspace) -> Result<Self> {
        Self::of_release(workspace, Release::of_this_machine()?)
    }

    /// The same for `release`; apt must have its sources.
    pub(crate) fn of_release(workspace: &Workspace, release: Release) -> Result<Self> {
        let cache = paths::cache()?;
        let mut lock = LockFile::load(&lock_path(workspace))?;
        let locked = match lock.take(&release) {
            Some(locked) => locked,
            None => unpinned(workspace, &release, &cache.join("locks.toml"))?,
        };
        Ok(Self { release, locked, store: cache.join("debs") })
    }

    /// The release that they come from.
    pub(crate) fn release(&self) -> &Release {
        &self.release
    }

    /// The package in `role`.
    pub(crate) fn locked(&self, role: &str) -> Result<&Locked> {
        self.locked.get(role).with_context(|| {
            format!(
                "no package is locked for {role:?} on {} (hint: `cargo xtask lock` renews guest-os/packages.lock)",
                self.release
            )
        })
    }

    /// The files of the packages in `roles`, downloaded where needed, each with the digest that the lock file says.
    pub(crate) fn fetch(&self, roles: &[&str]) -> Result<Vec<PathBuf>> {
        let wanted: Vec<&Locked> = roles.iter().map(|role| self.locked(role)).collect::<Result<_>>()?;
        let missing: Vec<&Locked> = wanted.iter().copied().filter(|package| !self.stored(package).is_file()).collect();
        if !missing.is_empty() {
            self.download(&missing)?;
        }
        for package in &wanted {
            self.check(package)?;
        }
        Ok(wanted.iter().map(|package| self.stored(package)).collect())
    }

    fn stored(&self, package: &Locked) -> PathBuf {
        self.store.join(format!("{}.deb", package.sha256))
    }

    fn download(&self, missing: &[&Locked]) -> Result<()> {
        let total: u64 = missing.iter().map(|package| package.size).sum();
        let names: Vec<&str> = missing.iter().map(|package| package.package.as_str()).collect();
        let progress = Progress::start("packages", &format!("downloading {} ({} MiB)", names.join(", "), total >> 20));
        let suites: BTreeSet<Option<&str>> = missing.iter().map(|package| package.suite.as_deref()).collect();
        for suite in suites {
            let of_suite: Vec<&Locked> = missing.iter().copied().filter(|package| package.suite.as_deref() == suite).collect();
            self.download_from(&Apt::of(suite)?, &of_suite)?;
        }
        progress.done("downloaded and verified");
        Ok(())
    }

    fn download_from(&self, apt: &Apt, missing: &[&Locked]) -> Result<()> {
        let folder = apt.download(missing)?;
        for package in missing {
            let file = apt::downloaded(folder.path(), package)?;
            let found = digest::of_file(&file)?;
            if found != package.sha256 {
                bail!(
                    "{} {} has SHA-256 {found}, but {} is locked: it is not used",
                    package.package,
                    package.version,
                    package.sha256
                );
            }
            move_into(&file, &self.stored(package))?;
        }
        Ok(())
    }

    fn check(&self, package: &Locked) -> Result<()> {
        let path = self.stored(package);
        if digest::of_file(&path)? != package.sha256 {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            bail!("the cached {} was damaged and is removed: run the command again", path.display());
        }
        Ok(())
    }
}

/// Renews the lock file's part for `release`.
pub(crate) fn renew_lock(workspace: &Workspace, release: &Release) -> Result<()> {
    let path = lock_path(workspace);
    let mut lock = LockFile::load(&path)?;
    let before = lock.take(release).unwrap_or_default();
    let now = resolve(workspace)?;
    for (role, package) in &now {
        match before.get(role) {
            Some(old) if old == package => {}
            Some(old) => {
                note("lock", &format!("{role}: {} {} -> {} {}", old.package, old.version, package.package, package.version))
            }
            None => note("lock", &format!("{role}: {} {}", package.package, package.version)),
        }
    }
    note("lock", &format!("{} packages of {release}", now.len()));
    lock.put(release, now);
    lock.save(&path)
}

fn resolve(workspace: &Workspace) -> Result<BTreeMap<String, Locked>> {
    Roles::load(&workspace.join("guest-os/packages.toml"))?.resolve()
}

fn unpinned(workspace: &Workspace, release: &Release, path: &Path) -> Result<BTreeMap<String, Locked>> {
    let mut kept = LockFile::load(path)?;
    if let Some(locked) = kept.take(release) {
        return Ok(locked);
    }
    note("packages", &format!("guest-os/packages.lock does not know {release}: taking what its archive offers now"));
    note("packages", "(`cargo xtask lock` pins that in the repository)");
    let now = resolve(workspace)?;
    kept.put(release, now.clone());
    kept.save(path)?;
    Ok(now)
}

fn lock_path(workspace: &Workspace) -> PathBuf {
    workspace.join("guest-os/packages.lock")
}

/// The download may lie on another file system than the store.
fn move_into(from: &Path, to: &Path) -> Result<()> {
    files::copy(from, to)?;
    fs::remove_file(from).with_context(|| format!("removing {}", from.display()))
}
