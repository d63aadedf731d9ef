//! An OCI image as an archive (image layout in a tar file), with bytes that depend on its content only.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::{
    digest,
    tree::{Node, Tree},
};

/// An image to be written.
#[derive(Debug)]
pub(crate) struct Image {
    /// What it is for and what is in it, lowest first.
    pub(crate) layers: Vec<(String, Tree)>,
    /// What runs.
    pub(crate) process: Process,
}

/// The image's process.
#[derive(Debug)]
pub(crate) struct Process {
    /// `uid:gid`.
    pub(crate) user: &'static str,
    /// `NAME=value`.
    pub(crate) environment: &'static [&'static str],
    /// Program and arguments.
    pub(crate) entrypoint: &'static [&'static str],
    /// Working directory.
    pub(crate) folder: &'static str,
}

struct Blob {
    media_type: &'static str,
    bytes: Vec<u8>,
}

impl Blob {
    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": format!("sha256:{}", digest::of_bytes(&self.bytes)), "size": self.bytes.len() })
    }
}

impl Image {
    /// The archive.
    pub(crate) fn archive(&self) -> Result<Vec<u8>> {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for (_, tree) in &self.layers {
            let plain = layer(tree)?;
            diff_ids.push(format!("sha256:{}", digest::of_bytes(&plain)));
            layers.push(Blob { media_type: "application/vnd.oci.image.layer.v1.tar+gzip", bytes: gzip(&plain)? });
        }
        let config = Blob {
            media_type: "application/vnd.oci.image.config.v1+json",
            bytes: self.config(&diff_ids).to_string().into_bytes(),
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let manifest =
            Blob { media_type: "application/vnd.oci.image.manifest.v1+json", bytes: manifest.to_string().into_bytes() };
        let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest.descriptor()] });
        let mut tree = Tree::default();
        put(&mut tree, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        put(&mut tree, "index.json", index.to_string().into_bytes());
        for blob in layers.into_iter().chain([config, manifest]) {
            put(&mut tree, &format!("blobs/sha256/{}", digest::of_bytes(&blob.bytes)), blob.bytes);
        }
        layer(&tree)
    }

    fn config(&self, diff_ids: &[String]) -> Value {
        let history: Vec<Value> = self
            .layers
            .iter()
            .map(|(comment, _)| json!({ "created": EPOCH, "created_by": "cargo xtask demo-image", "comment": comment }))
            .collect();
        json!({
            "created": EPOCH,
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "User": self.process.user,
                "Env": self.process.environment,
                "Entrypoint": self.process.entrypoint,
                "WorkingDir": self.process.folder,
            },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": history,
        })
    }
}

fn put(tree: &mut Tree, path: &str, bytes: Vec<u8>) {
    tree.insert(path, Node::File { mode: 0o644, bytes });
}

/// `tree` as a tar archive: owner root, time zero.
fn layer(tree: &Tree) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for (path, node) in tree.iter() {
        append(&mut builder, path, node).with_context(|| format!("adding {path} to an archive"))?;
    }
    builder.into_inner().context("finishing an archive")
}

fn append(builder: &mut Builder<Vec<u8>>, path: &str, node: &Node) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    match node {
        Node::Folder { mode } => {
            header.set_mode(*mode);
            header.set_entry_type(EntryType::Directory);
            builder.append_data(&mut header, format!("{path}/"), std::io::empty())?;
        }
        Node::File { mode, bytes } => {
            header.set_mode(*mode);
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, path, bytes.as_slice())?;
        }
        Node::Link(target) => {
            header.set_mode(0o777);
            header.set_entry_type(EntryType::Symlink);
            builder.append_link(&mut header, path, target)?;
        }
        Node::Device { .. } => anyhow::bail!("the demo image has no devices"),
    }
    Ok(())
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::new(6));
    encoder.write_all(bytes).context("compressing a layer")?;
    encoder.finish().context("compressing a layer")
}

const EPOCH: &str = "1970-01-01T00:00:00Z";

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Image {
        let mut tree = Tree::default();
        put(&mut tree, "app/train.py", b"print(1)\n".to_vec());
        tree.insert("bin", Node::Link("usr/bin".into()));
        Image {
            layers: vec![("one".into(), tree)],
            process: Process { user: "1:1", environment: &["A=b"], entrypoint: &["/x"], folder: "/" },
        }
    }

    #[test]
    fn the_archive_is_an_image_layout_whose_blobs_have_their_digests_as_names() {
        let archive = image().archive().unwrap();
        let mut found = Vec::new();
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            if let Some(name) = path.strip_prefix("blobs/sha256/").filter(|name| !name.is_empty()) {
                assert_eq!(name, digest::of_bytes(&bytes));
            }
            found.push(path);
        }
        assert!(found.contains(&"oci-layout".to_owned()) && found.contains(&"index.json".to_owned()), "{found:?}");
        assert_eq!(found.iter().filter(|path| path.len() > 70).count(), 3, "layer, config, manifest");
    }

    #[test]
    fn the_same_content_gives_the_same_archive() {
        assert_eq!(image().archive().unwrap(), image().archive().unwrap());
    }
}
