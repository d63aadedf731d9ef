//! Who needs which layers.
//!
//! A lease is a file. That of an instance outlives its maker, for instances do; a [`Hold`] is locked by its maker and void once
//! the kernel has dropped that lock. Leases are made, and things are collected, under one lock: a collection sees a lease whole or
//! ends before it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io::Write,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    layers, pack,
    store::{Lock, Store},
};
use crate::{Digest, ImageError};

/// A lease that ends with its owner.
pub struct Hold {
    path: PathBuf,
    _file: File,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Void in any case as soon as the file is closed; the next collection removes it.
        let _ = fs::remove_file(&self.path);
    }
}

/// What must stay, by kind and name in the folder of that kind.
#[derive(Default)]
pub(super) struct Needed(BTreeSet<(&'static str, String)>);

impl Needed {
    pub(super) fn has(&self, kind: &'static str, name: &str) -> bool {
        self.0.contains(&(kind, name.to_owned()))
    }

    fn add(&mut self, store: &Store, blobs: &[Digest]) {
        self.0.extend(blobs.iter().flat_map(|blob| ["blob", "layer"].map(|kind| (kind, blob.hex()))));
        let layers: Option<Vec<_>> = blobs.iter().map(|blob| layers::kept(store, blob)).collect();
        self.0.extend(layers.map(|layers| ("pack", format!("{}.img", pack::key(&layers).hex()))));
    }
}

/// Held while leases change or things go.
pub(super) fn lock(store: &Store) -> Result<Lock, ImageError> {
    store.lock("leases")
}

pub(super) fn lease(store: &Store, name: &str, blobs: &[Digest]) -> Result<(), ImageError> {
    let path = path(store, name)?;
    let _lock = lock(store)?;
    let work = format!("lease-{name}");
    let _work = store.lock(&work)?;
    let temporary = store.temporary(&work)?;
    let made = temporary.0.join("lease");
    // Not synced to the disk: whatever takes the host's memory away takes the instances with it.
    fs::write(&made, encode(blobs)).map_err(ImageError::io("write", &made))?;
    // Over an older one at once: there is no moment without either.
    fs::rename(&made, &path).map_err(ImageError::io("rename a lease to", &path))?;
    touch(store, blobs);
    Ok(())
}

pub(super) fn release(store: &Store, name: &str) -> Result<(), ImageError> {
    let path = path(store, name)?;
    let _lock = lock(store)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(ImageError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn names(store: &Store) -> Result<Vec<String>, ImageError> {
    let _lock = lock(store)?;
    let names = files(store)?.into_iter().map(|(name, _)| name);
    Ok(names.filter(|name| !name.starts_with(HOLD)).collect())
}

pub(super) fn hold(store: &Store, blobs: &[Digest]) -> Result<Hold, ImageError> {
    let _lock = lock(store)?;
    let number = RandomState::new().hash_one(std::process::id());
    let path = store.leases().join(format!("{HOLD}{number:016x}"));
    let mut file = File::create_new(&path).map_err(ImageError::io("create", &path))?;
    file.lock().map_err(ImageError::io("lock", &path))?;
    file.write_all(&encode(blobs)).map_err(ImageError::io("write", &path))?;
    touch(store, blobs);
    Ok(Hold { path, _file: file })
}

/// All that leases name; void ones are removed. The caller has the lock.
///
/// A lease that cannot be read fails it all: nothing is collected on a guess.
pub(super) fn needed(store: &Store) -> Result<Needed, ImageError> {
    let mut needed = Needed::default();
    for (name, path) in files(store)? {
        if name.starts_with(HOLD) && is_void(&path)? {
            fs::remove_file(&path).map_err(ImageError::io("remove", &path))?;
            continue;
        }
        let Some(text) = read(&path)? else { continue };
        let blobs: Vec<Digest> = serde_json::from_slice(&text).map_err(|error| ImageError::Malformed {
            what: format!("lease {}", path.display()),
            problem: format!("{error}; nothing is collected while it stands"),
        })?;
        needed.add(store, &blobs);
    }
    Ok(needed)
}

/// Whether its maker has closed it, or died.
fn is_void(path: &Path) -> Result<bool, ImageError> {
    match File::open(path) {
        Ok(file) => Ok(file.try_lock().is_ok()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ImageError::io("open", path)(error)),
    }
}

/// None where its owner has just removed it.
fn read(path: &Path) -> Result<Option<Vec<u8>>, ImageError> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ImageError::io("read", path)(error)),
    }
}

fn files(store: &Store) -> Result<Vec<(String, PathBuf)>, ImageError> {
    let folder = store.leases();
    let items = fs::read_dir(&folder).map_err(ImageError::io("list folder", &folder))?;
    let named = |item: fs::DirEntry| (item.file_name().to_string_lossy().into_owned(), item.path());
    let files: Result<Vec<_>, _> = items.map(|item| item.map(named)).collect();
    files.map_err(ImageError::io("list folder", &folder))
}

fn path(store: &Store, name: &str) -> Result<PathBuf, ImageError> {
    let is_word = (1..=100).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with(HOLD);
    let problem = || ImageError::Malformed {
        what: format!("lease name {:?}", crate::error::shown(name.as_bytes())),
        problem: "must be 1 to 100 of a-z, 0-9 and -, and not begin with hold-".into(),
    };
    if is_word { Ok(store.leases().join(name)) } else { Err(problem()) }
}

fn encode(blobs: &[Digest]) -> Vec<u8> {
    serde_json::to_vec(blobs).expect("digests are always JSON")
}

/// Notes the use of what is there. Only the order of collection depends on it.
fn touch(store: &Store, blobs: &[Digest]) {
    for path in blobs.iter().map(|blob| store.layer(blob)) {
        let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    }
}

const HOLD: &str = "hold-";
