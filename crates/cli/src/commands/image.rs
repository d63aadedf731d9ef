//! `casemate image`: encryption of layers, on the tenant's machine.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use casemate_image::{BlobInfo, Blobs, Cache, ImageInfo, LayoutWriter, Source};
use casemate_seal::{Dek, layer::LayerCipher};
use serde::Serialize;

use crate::{
    args::{Globals, Image, ImageCommand, ImageEncrypt},
    context,
    exit::Status,
    printer::{self, Printer},
    resolve,
};

pub(crate) async fn run(globals: &Globals, args: Image) -> anyhow::Result<Status> {
    let ImageCommand::Encrypt(args) = args.command;
    let printer = Printer::new(globals);
    let done = encrypt(&args, &printer).await.with_context(|| format!("encrypt image {}", args.input))?;
    if globals.json {
        printer::json(&done)?;
    } else {
        println!("{}", done.manifest);
    }
    Ok(Status::Ok)
}

/// What was made.
#[derive(Serialize)]
struct Done {
    manifest: String,
    layers: Vec<Encrypted>,
}

#[derive(Serialize)]
struct Encrypted {
    layer: usize,
    blob: String,
    key: String,
    key_file: PathBuf,
}

async fn encrypt(args: &ImageEncrypt, printer: &Printer) -> anyhow::Result<Done> {
    let target = args.out.strip_prefix("oci:").filter(|path| !path.is_empty());
    let target = target.with_context(|| format!("--out {}: only oci:PATH can be written", args.out))?;
    let source = Source::parse(&args.input)?;
    let cache_dir = context::cache_dir()?.join("images");
    let cache = Cache::open(&cache_dir).with_context(|| format!("open image cache {}", cache_dir.display()))?;
    let blobs = Blobs::open(&source, &cache).await?;
    let info = blobs.inspect().await?;
    let chosen = chosen(args, &info)?;
    let mut writer = LayoutWriter::create(Path::new(target))?;
    let mut made = Vec::new();
    for (index, blob) in info.layers.iter().enumerate() {
        let number = index + 1;
        let file = blobs.fetch(blob).await.with_context(|| format!("fetch layer {number}"))?;
        if !chosen.contains(&number) {
            writer.copy_layer(&file, blob, info.diff_ids[index])?;
            continue;
        }
        printer.note("image", &format!("layer {number} of {}, {} KiB: convert and encrypt", info.layers.len(), blob.size >> 10));
        let (key, layer);
        (writer, key, layer) = encrypt_layer(writer, &cache, blob).await.with_context(|| format!("encrypt layer {number}"))?;
        // On the disk before the image is there: ciphertext without a key is of no use to anybody.
        let name = resolve::layer_key_name(&layer);
        let key_file = resolve::layer_key_file(&args.key_out, &name);
        resolve::write_key(&key_file, &key)?;
        printer.done("key", &format!("{} opens layer {number}", key_file.display()));
        made.push(Encrypted { layer: number, blob: layer.digest.to_string(), key: name, key_file });
    }
    let manifest = writer.finish(&info.config)?;
    printer.done("encrypted", &format!("{} of {} layers -> oci:{target}", made.len(), info.layers.len()));
    Ok(Done { manifest: manifest.to_string(), layers: made })
}

/// The numbers of the layers to encrypt, all of which are there and plain.
fn chosen(args: &ImageEncrypt, info: &ImageInfo) -> anyhow::Result<BTreeSet<usize>> {
    let count = info.layers.len();
    let chosen: BTreeSet<usize> = if args.all { (1..=count).collect() } else { args.layers.iter().copied().collect() };
    for number in &chosen {
        let layer = number.checked_sub(1).and_then(|index| info.layers.get(index));
        let layer = layer.with_context(|| format!("there is no layer {number}: the image has layers 1 to {count}"))?;
        anyhow::ensure!(!layer.is_encrypted(), "layer {number} is encrypted already");
    }
    let encrypted = chosen.len() + info.layers.iter().filter(|layer| layer.is_encrypted()).count();
    let most = casemate_api::workload::MAX_ENCRYPTED_LAYERS;
    anyhow::ensure!(encrypted <= most, "{encrypted} layers would be encrypted, a workload may have {most}");
    Ok(chosen)
}

async fn encrypt_layer(
    mut writer: LayoutWriter,
    cache: &Cache,
    blob: &BlobInfo,
) -> anyhow::Result<(LayoutWriter, Dek, BlobInfo)> {
    let (cache, blob) = (cache.clone(), blob.clone());
    let work = move || {
        let layer = cache.convert_layer(&blob.digest, &blob.media_type)?;
        let key = Dek::generate(&mut resolve::os_rng());
        let cipher = LayerCipher::new(&key);
        let blob = writer.encrypt_layer(&layer, &mut |first, blocks| cipher.encrypt(first, blocks))?;
        anyhow::Ok((writer, key, blob))
    };
    tokio::task::spawn_blocking(work).await?
}
