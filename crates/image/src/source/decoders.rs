//! What registries and image files say, for fuzzing.

use super::{manifest, registry::challenge};
use crate::Limits;

/// A manifest, or an index and what is chosen of it.
pub(crate) fn manifest(bytes: &[u8]) {
    let limits = Limits::default();
    match manifest::read(bytes) {
        Ok(manifest::Document::Manifest(manifest)) => {
            if let Ok(checked) = manifest::check(manifest, &limits) {
                assert!((1..=limits.layers).contains(&checked.layers.len()));
                assert!(checked.layers.iter().all(|layer| layer.size <= limits.blob_bytes));
            }
        }
        Ok(manifest::Document::Index(index)) => {
            let _ = manifest::choose(index.clone(), manifest::Among::Images);
            let _ = manifest::choose(index, manifest::Among::Platforms);
        }
        Err(_) => {}
    }
}

/// The configuration of an image with as many layers as the first byte says.
pub(crate) fn config(bytes: &[u8]) {
    let Some((layers, bytes)) = bytes.split_first() else { return };
    let layers = usize::from(layers % 16);
    if let Ok((config, diff_ids)) = manifest::read_config(bytes, layers) {
        assert!(diff_ids.len() == layers && !config.working_dir.split('/').any(|part| part == ".."), "{config:?}");
    }
}

/// How a registry wants to be asked.
pub(crate) fn challenge(bytes: &[u8]) {
    if let Ok(header) = std::str::from_utf8(bytes) {
        let _ = challenge::parse(header);
    }
}
