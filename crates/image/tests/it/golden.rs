//! One layer for which everybody must get this root hash.

use casemate_image::cache::FORMAT;

use crate::support::{
    Bench, gzip,
    tarball::{Item, Tar},
    zstd,
};

/// Changing this is a change of format: raise `FORMAT`, and say so in the changelog, for every workload's digests change.
const ROOT_HASH: &str = "7997c75ebdce2a5fe160000a32f6cf5d0bf01816f1a7246799168df3716fa216";

/// As `setcap` writes it; the kernel shows no malformed ones. With a newline, which PAX readers stumble over.
pub(crate) const CAPABILITY: [u8; 20] = *b"\x01\0\0\x02\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A little of everything.
pub(crate) fn fixture() -> Vec<u8> {
    let pattern = |len: usize| (0..len).map(|i| (i * 7 % 251) as u8).collect::<Vec<_>>();
    Tar::of([
        Item::dir("./").mode(0o755).mtime(1),
        Item::dir("bin"),
        Item::file("bin/app", pattern(10_000)).mode(0o4755).xattr("security.capability", CAPABILITY),
        Item::hard_link("bin/alias", "bin/app"),
        Item::file("empty", ""),
        Item::file("small", "short end").ids(4_000_000_000, 70_000),
        Item::file("block", pattern(4096)),
        Item::file("long-end", pattern(4096 + 3000)),
        Item::symlink("link", "/bin/app"),
        Item::symlink("far", "x/".repeat(1500)),
        Item::char_device("null", 1, 3).mode(0o666),
        Item::block_device("disk", 259, 70_000),
        Item::fifo("pipe"),
        Item::file(b"not-\xff-utf8", "n"),
        Item::file([b'n'; 255], "long name").pax("mtime", "-1.5"),
        Item::file("gone/.wh.old", ""),
        Item::file("fresh/.wh..wh..opq", ""),
        Item::file("fresh/new", "n").xattr("user.note", "v").xattr("trusted.other", ""),
    ])
}

#[test]
fn the_root_hash_of_the_fixture_is_what_it_has_always_been() {
    let layer = Bench::new().convert(&fixture()).unwrap();
    assert_eq!(FORMAT, 1);
    assert_eq!((hex::encode(layer.root_hash).as_str(), layer.data_blocks), (ROOT_HASH, 8));
}

#[test]
fn the_root_hash_does_not_depend_on_compression_place_or_file() {
    let tar = fixture();
    let forms = [tar.clone(), gzip(&tar, 1), gzip(&tar, 9), zstd(&tar, 1), zstd(&tar, 19)];
    let halves = [gzip(&tar[..5000], 6), gzip(&tar[5000..], 6)].concat();
    let images = forms.iter().chain([&halves]).map(|blob| {
        let bench = Bench::new();
        let layer = bench.convert(blob).unwrap();
        (layer.root_hash, layer.data_blocks, std::fs::read(layer.path).unwrap())
    });
    let images: Vec<_> = images.collect();
    for image in &images[1..] {
        assert!(*image == images[0], "all bytes of the file are the same, superblocks included");
    }
}

#[test]
fn every_visible_property_changes_the_root_hash() {
    let root = |item: Item| Bench::new().convert(&Tar::of([item])).unwrap().root_hash;
    let base = || Item::file("a", "content");
    let others = [
        Item::file("b", "content"),
        Item::file("a", "Content"),
        base().mode(0o645),
        base().ids(1, 0),
        base().ids(0, 1),
        base().mtime(5),
        base().pax("mtime", "1700000000.5"),
        base().xattr("user.a", ""),
        Item::symlink("a", "content"),
        Item::fifo("a"),
    ];
    let mut seen = vec![root(base())];
    for other in others {
        let hash = root(other);
        assert!(!seen.contains(&hash));
        seen.push(hash);
    }
}
