//! Where images come from, and what they say about themselves.

mod access;
mod archive;
mod auth;
pub(crate) mod decoders;
mod layout;
mod manifest;
mod registry;
mod writer;

use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};

use oci_client::Reference;

pub use self::{
    access::{Access, Mirror},
    writer::LayoutWriter,
};
use self::{archive::Archive, layout::Layout, manifest::Descriptor, registry::Registry};
use crate::{Cache, Digest, ImageError, layer::encrypted::ENCRYPTED_TYPE};

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An OCI image layout folder.
    Layout(PathBuf),
    /// The same as an (uncompressed) tar archive.
    Archive(PathBuf),
    /// A registry; plain HTTP only on this host (`localhost`, `127.0.0.1`).
    Registry(Reference),
}

/// What an image consists of, as its verified manifest and configuration say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// Digest of the image manifest (not of an index around it).
    pub manifest_digest: Digest,
    /// The layers, lowest first.
    pub layers: Vec<BlobInfo>,
    /// For each of them what the configuration says of its content, which nobody here relies on.
    pub diff_ids: Vec<Digest>,
    /// How to run it.
    pub config: ImageConfig,
}

impl BlobInfo {
    /// Whether only who has its key can read it.
    pub fn is_encrypted(&self) -> bool {
        self.media_type == ENCRYPTED_TYPE
    }
}

/// A blob's descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Of the content as it is stored and sent.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// As the manifest says.
    pub media_type: String,
}

/// How the image wants to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// First words of the command line.
    pub entrypoint: Vec<String>,
    /// The words after them, unless the user gives others.
    pub cmd: Vec<String>,
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Working directory, absolute; `/` where the image says nothing.
    pub working_dir: String,
    /// `""`, `uid`, `uid:gid`, `name` or `name:group`.
    pub user: String,
}

/// An opened source.
pub struct Blobs {
    origin: Origin,
    cache: Cache,
}

enum Origin {
    Layout(Layout),
    Archive(Archive),
    Registry(Registry),
}

impl Source {
    /// `oci:PATH` (folder or archive), `oci-archive:PATH`, `docker://HOST/NAME:TAG@DIGEST` or just the reference.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let fault = |problem: &str| ImageError::Source { text: text.chars().take(300).collect(), problem: problem.into() };
        if let Some(path) = text.strip_prefix("oci-archive:") {
            return if path.is_empty() { Err(fault("the path is missing")) } else { Ok(Self::Archive(path.into())) };
        }
        if let Some(path) = text.strip_prefix("oci:") {
            return match Path::new(path) {
                _ if path.is_empty() => Err(fault("the path is missing")),
                path if path.is_dir() => Ok(Self::Layout(path.into())),
                path if path.is_file() => Ok(Self::Archive(path.into())),
                _ => Err(fault("there is no such folder or file")),
            };
        }
        let reference = text.strip_prefix("docker://").unwrap_or(text);
        if reference.starts_with(['.', '/']) {
            return Err(fault("a path needs the prefix \"oci:\""));
        }
        let parsed = reference.parse::<Reference>().map_err(|error| fault(&error.to_string()))?;
        if parsed.digest().is_some_and(|digest| digest.parse::<Digest>().is_err()) {
            return Err(fault("only sha256 digests are known"));
        }
        Ok(Self::Registry(parsed))
    }

    /// `HOST/NAME` in a registry, with neither tag nor digest; none for local images.
    pub fn repository(&self) -> Option<String> {
        match self {
            Self::Registry(reference) => Some(format!("{}/{}", reference.registry(), reference.repository())),
            Self::Layout(_) | Self::Archive(_) => None,
        }
    }
}

impl Blobs {
    /// Opens `source`; what is fetched goes to `cache`.
    pub async fn open(source: &Source, cache: &Cache) -> Result<Self, ImageError> {
        Self::open_with(source, cache, &Access::default()).await
    }

    /// Opens `source`, whose registry is reached as `access` says.
    pub async fn open_with(source: &Source, cache: &Cache, access: &Access) -> Result<Self, ImageError> {
        let limits = cache.limits();
        let origin = match source {
            Source::Layout(path) => Origin::Layout(Layout::open(path, limits)?),
            Source::Archive(path) => Origin::Archive(Archive::open(path, limits)?),
            Source::Registry(reference) => Origin::Registry(Registry::open(reference.clone(), access)?),
        };
        Ok(Self { origin, cache: cache.clone() })
    }

    /// Reads the manifest (for linux/amd64, where there are several) and the configuration, all verified by digest.
    pub async fn inspect(&self) -> Result<ImageInfo, ImageError> {
        let limits = self.cache.limits();
        let (manifest_digest, manifest) = self.manifest().await?;
        let manifest = manifest::check(manifest, limits)?;
        let config = self.document(&manifest.config, Role::Config, limits.config_bytes).await?;
        let (config, diff_ids) = manifest::read_config(&config, manifest.layers.len())?;
        Ok(ImageInfo { manifest_digest, layers: manifest.layers, diff_ids, config })
    }

