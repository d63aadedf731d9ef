//! Converted layers: made once, kept with what is known about them.

use std::{fs, fs::File, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    ConvertedLayer,
    store::{Store, seal},
};
use crate::{
    Digest, ImageError, Limits,
    layer::{self, Converted, IMAGE, Job},
};

/// Version of what conversion writes. Goes up with any change of the bytes, since every root hash changes with them.
pub const FORMAT: u32 = 1;

pub(super) fn convert(
    store: &Store,
    limits: &Limits,
    blob: &Digest,
    media_type: &str,
    report: &(dyn Fn(u64, u64) + Sync),
) -> Result<ConvertedLayer, ImageError> {
    if let Some(layer) = kept(store, blob) {
        return Ok(layer);
    }
    let name = format!("layer-{}", blob.hex());
    let _lock = store.lock(&name)?;
    // Somebody else may have done it while we waited.
    if let Some(layer) = kept(store, blob) {
        return Ok(layer);
    }
    let blob_path = store.blob(blob);
    if !blob_path.is_file() {
        return Err(ImageError::BlobMissing { digest: *blob, origin: "the cache".into() });
    }
    let temporary = store.temporary(&name)?;
    let job = Job { blob: *blob, blob_path: &blob_path, media_type, limits, progress: report };
    let converted = match layer::convert(&job, &temporary.0) {
        Err(error @ ImageError::BlobDigest { .. }) => {
            // A damaged copy is of no use to anybody; the next fetch brings a right one.
            store.remove_blob(blob)?;
            return Err(error);
        }
        other => other?,
    };
    write_meta(&temporary.0, &converted)?;
    store.place(&temporary.0, &store.layer(blob))?;
    kept(store, blob).ok_or_else(|| ImageError::Malformed {
        what: format!("the converted layer of {blob}"),
        problem: "it is not what was just written".into(),
    })
}

/// The layer, if it is here, complete, and of this version.
pub(super) fn kept(store: &Store, blob: &Digest) -> Option<ConvertedLayer> {
    let folder = store.layer(blob);
    let meta: Meta = serde_json::from_slice(&fs::read(folder.join(META)).ok()?).ok()?;
    let path = folder.join(IMAGE);
    let size_bytes = fs::metadata(&path).ok().filter(fs::Metadata::is_file)?.len();
    if meta.format != FORMAT || meta.size_bytes != size_bytes {
        return None;
    }
    Some(ConvertedLayer { path, root_hash: *meta.root_hash.bytes(), data_blocks: meta.data_blocks, size_bytes })
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Meta {
    format: u32,
    root_hash: Digest,
    data_blocks: u64,
    size_bytes: u64,
}

fn write_meta(folder: &Path, converted: &Converted) -> Result<(), ImageError> {
    let meta = Meta {
        format: FORMAT,
        root_hash: Digest::from_bytes(converted.root_hash),
        data_blocks: converted.data_blocks,
        size_bytes: converted.size_bytes,
    };
    let path = folder.join(META);
    let text = serde_json::to_vec(&meta).expect("numbers and texts are always JSON");
    fs::write(&path, text).map_err(ImageError::io("write", &path))?;
    for name in [META, IMAGE] {
        let path = folder.join(name);
        seal(&File::open(&path).map_err(ImageError::io("open", &path))?, &path)?;
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(ImageError::io("sync folder", folder))
}

const META: &str = "meta.json";
