//! What apt knows and fetches. It checks the archive's signatures; the caller checks the digests.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::lock::Locked;
use crate::{files, paths, process};

/// The end of every message about a package that is not there.
pub(crate) const NOT_OFFERED: &str =
    "not offered by apt's sources here (hint: run `apt-get update`; on Ubuntu the component `universe` is needed)";

/// What apt would install under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    package: String,
    version: String,
    architecture: Option<String>,
    sha256: Option<String>,
    size: Option<u64>,
    /// The first package in its `Depends`.
    pub(crate) first_dependency: Option<String>,
}

impl Candidate {
    /// As it goes into the lock file.
    pub(crate) fn locked(&self) -> Result<Locked> {
        let complete = || {
            Some(Locked {
                package: self.package.clone(),
                version: self.version.clone(),
                architecture: self.architecture.clone()?,
                sha256: self.sha256.clone()?,
                size: self.size?,
                suite: None,
            })
        };
        complete().with_context(|| {
            format!("apt gives no digest of {} {}: it is installed, but in no archive", self.package, self.version)
        })
    }
}

/// apt with this machine's sources, or with one other suite of Debian's archive and folders of its own: the machine's apt learns nothing of it.
#[derive(Debug)]
pub(crate) struct Apt {
    /// Its configuration, where it is not the machine's.
    config: Option<PathBuf>,
    offers: bool,
}

impl Apt {
    /// For `suite`, whose lists are fetched now; for none, the machine's.
    pub(crate) fn of(suite: Option<&str>) -> Result<Self> {
        let Some(suite) = suite else { return Ok(Self { config: None, offers: true }) };
        // Without Debian's keys (on Ubuntu, say) nothing of it could be verified, and nothing is offered.
        if !Path::new(KEYRING).is_file() {
            return Ok(Self { config: None, offers: false });
        }
        let folder = paths::cache()?.join("apt").join(suite);
        for part in ["lists/partial", "cache/archives/partial"] {
            let path = folder.join(part);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        }
        let config = folder.join("apt.conf");
        files::write(&folder.join("sources.list"), format!("deb [signed-by={KEYRING}] {ARCHIVE} {suite} main\n").as_bytes())?;
        files::write(&config, private(&folder).as_bytes())?;
        let apt = Self { config: Some(config), offers: true };
        let output = process::raw_output(apt.command("apt-get").args(["update", "--quiet"]))?;
        if !output.status.success() {
            let why = process::last_lines(&String::from_utf8_lossy(&output.stderr));
            bail!("fetching the lists of {suite} from {ARCHIVE} failed:\n{why}");
        }
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        if let Some(config) = &self.config {
            command.env("APT_CONFIG", config);
        }
        command
    }

    /// The candidates for those of `names` that apt knows.
    pub(crate) fn candidates(&self, names: &[&str]) -> Result<BTreeMap<String, Candidate>> {
        if names.is_empty() || !self.offers {
            return Ok(BTreeMap::new());
        }
        let mut command = self.command("apt-cache");
        command.args(["show", "--no-all-versions"]).args(names);
        // It fails when none of them is known; the caller says so with more context.
        let output = process::raw_output(&mut command)?;
        Ok(parse_stanzas(&String::from_utf8_lossy(&output.stdout)))
    }

    /// Downloads exactly these versions to a folder.
    pub(crate) fn download(&self, packages: &[&Locked]) -> Result<TempDir> {
        let folder = tempfile::Builder::new().prefix("casemate-apt-").tempdir().context("making a folder for downloads")?;
        hand_to_apt(folder.path());
        let mut command = self.command("apt-get");
        command.args(["download", "--quiet"]).current_dir(folder.path());
        command.args(packages.iter().map(|package| format!("{}={}", package.package, package.version)));
        let output = process::raw_output(&mut command)?;
        if !output.status.success() {
            let moved = self.moved_on(packages)?;
            if !moved.is_empty() {
                bail!("{}", moved_message(&moved));
            }
            bail!(
                "apt-get download failed (hint: the lists may be old, `apt-get update` renews them):\n{}",
                process::last_lines(&String::from_utf8_lossy(&output.stderr))
            );
        }
        Ok(folder)
    }

