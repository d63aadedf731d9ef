//! Images in folders and archives.

use std::{fs, path::Path};

use casemate_image::{Blobs, Digest, ImageError, ImageInfo, Limits, Source};
use serde_json::json;

use crate::support::{
    Bench, gzip,
    image::{Image, MANIFEST, descriptor, index_of},
    run,
    tarball::{Item, Tar},
};

fn image() -> Image {
    Image::new(&[gzip(&Tar::of([Item::file("one", "1")]), 6), gzip(&Tar::of([Item::file("two", "2")]), 6)])
}

fn layout(bench: &Bench, image: &Image, nesting: usize) -> Source {
    let dir = bench.dir.path().join("layout");
    image.write_layout(&dir, nesting);
    Source::Layout(dir)
}

async fn inspect(bench: &Bench, source: &Source) -> Result<ImageInfo, ImageError> {
    casemate_image::inspect(source, &bench.cache).await
}

fn folder(source: &Source) -> &Path {
    match source {
        Source::Layout(dir) => dir,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_layout_and_its_archive_are_the_same_image() {
    let bench = Bench::new();
    let image = image();
    let source = layout(&bench, &image, 1);
    let info = inspect(&bench, &source).await.unwrap();
    assert_eq!(info.manifest_digest, Digest::of(&image.manifest));
    assert_eq!(info.config.entrypoint, ["/bin/app"]);
    assert_eq!((info.config.working_dir.as_str(), info.config.user.as_str()), ("/srv", "7:8"));
    for (form, arguments) in [("dots", &["."][..]), ("plain", &["oci-layout", "index.json", "blobs"])] {
        let archive = bench.dir.path().join(form);
        run("tar", &[&["-cf", archive.to_str().unwrap()], arguments].concat(), folder(&source));
        let archive = Source::parse(&format!("oci:{}", archive.display())).unwrap();
        assert!(matches!(archive, Source::Archive(_)));
        let other = Bench::new();
        assert_eq!(inspect(&other, &archive).await.unwrap(), info);
        let blobs = Blobs::open(&archive, &other.cache).await.unwrap();
        for (layer, content) in info.layers.iter().zip(&image.blobs) {
            let path = blobs.fetch(layer).await.unwrap();
            assert!(fs::read(path).unwrap() == *content);
            other.cache.convert_layer(&layer.digest, &layer.media_type).unwrap();
        }
    }
}

#[tokio::test]
async fn indexes_are_followed_to_a_bound() {
    for (nesting, is_accepted) in [(0, true), (2, true), (3, false), (30, false)] {
        let bench = Bench::new();
        let source = layout(&bench, &image(), nesting);
        assert_eq!(inspect(&bench, &source).await.is_ok(), is_accepted, "{nesting}");
    }
}

#[tokio::test]
async fn refuses_blobs_that_are_not_what_their_descriptors_say() {
    let image = image();
    let layer = Digest::of(&image.blobs[0]);
    let config = Digest::of(&image.blobs[2]);
    let manifest = Digest::of(&image.manifest);
    for (digest, checked_on_open) in [(layer, false), (config, true), (manifest, true)] {
        let bench = Bench::new();
        let source = layout(&bench, &image, 0);
        let path = folder(&source).join("blobs/sha256").join(digest.hex());
        let mut content = fs::read(&path).unwrap();
        let fetch = async || {
            let blobs = Blobs::open(&source, &bench.cache).await?;
            let info = blobs.inspect().await?;
            blobs.fetch(&info.layers[0]).await
        };
        content[3] ^= 1;
        fs::write(&path, &content).unwrap();
        assert_eq!(inspect(&bench, &source).await.is_err(), checked_on_open);
        assert!(matches!(fetch().await, Err(ImageError::BlobDigest { expected, .. }) if expected == digest));
        content[3] ^= 1;
        content.push(0);
        fs::write(&path, &content).unwrap();
        assert!(matches!(fetch().await, Err(ImageError::BlobSize { .. })));
        content.truncate(content.len() - 2);
        fs::write(&path, &content).unwrap();
        assert!(matches!(fetch().await, Err(ImageError::BlobSize { .. })));
        fs::remove_file(&path).unwrap();
        assert!(matches!(fetch().await, Err(ImageError::BlobMissing { .. })));
        assert!(bench.remains().is_empty() && !bench.cache.has_blob(&digest));
    }
}

#[tokio::test]
async fn refuses_what_is_no_image() {
    let bench = Bench::new();
    let source = layout(&bench, &image(), 0);
    let dir = folder(&source);
    let refused = async |name: &str, content: &str| {
        let kept = fs::read(dir.join(name)).unwrap();
        fs::write(dir.join(name), content).unwrap();
        let error = inspect(&bench, &source).await.unwrap_err();
        fs::write(dir.join(name), kept).unwrap();
        error.to_string()
    };
    assert!(refused("oci-layout", r#"{"imageLayoutVersion":"2"}"#).await.contains("not known"));
    assert!(refused("index.json", "{").await.contains("read image manifest"));
    assert!(refused("index.json", r#"{"schemaVersion":2,"manifests":[]}"#).await.contains("no image for linux/amd64"));
    let two = json!({"schemaVersion": 2, "manifests": [descriptor(MANIFEST, b"a"), descriptor(MANIFEST, b"b")]});
    assert!(refused("index.json", &two.to_string()).await.contains("several images"));
    assert!(refused("index.json", &" ".repeat(5 << 20)).await.contains("more than"));
    let mut large = descriptor(MANIFEST, b"a");
    large["size"] = json!(5 << 20);
    assert!(refused("index.json", &String::from_utf8(index_of(large)).unwrap()).await.contains("limit"));
    assert!(inspect(&bench, &source).await.is_ok());
    fs::remove_file(dir.join("index.json")).unwrap();
    assert!(inspect(&bench, &source).await.is_err());
    for not_an_archive in [&b""[..], b"{}", &gzip(&Tar::of([Item::file("oci-layout", "{}")]), 6), &Tar::of([])] {
        let path = bench.dir.path().join("archive");
        fs::write(&path, not_an_archive).unwrap();
        let error = inspect(&bench, &Source::Archive(path)).await.unwrap_err();
        assert_eq!(error.check(), "image.malformed");
    }
}

#[tokio::test]
async fn refuses_too_many_layers_and_too_large_ones() {
    let many = Image::new(&vec![gzip(&Tar::of([]), 6); 128]);
    let bench = Bench::new();
    let error = inspect(&bench, &layout(&bench, &many, 0)).await.unwrap_err();
    assert!(error.to_string().contains("128 layers"));
    let bench = Bench::with_limits(Limits { blob_bytes: 10, ..Limits::default() });
    let error = inspect(&bench, &layout(&bench, &image(), 0)).await.unwrap_err();
    assert!(error.to_string().contains("the limit is 10"));
}
