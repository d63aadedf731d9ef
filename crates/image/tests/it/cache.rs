//! The cache under honest and dishonest use, by many and after accidents.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::fs::{MetadataExt, PermissionsExt},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use casemate_image::{Cache, Digest, ImageError, Stage};

use crate::support::{
    Bench, gzip,
    tarball::{Item, Tar},
};

fn layer(content: &str) -> Vec<u8> {
    gzip(&Tar::of([Item::file("a", content)]), 6)
}

#[test]
fn refuses_content_of_another_digest_or_size_and_keeps_none_of_it() {
    let bench = Bench::new();
    let digest = Digest::of(b"right");
    let add = |size, content: &[u8]| bench.cache.add_blob_from_reader(&digest, size, content);
    assert!(matches!(add(Some(5), b"wrong"), Err(ImageError::BlobDigest { .. })));
    assert!(matches!(add(None, b"wrong"), Err(ImageError::BlobDigest { .. })));
    assert!(matches!(add(Some(4), b"right"), Err(ImageError::BlobSize { .. })));
    assert!(matches!(add(Some(6), b"right"), Err(ImageError::BlobSize { .. })));
    let error = bench.cache.add_blob_from_reader(&digest, Some(5), std::io::repeat(0)).unwrap_err();
    assert_eq!(error.check(), "image.blob-digest", "an endless blob ends");
    assert!(!bench.cache.has_blob(&digest) && bench.remains().is_empty());
    add(Some(5), b"right").unwrap();
    assert!(bench.cache.has_blob(&digest));
}

#[test]
fn a_blob_damaged_on_disk_is_noticed_and_thrown_out() {
    let bench = Bench::new();
    let blob = layer("x");
    let digest = Digest::of(&blob);
    let path = bench.cache.add_blob_from_reader(&digest, None, &blob[..]).unwrap();
    for damage in [&blob[..blob.len() - 3], b"", &layer("y")] {
        fs::remove_file(&path).unwrap();
        fs::write(&path, damage).unwrap();
        let error = bench.cache.convert_layer(&digest, "").unwrap_err();
        assert!(matches!(error, ImageError::BlobDigest { .. }), "{error:?}");
        assert!(!bench.cache.has_blob(&digest) && bench.remains().is_empty());
        bench.cache.add_blob_from_reader(&digest, None, &blob[..]).unwrap();
    }
    assert!(bench.cache.convert_layer(&digest, "").is_ok());
}

#[test]
fn a_layer_is_converted_once_for_many_at_the_same_time() {
    let blob = layer("shared");
    let digest = Digest::of(&blob);
    let events_of = |threads: usize| {
        let bench = Bench::new();
        let events = Arc::new(AtomicUsize::new(0));
        let counter = events.clone();
        let cache = bench.cache.clone().with_progress(move |progress| {
            if progress.stage == Stage::Convert {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        cache.add_blob_from_reader(&digest, None, &blob[..]).unwrap();
        let results: Vec<_> = std::thread::scope(|scope| {
            let convert = || scope.spawn(|| cache.convert_layer(&digest, "").unwrap());
            let threads: Vec<_> = (0..threads).map(|_| convert()).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(results.iter().all(|result| *result == results[0]));
        events.load(Ordering::Relaxed)
    };
    let once = events_of(1);
    assert!(once > 0);
    assert_eq!(events_of(8), once);
}

#[test]
fn the_kept_layer_needs_no_blob_and_is_not_trusted_when_incomplete() {
    let bench = Bench::new();
    let blob = layer("x");
    let digest = Digest::of(&blob);
    let first = bench.convert(&blob).unwrap();
    bench.cache.remove_blob(&digest).unwrap();
    assert_eq!(bench.cache.convert_layer(&digest, "").unwrap(), first);
    assert_eq!(fs::metadata(&first.path).unwrap().permissions().mode() & 0o777, 0o444);
    fs::File::options().write(true).open(&first.path).unwrap().set_len(4096).unwrap();
    assert_eq!(bench.cache.converted_layer(&digest), None);
    assert!(matches!(bench.cache.convert_layer(&digest, ""), Err(ImageError::BlobMissing { .. })));
    assert_eq!(bench.convert(&blob).unwrap(), first, "made again over the broken one");
}

#[test]
fn packs_hold_each_layer_at_its_slice_and_are_made_once() {
    let bench = Bench::new();
    let layers: Vec<_> = (0..20).map(|i| bench.convert(&layer(&"x".repeat(i * 1000))).unwrap()).collect();
    let pack = bench.cache.pack(&layers).unwrap();
    let bytes = fs::read(&pack.path).unwrap();
    let mut end = 0;
    for (layer, (offset, len)) in layers.iter().zip(&pack.slices) {
        assert_eq!((*offset, offset % 4096, len % 4096), (end, 0, 0));
        end = offset + len;
        assert!(bytes[*offset as usize..end as usize] == fs::read(&layer.path).unwrap());
    }
    assert_eq!(end, bytes.len() as u64);
    let inode = fs::metadata(&pack.path).unwrap().ino();
    assert_eq!(bench.cache.pack(&layers).unwrap(), pack);
    assert_eq!(fs::metadata(&pack.path).unwrap().ino(), inode);
    let fewer = bench.cache.pack(&layers[1..]).unwrap();
    assert_ne!(fewer.path, pack.path);
    fs::remove_file(&layers[0].path).unwrap();
    fs::write(&layers[0].path, "short").unwrap();
    assert!(bench.cache.pack(&layers[..3]).is_err());
}

/// Not a test of its own: the process that the next one kills.
#[test]
fn child_that_stops_in_the_middle() {
    let Some(dir) = std::env::var_os("CASEMATE_IMAGE_CHILD") else { return };
    let digest: Digest = std::env::var("CASEMATE_IMAGE_BLOB").unwrap().parse().unwrap();
    let cache = Cache::open(dir).unwrap().with_progress(|_| {
        println!("converting");
        let _ = std::io::stdin().read(&mut [0]);
    });
    let _ = cache.convert_layer(&digest, "");
}

#[test]
fn what_a_killed_process_leaves_is_removed_but_not_what_a_living_one_works_on() {
    let bench = Bench::new();
    let blob = layer("interrupted");
    let digest = Digest::of(&blob);
    bench.cache.add_blob_from_reader(&digest, None, &blob[..]).unwrap();
    let dir = bench.dir.path().join("cache");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cache::child_that_stops_in_the_middle", "--nocapture"])
        .env("CASEMATE_IMAGE_CHILD", &dir)
        .env("CASEMATE_IMAGE_BLOB", digest.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("converting")));
    Cache::open(&dir).unwrap();
    assert_eq!(bench.remains().len(), 1, "work in progress stays");
    child.kill().unwrap();
    child.wait().unwrap();
    Cache::open(&dir).unwrap();
    assert!(bench.remains().is_empty());
    assert!(bench.cache.convert_layer(&digest, "").is_ok());
}