    /// Those of `packages` whose locked version apt would no longer choose, with what it would.
    fn moved_on<'a>(&self, packages: &[&'a Locked]) -> Result<Vec<(&'a Locked, Option<String>)>> {
        let names: Vec<&str> = packages.iter().map(|package| package.package.as_str()).collect();
        let offered = self.candidates(&names)?;
        let version_now = |package: &Locked| offered.get(&package.package).map(|candidate| candidate.version.clone());
        Ok(packages
            .iter()
            .map(|package| (*package, version_now(package)))
            .filter(|(package, now)| now.as_deref() != Some(package.version.as_str()))
            .collect())
    }
}

/// Where other suites come from, and the keys that sign them.
const ARCHIVE: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A configuration of apt that keeps to `folder`.
fn private(folder: &Path) -> String {
    let at = |name: &str| folder.join(name).display().to_string();
    format!(
        "Dir::Etc::sourcelist {:?};\nDir::Etc::sourceparts \"/dev/null\";\nDir::State::lists {:?};\nDir::Cache {:?};\nDir::State::status \"/dev/null\";\nAcquire::Languages \"none\";\n",
        at("sources.list"),
        at("lists"),
        at("cache")
    )
}

/// Where a download put `package`.
pub(crate) fn downloaded(folder: &Path, package: &Locked) -> Result<PathBuf> {
    let prefix = format!("{}_", package.package);
    let entries = fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("listing {}", folder.display()))?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            return Ok(entry.path());
        }
    }
    bail!("apt-get download succeeded, but left no file for {}", package.package)
}

/// Root's apt downloads as the user `_apt` and warns when it cannot. Best effort: it works without, too.
fn hand_to_apt(folder: &Path) {
    let is_root = fs::metadata(folder).is_ok_and(|metadata| metadata.uid() == 0);
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let id = passwd.lines().find_map(|line| line.strip_prefix("_apt:")?.split(':').nth(1)?.parse().ok());
    if let (true, Some(id)) = (is_root, id) {
        let _ = chown(folder, Some(id), None);
    }
}

fn moved_message(moved: &[(&Locked, Option<String>)]) -> String {
    let mut text = String::from("the archive has moved on since guest-os/packages.lock was written:\n");
    for (package, now) in moved {
        let now = now.as_deref().unwrap_or("no version at all");
        text += &format!("  {} {} is locked, the archive has {now}\n", package.package, package.version);
    }
    text + "hint: `apt-get update && cargo xtask lock` renews the lock; review the change, and expect new reference values"
}

/// The candidates in the output of `apt-cache show`; the first of a name counts.
pub(super) fn parse_stanzas(text: &str) -> BTreeMap<String, Candidate> {
    let stanzas = text.split("\n\n").filter_map(parse_stanza);
    let mut found = BTreeMap::new();
    for candidate in stanzas {
        found.entry(candidate.package.clone()).or_insert(candidate);
    }
    found
}

fn parse_stanza(text: &str) -> Option<Candidate> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned);
    Some(Candidate {
        package: field("Package")?,
        version: field("Version")?,
        architecture: field("Architecture"),
        sha256: field("SHA256"),
        size: field("Size").and_then(|size| size.parse().ok()),
        first_dependency: field("Depends").and_then(|depends| depends.split([' ', ',', '(']).next().map(str::to_owned)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "Package: linux-source\nVersion: 6.1.192-2\nDepends: linux-source-6.1 (= 6.1.192-2)\n\n\
        Package: e2fsprogs\nVersion: 1.47.0-2+b2\nArchitecture: amd64\nSize: 571920\nSHA256: 00ff\n";

    #[test]
    fn reads_candidates_and_follows_meta_packages() {
        let found = parse_stanzas(SHOWN);
        assert_eq!(found["linux-source"].first_dependency.as_deref(), Some("linux-source-6.1"));
        assert_eq!(found["e2fsprogs"].locked().unwrap().size, 571_920);
    }

    #[test]
    fn a_package_without_digest_cannot_be_locked() {
        let error = parse_stanzas(SHOWN)["linux-source"].locked().unwrap_err();
        assert!(error.to_string().contains("no digest of linux-source 6.1.192-2"), "{error}");
    }

    #[test]
    fn says_which_package_moved_on_and_what_to_do() {
        let locked = Locked {
            package: "e2fsprogs".into(),
            version: "1".into(),
            architecture: "amd64".into(),
            sha256: String::new(),
            size: 0,
            suite: None,
        };
        let text = moved_message(&[(&locked, Some("2".to_owned()))]);
        assert!(text.contains("e2fsprogs 1 is locked, the archive has 2"), "{text}");
        assert!(text.contains("cargo xtask lock"), "{text}");
    }
}
