//! The two files about packages: roles with their possible names, and the lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    apt::{self, Apt, Candidate},
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
    /// The suite of Debian's archive that it comes from, where that is not this machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) suite: Option<String>,
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

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Role {
    role: String,
    /// The first of these that the archive has.
    #[serde(default)]
    names: Vec<String>,
    /// Or: what the first of these meta packages that the archive has depends on first.
    #[serde(default)]
    follow: Vec<String>,
    /// Or: the package of another role, under another beginning.
    beside: Option<Beside>,
    /// Another suite of Debian's archive, for what this machine's release does not have.
    suite: Option<String>,
    /// Left out of the lock where the archive has none of them; what needs the role says so then.
    #[serde(default)]
    where_offered: bool,
}

/// `linux-modules-6.8.0-1-generic` lies beside `linux-image-6.8.0-1-generic`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Beside {
    role: String,
    from: String,
    to: String,
}

impl Roles {
    /// The roles in the file at `path`.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        toml::from_str(&files::read_text(path)?).with_context(|| format!("reading {} as the list of packages", path.display()))
    }

    /// The packages that the archive offers for them now.
    pub(crate) fn resolve(&self) -> Result<BTreeMap<String, Locked>> {
        let suites: BTreeSet<Option<&str>> = self.package.iter().map(|role| role.suite.as_deref()).collect();
        let mut all = BTreeMap::new();
        for suite in suites {
            let package = self.package.iter().filter(|role| role.suite.as_deref() == suite).cloned().collect();
            let apt = Apt::of(suite)?;
            let mut found = Self { package }.resolve_from(|names| apt.candidates(names))?;
            found.values_mut().for_each(|locked| locked.suite = suite.map(str::to_owned));
            all.extend(found);
        }
        Ok(all)
    }

    fn resolve_from(
        &self,
        candidates: impl Fn(&[&str]) -> Result<BTreeMap<String, Candidate>>,
    ) -> Result<BTreeMap<String, Locked>> {
        let metas: Vec<&str> = self.package.iter().flat_map(|role| &role.follow).map(String::as_str).collect();
        let followed = candidates(&metas)?;
        let mut names: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for role in &self.package {
            names.insert(&role.role, role.names_with(&followed)?);
        }
        for role in &self.package {
            if let Some(beside) = &role.beside {
                names.insert(&role.role, beside.names(&names)?);
            }
        }
        let flat: Vec<&str> = names.values().flatten().map(String::as_str).collect();
        let offered = candidates(&flat)?;
        let chosen = self.package.iter().map(|role| (role, role.choose(&names[role.role.as_str()], &offered)));
        chosen
            .filter(|(role, choice)| choice.is_ok() || !role.where_offered)
            .map(|(role, choice)| Ok((role.role.clone(), choice?)))
            .collect()
    }
}

impl Role {
    fn names_with(&self, followed: &BTreeMap<String, Candidate>) -> Result<Vec<String>> {
        if self.follow.is_empty() {
            return Ok(self.names.clone());
        }
        let real = self.follow.iter().find_map(|meta| followed.get(meta)?.first_dependency.clone());
        match real {
            None if self.where_offered => Ok(Vec::new()),
            real => {
                let metas = self.follow.join(" or ");
                Ok(vec![real.with_context(|| format!("{metas} (for {:?}) is {}", self.role, apt::NOT_OFFERED))?])
            }
        }
    }

    fn choose(&self, names: &[String], offered: &BTreeMap<String, Candidate>) -> Result<Locked> {
        match names.iter().find_map(|name| offered.get(name)) {
            Some(candidate) => candidate.locked(),
            None => bail!("{} (for {:?}): {}", names.join(" or "), self.role, apt::NOT_OFFERED),
        }
    }
}

impl Beside {
    fn names(&self, of_roles: &BTreeMap<&str, Vec<String>>) -> Result<Vec<String>> {
        let names = of_roles.get(self.role.as_str()).with_context(|| format!("there is no role {:?}", self.role))?;
        Ok(names.iter().filter_map(|name| name.strip_prefix(&self.from)).map(|rest| format!("{}{rest}", self.to)).collect())
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
            suite: Some("sid".into()),
        };
        let release = Release::named("ubuntu-24.04");
        let mut lock = LockFile::default();
        lock.put(&release, BTreeMap::from([("mke2fs".to_owned(), package.clone())]));
        lock.save(&path).unwrap();
        let mut read = LockFile::load(&path).unwrap();
        assert_eq!(read.take(&release), Some(BTreeMap::from([("mke2fs".to_owned(), package)])));
    }
    const KERNEL: &str = r#"
        [[package]]
        role = "kernel"
        follow = ["linux-image-cloud-amd64", "linux-image-virtual"]
        where_offered = true

        [[package]]
        role = "modules"
        beside = { role = "kernel", from = "linux-image-", to = "linux-modules-" }
        where_offered = true
    "#;

    /// The roles that an archive with these packages gives, with their packages.
    fn resolved(text: &str, archive: &[(&str, &str)]) -> Result<Vec<(String, String)>> {
        let stanza = |(name, depends): &(&str, &str)| {
            format!("Package: {name}\nVersion: 1\nArchitecture: amd64\nSize: 1\nSHA256: 00\nDepends: {depends}\n\n")
        };
        let known = apt::parse_stanzas(&archive.iter().map(stanza).collect::<String>());
        let roles: Roles = toml::from_str(text).unwrap();
        let candidates = |names: &[&str]| {
            Ok(known.iter().filter(|(name, _)| names.contains(&name.as_str())).map(|(n, c)| (n.clone(), c.clone())).collect())
        };
        Ok(roles.resolve_from(candidates)?.into_iter().map(|(role, locked)| (role, locked.package)).collect())
    }

    #[test]
    fn modules_are_a_package_of_their_own_where_the_archive_has_one() {
        let pair = |role: &str, package: &str| (role.to_owned(), package.to_owned());
        let debian = [("linux-image-cloud-amd64", "linux-image-6.1-cloud (= 1)"), ("linux-image-6.1-cloud", "kmod")];
        assert_eq!(resolved(KERNEL, &debian).unwrap(), [pair("kernel", "linux-image-6.1-cloud")]);
        let ubuntu = [("linux-image-virtual", "linux-image-6.8"), ("linux-image-6.8", "kmod"), ("linux-modules-6.8", "")];
        let expected = [pair("kernel", "linux-image-6.8"), pair("modules", "linux-modules-6.8")];
        assert_eq!(resolved(KERNEL, &ubuntu).unwrap(), expected);
    }

    #[test]
    fn only_what_need_not_be_offered_may_be_absent() {
        assert_eq!(resolved(KERNEL, &[("libc6", "")]).unwrap(), []);
        let required = KERNEL.replacen("where_offered = true", "", 1);
        let error = resolved(&required, &[("libc6", "")]).unwrap_err().to_string();
        assert!(error.starts_with("linux-image-cloud-amd64 or linux-image-virtual (for \"kernel\") is not offered"), "{error}");
    }
}
