//! From what a person wrote to the canonical workload: image layers become verity root hashes, assets become digests.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use casemate_api::workload::{self, Isolation, Layer, Process, Workload};
use casemate_image::{Blobs, Cache, ImageInfo, Source};
use casemate_seal::{Dek, HpkeSecret};
use sha2::{Digest as _, Sha256};

use crate::{
    context,
    exit::Hinted,
    printer::Printer,
    workload_file::{self, WorkloadFile},
};

/// A workload that can be submitted, and what only the tenant has.
pub(crate) struct Resolved {
    pub(crate) workload: Workload,
    /// Blobs that the platform must have first.
    pub(crate) uploads: Vec<Upload>,
    /// Keys by asset name.
    pub(crate) keys: BTreeMap<String, Dek>,
    /// Key of this one instance.
    pub(crate) tenant: HpkeSecret,
    pub(crate) tenant_seed: zeroize::Zeroizing<[u8; 32]>,
}

/// A file to upload under its digest.
pub(crate) struct Upload {
    pub(crate) digest: String,
    pub(crate) file: PathBuf,
    pub(crate) size_bytes: u64,
}

/// Resolves everything; nothing has left the machine after it.
pub(crate) async fn resolve(file: &WorkloadFile, printer: &Printer) -> anyhow::Result<Resolved> {
    let image_text = file.image.as_deref().context("no image: give --image or `image:` in the workload file")?;
    let isolation: Isolation = file.isolation.as_deref().unwrap_or("microvm").parse()?;
    let keys = keys(file)?;
    let source = Source::parse(image_text).with_context(|| format!("read image reference {image_text}"))?;
    let cache_dir = context::cache_dir()?.join("images");
    let cache = Cache::open(&cache_dir).with_context(|| format!("open image cache {}", cache_dir.display()))?;
    let blobs = Blobs::open(&source, &cache).await.with_context(|| format!("open image {image_text}"))?;
    let info = blobs.inspect().await.with_context(|| format!("read image {image_text}"))?;
    let (layers, mut uploads) = layers(&blobs, &cache, &info, printer).await?;
    let assets = assets(file, &mut uploads)?;
    let seed = zeroize::Zeroizing::new(random32()?);
    let tenant = HpkeSecret::from_seed(*seed);
    // A node pulls by digest: the repository is all that it needs to know.
    let repository = source.repository();
    if repository.is_some() {
        uploads.retain(|upload| assets.iter().any(|asset| asset.digest == upload.digest));
    }
    let workload = Workload {
        version: 1,
        name: file.name.clone().unwrap_or_else(|| default_name(image_text)),
        isolation,
        image: workload::Image { source: repository.unwrap_or_default(), manifest: info.manifest_digest.to_string(), layers },
        process: process(file, &info)?,
        resources: workload::Resources {
            cpus: file.resources.cpus.unwrap_or(1),
            memory_mib: file.resources.memory_mib.unwrap_or(512),
            scratch_mib: file.resources.scratch_mib.unwrap_or(256),
        },
        assets,
        network: file.network.as_ref().map(workload_file::Network::resolve).transpose()?,
        output_path: file.output.path.clone().unwrap_or_else(|| "/out".to_owned()),
        ttl_s: file.ttl_s.unwrap_or(3600),
        tenant_key: hex::encode(tenant.public()),
    };
    workload.check().context("check the workload")?;
    Ok(Resolved { workload, uploads, keys, tenant, tenant_seed: seed })
}

/// 32 random bytes from the operating system.
pub(crate) fn random32() -> anyhow::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("get random bytes: {error}"))?;
    Ok(bytes)
}

/// The operating system's randomness for HPKE.
pub(crate) fn os_rng() -> impl casemate_seal::rand_core::CryptoRng {
    casemate_seal::rand_core::UnwrapErr(getrandom::SysRng)
}

