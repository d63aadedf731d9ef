//! Bounds on what an image may make us hold, write or do.

/// Bounds on images from strangers. The defaults admit the largest public machine-learning images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest manifest or index.
    pub manifest_bytes: u64,
    /// Largest image configuration.
    pub config_bytes: u64,
    /// Most layers of an image.
    pub layers: usize,
    /// Largest compressed layer.
    pub blob_bytes: u64,
    /// Largest layer after decompression (also the sum of its files' sizes).
    pub layer_bytes: u64,
    /// Most that one compressed byte may become, once a layer is beyond [`Limits::ratio_floor_bytes`].
    pub ratio: u64,
    /// Below this size, the ratio is not looked at.
    pub ratio_floor_bytes: u64,
    /// Most entries of a layer, implicit parents included.
    pub entries: usize,
    /// Most bytes of names, link targets and extended attributes of a layer, in sum.
    pub metadata_bytes: u64,
    /// Longest path of an entry.
    pub path_bytes: usize,
    /// Most parts of a path.
    pub path_depth: usize,
    /// Largest sum of the extended attributes of one entry.
    pub xattr_bytes: usize,
    /// Largest block of PAX records before an entry.
    pub pax_bytes: u64,
    /// Most data fragments of one sparse file.
    pub sparse_fragments: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest_bytes: 4 << 20,
            config_bytes: 8 << 20,
            layers: 127,
            blob_bytes: 32 << 30,
            layer_bytes: 64 << 30,
            ratio: 200,
            ratio_floor_bytes: 512 << 20,
            entries: 1_000_000,
            metadata_bytes: 256 << 20,
            path_bytes: 4096,
            path_depth: 128,
            xattr_bytes: 64 << 10,
            pax_bytes: 1 << 20,
            sparse_fragments: 65_536,
        }
    }
}
