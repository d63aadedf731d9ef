//! What is needed stays, whatever collects beside it; what is not needed goes, oldest first.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use casemate_image::{Cache, ConvertedLayer, Digest, ImageError};

use crate::support::{
    Bench, gzip,
    tarball::{Item, Tar},
};

fn blob(content: &str) -> Vec<u8> {
    gzip(&Tar::of([Item::file("a", content)]), 6)
}

/// Converts what is not kept, as a node does: the blob comes again if it must.
fn obtain(cache: &Cache, blob: &[u8]) -> ConvertedLayer {
    let digest = Digest::of(blob);
    match cache.convert_layer(&digest, "") {
        Err(ImageError::BlobMissing { .. }) => {
            cache.add_blob_from_reader(&digest, None, blob).unwrap();
            cache.convert_layer(&digest, "").unwrap()
        }
        other => other.unwrap(),
    }
}

#[test]
fn what_is_leased_stays_and_the_rest_goes_oldest_first() {
    let bench = Bench::new();
    let cache = &bench.cache;
    let blobs = ["one", "two", "three"].map(blob);
    let [one, two, three] = [0, 1, 2].map(|i| Digest::of(&blobs[i]));
    let layers: Vec<_> = blobs.iter().map(|blob| obtain(cache, blob)).collect();
    cache.lease("instance-a", &[one, three]).unwrap();
    let needed_pack = cache.pack(&[layers[0].clone(), layers[2].clone()]).unwrap();
    let other_pack = cache.pack(&layers).unwrap();
    assert_eq!(cache.collect(u64::MAX).unwrap().removed, 0, "there is room");
    let done = cache.collect(0).unwrap();
    // The second blob and its layer, and the pack of all.
    assert_eq!((done.removed, done.left_bytes), (3, done.leased_bytes));
    assert!(needed_pack.path.is_file() && !other_pack.path.exists());
    for (digest, stays) in [(one, true), (two, false), (three, true)] {
        assert_eq!((cache.has_blob(&digest), cache.converted_layer(&digest).is_some()), (stays, stays));
    }
    assert_eq!(cache.leases().unwrap(), ["instance-a"]);
    cache.release("instance-a").unwrap();
    cache.release("instance-a").unwrap();
    for blob in [one, three] {
        cache.remove_blob(&blob).unwrap();
    }
    fs::remove_file(needed_pack.path).unwrap();
    // A use makes the first layer the younger one.
    let age = |digest: &Digest, s: u64| {
        let folder = bench.dir.path().join("cache/layers").join(digest.hex());
        fs::File::open(folder).unwrap().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(s)).unwrap();
    };
    age(&one, 1);
    age(&three, 2);
    drop(cache.hold(&[one]).unwrap());
    let both = cache.collect(u64::MAX).unwrap().left_bytes;
    assert_eq!(cache.collect(both - 1).unwrap().removed, 1);
    assert!(cache.converted_layer(&one).is_some() && cache.converted_layer(&three).is_none());
    assert_eq!(cache.collect(0).unwrap().left_bytes, 0);
    assert!(bench.remains().is_empty());
}

#[test]
fn names_of_leases_are_no_paths_and_a_lease_that_cannot_be_read_stops_all_collection() {
    let bench = Bench::new();
    let digest = Digest::of(&blob("x"));
    obtain(&bench.cache, &blob("x"));
    for bad in ["", "..", "../x", "a/b", "A", "hold-x", &"x".repeat(101)] {
        assert_eq!(bench.cache.lease(bad, &[digest]).unwrap_err().check(), "image.malformed", "{bad}");
        assert!(bench.cache.release(bad).is_err());
    }
    let path = bench.dir.path().join("cache/leases/instance-b");
    fs::write(&path, "[\"sha256:").unwrap();
    assert_eq!(bench.cache.collect(0).unwrap_err().check(), "image.malformed");
    assert!(bench.cache.converted_layer(&digest).is_some());
    fs::remove_file(path).unwrap();
    assert_eq!(bench.cache.collect(0).unwrap().removed, 2);
}