async fn layers(blobs: &Blobs, cache: &Cache, info: &ImageInfo, printer: &Printer) -> anyhow::Result<(Vec<Layer>, Vec<Upload>)> {
    let (mut layers, mut uploads) = (Vec::new(), Vec::new());
    for (number, blob) in info.layers.iter().enumerate() {
        printer.note(
            "image",
            &format!("layer {} of {}, {} KiB: verify and convert", number + 1, info.layers.len(), blob.size >> 10),
        );
        let file = blobs.fetch(blob).await.with_context(|| format!("fetch layer {}", blob.digest))?;
        let (cache, digest, media_type) = (cache.clone(), blob.digest, blob.media_type.clone());
        let converted = tokio::task::spawn_blocking(move || cache.convert_layer(&digest, &media_type)).await?;
        let converted = converted.with_context(|| format!("convert layer {}", blob.digest))?;
        uploads.push(Upload { digest: blob.digest.to_string(), file, size_bytes: blob.size });
        layers.push(Layer {
            blob: blob.digest.to_string(),
            root_hash: hex::encode(converted.root_hash),
            data_blocks: converted.data_blocks,
        });
    }
    Ok((layers, uploads))
}

fn process(file: &WorkloadFile, info: &ImageInfo) -> anyhow::Result<Process> {
    let config = &info.config;
    let args =
        if file.command.is_empty() { [config.entrypoint.clone(), config.cmd.clone()].concat() } else { file.command.clone() };
    anyhow::ensure!(!args.is_empty(), "the image names no command; give one after `--`");
    let mut env = config.env.clone();
    env.entry("PATH".to_owned()).or_insert_with(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    env.extend(file.env.clone());
    let cwd = file.workdir.clone().unwrap_or_else(|| config.working_dir.clone());
    Ok(Process {
        args,
        env,
        cwd: if cwd.is_empty() { "/".to_owned() } else { cwd },
        user: file.user.clone().unwrap_or_else(|| config.user.clone()),
    })
}

fn assets(file: &WorkloadFile, uploads: &mut Vec<Upload>) -> anyhow::Result<Vec<workload::Asset>> {
    let mut assets = Vec::new();
    for asset in &file.assets {
        let (digest, size_bytes) = digest_file(&asset.file)?;
        let digest = workload::format_digest(&digest);
        uploads.push(Upload { digest: digest.clone(), file: asset.file.clone(), size_bytes });
        let path = asset.path.clone().unwrap_or_else(|| format!("/data/{}", asset.name));
        assets.push(workload::Asset { name: asset.name.clone(), digest, size_bytes, path });
    }
    Ok(assets)
}

fn keys(file: &WorkloadFile) -> anyhow::Result<BTreeMap<String, Dek>> {
    file.assets.iter().map(|asset| Ok((asset.name.clone(), key_of(asset)?))).collect()
}

fn key_of(asset: &workload_file::Asset) -> anyhow::Result<Dek> {
    let Some(path) = &asset.key else {
        let hint = format!("give its key file with --key {}=FILE", asset.name);
        return Err(Hinted { message: format!("asset {} has no key", asset.name), hint }.into());
    };
    read_key(path)
}

/// The key in a key file: one line of 64 hex digits.
pub(crate) fn read_key(path: &Path) -> anyhow::Result<Dek> {
    use std::os::unix::fs::PermissionsExt as _;
    let attempt = || format!("read key file {}", path.display());
    let file = fs::File::open(path).with_context(attempt)?;
    let mode = file.metadata().with_context(attempt)?.permissions().mode();
    if mode & 0o077 != 0 {
        let hint = format!("chmod 600 {}", path.display());
        return Err(Hinted {
            message: format!("key file {} is readable by others (mode {:o})", path.display(), mode & 0o777),
            hint,
        }
        .into());
    }
    let mut text = zeroize::Zeroizing::new(String::new());
    file.take(1024).read_to_string(&mut text).with_context(attempt)?;
    Dek::from_hex(text.trim()).with_context(attempt)
}

fn digest_file(path: &Path) -> anyhow::Result<([u8; 32], u64)> {
    let attempt = || format!("read asset {}", path.display());
    let mut file = fs::File::open(path).with_context(attempt)?;
    let (mut hash, mut buffer, mut size) = (Sha256::new(), vec![0; 1 << 20], 0);
    loop {
        let count = file.read(&mut buffer).with_context(attempt)?;
        if count == 0 {
            return Ok((hash.finalize().into(), size));
        }
        hash.update(&buffer[..count]);
        size += count as u64;
    }
}

fn default_name(image: &str) -> String {
    let last = image.rsplit(['/', ':']).next().unwrap_or(image);
    let name: String = last.chars().filter(|c| !c.is_control()).take(60).collect();
    if name.is_empty() { "workload".to_owned() } else { name }
}
