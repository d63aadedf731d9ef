//! Opens the guest's sealed records: output on the terminal, results on disk.

use std::{
    fs,
    io::{Read as _, Seek as _, Write as _},
    path::{Component, Path, PathBuf},
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_seal::{HpkeSecret, Record, RecordOpener};

use crate::{
    client::{Client, Wait},
    exit::Refused,
};

/// Largest result archive, in bytes.
const MAX_RESULTS: u64 = 2 << 30;
/// Most files in a result archive.
const MAX_ENTRIES: usize = 100_000;

/// Reads one instance's records from the first on.
pub(crate) struct Reader<'a> {
    client: &'a Client,
    instance: String,
    opener: RecordOpener,
    next: u64,
    /// The tar of the results, as far as received; unnamed, gone with this value.
    results: fs::File,
    results_bytes: u64,
}

/// Whether to go on until the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// The workload's end.
    Exit,
    /// What is there now.
    Now,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        client: &'a Client,
        instance: &str,
        tenant: &HpkeSecret,
        guest: &[u8; 32],
        workload_digest: &[u8; 32],
    ) -> anyhow::Result<Self> {
        let opener = RecordOpener::new(tenant, guest, instance, workload_digest);
        let results = tempfile::tempfile().context("create a temporary file for the results")?;
        Ok(Self { client, instance: instance.to_owned(), opener, next: 0, results, results_bytes: 0 })
    }

    /// Prints output as it comes; returns the exit status once the guest sent it.
    pub(crate) async fn run(&mut self, until: Until) -> anyhow::Result<Option<i32>> {
        let wait = if until == Until::Exit { Wait::ForMore } else { Wait::No };
        loop {
            let batch = self.client.records(&self.instance, self.next, wait).await?;
            anyhow::ensure!(batch.from == self.next, "asked for records from {}, got {}", self.next, batch.from);
            let empty = batch.records.is_empty();
            for sealed in &batch.records {
                self.next += 1;
                if let Some(code) = self.take(sealed)? {
                    return Ok(Some(code));
                }
            }
            if empty && (batch.complete || until == Until::Now) {
                return Ok(None);
            }
        }
    }

    /// Puts the results into `folder`, whole or not at all.
    pub(crate) fn unpack(mut self, folder: &Path) -> anyhow::Result<usize> {
        let parent = folder.canonicalize().ok().and_then(|f| f.parent().map(Path::to_owned)).unwrap_or_else(|| parent_of(folder));
        let staging = tempfile::Builder::new()
            .prefix(".casemate-results-")
            .tempdir_in(&parent)
            .with_context(|| format!("create a folder in {}", parent.display()))?;
        self.results.rewind()?;
        let count = unpack_tar(&self.results, staging.path()).context("unpack the results")?;
        if folder.exists() {
            fs::remove_dir(folder).with_context(|| format!("replace {} (it must be empty)", folder.display()))?;
        }
        fs::rename(staging.path(), folder).with_context(|| format!("put the results into {}", folder.display()))?;
        set_mode(folder, 0o755)?;
        Ok(count)
    }

    fn take(&mut self, sealed: &str) -> anyhow::Result<Option<i32>> {
        let refused = |detail: String| Refused { check: "records.authentic".into(), detail };
        let sealed = BASE64.decode(sealed).map_err(|e| refused(e.to_string()))?;
        match self.opener.open(&sealed).map_err(|e| refused(format!("record {}: {e}", self.next - 1)))? {
            Record::Stdout(bytes) => {
                let mut out = std::io::stdout().lock();
                out.write_all(&bytes)?;
                out.flush()?;
            }
            Record::Stderr(bytes) => std::io::stderr().lock().write_all(&bytes)?,
            Record::Output(bytes) => {
                self.results_bytes += bytes.len() as u64;
                anyhow::ensure!(self.results_bytes <= MAX_RESULTS, "the results are larger than {MAX_RESULTS} bytes");
                self.results.write_all(&bytes)?;
            }
            Record::Exit { code } => return Ok(Some(code)),
        }
        Ok(None)
    }
}

/// Refuses a results folder that is not new or empty, before anything runs.
pub(crate) fn check_folder(folder: &Path) -> anyhow::Result<()> {
    match fs::read_dir(folder) {
        Ok(mut entries) => anyhow::ensure!(entries.next().is_none(), "the folder {} is not empty", folder.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            anyhow::ensure!(parent_of(folder).is_dir(), "there is no folder {}", parent_of(folder).display());
        }
        Err(error) => return Err(error).with_context(|| format!("look at the folder {}", folder.display())),
    }
    Ok(())
}

fn parent_of(folder: &Path) -> PathBuf {
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Files and folders only, below `into`, without the archive's owners and modes: the workload is not trusted to choose
/// where or how anything is written here.
fn unpack_tar(tar: impl std::io::Read, into: &Path) -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        count += 1;
        anyhow::ensure!(count <= MAX_ENTRIES, "more than {MAX_ENTRIES} files");
        let clean: PathBuf = name.components().filter(|c| !matches!(c, Component::CurDir)).collect();
        let plain = clean.components().all(|c| matches!(c, Component::Normal(_)));
        anyhow::ensure!(plain, "the path {} leads out of the folder", name.display());
        let target = into.join(&clean);
        match entry.header().entry_type() {
            tar::EntryType::Directory => fs::create_dir_all(&target)?,
            tar::EntryType::Regular => {
                if let Some(parent) = target.parent() {
                    fs::create_dir_all(parent)?;
                }
                let size = entry.size();
                let copied = std::io::copy(&mut entry.by_ref().take(size), &mut fs::File::create_new(&target)?)?;
                anyhow::ensure!(copied == size, "{} is cut off", name.display());
            }
            other => eprintln!(
                "note: left out {} ({other:?}): only files and folders are taken",
                crate::printer::clean(&name.display().to_string())
            ),
        }
    }
    Ok(count)
}

fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(|| format!("set the mode of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, data) in entries {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(*kind);
            header.set_size(data.len() as u64);
            header.set_mode(0o4777);
            // Around the checks of the tar crate: the sender is not trusted.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            if *kind == tar::EntryType::Symlink {
                header.set_size(0);
                header.set_link_name("/etc").unwrap();
            }
            header.set_cksum();
            builder.append(&header, if *kind == tar::EntryType::Symlink { &[] } else { data.as_bytes() }).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn refuses_paths_that_lead_out_and_ignores_links() {
        use tar::EntryType::{Regular, Symlink};
        for bad in ["../x", "/etc/x", "a/../../x"] {
            let dir = tempfile::tempdir().unwrap();
            assert!(unpack_tar(&archive(&[(bad, Regular, "x")])[..], dir.path()).is_err(), "{bad}");
        }
        let dir = tempfile::tempdir().unwrap();
        let tar = archive(&[("link", Symlink, ""), ("link/passwd", Regular, "x")]);
        unpack_tar(&tar[..], dir.path()).unwrap();
        assert!(dir.path().join("link/passwd").is_file() && !dir.path().join("link").is_symlink());
    }

    #[test]
    fn drops_set_user_id_bits() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        unpack_tar(&archive(&[("./a/b", tar::EntryType::Regular, "x")])[..], dir.path()).unwrap();
        let mode = fs::metadata(dir.path().join("a/b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7111, 0);
    }
}
