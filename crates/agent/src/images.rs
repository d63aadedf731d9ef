//! Image layers and assets on this node: fetched by digest, converted once, compared with what the workload names.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use casemate_api::workload::{Asset, Image, Layer, parse_digest};
use casemate_image::{Access, BlobInfo, Blobs, Cache, ConvertedLayer, Digest, ImageError, Source};
use casemate_lifecycle::{Failure, InstanceId, Step};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    blueprint::{AssetFile, Layers},
    config::{Config, Registries},
    download::{ChunkReader, download},
    failure::{self, check},
    files::off_thread,
    platform::Platform,
};

/// Blobs of one image that are fetched at the same time.
const PARALLEL: usize = 2;
/// Layers of an image that nobody waits for, fetched or converted at the same time.
const PREFETCHED: usize = 4;
/// Layers of one image that are in work; how many are converted is bounded for the whole node.
const MOST_AT_ONCE: usize = 16;
/// The driver wants whole sectors; the guest wants whole pages.
const DISK_UNIT: u64 = 4096;

/// Where blobs come from and where they go.
#[derive(Clone)]
pub(crate) struct Images {
    pub(crate) cache: Cache,
    pub(crate) registries: Registries,
    pub(crate) access: Access,
    /// What the cache may take.
    pub(crate) most_bytes: u64,
    /// One permit for each layer that is converted, whatever the instance.
    converting: Arc<Semaphore>,
}

impl Images {
    /// The cache and the registries of this node.
    pub(crate) fn open(config: &Config) -> Result<Self, ImageError> {
        let cache = Cache::open(config.state_dir.join("images"))?;
        Ok(Self {
            cache,
            registries: config.registries.clone(),
            access: config.access.clone(),
            most_bytes: config.image_cache_bytes,
            converting: Arc::new(Semaphore::new(config.layers_at_once)),
        })
    }

    /// Keeps the image's layers for an instance, until [`Images::release`]. To be called before any of them is looked for.
    pub(crate) async fn lease(&self, id: &InstanceId, image: &Image) -> Result<(), Failure> {
        let (cache, name) = (self.cache.clone(), lease_name(id));
        let blobs: Vec<Digest> = image.layers.iter().map(|layer| digest(&layer.blob)).collect();
        let leased = off_thread(move || cache.lease(&name, &blobs)).await;
        leased.map_err(|error| failure::at(Step::Prepared, check::PREPARE, failure::chain(&error)))
    }

    /// Ends an instance's lease, and removes what the cache has too much of. A failure costs disk and is tried again by
    /// the next agent.
    pub(crate) async fn release(&self, id: &InstanceId) {
        let (cache, name, most) = (self.cache.clone(), lease_name(id), self.most_bytes);
        let collected = off_thread(move || {
            cache.release(&name)?;
            cache.collect(most)
        });
        if let Err(error) = collected.await {
            tracing::error!(instance.id = %id, error = failure::chain(&error), "could not give an instance's layers back");
        }
    }

    /// Ends the leases of instances that are not among `known`.
    pub(crate) fn release_all_but(&self, known: &[InstanceId]) -> Result<(), ImageError> {
        let known: Vec<String> = known.iter().map(lease_name).collect();
        let leases = self.cache.leases()?;
        leases.iter().filter(|name| !known.contains(name)).try_for_each(|name| self.cache.release(name))
    }

    /// Fetches and converts an image before anybody needs it; its manifest's digest and the number of its layers.
    pub(crate) async fn prefetch(&self, reference: &str) -> Result<(Digest, usize), Failure> {
        let fail = |error: ImageError| image_failure(&error);
        let blobs = self.open_registry(reference).await?;
        let info = blobs.inspect().await.map_err(fail)?;
        let layers: Vec<Digest> = info.layers.iter().map(|layer| layer.digest).collect();
        let cache = self.cache.clone();
        let hold = off_thread(move || cache.hold(&layers)).await.map_err(fail)?;
        // The next layers are fetched while others are converted.
        let prepare = |layer: BlobInfo| self.prefetch_layer(&blobs, layer);
        let prepared = stream::iter(info.layers.clone()).map(prepare).buffer_unordered(PREFETCHED);
        prepared.try_collect::<()>().await.map_err(fail)?;
        drop(hold);
        Ok((info.manifest_digest, info.layers.len()))
    }

