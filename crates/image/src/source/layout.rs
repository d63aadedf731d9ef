//! An OCI image layout folder.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::read_bounded;
use crate::{Digest, ImageError, Limits};

pub(super) struct Layout(PathBuf);

impl Layout {
    pub(super) fn open(path: &Path, limits: &Limits) -> Result<Self, ImageError> {
        let layout = Self(path.into());
        check_version(&layout.read("oci-layout", limits.manifest_bytes)?, path)?;
        Ok(layout)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn index(&self, limit: u64) -> Result<Vec<u8>, ImageError> {
        self.read("index.json", limit)
    }

    pub(super) fn open_blob(&self, digest: &Digest) -> Result<File, ImageError> {
        let path = self.0.join("blobs/sha256").join(digest.hex());
        // Anything but a file could block or never end.
        if !path.is_file() {
            return Err(ImageError::BlobMissing { digest: *digest, origin: self.0.display().to_string() });
        }
        File::open(&path).map_err(ImageError::io("open", path))
    }

    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let path = self.0.join(name);
        if !path.is_file() {
            let source = io::Error::new(io::ErrorKind::NotFound, format!("there is no file {name}: not an OCI image layout"));
            return Err(ImageError::Io { action: "open image layout", path: self.0.clone(), source });
        }
        let file = File::open(&path).map_err(ImageError::io("open", &path))?;
        within(read_bounded(file, limit, "read", &path)?, limit, &path)
    }
}

/// The version that every layout must state.
pub(super) fn check_version(bytes: &[u8], origin: &Path) -> Result<(), ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        image_layout_version: String,
    }
    let fault = |problem: String| ImageError::Malformed { what: format!("oci-layout of {}", origin.display()), problem };
    let version: Version = serde_json::from_slice(bytes).map_err(|error| fault(error.to_string()))?;
    match version.image_layout_version.as_str() {
        "1.0.0" => Ok(()),
        other => Err(fault(format!("version {other:?} is not known"))),
    }
}

pub(super) fn within(bytes: Vec<u8>, limit: u64, path: &Path) -> Result<Vec<u8>, ImageError> {
    if bytes.len() as u64 > limit {
        let problem = format!("it has more than {limit} bytes");
        return Err(ImageError::Malformed { what: path.display().to_string(), problem });
    }
    Ok(bytes)
}
