//! Layers that are refused: each by name, each leaving nothing.

use casemate_image::{Digest, ImageError, LayerError, Limits};

use crate::support::{
    Bench, gzip,
    tarball::{Item, Tar, sum},
    zstd,
};

fn problem(items: impl IntoIterator<Item = Item>) -> String {
    match Bench::new().refusal(&Tar::of(items)) {
        LayerError::Entry { problem, .. } => problem,
        other => panic!("{other:?}"),
    }
}

fn limit_hit(limits: Limits, blob: &[u8]) -> &'static str {
    match Bench::with_limits(limits).refusal(blob) {
        LayerError::Limit { name, .. } => name,
        other => panic!("{other:?}"),
    }
}

#[test]
fn refuses_to_leave_the_root() {
    for path in ["../x", "a/../../x", "/../x", "a/..", ".."] {
        assert!(problem([Item::file(path, "x")]).contains("path traversal"), "{path}");
        assert!(problem([Item::dir(path)]).contains("path traversal"), "{path}");
        assert!(problem([Item::file("ok", ""), Item::hard_link("x", path)]).contains("path traversal"), "{path}");
    }
    assert!(problem([Item::file("x", "").pax("path", "a\0b")]).contains("NUL"));
    assert!(problem([Item::file("a/.wh...", "")]).contains("whiteout"));
}

#[test]
fn refuses_to_write_through_a_link_or_a_file() {
    for first in [Item::symlink("a", "/etc"), Item::symlink("a", "b"), Item::file("a", ""), Item::fifo("a")] {
        for then in [Item::file("a/x", ""), Item::dir("a/x/y"), Item::file("a/.wh.x", ""), Item::file("a/.wh..wh..opq", "")] {
            assert!(problem([Item::dir("b"), first.clone(), then]).contains("not a folder"));
        }
    }
    let through = [Item::file("b/x", ""), Item::symlink("a", "b"), Item::hard_link("y", "a/x")];
    assert!(problem(through).contains("not a folder"));
}

#[test]
fn refuses_hard_links_to_what_is_not_a_file_of_this_layer() {
    assert!(problem([Item::hard_link("x", "/etc/shadow")]).contains("does not have"));
    assert!(problem([Item::hard_link("x", "later"), Item::file("later", "")]).contains("does not have"));
    assert!(problem([Item::dir("d"), Item::hard_link("x", "d")]).contains("a folder"));
    assert!(problem([Item::file("a", ""), Item::hard_link("x", "")]).contains("a folder"));
    assert!(problem([Item::file("a", ""), Item::hard_link("./a", "a")]).contains("itself"));
    assert!(problem([Item::file("a/.wh.x", ""), Item::hard_link("y", "a/x")]).contains("does not have"));
}

#[test]
fn refuses_what_would_confuse_overlayfs() {
    assert!(problem([Item::dir("d").xattr("trusted.overlay.redirect", "/x")]).contains("rearrange"));
    assert!(problem([Item::file(".wh..wh..opq", "")]).contains("root cannot be opaque"));
    assert!(problem([Item::file(".wh.d/x", "")]).contains("inside of a whiteout"));
    assert!(problem([Item::file("./", "")]).contains("root can only be a folder"));
}

#[test]
fn refuses_values_out_of_range() {
    assert!(problem([Item::char_device("x", 4096, 0)]).contains("device number"));
    assert!(problem([Item::symlink("x", "")]).contains("target"));
    assert!(problem([Item::symlink("x", "x".repeat(4096))]).contains("target"));
    assert!(problem([Item::file([b'n'; 256], "")]).contains("255"));
    for bad in [Item::file("x", "").pax("uid", "4294967295"), Item::file("x", "").pax("mtime", "soon")] {
        assert!(matches!(Bench::new().refusal(&Tar::of([bad])), LayerError::Tar { .. }));
    }
}

