//! Folders, locks, temporary places and renames.

use std::{
    fs::{self, DirBuilder, File, Permissions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use sha2::Digest as _;

use crate::{Digest, ImageError};

pub(super) struct Store {
    dir: PathBuf,
}

impl Store {
    pub(super) fn open(dir: &Path) -> Result<Self, ImageError> {
        for part in ["", "blobs", "blobs/sha256", "layers", "packs", "leases", "tmp", "locks"] {
            let path = if part.is_empty() { dir.to_path_buf() } else { dir.join(part) };
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(ImageError::io("create folder", path))?;
        }
        let store = Self { dir: dir.to_path_buf() };
        store.clear_abandoned()?;
        store.clear_locks()?;
        Ok(store)
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    pub(super) fn layer(&self, digest: &Digest) -> PathBuf {
        self.dir.join("layers").join(digest.hex())
    }

    pub(super) fn pack(&self, digest: &Digest) -> PathBuf {
        self.dir.join("packs").join(format!("{}.img", digest.hex()))
    }

    pub(super) fn leases(&self) -> PathBuf {
        self.dir.join("leases")
    }

    /// The folders of what can be collected.
    pub(super) fn kinds(&self) -> [(&'static str, PathBuf); 3] {
        [("blob", self.dir.join("blobs/sha256")), ("layer", self.dir.join("layers")), ("pack", self.dir.join("packs"))]
    }

    /// Takes away what is complete, at once for everybody; its bytes go after it. False where somebody works on `name`.
    pub(super) fn remove_complete(&self, name: &str, path: &Path) -> Result<bool, ImageError> {
        let Some(_work) = self.try_lock(name)? else { return Ok(false) };
        let gone = format!("gone-{name}");
        let _lock = self.lock(&gone)?;
        let temporary = self.temporary(&gone)?;
        let to = temporary.0.join("it");
        fs::rename(path, &to).map_err(ImageError::io("take away", path))?;
        Ok(true)
    }

    /// Waits until nobody else works on `name`.
    pub(super) fn lock(&self, name: &str) -> Result<Lock, ImageError> {
        loop {
            let (path, file) = self.lock_file(name)?;
            file.lock().map_err(ImageError::io("lock", &path))?;
            if let Some(lock) = Lock::standing(path, file)? {
                return Ok(lock);
            }
        }
    }

    /// None where somebody works on `name`.
    fn try_lock(&self, name: &str) -> Result<Option<Lock>, ImageError> {
        loop {
            let (path, file) = self.lock_file(name)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(ImageError::io("lock", path)(error)),
            }
            if let Some(lock) = Lock::standing(path, file)? {
                return Ok(Some(lock));
            }
        }
    }

    /// An empty place for work on `name`, which the caller has locked.
    pub(super) fn temporary(&self, name: &str) -> Result<Temporary, ImageError> {
        let path = self.dir.join("tmp").join(name);
        remove(&path)?;
        DirBuilder::new().mode(0o700).create(&path).map_err(ImageError::io("create folder", &path))?;
        Ok(Temporary(path))
    }

    /// Puts finished work to its place, for good.
    pub(super) fn place(&self, from: &Path, to: &Path) -> Result<(), ImageError> {
        remove(to)?;
        fs::rename(from, to).map_err(ImageError::io("rename finished work to", to))?;
        let parent = to.parent().unwrap_or(&self.dir);
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(ImageError::io("sync folder", parent))
    }

    pub(super) fn add_blob(
        &self,
        digest: &Digest,
        size: Option<u64>,
        most: u64,
        reader: impl Read,
        report: &dyn Fn(u64),
    ) -> Result<PathBuf, ImageError> {
        let path = self.blob(digest);
        let name = format!("blob-{}", digest.hex());
        let _lock = self.lock(&name)?;
        if path.is_file() {
            return Ok(path);
        }
        let temporary = self.temporary(&name)?;
        let incoming = temporary.0.join("blob");
        receive(&incoming, digest, size, most, reader, report)?;
        self.place(&incoming, &path)?;
        Ok(path)
    }

    pub(super) fn remove_blob(&self, digest: &Digest) -> Result<(), ImageError> {
        let _lock = self.lock(&format!("blob-{}", digest.hex()))?;
        remove(&self.blob(digest))
    }

    /// Removes temporary places whose maker is gone.
    fn clear_abandoned(&self) -> Result<(), ImageError> {
        let tmp = self.dir.join("tmp");
        for item in fs::read_dir(&tmp).map_err(ImageError::io("list folder", &tmp))? {
            let item = item.map_err(ImageError::io("list folder", &tmp))?;
            let name = item.file_name().to_string_lossy().into_owned();
            if let Some(_lock) = self.try_lock(&name)? {
                tracing::info!(cache.item = name, "removing what interrupted work has left");
                remove(&item.path())?;
            }
        }
        Ok(())
    }

    /// Removes the lock files of dead processes; the living remove their own.
    fn clear_locks(&self) -> Result<(), ImageError> {
        let locks = self.dir.join("locks");
        for item in fs::read_dir(&locks).map_err(ImageError::io("list folder", &locks))? {
            let item = item.map_err(ImageError::io("list folder", &locks))?;
            if let Some(name) = item.file_name().to_string_lossy().strip_suffix(LOCK) {
                drop(self.try_lock(name)?);
            }
        }
        Ok(())
    }

    fn lock_file(&self, name: &str) -> Result<(PathBuf, File), ImageError> {
        let path = self.dir.join("locks").join(format!("{name}{LOCK}"));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(ImageError::io("open lock", &path))?;
        Ok((path, file))
    }
}

/// Held until dropped. Its file goes with it, so that there are no more of them than work in progress.
pub(super) struct Lock {
    path: PathBuf,
    /// Closing it is what unlocks.
    _file: File,
}

impl Lock {
    /// None where the file was removed by who had the lock before: another one of that name may be somebody's already.
    fn standing(path: PathBuf, file: File) -> Result<Option<Self>, ImageError> {
        let names = file.metadata().map_err(ImageError::io("examine", &path))?.nlink();
        // A lock that is made here and dropped would take the other one's file away.
        if names == 0 { Ok(None) } else { Ok(Some(Self { path, _file: file })) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While the lock is still held. One that stays goes with the next holder.
        let _ = fs::remove_file(&self.path);
    }
}

/// A folder that goes with its owner.
pub(super) struct Temporary(pub(super) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "could not remove a temporary folder");
        }
    }
}

/// Makes a file's content last and unchangeable by mistake.
pub(super) fn seal(file: &File, path: &Path) -> Result<(), ImageError> {
    file.set_permissions(Permissions::from_mode(0o444)).map_err(ImageError::io("set the mode of", path))?;
    file.sync_all().map_err(ImageError::io("sync", path))
}

fn receive(
    path: &Path,
    digest: &Digest,
    size: Option<u64>,
    most: u64,
    mut reader: impl Read,
    report: &dyn Fn(u64),
) -> Result<(), ImageError> {
    let most = size.unwrap_or(most).min(most);
    let mut file = File::create_new(path).map_err(ImageError::io("create", path))?;
    let mut hasher = sha2::Sha256::new();
    let mut done = 0;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = reader.read(&mut buffer).map_err(ImageError::io("receive", path))?;
        if n == 0 {
            break;
        }
        done += n as u64;
        if done > most {
            return Err(ImageError::BlobSize { digest: *digest, expected: most, actual: done });
        }
        hasher.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(ImageError::io("write", path))?;
        report(done);
    }
    if let Some(expected) = size.filter(|size| *size != done) {
        return Err(ImageError::BlobSize { digest: *digest, expected, actual: done });
    }
    let actual = Digest::from_bytes(hasher.finalize().into());
    if actual != *digest {
        return Err(ImageError::BlobDigest { expected: *digest, actual });
    }
    seal(&file, path)
}

fn remove(path: &Path) -> Result<(), ImageError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ImageError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

const LOCK: &str = ".lock";
