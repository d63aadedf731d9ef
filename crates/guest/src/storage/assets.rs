//! Encrypted inputs: verified by digest, decrypted to where only this machine's RAM (or its key) reaches.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read, Seek as _, SeekFrom},
    os::unix::fs::{OpenOptionsExt as _, fchown},
    path::PathBuf,
};

use casemate_api::{
    guest,
    workload::{self, Asset},
};
use casemate_seal::{Dek, KeyRelease, asset};
use rustix::mount::{MountFlags, mount, mount_remount};
use sha2::{Digest as _, Sha256};

use super::{SCRATCH, slice};
use crate::{
    boot::mounts::NO_FILES,
    fatal::{Check, Fatal, OrFatal, chain},
    workload::user::Identity,
};

/// A decrypted asset and where the workload wants it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: PathBuf,
    pub(crate) path: String,
}

/// Decrypts all assets for `owner`. Small ones go to a tmpfs, of which nobody else reads; what would fill too much of the
/// memory goes to the encrypted scratch.
pub(crate) fn open_all(
    assets: &[Asset],
    slices: &[guest::Slice],
    keys: &KeyRelease,
    owner: &Identity,
) -> Result<Vec<Opened>, Fatal> {
    same_number(assets, slices)?;
    if assets.is_empty() {
        return Ok(Vec::new());
    }
    let total = assets.iter().map(|asset| asset.size_bytes).sum();
    let place = Place::for_bytes(total, available_memory());
    let dir = place.prepare(total).or_fatal(Check::AssetDecrypt, "make the place for assets")?;
    let mut opened = Vec::with_capacity(assets.len());
    for (index, (asset, slice)) in assets.iter().zip(slices).enumerate() {
        let context = || format!("open asset {}", asset.name);
        let file = dir.join(index.to_string());
        let part = slice::find(slice).or_fatal(Check::AssetDigest, context())?;
        let mut disk = File::open(part.disk.node()).or_fatal(Check::AssetDigest, context())?;
        disk.seek(SeekFrom::Start(slice.offset_bytes)).or_fatal(Check::AssetDigest, context())?;
        let mut target = create(&file, owner).or_fatal(Check::AssetDecrypt, context())?;
        decrypt(asset, slice, keys, disk, &mut target)?;
        opened.push(Opened { file, path: asset.path.clone() });
    }
    place.close().or_fatal(Check::AssetDecrypt, "make the assets read-only")?;
    Ok(opened)
}

fn no_key(asset: &Asset) -> Fatal {
    Fatal::new(Check::AssetDecrypt, format!("the key release has no key for asset {}", asset.name))
}

/// There is a place for each asset.
pub(crate) fn same_number(assets: &[Asset], slices: &[guest::Slice]) -> Result<(), Fatal> {
    if assets.len() == slices.len() {
        return Ok(());
    }
    Err(Fatal::new(Check::Protocol, format!("{} slices for {} assets", slices.len(), assets.len())))
}

/// From the ciphertext, which begins where `source` stands, to `target`.
pub(crate) fn decrypt(
    asset: &Asset,
    slice: &guest::Slice,
    keys: &KeyRelease,
    source: File,
    target: &mut File,
) -> Result<(), Fatal> {
    let context = || format!("open asset {}", asset.name);
    let key: Dek = keys.dek(&asset.name).ok_or_else(|| no_key(asset))?;
    let expected = workload::parse_digest(&asset.digest).ok_or_else(|| Fatal::new(Check::WorkloadFormat, context()))?;
    if slice.length_bytes < asset.size_bytes {
        let detail = format!("{}: its slice has {} of {} bytes", context(), slice.length_bytes, asset.size_bytes);
        return Err(Fatal::new(Check::AssetDigest, detail));
    }
    let mut source = Hashed { inner: BufReader::with_capacity(READ_AHEAD, source.take(asset.size_bytes)), hash: Sha256::new() };
    let decrypted = asset::decrypt(&mut source, target, &key);
    // One pass over the disk, so the host cannot show one content to the hash and another to the cipher. Also after a
    // failure the rest is hashed: a wrong digest says more than a wrong chunk.
    if source.finish().or_fatal(Check::AssetDigest, context())? != expected {
        return Err(Fatal::new(Check::AssetDigest, format!("asset {}: the ciphertext is not the workload's", asset.name)));
    }
    decrypted.map(drop).map_err(|error| Fatal::new(Check::AssetDecrypt, format!("asset {}: {}", asset.name, chain(&error))))
}

fn create(path: &PathBuf, owner: &Identity) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)?;
    fchown(&file, Some(owner.uid), Some(owner.gid))?;
    Ok(file)
}

/// Hashes what is read through it.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashed<R> {
    fn finish(mut self) -> io::Result<[u8; 32]> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hash.finalize().into())
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// Where plaintext goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Memory,
    Scratch,
}

impl Place {
    /// Ciphertext is never smaller than plaintext, so `total` bounds both.
    fn for_bytes(total: u64, available_memory: u64) -> Self {
        if total <= available_memory / MEMORY_SHARE { Self::Memory } else { Self::Scratch }
    }

    fn prepare(self, total: u64) -> io::Result<PathBuf> {
        match self {
            Self::Memory => {
                fs::create_dir_all(MEMORY_DIR)?;
                // Rounded up to pages, with some for the directory.
                let options = format!("mode=0700,size={},nr_inodes=64", total + TMPFS_SLACK);
                let options = CString::new(options).map_err(io::Error::other)?;
                mount("tmpfs", MEMORY_DIR, "tmpfs", NO_FILES, options.as_c_str())?;
                Ok(MEMORY_DIR.into())
            }
            Self::Scratch => {
                let dir = PathBuf::from(SCRATCH).join("assets");
                fs::create_dir(&dir)?;
                Ok(dir)
            }
        }
    }

    fn close(self) -> io::Result<()> {
        match self {
            Self::Memory => Ok(mount_remount(MEMORY_DIR, NO_FILES | MountFlags::RDONLY, c"")?),
            // The workload reaches them only through read-only mounts.
            Self::Scratch => Ok(()),
        }
    }
}

fn available_memory() -> u64 {
    fs::read_to_string("/proc/meminfo").ok().and_then(|text| crate::workload::cgroup::available_bytes(&text)).unwrap_or(0)
}

const MEMORY_DIR: &str = "/run/assets";
const MEMORY_SHARE: u64 = 3;
const TMPFS_SLACK: u64 = 256 << 10;
const READ_AHEAD: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_assets_go_to_the_scratch_volume() {
        assert_eq!(Place::for_bytes(100, 300), Place::Memory);
        assert_eq!(Place::for_bytes(101, 300), Place::Scratch);
        assert_eq!(Place::for_bytes(1, 0), Place::Scratch);
    }

    #[test]
    fn the_digest_covers_what_the_reader_left_unread() {
        let mut source = Hashed { inner: &b"abcdef"[..], hash: Sha256::new() };
        source.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(source.finish().unwrap(), <[u8; 32]>::from(Sha256::digest(b"abcdef")));
    }
}
