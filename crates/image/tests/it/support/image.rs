//! Whole images: an OCI layout in a folder.

use std::{fs, path::Path};

use casemate_image::Digest;
use serde_json::{Value, json};

pub(crate) const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// The parts of an image.
pub(crate) struct Image {
    pub(crate) blobs: Vec<Vec<u8>>,
    pub(crate) manifest: Vec<u8>,
}

impl Image {
    /// From gzipped layers.
    pub(crate) fn new(layers: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({
            "os": "linux",
            "architecture": "amd64",
            "config": {"Entrypoint": ["/bin/app"], "Cmd": ["-v"], "Env": ["PATH=/bin"], "WorkingDir": "/srv", "User": "7:8"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = config.to_string().into_bytes();
        let descriptors: Vec<_> = layers.iter().map(|layer| descriptor(LAYER_GZIP, layer)).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(CONFIG, &config), "layers": descriptors,
        });
        let manifest = manifest.to_string().into_bytes();
        Self { blobs: layers.iter().cloned().chain([config]).collect(), manifest }
    }

    /// Writes a layout whose index has the manifest, under as many indexes as asked for.
    pub(crate) fn write_layout(&self, dir: &Path, nesting: usize) {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        for blob in self.blobs.iter().chain([&self.manifest]) {
            write_blob(dir, blob);
        }
        let mut top = index_of(descriptor(MANIFEST, &self.manifest));
        for _ in 0..nesting {
            write_blob(dir, &top);
            top = index_of(descriptor(INDEX, &top));
        }
        fs::write(dir.join("index.json"), top).unwrap();
    }
}

pub(crate) fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(content), "size": content.len()})
}

pub(crate) fn index_of(entry: Value) -> Vec<u8> {
    let mut entry = entry;
    entry["platform"] = json!({"os": "linux", "architecture": "amd64"});
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).to_string().into_bytes()
}

fn write_blob(dir: &Path, content: &[u8]) {
    fs::write(dir.join("blobs/sha256").join(Digest::of(content).hex()), content).unwrap();
}
