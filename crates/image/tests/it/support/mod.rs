//! What the tests are written with.

pub(crate) mod erofs;
pub(crate) mod image;
pub(crate) mod server;
pub(crate) mod tarball;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use casemate_image::{Cache, ConvertedLayer, Digest, ImageError, LayerError, Limits};
use tempfile::TempDir;

/// A cache in a folder of its own.
pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) cache: Cache,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let cache = Cache::open(dir.path().join("cache")).unwrap();
        Self { dir, cache }
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        let Self { dir, cache } = Self::new();
        Self { dir, cache: cache.with_limits(limits) }
    }

    pub(crate) fn convert(&self, blob: &[u8]) -> Result<ConvertedLayer, ImageError> {
        let digest = Digest::of(blob);
        self.cache.add_blob_from_reader(&digest, Some(blob.len() as u64), blob).unwrap();
        self.cache.convert_layer(&digest, "")
    }

    /// The tree that the layer became.
    pub(crate) fn tree(&self, blob: &[u8]) -> erofs::Tree {
        let layer = self.convert(blob).unwrap();
        erofs::Tree::read(&std::fs::read(layer.path).unwrap())
    }

    /// The refusal of the layer, after a look at what it has left behind.
    pub(crate) fn refusal(&self, blob: &[u8]) -> LayerError {
        match self.convert(blob) {
            Err(ImageError::Layer { source, .. }) => {
                assert_eq!(self.remains(), Vec::<PathBuf>::new(), "a refusal must leave nothing");
                *source
            }
            other => panic!("not refused as a layer: {other:?}"),
        }
    }

    /// Whatever stands in the cache besides blobs, locks and empty folders.
    pub(crate) fn remains(&self) -> Vec<PathBuf> {
        let list = |name: &str| std::fs::read_dir(self.dir.path().join("cache").join(name)).unwrap();
        ["tmp", "layers", "packs"].into_iter().flat_map(list).map(|item| item.unwrap().path()).collect()
    }
}

pub(crate) fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8], level: i32) -> Vec<u8> {
    zstd::encode_all(bytes, level).unwrap()
}

/// Runs a tool and shows its words if it fails.
pub(crate) fn run(tool: &str, arguments: &[&str], dir: &Path) -> Output {
    let output = Command::new(tool).args(arguments).current_dir(dir).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?}: {words} {}", String::from_utf8_lossy(&output.stdout));
    output
}

/// Whether an outside judge is installed. `CASEMATE_TEST_TOOLS=require` makes its absence a failure.
pub(crate) fn has_tool(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = folders.map(|folder: PathBuf| folder.join(name)).any(|path| path.is_file());
    if !found {
        assert!(std::env::var_os("CASEMATE_TEST_TOOLS").is_none_or(|v| v != "require"), "{name} is not installed");
        eprintln!("SKIPPED: {name} is not installed");
    }
    found
}
