//! Small files that survive a crash: whole old or whole new, never half.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Why a file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("{attempt} {}", path.display())]
pub(crate) struct FileError {
    /// What was attempted.
    pub(crate) attempt: &'static str,
    /// On what.
    pub(crate) path: PathBuf,
    /// Why it failed.
    #[source]
    pub(crate) source: io::Error,
}

impl FileError {
    /// For `map_err`.
    pub(crate) fn at<'a>(attempt: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self { attempt, path: path.to_owned(), source }
    }
}

/// Replaces the file at `path` (mode 0600) by `bytes`; on disk when this returns.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let fail = || FileError::at("write", path);
    let mut name = path.file_name().expect("the agent's files have names").to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(fail())?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail())?;
    fs::rename(&temporary, path).map_err(fail())?;
    sync_parent(path)
}

/// The bytes of the file at `path`; `None` where there is none.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FileError::at("open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(FileError::at("read", path))?;
    if bytes.len() as u64 > limit {
        let problem = io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {limit} bytes"));
        return Err(FileError::at("read", path)(problem));
    }
    Ok(Some(bytes))
}

/// Makes a folder (mode 0700) and its parents; one that is there is fine.
pub(crate) fn make_dir(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(FileError::at("create folder", path))
}

/// Removes a folder with all that is in it; one that is not there is fine.
pub(crate) fn remove_dir(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::at("remove folder", path)(error)),
        _ => Ok(()),
    }
}

/// Makes the entry of `path` in its folder durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), FileError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(FileError::at("sync folder", parent))
}

/// Runs file work off the one thread of the runtime.
pub(crate) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn replaces_whole_files_that_only_the_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        assert_eq!(read(&path, 10).unwrap(), None);
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(read(&path, 3).unwrap().unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn refuses_files_beyond_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        replace(&path, b"1234").unwrap();
        assert!(read(&path, 3).is_err());
    }
}
