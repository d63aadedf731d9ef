//! Decoders of outside bytes, by name: one list for the fuzz targets in `fuzz/` and for the test that replays their corpus. Nothing of the
//! product comes here.

use crate::{Limits, layer, source::decoders};

/// One decoder, with whatever reads its result.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    /// Name of its fuzz target and of the folder of its corpus.
    pub name: &'static str,
    /// Decodes anything. It must come back without a panic.
    pub run: fn(&[u8]),
}

/// All of them.
pub const DECODERS: [Decoder; 4] = [
    Decoder { name: "encrypted_head", run: encrypted_head },
    Decoder { name: "image_config", run: decoders::config },
    Decoder { name: "image_manifest", run: decoders::manifest },
    Decoder { name: "registry_challenge", run: decoders::challenge },
];

/// The head of an encrypted layer; the size of the layer comes before it.
fn encrypted_head(bytes: &[u8]) {
    let Some((size, head)) = bytes.split_first_chunk() else { return };
    let size = u64::from_le_bytes(*size);
    if let Ok(blocks) = layer::encrypted::data_blocks(&mut &*head, size, &Limits::default()) {
        assert!(blocks > 0 && blocks * 4096 < size, "{blocks} blocks in {size} bytes");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// Each file, each cut of it, and each with one byte changed to several others.
    #[test]
    fn the_corpus_and_changes_of_it_do_no_harm() {
        for Decoder { name, run } in DECODERS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/node/corpus").join(name);
            let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
            assert!(!files.is_empty(), "{name}");
            for file in files {
                run(&file);
                for at in 0..file.len() {
                    run(&file[..at]);
                    for change in [0x01, 0x20, 0x80, 0xff] {
                        let mut changed = file.clone();
                        changed[at] ^= change;
                        run(&changed);
                    }
                }
            }
        }
    }
}
