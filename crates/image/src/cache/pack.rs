//! Several layers in one file.

use std::{fs::File, io};

use sha2::Digest as _;

use super::{
    ConvertedLayer, Pack,
    store::{Store, seal},
};
use crate::{Digest, ImageError};

pub(super) fn pack(store: &Store, layers: &[ConvertedLayer]) -> Result<Pack, ImageError> {
    let key = key(layers);
    let path = store.pack(&key);
    let slices = slices(layers);
    let size = slices.last().map_or(0, |(offset, len)| offset + len);
    let is_kept = || path.metadata().is_ok_and(|found| found.is_file() && found.len() == size);
    if !is_kept() {
        let name = format!("pack-{}", key.hex());
        let _lock = store.lock(&name)?;
        if !is_kept() {
            let temporary = store.temporary(&name)?;
            let made = temporary.0.join("pack.img");
            let mut file = File::create_new(&made).map_err(ImageError::io("create", &made))?;
            layers.iter().try_for_each(|layer| append(layer, &mut file))?;
            seal(&file, &made)?;
            store.place(&made, &path)?;
        }
    }
    Ok(Pack { path, slices })
}

fn append(layer: &ConvertedLayer, pack: &mut File) -> Result<(), ImageError> {
    let mut from = File::open(&layer.path).map_err(ImageError::io("open", &layer.path))?;
    let copied = io::copy(&mut from, pack).map_err(ImageError::io("copy into a pack", &layer.path))?;
    if copied == layer.size_bytes {
        return Ok(());
    }
    Err(ImageError::Malformed {
        what: layer.path.display().to_string(),
        problem: format!("it has {copied} bytes and should have {}", layer.size_bytes),
    })
}

/// Layers have whole blocks, so that each begins at one, too.
fn slices(layers: &[ConvertedLayer]) -> Vec<(u64, u64)> {
    let mut offset = 0;
    let place = |layer: &ConvertedLayer| {
        let slice = (offset, layer.size_bytes);
        offset += layer.size_bytes;
        slice
    };
    layers.iter().map(place).collect()
}

pub(super) fn key(layers: &[ConvertedLayer]) -> Digest {
    let mut hasher = sha2::Sha256::new_with_prefix(b"casemate/pack/v1\0");
    for layer in layers {
        hasher.update(layer.root_hash);
        hasher.update(layer.size_bytes.to_le_bytes());
    }
    Digest::from_bytes(hasher.finalize().into())
}