    async fn prefetch_layer(&self, blobs: &Blobs, layer: BlobInfo) -> Result<(), ImageError> {
        let (cache, blob) = (self.cache.clone(), layer.digest);
        if off_thread(move || cache.converted_layer(&blob)).await.is_some() {
            return Ok(());
        }
        blobs.fetch(&layer).await?;
        let cache = self.cache.clone();
        let permit = self.permit().await;
        off_thread(move || {
            let _permit = permit;
            cache.convert_layer(&layer.digest, &layer.media_type)?;
            cache.remove_blob(&layer.digest)
        })
        .await
    }

    /// Makes every blob available whose layer is not converted yet; says which layers are ready already.
    pub(crate) async fn fetch(&self, image: &Image, platform: &Platform) -> Result<Vec<Option<ConvertedLayer>>, Failure> {
        let ready: Vec<_> =
            stream::iter(image.layers.clone()).map(|layer| self.ready(layer)).buffered(PARALLEL).try_collect().await?;
        let missing: Vec<Digest> = {
            let pairs = image.layers.iter().zip(&ready);
            let blobs = pairs.filter(|(_, ready)| ready.is_none()).map(|(layer, _)| digest(&layer.blob));
            blobs.filter(|blob| !self.cache.has_blob(blob)).collect()
        };
        if missing.is_empty() {
            return Ok(ready);
        }
        if image.source.is_empty() {
            let fetch = |blob| self.fetch_from_platform(blob, platform);
            stream::iter(missing).map(fetch).buffer_unordered(PARALLEL).try_collect::<()>().await?;
        } else {
            self.pull(image, &missing).await?;
        }
        Ok(ready)
    }

    /// Converts what [`Images::fetch`] did not find ready, compares, and packs where the machine has too few disks.
    pub(crate) async fn convert(
        &self,
        image: &Image,
        ready: Vec<Option<ConvertedLayer>>,
        pack: Packing,
    ) -> Result<Layers, Failure> {
        let pairs: Vec<_> = image.layers.iter().cloned().zip(ready).collect();
        let convert = |(layer, ready): (Layer, Option<ConvertedLayer>)| async move {
            match ready {
                Some(converted) => Ok(converted),
                None => self.convert_one(&layer).await?.ok_or_else(|| missing(&layer)),
            }
        };
        let layers: Vec<_> = stream::iter(pairs).map(convert).buffered(MOST_AT_ONCE).try_collect().await?;
        match pack {
            Packing::Single => Ok(Layers::Single(layers)),
            Packing::Packed => {
                let cache = self.cache.clone();
                let pack = off_thread(move || cache.pack(&layers)).await;
                pack.map(Layers::Packed).map_err(|error| image_failure(&error))
            }
        }
    }

    async fn ready(&self, layer: Layer) -> Result<Option<ConvertedLayer>, Failure> {
        // With the blob at hand this would convert, which is the next stage's work.
        if self.cache.has_blob(&digest(&layer.blob)) { Ok(None) } else { self.convert_one(&layer).await }
    }

    /// `None` when neither the layer nor its blob is here.
    async fn convert_one(&self, layer: &Layer) -> Result<Option<ConvertedLayer>, Failure> {
        let (cache, blob) = (self.cache.clone(), digest(&layer.blob));
        // One that is kept takes no time, and waits for nobody.
        let permit = if self.cache.has_blob(&blob) { Some(self.permit().await) } else { None };
        let converted = off_thread(move || {
            let _permit = permit;
            cache.convert_layer(&blob, "")
        })
        .await;
        let converted = match converted {
            Ok(converted) => converted,
            Err(ImageError::BlobMissing { .. }) => return Ok(None),
            Err(error) => return Err(image_failure(&error)),
        };
        compare(layer, &converted)?;
        let cache = self.cache.clone();
        if let Err(error) = off_thread(move || cache.remove_blob(&blob)).await {
            tracing::warn!(blob.digest = %layer.blob, error = failure::chain(&error), "could not remove a converted blob");
        }
        Ok(Some(converted))
    }

