//! Encrypted layers, with a cipher that a test can read: what comes in is what goes out, and nothing tells of the content.

use std::{fs, path::Path};

use casemate_image::{Blobs, Cache, ConvertedLayer, Digest, ENCRYPTED_TYPE, ImageInfo, LayerError, LayoutWriter, Limits, Source};

use crate::support::{
    Bench, gzip,
    image::Image,
    tarball::{Item, Tar},
};

const BLOCK: usize = 4096;

/// Each block in its own way.
fn scramble(first: u64, blocks: &mut [u8]) {
    for (number, block) in (first..).zip(blocks.chunks_exact_mut(BLOCK)) {
        block.iter_mut().for_each(|byte| *byte ^= 0x80 | number as u8);
    }
}

fn layers() -> [Vec<u8>; 2] {
    let big: String = (0..200_000).map(|n| format!("line {n}\n")).collect();
    [gzip(&Tar::of([Item::file("one", &big)]), 6), gzip(&Tar::of([Item::file("two", "2")]), 6)]
}

/// An image of which the first layer was encrypted.
struct Made {
    bench: Bench,
    plain: ImageInfo,
    secret: ConvertedLayer,
    info: ImageInfo,
    blobs: Blobs,
}

impl Made {
    async fn new() -> Self {
        let bench = Bench::new();
        let (from, to) = (bench.dir.path().join("plain"), bench.dir.path().join("encrypted"));
        Image::new(&layers()).write_layout(&from, 0);
        let blobs = Blobs::open(&Source::Layout(from), &bench.cache).await.unwrap();
        let plain = blobs.inspect().await.unwrap();
        let mut writer = LayoutWriter::create(&to).unwrap();
        blobs.fetch(&plain.layers[0]).await.unwrap();
        let secret = bench.cache.convert_layer(&plain.layers[0].digest, &plain.layers[0].media_type).unwrap();
        let encrypted = writer.encrypt_layer(&secret, &mut scramble).unwrap();
        assert!(encrypted.is_encrypted() && !plain.layers[1].is_encrypted());
        let second = blobs.fetch(&plain.layers[1]).await.unwrap();
        writer.copy_layer(&second, &plain.layers[1], plain.diff_ids[1]).unwrap();
        let manifest = writer.finish(&plain.config).unwrap();
        let blobs = Blobs::open(&Source::Layout(to), &bench.cache).await.unwrap();
        let info = blobs.inspect().await.unwrap();
        assert_eq!((info.manifest_digest, &info.layers[0]), (manifest, &encrypted));
        Self { bench, plain, secret, info, blobs }
    }
}

#[tokio::test]
async fn a_node_makes_the_verity_tree_over_what_the_owner_encrypted() {
    let made = Made::new().await;
    assert_eq!(made.info.config, made.plain.config);
    let node = Cache::open(made.bench.dir.path().join("node")).unwrap();
    let layer = &made.info.layers[0];
    let file = fs::File::open(made.blobs.fetch(layer).await.unwrap()).unwrap();
    node.add_blob_from_reader(&layer.digest, Some(layer.size), file).unwrap();
    let converted = node.convert_layer(&layer.digest, "").unwrap();
    let blocks = made.secret.data_blocks as usize;
    assert!(blocks > 300, "more than one chunk, or this test shows less than it could");
    assert_eq!((converted.data_blocks, converted.size_bytes), (made.secret.data_blocks, made.secret.size_bytes));
    assert_ne!(converted.root_hash, made.secret.root_hash);
    let mut image = fs::read(&converted.path).unwrap();
    scramble(0, &mut image[..blocks * BLOCK]);
    let plain = fs::read(&made.secret.path).unwrap();
    assert!(image[..blocks * BLOCK] == plain[..blocks * BLOCK]);
    // The same bytes are the same layer everywhere, and a wrong media type is noticed.
    assert_eq!(made.bench.cache.convert_layer(&layer.digest, ENCRYPTED_TYPE).unwrap().root_hash, converted.root_hash);
    let other = Cache::open(made.bench.dir.path().join("other")).unwrap();
    other.add_blob_from_reader(&layer.digest, None, fs::File::open(made.blobs.fetch(layer).await.unwrap()).unwrap()).unwrap();
    assert!(other.convert_layer(&layer.digest, "application/vnd.oci.image.layer.v1.tar").is_err());
}

#[tokio::test]
async fn the_copy_tells_nothing_of_what_was_encrypted() {
    let made = Made::new().await;
    let folder = made.bench.dir.path().join("encrypted");
    let hidden = [&made.plain.layers[0].digest, &made.plain.diff_ids[0], &Digest::from_bytes(made.secret.root_hash)];
    let mut files = 0;
    each_file(&folder, &mut |path| {
        files += 1;
        let bytes = fs::read(path).unwrap();
        let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        assert!(!has(b"line 1"), "content is in {}", path.display());
        for digest in hidden {
            assert!(!has(digest.hex().as_bytes()) && !has(digest.bytes()), "{digest} is in {}", path.display());
        }
    });
    // Two layers, configuration, manifest, index and version.
    assert_eq!(files, 6);
    assert_eq!(made.info.diff_ids[1], made.plain.diff_ids[1]);
}

fn each_file(folder: &Path, see: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { each_file(&path, see) } else { see(&path) }
    }
}

#[tokio::test]
async fn nothing_is_written_over_and_nothing_half_made_stays() {
    let bench = Bench::new();
    let target = bench.dir.path().join("target");
    let here = || fs::read_dir(bench.dir.path()).unwrap().count();
    let before = here();
    drop(LayoutWriter::create(&target).unwrap());
    assert!(!target.exists() && here() == before);
    fs::create_dir(&target).unwrap();
    fs::write(target.join("mine"), "").unwrap();
    assert!(LayoutWriter::create(&target).is_err());
    assert!(LayoutWriter::create(&target.join("mine")).is_err());
    assert_eq!((fs::read_dir(&target).unwrap().count(), here()), (1, before + 1));
}

#[test]
fn refuses_sizes_that_are_not_what_is_there() {
    let bench = Bench::with_limits(Limits { layer_bytes: 1 << 20, ..Limits::default() });
    let blob = |blocks: u64, bytes: usize| [&b"\x89CMLAYR\x01"[..], &blocks.to_le_bytes(), &vec![7; bytes]].concat();
    assert!(bench.convert(&blob(2, 2 * BLOCK)).is_ok());
    let bench = Bench::with_limits(Limits { layer_bytes: 1 << 20, ..Limits::default() });
    for (blocks, bytes) in [(0, 0), (1, 0), (1, BLOCK - 1), (1, BLOCK + 1), (2, BLOCK), (1, 2 * BLOCK), (0, BLOCK)] {
        let refusal = bench.refusal(&blob(blocks, bytes));
        assert!(matches!(refusal, LayerError::Encrypted { .. }), "{blocks} {bytes}: {refusal:?}");
    }
    for blocks in [257, 1 << 32, u64::MAX, u64::MAX / 4096 + 2] {
        let refusal = bench.refusal(&blob(blocks, 2 * BLOCK));
        assert!(matches!(refusal, LayerError::Limit { name: "layer_bytes", .. }), "{blocks}: {refusal:?}");
    }
    for cut in [8, 9, 15] {
        assert!(matches!(bench.refusal(&blob(1, BLOCK)[..cut]), LayerError::Io { .. }), "{cut}");
    }
}
