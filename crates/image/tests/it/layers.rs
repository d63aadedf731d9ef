//! What entries become.

use crate::support::{
    Bench,
    erofs::Tree,
    run,
    tarball::{Item, Tar, sum},
};

fn tree(items: impl IntoIterator<Item = Item>) -> Tree {
    Bench::new().tree(&Tar::of(items))
}

#[test]
fn the_fixture_arrives_with_all_properties() {
    let tree = Bench::new().tree(&crate::golden::fixture());
    let app = tree.get("bin/app");
    assert_eq!((app.mode, app.links, app.content.len()), (0o104_755, 2, 10_000));
    assert_eq!(app.xattrs[&b"security.capability"[..]], crate::golden::CAPABILITY);
    assert_eq!(tree.get("bin/alias"), app);
    assert_eq!((tree.get("small").uid, tree.get("small").gid), (4_000_000_000, 70_000));
    assert_eq!(tree.get("link").content, b"/bin/app");
    assert_eq!(tree.get("far").content, "x/".repeat(1500).as_bytes());
    assert_eq!((tree.get("null").mode, tree.get("null").device), (0o020_666, 0x103));
    assert_eq!(tree.get("disk").device, (70_000 & 0xff) | (259 << 8) | ((70_000 & !0xff) << 12));
    assert_eq!(tree.get("pipe").mode, 0o010_644);
    assert_eq!(tree.get(b"not-\xff-utf8").content, b"n");
    assert_eq!(tree.get([b'n'; 255]).mtime, (-2, 500_000_000));
    assert!(tree.get("gone/old").is_whiteout() && tree.get("fresh").is_opaque() && !tree.get("gone").is_opaque());
    assert_eq!(tree.get("fresh/new").xattrs[&b"trusted.other"[..]], b"");
    assert_eq!(tree.get("").links, 2 + 3);
    assert_eq!(tree.get("gone").mode, 0o040_755, "a parent that the layer does not name");
}

#[test]
fn sizes_around_blocks_and_inline_ends_keep_their_content() {
    let sizes = [0usize, 1, 2047, 2048, 2049, 4031, 4032, 4033, 4095, 4096, 4097, 6144, 6145, 8191, 8192, 70_000];
    let content = |size: usize| (0..size).map(|i| (i % 253) as u8).collect::<Vec<_>>();
    let items = sizes.iter().map(|size| Item::file(format!("f{size}"), content(*size)));
    let with_xattr = sizes.iter().map(|size| Item::file(format!("x{size}"), content(*size)).xattr("user.big", vec![9; 3000]));
    let tree = tree(items.chain(with_xattr));
    for size in sizes {
        assert_eq!(tree.get(format!("f{size}")).content, content(size));
        assert_eq!(tree.get(format!("x{size}")).content, content(size));
        assert_eq!(tree.get(format!("x{size}")).xattrs[&b"user.big"[..]].len(), 3000);
    }
}

#[test]
fn large_folders_are_found_in_order_whatever_the_order_of_the_archive() {
    let names: Vec<_> = (0..3000).map(|i| format!("!{}-{}", i * 7919 % 3000, "n".repeat(i % 200))).collect();
    let forwards = tree(names.iter().map(|name| Item::file(format!("d/{name}"), name)));
    let backwards = tree(names.iter().rev().map(|name| Item::file(format!("d/{name}"), name)));
    assert_eq!(forwards.paths(), backwards.paths());
    for name in names {
        assert_eq!(forwards.get(format!("d/{name}")).content, name.as_bytes());
    }
}

#[test]
fn whiteouts_never_concern_their_own_layer_in_either_order() {
    for reversed in [false, true] {
        let mut items = vec![
            Item::file("d/.wh.file", ""),
            Item::file("d/file", "new"),
            Item::file("d/.wh.folder", ""),
            Item::file("d/folder/new", "new"),
            Item::file("d/.wh.gone", ""),
        ];
        if reversed {
            items.reverse();
        }
        let tree = tree(items);
        assert_eq!(tree.get("d/file").content, b"new");
        assert!(tree.get("d/folder").is_opaque() && tree.has("d/folder/new"));
        assert!(tree.get("d/gone").is_whiteout() && !tree.get("d").is_opaque());
        assert!(!tree.paths().iter().any(|path| path.contains(".wh.")));
    }
}

