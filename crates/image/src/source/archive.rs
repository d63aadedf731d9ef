//! An OCI image layout in an (uncompressed) tar archive, read in place.

use std::{
    collections::HashMap,
    error::Error,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use super::{
    layout::{check_version, within},
    read_bounded,
};
use crate::{
    Digest, ImageError, LayerError, Limits,
    tar::{Input, Kind, Reader},
};

pub(super) struct Archive {
    path: PathBuf,
    /// Offset and length of each file, by name.
    files: HashMap<Vec<u8>, (u64, u64)>,
}

impl Archive {
    pub(super) fn open(path: &Path, limits: &Limits) -> Result<Self, ImageError> {
        let file = File::open(path).map_err(ImageError::io("open image archive", path))?;
        let len = file.metadata().map_err(ImageError::io("examine", path))?.len();
        let files = list(SeekableFile { file, at: 0, len }, limits).map_err(|error| {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            let problem = format!("{error}{cause} (an image archive is an uncompressed tar archive)");
            ImageError::Malformed { what: path.display().to_string(), problem }
        })?;
        let archive = Self { path: path.into(), files };
        check_version(&archive.read("oci-layout", limits.manifest_bytes)?, path)?;
        Ok(archive)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn index(&self, limit: u64) -> Result<Vec<u8>, ImageError> {
        self.read("index.json", limit)
    }

    pub(super) fn open_blob(&self, digest: &Digest) -> Result<impl Read + Send + use<>, ImageError> {
        let name = format!("blobs/sha256/{}", digest.hex());
        self.open_file(&name)?.ok_or_else(|| ImageError::BlobMissing { digest: *digest, origin: self.path.display().to_string() })
    }

    fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
        let Some(file) = self.open_file(name)? else {
            let problem = format!("it has no file {name}: not an OCI image archive");
            return Err(ImageError::Malformed { what: self.path.display().to_string(), problem });
        };
        within(read_bounded(file, limit, "read", &self.path)?, limit, &self.path)
    }

    fn open_file(&self, name: &str) -> Result<Option<io::Take<File>>, ImageError> {
        let Some((offset, len)) = self.files.get(name.as_bytes()) else { return Ok(None) };
        let mut file = File::open(&self.path).map_err(ImageError::io("open", &self.path))?;
        file.seek(SeekFrom::Start(*offset)).map_err(ImageError::io("seek in", &self.path))?;
        Ok(Some(file.take(*len)))
    }
}

fn list(file: SeekableFile, limits: &Limits) -> Result<HashMap<Vec<u8>, (u64, u64)>, LayerError> {
    let mut files = HashMap::new();
    let mut reader = Reader::new(file, limits);
    while let Some(entry) = reader.next_entry()? {
        let name = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
        if entry.kind == Kind::File && !entry.is_sparse() && name.len() <= MAX_NAME {
            files.insert(name.to_vec(), (reader.content_offset(), entry.size));
        }
        if files.len() > MAX_FILES {
            return Err(LayerError::Limit { name: "files of an image archive", limit: MAX_FILES as u64 });
        }
    }
    Ok(files)
}

/// A file whose unread parts cost nothing.
struct SeekableFile {
    file: File,
    at: u64,
    len: u64,
}

impl Read for SeekableFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Input for SeekableFile {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let to = self.at.checked_add(count).filter(|to| *to <= self.len).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.at = self.file.seek(SeekFrom::Start(to))?;
        Ok(())
    }
}

const MAX_FILES: usize = 10_000;
/// `blobs/sha256/` and 64 digits, with room.
const MAX_NAME: usize = 128;
