//! Removal of what nobody needs.

use std::{
    fs::{self, Metadata},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{leases, store::Store};
use crate::ImageError;

/// What a collection did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs, layers and packs removed.
    pub removed: usize,
    /// Their bytes.
    pub freed_bytes: u64,
    /// What is left.
    pub left_bytes: u64,
    /// What of that leases keep.
    pub leased_bytes: u64,
}

struct Item {
    kind: &'static str,
    name: String,
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

pub(super) fn collect(store: &Store, most_bytes: u64) -> Result<Collected, ImageError> {
    let _lock = leases::lock(store)?;
    let mut items = Vec::new();
    for (kind, folder) in store.kinds() {
        list(kind, &folder, &mut items)?;
    }
    // Only now: which pack a lease needs is known from its layers, and they are all there before the pack is.
    let needed = leases::needed(store)?;
    let mut done = Collected { left_bytes: items.iter().map(|item| item.bytes).sum(), ..Collected::default() };
    let (leased, mut free): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| needed.has(item.kind, &item.name));
    done.leased_bytes = leased.iter().map(|item| item.bytes).sum();
    free.sort_by_key(|item| item.used);
    for item in free {
        if done.left_bytes <= most_bytes {
            break;
        }
        let stem = item.name.strip_suffix(".img").unwrap_or(&item.name);
        // Somebody who works on it without a lease is no reason to wait.
        if store.remove_complete(&format!("{}-{stem}", item.kind), &item.path)? {
            tracing::info!(cache.item = item.name, cache.kind = item.kind, bytes = item.bytes, "removed from the image cache");
            done.removed += 1;
            done.freed_bytes += item.bytes;
            done.left_bytes -= item.bytes;
        }
    }
    Ok(done)
}

fn list(kind: &'static str, folder: &Path, items: &mut Vec<Item>) -> Result<(), ImageError> {
    for item in fs::read_dir(folder).map_err(ImageError::io("list folder", folder))? {
        let item = item.map_err(ImageError::io("list folder", folder))?;
        let path = item.path();
        let examine = ImageError::io("examine", &path);
        let found = match fs::symlink_metadata(&path) {
            // Damage noticed by somebody else, who removed it.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.map_err(examine)?,
        };
        let used = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let bytes = if found.is_dir() { folder_bytes(&path)? } else { found.len() };
        items.push(Item { kind, name: item.file_name().to_string_lossy().into_owned(), path, bytes, used });
    }
    Ok(())
}

/// Of a layer, which has no folders in it.
fn folder_bytes(folder: &Path) -> Result<u64, ImageError> {
    let items = fs::read_dir(folder).map_err(ImageError::io("list folder", folder))?;
    Ok(items.filter_map(|item| item.ok()?.metadata().ok()).map(|found: Metadata| found.len()).sum())
}