#[test]
fn of_two_entries_with_one_name_the_last_wins() {
    let tree = tree([
        Item::file("a", "old"),
        Item::hard_link("keeps", "a"),
        Item::file("a", "new"),
        Item::dir("d").mode(0o700),
        Item::file("d/x", "x"),
        Item::dir("d").mode(0o711).ids(5, 6),
        Item::file("was-folder/x", "x"),
        Item::symlink("was-folder", "d"),
        Item::file("was-file", "x"),
        Item::dir("was-file"),
        Item::file("was-file/x", "x"),
    ]);
    assert_eq!((tree.get("a").content.as_slice(), tree.get("a").links), (&b"new"[..], 1));
    assert_eq!((tree.get("keeps").content.as_slice(), tree.get("keeps").links), (&b"old"[..], 1));
    assert_eq!((tree.get("d").mode, tree.get("d").uid), (0o040_711, 5));
    assert!(tree.has("d/x") && tree.has("was-file/x") && !tree.has("was-folder/x"));
}

#[test]
fn odd_but_harmless_names_are_read_as_engines_read_them() {
    let v7_folder = {
        let mut header = Item::of_kind("old-folder/", 0).mode(0o755).header();
        header[257..265].fill(0);
        sum(&mut header);
        header
    };
    let tar = Tar::new()
        .add(Item::file("/absolute", "a"))
        .add(Item::file("./x/./y//z", "z"))
        .add(Item::file("..dots", "d"))
        .add(Item::symlink("outside", "/etc/passwd"))
        .add(Item::symlink("up", "../../x"))
        .add(Item::hard_link("hard", "/absolute"))
        .add(Item::file(".wh..wh.plnk/5.6", "aufs"))
        .extension(b'g', b"13 path=evil\n".to_vec())
        .raw(&v7_folder, &[])
        .extension(b'L', ["l".repeat(200), "m".repeat(200)].join("/").into_bytes())
        .extension(b'K', b"k".repeat(150))
        .add(Item::symlink("short", "cut"));
    let tree = Bench::new().tree(&tar.end());
    assert_eq!(tree.get("hard").nid, tree.get("absolute").nid);
    assert_eq!(tree.get("x/y/z").content, b"z");
    assert_eq!(tree.get("old-folder").mode, 0o040_755);
    assert_eq!(tree.get(["l".repeat(200), "m".repeat(200)].join("/")).content, b"k".repeat(150));
    assert!(!tree.has("evil") && !tree.paths().iter().any(|path| path.contains("plnk")));
}

#[test]
fn sparse_files_of_gnu_tar_are_expanded_in_all_four_notations() {
    let bench = Bench::new();
    let dir = bench.dir.path();
    let size = 3 << 20;
    let mut expected = vec![0; size];
    {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::create(dir.join("sparse")).unwrap();
        file.set_len(size as u64).unwrap();
        // More fragments than one header block holds.
        for i in 0..60 {
            let at = 16_384 + i * 49_152;
            file.write_all_at(&[b'0' + (i % 10) as u8; 5000], at as u64).unwrap();
            expected[at..at + 5000].fill(b'0' + (i % 10) as u8);
        }
    }
    std::fs::write(dir.join("after"), "still in step").unwrap();
    for format in [&["--format=gnu"][..], &["--sparse-version=0.0"], &["--sparse-version=0.1"], &["--sparse-version=1.0"]] {
        let arguments = [&["-S", "-cf", "out.tar", "--format=pax"], format, &["sparse", "after"]].concat();
        run("tar", &arguments, dir);
        let tar = std::fs::read(dir.join("out.tar")).unwrap();
        assert!(tar.len() < size / 2, "tar found the holes");
        let tree = bench.tree(&tar);
        assert!(tree.get("sparse").content == expected, "{format:?}");
        assert_eq!(tree.get("after").content, b"still in step");
    }
}

#[test]
fn archives_of_gnu_tar_in_all_formats_give_one_tree() {
    let bench = Bench::new();
    let dir = bench.dir.path();
    let root = dir.join("root");
    std::fs::create_dir_all(root.join("d".repeat(90)).join("e".repeat(60))).unwrap();
    std::fs::write(root.join("d".repeat(90)).join("e".repeat(60)).join("f".repeat(50)), "deep").unwrap();
    std::fs::write(root.join("a"), "a").unwrap();
    std::os::unix::fs::symlink("a", root.join("s")).unwrap();
    std::fs::hard_link(root.join("a"), root.join("b")).unwrap();
    let mut trees = Vec::new();
    for format in ["--format=gnu", "--format=ustar", "--format=pax"] {
        let owner = ["--owner=5", "--group=6", "--mtime=@1600000000", "--sort=name"];
        run("tar", &[&["-cf", "out.tar", "-C", "root", format], &owner[..], &["."]].concat(), dir);
        trees.push(bench.tree(&std::fs::read(dir.join("out.tar")).unwrap()));
    }
    assert_eq!(trees[0], trees[1]);
    assert_eq!(trees[0], trees[2]);
    assert_eq!((trees[0].get("b").links, trees[0].get("b").uid, trees[0].get("s").gid), (2, 5, 6));
}
