//! The guest OS image on this node: which files, which command line.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use casemate_api::workload::parse_hex32;
use serde::Deserialize;

use crate::files::{self, FileError};

/// Largest manifest, in bytes.
const MAX_MANIFEST: u64 = 1 << 20;

/// Why there is no usable guest OS image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestOsError {
    /// A file is not readable.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no manifest.
    #[error("there is no guest OS manifest {}", .0.display())]
    Missing(PathBuf),
    /// The manifest is not usable.
    #[error("guest OS manifest {}: {problem}", path.display())]
    Manifest { path: PathBuf, problem: String },
}

/// The image's files and command lines. The manifest's digests are not read: what counts is what is in the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GuestOs {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) root: PathBuf,
    /// Process 1 of a container; images that were built before there were containers have none.
    pub(crate) guest: Option<PathBuf>,
    command_lines: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Manifest {
    version: u16,
    kernel: Named,
    initrd: Named,
    root: Named,
    guest: Option<Named>,
    command_lines: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Named {
    file: String,
}

impl GuestOs {
    /// Reads `guest-os.json` in `folder`. Blocking.
    pub(crate) fn load(folder: &Path) -> Result<Self, GuestOsError> {
        let path = folder.join("guest-os.json");
        let bytes = files::read(&path, MAX_MANIFEST)?.ok_or_else(|| GuestOsError::Missing(path.clone()))?;
        let problem = |problem: String| GuestOsError::Manifest { path: path.clone(), problem };
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| problem(error.to_string()))?;
        if manifest.version != 1 {
            return Err(problem(format!("version {} is not known", manifest.version)));
        }
        let inside = |named: &Named| {
            let plain = !named.file.is_empty() && named.file != ".." && !named.file.contains('/');
            if plain { Ok(folder.join(&named.file)) } else { Err(problem(format!("{:?} is no file name", named.file))) }
        };
        Ok(Self {
            kernel: inside(&manifest.kernel)?,
            initrd: inside(&manifest.initrd)?,
            root: inside(&manifest.root)?,
            guest: manifest.guest.as_ref().map(inside).transpose()?,
            command_lines: manifest.command_lines,
        })
    }

    /// The command line for an accelerator, and the root hash that it names.
    pub(crate) fn command_line(&self, accel: &str, tsc_khz: Option<u64>) -> Result<(String, [u8; 32]), String> {
        let template = self.command_lines.get(accel).ok_or_else(|| format!("the guest OS has no command line for {accel}"))?;
        let line = match (template.contains(TSC), tsc_khz) {
            (false, _) => template.clone(),
            (true, Some(khz)) => template.replace(TSC, &khz.to_string()),
            (true, None) => return Err("the frequency of this host's time stamp counter is not known".into()),
        };
        let root = line.split(' ').find_map(|word| word.strip_prefix("casemate.root=")?.split(':').next()).and_then(parse_hex32);
        let root = root.ok_or("the guest OS's command line names no root hash")?;
        Ok((line, root))
    }
}

const TSC: &str = "{tsc_khz}";

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(kernel: &str) -> String {
        let root = hex::encode([5; 32]);
        format!(
            r#"{{"version":1,"kernel":{{"file":"{kernel}","sha256":"00"}},"initrd":{{"file":"i","sha256":"00"}},
            "root":{{"file":"r","root_hash":"00"}},"sources":{{}},
            "command_lines":{{"tcg":"a tsc_early_khz={{tsc_khz}} casemate.root={root}:ab:9:10","kvm":"b"}}}}"#
        )
    }

    #[test]
    fn fills_in_the_frequency_and_finds_the_root_hash() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("guest-os.json"), manifest("vmlinux")).unwrap();
        let os = GuestOs::load(dir.path()).unwrap();
        assert_eq!(os.kernel, dir.path().join("vmlinux"));
        let (line, root) = os.command_line("tcg", Some(2_000_000)).unwrap();
        assert!(line.starts_with("a tsc_early_khz=2000000 casemate.root=0505"), "{line}");
        assert_eq!(root, [5; 32]);
        assert!(os.command_line("tcg", None).is_err());
        assert!(os.command_line("kvm", None).is_err(), "no root hash");
        assert!(os.command_line("hvf", None).is_err());
    }

    #[test]
    fn refuses_files_outside_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["../vmlinux", "/etc/passwd", "..", ""] {
            std::fs::write(dir.path().join("guest-os.json"), manifest(bad)).unwrap();
            assert!(matches!(GuestOs::load(dir.path()), Err(GuestOsError::Manifest { .. })), "{bad}");
        }
    }
}
