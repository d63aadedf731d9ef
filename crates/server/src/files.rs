//! Files of the data folder: private, and whole or absent.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Why a file of the data folder could not be used.
#[derive(Debug, thiserror::Error)]
#[error("{attempt} {}", path.display())]
pub struct FileError {
    /// What was attempted.
    pub attempt: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

/// Makes `path` (and parents) a folder that only this user may enter.
pub fn private_dir(path: &Path) -> Result<(), FileError> {
    let failed = |source| FileError { attempt: "create folder", path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)
}

/// Writes `bytes` to a new file beside `path` and renames it there: readers see the old file or the new one.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let failed = |source| FileError { attempt: "write file", path: path.to_owned(), source };
    let temporary = path.with_extension(format!("new-{}", uuid::Uuid::new_v4().simple()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary))).map_err(failed)
}

/// The bytes of the file at `path`, which is made of `fresh` (mode 0600) where there is none. Of several processes at the same time
/// all get the bytes of one.
pub fn keep(path: &Path, fresh: &[u8]) -> Result<Vec<u8>, FileError> {
    if let Some(bytes) = read(path)? {
        return Ok(bytes);
    }
    let failed = |source| FileError { attempt: "make file", path: path.to_owned(), source };
    let temporary = path.with_extension(format!("new-{}", uuid::Uuid::new_v4().simple()));
    write(&temporary, fresh, 0o600)?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary).map_err(failed)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed(error)),
        _ => read(path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into())),
    }
}

/// The bytes of a file; `None` when it does not exist.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError { attempt: "read file", path: path.to_owned(), source }),
    }
}

/// How long the lock of a dying server is waited for, and the time between two tries.
const LOCK_WAIT: Duration = Duration::from_secs(3);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Takes the lock that keeps a second server away from the data folder; it is held until the file is closed. Blocks for some
/// seconds while another has it: a killed server's lock lives until the last of its threads is gone.
pub fn lock(path: &Path) -> Result<File, FileError> {
    let failed = |source| FileError { attempt: "lock (another server runs on this data folder?)", path: path.to_owned(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
    let deadline = Instant::now() + LOCK_WAIT;
    while let Err(error) = file.try_lock() {
        if Instant::now() > deadline {
            return Err(failed(error.into()));
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    Ok(file)
}