#[test]
fn refuses_archives_that_lie() {
    let bad_kind = Tar::of([Item::of_kind("x", b'V')]);
    let mut bad_sum = Tar::of([Item::file("x", "")]);
    bad_sum[0] ^= 1;
    let mut huge = Item::file("x", "").header();
    huge[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    sum(&mut huge);
    let huge = Tar::new().raw(&huge, b"").end();
    let bad_pax = Tar::new().extension(b'x', b"99 path=x\n".to_vec()).add(Item::file("x", "")).end();
    let overlapping = Item::file("x", [0; 8]).pax("GNU.sparse.map", "0,4,2,4").pax("GNU.sparse.size", "100");
    let too_much = Item::file("x", [0; 8]).pax("GNU.sparse.map", "0,4").pax("GNU.sparse.size", "100");
    let outside = Item::file("x", [0; 8]).pax("GNU.sparse.map", "0,8").pax("GNU.sparse.size", "7");
    let unknown = Item::file("x", [0; 8]).pax("GNU.sparse.major", "2").pax("GNU.sparse.minor", "0");
    let sparse = [overlapping, too_much, outside, unknown].map(|item| Tar::of([item]));
    for blob in [bad_kind, bad_sum, huge, bad_pax].iter().chain(&sparse) {
        let refusal = Bench::new().refusal(blob);
        assert!(matches!(refusal, LayerError::Tar { .. }), "{refusal:?}");
    }
}

#[test]
fn refuses_truncation_anywhere() {
    let tar = Tar::of([Item::file("a", vec![1; 3000]), Item::symlink("b", "a")]);
    for (form, whole) in [("tar", tar.clone()), ("gzip", gzip(&tar, 6)), ("zstd", zstd(&tar, 3))] {
        // An archive may end without its end mark between entries, as it may for every engine.
        let cuts = if form == "tar" { vec![1, 511, 600, 2000, 3583, 3585, 4600] } else { (1..whole.len()).collect() };
        for cut in cuts.into_iter().filter(|cut| *cut < whole.len()) {
            if form == "tar" && (cut == 512 + 3072 || cut >= 512 + 3072 + 512) && cut % 512 == 0 {
                continue;
            }
            let bench = Bench::new();
            assert!(bench.convert(&whole[..cut]).is_err(), "{form} cut at {cut} of {}", whole.len());
            assert!(bench.remains().is_empty());
        }
    }
}

#[test]
fn refuses_a_damaged_end_of_the_compression() {
    let mut blob = gzip(&Tar::of([Item::file("a", "x")]), 6);
    let at = blob.len() - 6;
    blob[at] ^= 1;
    assert!(matches!(Bench::new().refusal(&blob), LayerError::Io { .. }));
}

#[test]
fn refuses_bombs() {
    let zeros = gzip(&Tar::of([Item::file("zeros", vec![0; 8 << 20])]), 9);
    let tight = Limits { ratio_floor_bytes: 1 << 20, ..Limits::default() };
    assert_eq!(limit_hit(tight.clone(), &zeros), "ratio");
    assert_eq!(limit_hit(tight.clone(), &zstd(&Tar::of([Item::file("zeros", vec![0; 8 << 20])]), 3)), "ratio");
    // Beyond the end mark, too.
    let trailing = [Tar::of([Item::file("a", "")]), vec![0; 8 << 20]].concat();
    assert_eq!(limit_hit(tight, &gzip(&trailing, 9)), "ratio");
    let small = Limits { layer_bytes: 1 << 20, ..Limits::default() };
    assert_eq!(limit_hit(small.clone(), &zeros), "layer_bytes");
    let hole = Item::file("hole", "").pax("GNU.sparse.map", "").pax("GNU.sparse.size", "1000000000000000");
    assert_eq!(limit_hit(Limits::default(), &Tar::of([hole])), "ratio");
    let repeated = (0..20).map(|_| Item::file("same", vec![1; 100_000]));
    assert_eq!(limit_hit(small, &Tar::of(repeated)), "layer_bytes");
}

#[test]
fn refuses_too_many_or_too_large_entries() {
    let entries = Limits { entries: 10, ..Limits::default() };
    assert_eq!(limit_hit(entries.clone(), &Tar::of((0..11).map(|i| Item::file(format!("{i}"), "")))), "entries");
    assert_eq!(limit_hit(entries.clone(), &Tar::of([Item::file("a/b/c/d/e/f/g/h/i/j/k", "")])), "entries");
    assert_eq!(limit_hit(entries, &Tar::of((0..11).map(|i| Item::file(format!(".wh.{i}"), "")))), "entries");
    let names = Limits { metadata_bytes: 1000, ..Limits::default() };
    assert_eq!(limit_hit(names, &Tar::of((0..11).map(|i| Item::file(format!("{i:0100}"), "")))), "metadata_bytes");
    let deep = Tar::of([Item::dir("d/".repeat(200))]);
    assert_eq!(limit_hit(Limits::default(), &deep), "path_depth");
    let long = Tar::of([Item::dir("d".repeat(5000))]);
    assert_eq!(limit_hit(Limits::default(), &long), "path_bytes");
    let attributes = Tar::of([Item::file("x", "").xattr("user.a", vec![0; 70_000])]);
    assert_eq!(limit_hit(Limits::default(), &attributes), "xattr_bytes");
    let records = Tar::new().extension(b'x', vec![b'x'; 2 << 20]).end();
    assert_eq!(limit_hit(Limits::default(), &records), "pax_bytes");
    let long_name = Tar::new().extension(b'L', vec![b'x'; 2 << 20]).end();
    assert_eq!(limit_hit(Limits::default(), &long_name), "pax_bytes");
    let fragments = Limits { sparse_fragments: 3, ..Limits::default() };
    let map = "0,1,2,1,4,1,6,1";
    let sparse = Item::file("x", [0; 4]).pax("GNU.sparse.map", map).pax("GNU.sparse.size", "100");
    assert_eq!(limit_hit(fragments, &Tar::of([sparse])), "sparse_fragments");
}

#[test]
fn refuses_unknown_and_contradicting_compression() {
    let tar = Tar::of([Item::file("a", "")]);
    let bench = Bench::new();
    let refused = bench.refusal(b"BZh91AY&SY");
    assert!(matches!(refused, LayerError::Compression { found: "bzip2", .. }));
    let digest = Digest::of(&tar);
    bench.cache.add_blob_from_reader(&digest, None, &tar[..]).unwrap();
    let claimed = "application/vnd.oci.image.layer.v1.tar+zstd";
    let Err(ImageError::Layer { source, .. }) = bench.cache.convert_layer(&digest, claimed) else { panic!() };
    assert!(matches!(*source, LayerError::Compression { found: "tar", .. }));
    assert!(bench.remains().is_empty());
    assert!(bench.cache.convert_layer(&digest, "application/vnd.oci.image.layer.v1.tar").is_ok());
}