    /// Goes with the thread that converts, which ends its work also when nobody waits for it any more.
    async fn permit(&self) -> OwnedSemaphorePermit {
        self.converting.clone().acquire_owned().await.expect("nobody closes it")
    }

    async fn fetch_from_platform(&self, blob: Digest, platform: &Platform) -> Result<(), Failure> {
        let cache = self.cache.clone();
        let consume = move |reader: ChunkReader| cache.add_blob_from_reader(&blob, None, reader);
        download(platform, blob.to_string(), consume).await.map(drop).map_err(|error| image_failure(&error))
    }

    /// From the image's registry, by digest: the manifest named by the workload says which blobs there are.
    async fn pull(&self, image: &Image, missing: &[Digest]) -> Result<(), Failure> {
        let fail = |error: ImageError| image_failure(&error);
        let blobs = self.open_registry(&format!("docker://{}@{}", image.source, image.manifest)).await?;
        let info = blobs.inspect().await.map_err(fail)?;
        if info.manifest_digest != digest(&image.manifest) {
            return Err(failure::at(Step::Prepared, check::BLOB_DIGEST, "the registry's manifest is another one"));
        }
        for blob in missing {
            let described =
                info.layers.iter().find(|layer| layer.digest == *blob).ok_or_else(|| {
                    failure::at(Step::Prepared, check::FETCH, format!("the image's manifest has no layer {blob}"))
                })?;
            blobs.fetch(described).await.map_err(fail)?;
        }
        Ok(())
    }

    /// Only ever a registry, and one that the hoster allows: a workload must not name files of this node.
    async fn open_registry(&self, reference: &str) -> Result<Blobs, Failure> {
        let source = Source::parse(reference).map_err(|error| image_failure(&error))?;
        let Source::Registry(parsed) = &source else {
            return Err(failure::at(Step::Prepared, check::FETCH, "the image's source is no registry"));
        };
        self.registries.admit(parsed.registry()).map_err(|detail| failure::at(Step::Prepared, check::FETCH, detail))?;
        Blobs::open_with(&source, &self.cache, &self.access).await.map_err(|error| image_failure(&error))
    }

    /// Fetches assets into `folder`, each file padded with zeros to whole pages.
    pub(crate) async fn fetch_assets(
        &self,
        assets: &[Asset],
        folder: &Path,
        platform: &Platform,
    ) -> Result<Vec<AssetFile>, Failure> {
        let fetch = |(i, asset): (usize, Asset)| {
            let path = folder.join(format!("asset{i}"));
            async move {
                let (digest, target, expected) = (asset.digest.clone(), path.clone(), asset.clone());
                download(platform, digest, move |reader| save_asset(&expected, &target, reader)).await?;
                Ok(AssetFile { path, size_bytes: asset.size_bytes })
            }
        };
        stream::iter(assets.iter().cloned().enumerate()).map(fetch).buffered(PARALLEL).try_collect().await
    }
}

/// How layers become disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Single,
    Packed,
}

/// The verdict on a converted layer: it must be what the tenant computed.
fn compare(layer: &Layer, converted: &ConvertedLayer) -> Result<(), Failure> {
    let root_hash = hex::encode(converted.root_hash);
    if root_hash == layer.root_hash && converted.data_blocks == layer.data_blocks {
        return Ok(());
    }
    let detail = format!(
        "layer {}: the workload names root hash {} over {} blocks, conversion gave {root_hash} over {} blocks",
        layer.blob, layer.root_hash, layer.data_blocks, converted.data_blocks
    );
    Err(failure::at(Step::Prepared, check::LAYER_ROOT, detail))
}