    /// The path of the blob in the cache, fetched if it is not there, digest and size verified.
    pub async fn fetch(&self, blob: &BlobInfo) -> Result<PathBuf, ImageError> {
        if self.cache.has_blob(&blob.digest) {
            return Ok(self.cache.blob_path(&blob.digest));
        }
        match &self.origin {
            Origin::Layout(layout) => self.copy(blob, layout.open_blob(&blob.digest)?).await,
            Origin::Archive(archive) => self.copy(blob, archive.open_blob(&blob.digest)?).await,
            Origin::Registry(registry) => registry.fetch(blob, &self.cache).await,
        }
    }

    async fn copy(&self, blob: &BlobInfo, content: impl Read + Send + 'static) -> Result<PathBuf, ImageError> {
        let (cache, digest, size) = (self.cache.clone(), blob.digest, blob.size);
        blocking(move || cache.add_blob_from_reader(&digest, Some(size), content)).await
    }

    /// Follows indexes to the image's manifest.
    async fn manifest(&self) -> Result<(Digest, manifest::Manifest), ImageError> {
        let limit = self.cache.limits().manifest_bytes;
        let mut bytes = match &self.origin {
            Origin::Layout(layout) => layout.index(limit)?,
            Origin::Archive(archive) => archive.index(limit)?,
            Origin::Registry(registry) => registry.top(limit).await?,
        };
        let is_layout = !matches!(self.origin, Origin::Registry(_));
        for depth in 0..=MAX_INDEX_DEPTH {
            let index = match manifest::read(&bytes)? {
                manifest::Document::Manifest(manifest) => return Ok((Digest::of(&bytes), manifest)),
                manifest::Document::Index(index) => index,
            };
            // The folder's index lists images of any name; inside an image's index, the first match is the one.
            let among = if is_layout && depth == 0 { manifest::Among::Images } else { manifest::Among::Platforms };
            let chosen = manifest::choose(index, among)?;
            bytes = self.document(&chosen, Role::Manifest, limit).await?;
        }
        let problem = format!("indexes are nested more than {MAX_INDEX_DEPTH} deep");
        Err(ImageError::Malformed { what: "image index".into(), problem })
    }

    async fn document(&self, descriptor: &Descriptor, role: Role, limit: u64) -> Result<Vec<u8>, ImageError> {
        let Descriptor { digest, size, .. } = descriptor;
        if *size > limit {
            let problem = format!("it has {size} bytes, the limit is {limit}");
            return Err(ImageError::Malformed { what: format!("descriptor of {digest}"), problem });
        }
        let bytes = match &self.origin {
            Origin::Layout(layout) => read_bounded(layout.open_blob(digest)?, *size, "read blob", layout.path())?,
            Origin::Archive(archive) => read_bounded(archive.open_blob(digest)?, *size, "read blob", archive.path())?,
            Origin::Registry(registry) => registry.document(digest, role, *size).await?,
        };
        verify(&bytes, digest, *size)?;
        Ok(bytes)
    }
}

/// Opens and inspects in one step.
pub async fn inspect(source: &Source, cache: &Cache) -> Result<ImageInfo, ImageError> {
    Blobs::open(source, cache).await?.inspect().await
}

/// Which kind of document a digest names; registries keep them at different places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Manifest,
    Config,
}

fn verify(bytes: &[u8], digest: &Digest, size: u64) -> Result<(), ImageError> {
    if bytes.len() as u64 != size {
        return Err(ImageError::BlobSize { digest: *digest, expected: size, actual: bytes.len() as u64 });
    }
    let actual = Digest::of(bytes);
    if actual != *digest {
        return Err(ImageError::BlobDigest { expected: *digest, actual });
    }
    Ok(())
}

/// At most one byte more than the limit, so that excess shows.
fn read_bounded(reader: impl Read, limit: u64, action: &'static str, path: &Path) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes).map_err(ImageError::io(action, path))?;
    Ok(bytes)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, ImageError> + Send + 'static) -> Result<T, ImageError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => {
                let source = std::io::Error::other(error);
                Err(ImageError::Io { action: "finish work on", path: "the cache".into(), source })
            }
        },
    }
}

const MAX_INDEX_DEPTH: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_paths_from_references() {
        let here = std::env::current_dir().unwrap();
        assert!(matches!(Source::parse(&format!("oci:{}", here.display())), Ok(Source::Layout(_))));
        assert!(matches!(Source::parse(&format!("oci:{}/Cargo.toml", here.display())), Ok(Source::Archive(_))));
        assert!(matches!(Source::parse("oci-archive:x.tar"), Ok(Source::Archive(_))));
        let Ok(Source::Registry(reference)) = Source::parse("docker://127.0.0.1:5000/a/b:c") else { panic!() };
        assert_eq!((reference.registry(), reference.repository(), reference.tag()), ("127.0.0.1:5000", "a/b", Some("c")));
        let Ok(Source::Registry(reference)) = Source::parse("busybox") else { panic!() };
        assert_eq!((reference.registry(), reference.repository()), ("docker.io", "library/busybox"));
        let pinned = format!("docker://localhost:5000/a/b:c@{}", Digest::of(b""));
        assert_eq!(Source::parse(&pinned).unwrap().repository().unwrap(), "localhost:5000/a/b");
        for bad in ["", "oci:", "oci:/nowhere/at/all", "oci-archive:", "./demo.oci", "/tmp/x", "docker://", "UPPER", "a b"] {
            let error = Source::parse(bad).unwrap_err();
            assert_eq!(error.check(), "image.malformed", "{bad}");
        }
    }
}
