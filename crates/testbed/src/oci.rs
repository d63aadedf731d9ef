//! Small OCI images for tests, made without any tool.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// An OCI image layout in the making.
#[derive(Debug)]
pub struct ImageBuilder {
    layers: Vec<Vec<u8>>,
    config: Value,
}

impl Default for ImageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ImageBuilder {
    /// Without layers, run as user 65534.
    pub fn new() -> Self {
        Self { layers: Vec::new(), config: json!({"User": "65534:65534", "WorkingDir": "/"}) }
    }

    /// Adds a layer of executable files.
    #[must_use]
    pub fn layer(self, files: &[(&str, &[u8])]) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            header.set_mtime(0);
            builder.append_data(&mut header, name, *bytes).unwrap_or_else(|error| panic!("add {name}: {error}"));
        }
        let tar = builder.into_inner().unwrap_or_else(|error| panic!("finish a layer: {error}"));
        self.raw_layer(tar)
    }

    /// Adds a layer of exactly these (uncompressed) bytes.
    #[must_use]
    pub fn raw_layer(mut self, tar: Vec<u8>) -> Self {
        self.layers.push(tar);
        self
    }

    /// The command.
    #[must_use]
    pub fn entrypoint(mut self, args: &[&str]) -> Self {
        self.config["Entrypoint"] = json!(args);
        self
    }

    /// Writes the layout folder.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("create {}", blobs.display()))?;
        let put = |bytes: &[u8]| -> anyhow::Result<(String, usize)> {
            let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            fs::write(blobs.join(&digest), bytes)?;
            Ok((format!("sha256:{digest}"), bytes.len()))
        };
        let descriptor =
            |media: &str, (digest, size): (String, usize)| json!({"mediaType": media, "digest": digest, "size": size});
        let mut layers = Vec::new();
        for layer in &self.layers {
            layers.push(descriptor("application/vnd.oci.image.layer.v1.tar", put(layer)?));
        }
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer["digest"].clone()).collect();
        let config = json!({"architecture": "amd64", "os": "linux", "config": self.config, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = descriptor("application/vnd.oci.image.config.v1+json", put(config.to_string().as_bytes())?);
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers});
        let manifest = descriptor(manifest_type, put(manifest.to_string().as_bytes())?);
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(dir.join("index.json"), index.to_string())?;
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(())
    }
}

/// Compiles a C program to a static executable, once per source text.
pub fn static_program(source: &str) -> anyhow::Result<Vec<u8>> {
    let digest: String = Sha256::digest(source).iter().map(|byte| format!("{byte:02x}")).collect();
    let dir = std::env::temp_dir().join("casemate-testbed-cache/programs");
    let program: PathBuf = dir.join(digest);
    if !program.exists() {
        fs::create_dir_all(&dir)?;
        let staging = tempfile::tempdir_in(&dir)?;
        let (c, out) = (staging.path().join("p.c"), staging.path().join("p"));
        fs::write(&c, source)?;
        let output = Command::new("cc").args(["-static", "-Os", "-o"]).arg(&out).arg(&c).output().context("start cc")?;
        anyhow::ensure!(output.status.success(), "cc failed: {}", String::from_utf8_lossy(&output.stderr));
        fs::rename(&out, &program)?;
    }
    Ok(fs::read(&program)?)
}