/// Copies, counts and hashes; a file that is not the asset is removed.
fn save_asset(asset: &Asset, path: &Path, mut reader: impl Read) -> Result<(), Failure> {
    let result = copy_asset(asset, path, &mut reader);
    if result.is_err() {
        // Nothing half-written stays; a failure to remove it is repeated and reported by the instance's wipe.
        let _ = std::fs::remove_file(path);
    }
    result
}

fn copy_asset(asset: &Asset, path: &Path, reader: &mut impl Read) -> Result<(), Failure> {
    let fetch = |error: io::Error| failure::at(Step::Prepared, check::ASSET_FETCH, format!("asset {}: {error}", asset.name));
    // Ciphertext in a folder that only root enters; the users of a container must be able to read it there.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path).map_err(fetch)?;
    // One byte more than there should be tells that there is more.
    let mut reader = reader.take(asset.size_bytes + 1);
    let (mut hash, mut size, mut buffer) = (Sha256::new(), 0u64, vec![0; 128 << 10]);
    loop {
        let n = reader.read(&mut buffer).map_err(fetch)?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(fetch)?;
        size += n as u64;
    }
    if size != asset.size_bytes || Some(hash.finalize().into()) != parse_digest(&asset.digest) {
        let detail =
            format!("asset {}: {size} bytes came that are not {} of {} bytes", asset.name, asset.digest, asset.size_bytes);
        return Err(failure::at(Step::Prepared, check::ASSET_DIGEST, detail));
    }
    pad(&file, size).map_err(fetch)
}

fn pad(file: &File, size: u64) -> io::Result<()> {
    file.set_len(size.next_multiple_of(DISK_UNIT))
}

fn missing(layer: &Layer) -> Failure {
    failure::at(Step::Prepared, check::FETCH, format!("blob {} is not in the cache any more", layer.blob))
}

fn image_failure(error: &ImageError) -> Failure {
    failure::at(Step::Prepared, error.check(), failure::chain(error))
}

fn lease_name(id: &InstanceId) -> String {
    format!("instance-{id}")
}

fn digest(text: &str) -> Digest {
    Digest::from_bytes(parse_digest(text).expect("the workload's digests were checked when it was admitted"))
}

/// The assets' files of an instance, for its undo.
pub(crate) fn asset_files(folder: &Path, count: usize) -> impl Iterator<Item = PathBuf> {
    (0..count).map(move |i| folder.join(format!("asset{i}")))
}

#[cfg(test)]
mod tests {
    use casemate_api::workload::format_digest;

    use super::*;

    fn asset(content: &[u8]) -> Asset {
        Asset {
            name: "data".into(),
            digest: format_digest(&Sha256::digest(content).into()),
            size_bytes: content.len() as u64,
            path: "/data".into(),
        }
    }

    #[test]
    fn keeps_the_asset_that_was_named_and_pads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("asset0");
        save_asset(&asset(b"ciphertext"), &path, &b"ciphertext"[..]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 4096);
        assert!(bytes.starts_with(b"ciphertext\0"));
    }

    #[test]
    fn leaves_nothing_of_an_asset_that_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("asset0");
        for other in [&b"cyphertext"[..], b"ciphertex", b"ciphertext and more"] {
            let failure = save_asset(&asset(b"ciphertext"), &path, other).unwrap_err();
            assert_eq!(failure.check, check::ASSET_DIGEST);
            assert!(!path.exists());
        }
    }

    #[test]
    fn names_the_layer_whose_root_is_another_one() {
        let layer = Layer { blob: format_digest(&[1; 32]), root_hash: hex::encode([2; 32]), data_blocks: 3, key: None };
        let same = ConvertedLayer { path: "/x".into(), root_hash: [2; 32], data_blocks: 3, size_bytes: 4096 };
        assert!(compare(&layer, &same).is_ok());
        for other in [ConvertedLayer { root_hash: [9; 32], ..same.clone() }, ConvertedLayer { data_blocks: 4, ..same.clone() }] {
            assert_eq!(compare(&layer, &other).unwrap_err().check, check::LAYER_ROOT);
        }
    }
}
