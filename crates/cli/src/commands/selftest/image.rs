//! An image of one program, as a folder in the OCI image layout.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// Writes the image of `program` to the new folder `to`.
pub(super) fn write(to: &Path, program: &Path) -> anyhow::Result<PathBuf> {
    let bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let blobs = to.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("create {}", blobs.display()))?;
    let blob = |bytes: &[u8]| -> anyhow::Result<(String, usize)> {
        let digest = hex::encode(Sha256::digest(bytes));
        let path = blobs.join(&digest);
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        Ok((format!("sha256:{digest}"), bytes.len()))
    };
    let (layer, layer_size) = blob(&layer(&bytes))?;
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"User": "0:0", "Entrypoint": [format!("/{NAME}"), "--out", "/out/report.json"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer]},
    });
    let (config, config_size) = blob(config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": layer_size}],
    });
    let (manifest, manifest_size) = blob(manifest.to_string().as_bytes())?;
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": MANIFEST, "digest": manifest, "size": manifest_size}]});
    for (name, text) in [("oci-layout", json!({"imageLayoutVersion": "1.0.0"})), ("index.json", index)] {
        fs::write(to.join(name), text.to_string()).with_context(|| format!("write {name}"))?;
    }
    Ok(to.to_owned())
}

/// A tar archive with the program, and a folder that everybody can write to.
fn layer(program: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    entry(&mut archive, "tmp/", b'5', 0o1777, &[]);
    entry(&mut archive, NAME, b'0', 0o755, program);
    archive.resize(archive.len() + 2 * BLOCK, 0);
    archive
}

/// One entry in the form of POSIX ("ustar").
fn entry(archive: &mut Vec<u8>, name: &str, kind: u8, mode: u32, data: &[u8]) {
    let mut header = [0_u8; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", data.len()).as_bytes());
    put(136, b"00000000000\0");
    // The sum is made with blanks in its own place.
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend(header);
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(BLOCK), 0);
}

const NAME: &str = "casemate-probes";
const BLOCK: usize = 512;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_layer_is_what_tar_reads() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("layer.tar");
        fs::write(&archive, layer(b"#!program")).unwrap();
        let listed = Command::new("tar").arg("-tvf").arg(&archive).output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let text = String::from_utf8(listed.stdout).unwrap();
        assert!(text.contains("drwxrwxrwt") && text.contains("-rwxr-xr-x"), "{text}");
        assert!(text.contains(" 9 ") && text.contains("casemate-probes"), "{text}");
    }
}