#[test]
fn no_collection_takes_a_layer_from_under_a_lease() {
    let bench = Bench::new();
    let blobs: Vec<Vec<u8>> = (0..3).map(|i| blob(&format!("layer {i}"))).collect();
    let digests: Vec<Digest> = blobs.iter().map(|blob| Digest::of(blob)).collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                bench.cache.collect(0).unwrap();
            }
        });
        let workers: Vec<_> = (0..2)
            .map(|worker| {
                let (blobs, digests, cache) = (&blobs, &digests, &bench.cache);
                scope.spawn(move || {
                    for round in 0..30 {
                        let name = format!("instance-{worker}");
                        let held = if (round + worker) % 2 == 0 { Some(cache.hold(digests).unwrap()) } else { None };
                        if held.is_none() {
                            cache.lease(&name, digests).unwrap();
                        }
                        let layers: Vec<_> = blobs.iter().map(|blob| obtain(cache, blob)).collect();
                        let pack = cache.pack(&layers).unwrap();
                        for _ in 0..3 {
                            std::thread::yield_now();
                            let size = fs::metadata(&pack.path).unwrap().len();
                            assert_eq!(size, layers.iter().map(|layer| fs::metadata(&layer.path).unwrap().len()).sum::<u64>());
                        }
                        cache.release(&name).unwrap();
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    });
    bench.cache.collect(0).unwrap();
    assert!(bench.remains().is_empty(), "{:?}", bench.remains());
    assert_eq!(fs::read_dir(bench.dir.path().join("cache/locks")).unwrap().count(), 0, "who is done takes the lock's file away");
}

/// Not a test of its own: the process that the next one kills.
#[test]
fn child_that_holds_and_collects() {
    let Some(dir) = std::env::var_os("CASEMATE_IMAGE_COLLECTOR") else { return };
    let cache = Cache::open(dir).unwrap();
    let blob = blob("the child's");
    let _hold = cache.hold(&[Digest::of(&blob)]).unwrap();
    loop {
        obtain(&cache, &blob);
        for i in 0..3 {
            obtain(&cache, &self::blob(&format!("passing {i}")));
        }
        cache.collect(0).unwrap();
        println!("collected");
    }
}

#[test]
fn a_killed_process_keeps_nothing_and_breaks_nothing() {
    let bench = Bench::new();
    let dir = bench.dir.path().join("cache");
    let (instances, childs) = (blob("an instance's"), blob("the child's"));
    bench.cache.lease("instance-c", &[Digest::of(&instances)]).unwrap();
    let layer = obtain(&bench.cache, &instances);
    for rounds in 1..6 {
        let mut child = Killed(
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "leases::child_that_holds_and_collects", "--nocapture"])
                .env("CASEMATE_IMAGE_COLLECTOR", &dir)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert_eq!(lines.filter(|line| line.contains("collected")).take(rounds).count(), rounds);
        bench.cache.collect(0).unwrap();
        // Only now: the child converts its layer again where a round has just begun.
        drop(child);
        let cache = Cache::open(&dir).unwrap();
        assert!(fs::read_dir(dir.join("tmp")).unwrap().next().is_none(), "half-made and half-removed things go");
        assert!(fs::read_dir(dir.join("locks")).unwrap().next().is_none(), "and the dead process's locks");
        assert_eq!(cache.converted_layer(&Digest::of(&instances)), Some(layer.clone()));
        cache.collect(0).unwrap();
        assert!(cache.converted_layer(&Digest::of(&childs)).is_none(), "a dead process holds nothing");
        assert_eq!(cache.leases().unwrap(), ["instance-c"]);
        assert_eq!(fs::read_dir(dir.join("leases")).unwrap().count(), 1);
    }
}

/// Killed, not stopped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
