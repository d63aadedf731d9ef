//! An OCI image layout in the making: layers as they are, and encrypted ones.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    BlobInfo, ImageConfig,
    manifest::{CONFIG_TYPES, MANIFEST_TYPES},
};
use crate::{
    ConvertedLayer, Digest, ImageError,
    layer::encrypted::{Cipher, encrypt_layer},
};

/// Writes an image layout, which appears when it is complete. All blocking.
///
/// What the image says beside its layers is what it takes to run it, and nothing else: a history or a label would tell of a layer that
/// nobody shall read, and so would the digest of its plain content.
pub struct LayoutWriter {
    stage: TempDir,
    target: PathBuf,
    /// With what the configuration will say of each.
    layers: Vec<(BlobInfo, Digest)>,
}

impl LayoutWriter {
    /// Begins a layout at `target`, which must not exist or be an empty folder.
    pub fn create(target: &Path) -> Result<Self, ImageError> {
        let target = std::path::absolute(target).map_err(ImageError::io("find", target))?;
        let is_there = |error: io::Error| ImageError::io("create image layout", &target)(error);
        match fs::read_dir(&target).map(|mut items| items.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(is_there(io::Error::new(io::ErrorKind::AlreadyExists, "the folder is not empty"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(is_there(error)),
        }
        let folder = target.parent().unwrap_or(Path::new("/"));
        let stage = tempfile::Builder::new().prefix(".casemate-image-").tempdir_in(folder);
        let stage = stage.map_err(ImageError::io("create a folder in", folder))?;
        let blobs = stage.path().join(BLOBS);
        fs::create_dir_all(&blobs).map_err(ImageError::io("create folder", &blobs))?;
        Ok(Self { stage, target, layers: Vec::new() })
    }

    /// Adds a layer as it is; `file` has its blob.
    pub fn copy_layer(&mut self, file: &Path, blob: &BlobInfo, diff_id: Digest) -> Result<(), ImageError> {
        fs::copy(file, self.blob(&blob.digest)).map_err(ImageError::io("copy", file))?;
        self.layers.push((blob.clone(), diff_id));
        Ok(())
    }

    /// Adds a layer encrypted; what the blob has become.
    pub fn encrypt_layer(&mut self, layer: &ConvertedLayer, cipher: &mut Cipher<'_>) -> Result<BlobInfo, ImageError> {
        let path = self.stage.path().join("incoming");
        let mut file = File::create(&path).map_err(ImageError::io("create", &path))?;
        let blob = encrypt_layer(layer, cipher, &mut file, &path)?;
        fs::rename(&path, self.blob(&blob.digest)).map_err(ImageError::io("rename", &path))?;
        self.layers.push((blob.clone(), blob.digest));
        Ok(blob)
    }

    /// Writes configuration and manifest, and puts the layout in its place; the manifest's digest.
    pub fn finish(self, config: &ImageConfig) -> Result<Digest, ImageError> {
        let config = self.put_document(CONFIG_TYPES[0], &self.config(config))?;
        let descriptors: Vec<Value> =
            self.layers.iter().map(|(blob, _)| descriptor(&blob.media_type, &blob.digest, blob.size)).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST_TYPES[0], "config": config, "layers": descriptors});
        let manifest = self.put_document(MANIFEST_TYPES[0], &manifest)?;
        self.put("index.json", &json!({"schemaVersion": 2, "manifests": [manifest]}).to_string())?;
        self.put("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
        // A temporary folder is its maker's only; ciphertext is for everybody.
        let stage = self.stage.path();
        fs::set_permissions(stage, Permissions::from_mode(0o755)).map_err(ImageError::io("set the mode of", stage))?;
        fs::rename(stage, &self.target).map_err(ImageError::io("rename finished work to", &self.target))?;
        manifest["digest"].as_str().unwrap_or_default().parse().map_err(ImageError::Digest)
    }

    fn config(&self, config: &ImageConfig) -> Value {
        let ImageConfig { entrypoint, cmd, env, working_dir, user } = config;
        let env: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let diff_ids: Vec<&Digest> = self.layers.iter().map(|(_, diff_id)| diff_id).collect();
        let run = json!({"Entrypoint": entrypoint, "Cmd": cmd, "Env": env, "WorkingDir": working_dir, "User": user});
        json!({"architecture": "amd64", "os": "linux", "config": run, "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    }

    fn put_document(&self, media_type: &str, document: &Value) -> Result<Value, ImageError> {
        let text = document.to_string();
        let digest = Digest::of(text.as_bytes());
        self.put(&format!("{BLOBS}/{}", digest.hex()), &text)?;
        Ok(descriptor(media_type, &digest, text.len() as u64))
    }

    fn put(&self, name: &str, text: &str) -> Result<(), ImageError> {
        let path = self.stage.path().join(name);
        fs::write(&path, text).map_err(ImageError::io("write", path))
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.stage.path().join(BLOBS).join(digest.hex())
    }
}

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

const BLOBS: &str = "blobs/sha256";
