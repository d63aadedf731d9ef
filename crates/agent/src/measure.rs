//! Digests of the files that a machine is made of, as they are now, not as their manifest says.
//!
//! A file is hashed once and again whenever its device, inode, size, modification or change time differs. The change time
//! cannot be set from user space, so a changed byte is seen even where somebody restores the modification time.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::Mutex,
};

use sha2::{Digest as _, Sha256};

use crate::files::FileError;

/// Most files that are remembered; the cache starts again beyond it.
const MAX_ENTRIES: usize = 256;

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Remembered digests. The lock is never held over a read.
#[derive(Debug, Default)]
pub(crate) struct DigestCache {
    known: Mutex<HashMap<Version, [u8; 32]>>,
}

impl DigestCache {
    /// SHA-256 of the file at `path`. Blocking.
    pub(crate) fn sha256(&self, path: &Path) -> Result<[u8; 32], FileError> {
        let mut file = File::open(path).map_err(FileError::at("open", path))?;
        let version = version(&file).map_err(FileError::at("look at", path))?;
        if let Some(digest) = self.lock().get(&version) {
            return Ok(*digest);
        }
        let digest = hash(&mut file).map_err(FileError::at("read", path))?;
        // A file that changed while it was read has no digest; the next call reads it again.
        if self::version(&file).map_err(FileError::at("look at", path))? == version {
            let mut known = self.lock();
            if known.len() >= MAX_ENTRIES {
                known.clear();
            }
            known.insert(version, digest);
        }
        Ok(digest)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Version, [u8; 32]>> {
        // The map is whole after every statement, so a panic elsewhere does not spoil it.
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn version(file: &File) -> io::Result<Version> {
    let m = file.metadata()?;
    Ok(Version {
        device: m.dev(),
        inode: m.ino(),
        size: m.size(),
        modified: (m.mtime(), m.mtime_nsec()),
        changed: (m.ctime(), m.ctime_nsec()),
    })
}

fn hash(file: &mut File) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            n => hash.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn sees_a_flipped_byte_behind_a_restored_modification_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kernel");
        fs::write(&path, b"good").unwrap();
        let cache = DigestCache::default();
        let good = cache.sha256(&path).unwrap();
        assert_eq!(good, cache.sha256(&path).unwrap());
        assert_eq!(good, <[u8; 32]>::from(Sha256::digest(b"good")));

        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        // The kernel's clock for file times ticks every few milliseconds.
        let before = fs::metadata(&path).unwrap();
        loop {
            fs::write(&path, b"goof").unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
            let now = fs::metadata(&path).unwrap();
            if (now.ctime(), now.ctime_nsec()) != (before.ctime(), before.ctime_nsec()) {
                break;
            }
        }
        assert_ne!(good, cache.sha256(&path).unwrap());
    }
}
