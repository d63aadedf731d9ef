//! Judges from outside: erofs-utils, cryptsetup, the kernel.

use std::{fs, os::unix::fs::MetadataExt, path::Path, process::Command};

use casemate_image::ConvertedLayer;

use crate::{
    golden,
    support::{
        Bench, has_tool, run,
        tarball::{Item, Tar},
    },
};

/// Large folders, large files, many entries: enough for several levels of everything.
fn large() -> Vec<u8> {
    let noise = |seed: usize, len: usize| (0..len).map(|i| ((i * 31 + seed) % 255) as u8).collect::<Vec<_>>();
    let files = (0..2500).map(|i| Item::file(format!("d{}/file-{i}-{}", i % 3, "n".repeat(i % 90)), noise(i, i * 13 % 9000)));
    let big = Item::file("big", noise(1, 5 << 20));
    Tar::of(files.chain([big, Item::file("attributes", "x").xattr("user.large", noise(2, 9000))]))
}

#[test]
fn fsck_erofs_accepts_the_image_and_extracts_what_went_in() {
    if !has_tool("fsck.erofs") {
        return;
    }
    for tar in [golden::fixture(), large()] {
        let bench = Bench::new();
        let layer = bench.convert(&tar).unwrap();
        let out = bench.dir.path().join("out");
        let image = layer.path.to_str().unwrap();
        run("fsck.erofs", &["--no-preserve-owner", &format!("--extract={}", out.display()), image], bench.dir.path());
        let tree = bench.tree(&tar);
        for (path, node) in &tree.0 {
            let path = out.join(std::str::from_utf8(path).unwrap_or("small"));
            if node.mode & 0o170_000 == 0o100_000 && path != out.join("small") {
                assert!(fs::read(&path).unwrap() == node.content, "{}", path.display());
            }
        }
    }
}

#[test]
fn veritysetup_makes_the_same_tree_and_accepts_ours() {
    if !has_tool("veritysetup") {
        return;
    }
    let salt = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(b"casemate/layer-salt/v1"));
    for tar in [golden::fixture(), large()] {
        let bench = Bench::new();
        let layer = bench.convert(&tar).unwrap();
        let (root, offset) = (hex::encode(layer.root_hash), (layer.data_blocks * 4096).to_string());
        let image = layer.path.to_str().unwrap();
        let hash_offset = format!("--hash-offset={offset}");
        run("/usr/sbin/veritysetup", &["verify", image, image, &root, &hash_offset], bench.dir.path());
        let ours = fs::read(&layer.path).unwrap();
        let theirs = bench.dir.path().join("theirs");
        fs::write(&theirs, &ours[..layer.data_blocks as usize * 4096]).unwrap();
        let arguments = ["format", "theirs", "theirs", &hash_offset, &format!("--salt={salt}"), "--uuid", &uuid(&ours, &layer)];
        let said = run("/usr/sbin/veritysetup", &arguments, bench.dir.path());
        assert!(String::from_utf8_lossy(&said.stdout).contains(&root));
        assert!(fs::read(&theirs).unwrap() == ours, "superblock and tree, byte by byte");
    }
}

#[test]
fn veritysetup_notices_every_flipped_region() {
    if !has_tool("veritysetup") {
        return;
    }
    let bench = Bench::new();
    let layer = bench.convert(&golden::fixture()).unwrap();
    let whole = fs::read(&layer.path).unwrap();
    let data_end = layer.data_blocks as usize * 4096;
    for at in [1024, 4096, data_end - 1, data_end + 4096] {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        let path = bench.dir.path().join("flipped");
        fs::write(&path, flipped).unwrap();
        let verdict = Command::new("/usr/sbin/veritysetup")
            .args(["verify", "flipped", "flipped", &hex::encode(layer.root_hash), &format!("--hash-offset={data_end}")])
            .current_dir(bench.dir.path())
            .output()
            .unwrap();
        assert!(!verdict.status.success(), "byte {at}");
    }
}

#[test]
fn the_kernel_mounts_the_image_and_shows_what_went_in() {
    for tar in [golden::fixture(), large()] {
        let bench = Bench::new();
        let layer = bench.convert(&tar).unwrap();
        let Some(mount) = Mount::erofs(&layer, bench.dir.path(), "mnt") else { return };
        let tree = bench.tree(&tar);
        let mut seen = 0;
        compare(&mount.0, &mount.0, &tree, &mut seen);
        assert_eq!(seen, tree.0.len() - 1);
    }
}

#[test]
fn overlayfs_stacks_the_layers_as_oci_means_them() {
    let bench = Bench::new();
    let lower = bench.convert(&Tar::of([
        Item::file("kept", "lower"),
        Item::file("removed", "lower"),
        Item::file("d/merged", "lower"),
        Item::file("opaque/hidden", "lower"),
        Item::file("renewed/hidden", "lower"),
        Item::file("alias", "lower").xattr("user.a", "lower"),
    ]));
    let upper = bench.convert(&Tar::of([
        Item::file(".wh.removed", ""),
        Item::file("d/added", "upper"),
        Item::file("d/.wh.never-was", ""),
        Item::file("opaque/.wh..wh..opq", ""),
        Item::file("opaque/new", "upper"),
        Item::file(".wh.renewed", ""),
        Item::file("renewed/new", "upper"),
    ]));
    let dir = bench.dir.path();
    let Some(lower) = Mount::erofs(&lower.unwrap(), dir, "lower") else { return };
    let Some(upper) = Mount::erofs(&upper.unwrap(), dir, "upper") else { return };
    let options = format!("ro,lowerdir={}:{}", upper.0.display(), lower.0.display());
    let Some(merged) = Mount::new(&["-t", "overlay", "overlay", "-o", &options], dir, "merged") else { return };
    let list = |folder: &str| {
        let names = fs::read_dir(merged.0.join(folder)).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    assert_eq!(list(""), ["alias", "d", "kept", "opaque", "renewed"]);
    assert_eq!(list("d"), ["added", "merged"]);
    assert_eq!((list("opaque"), list("renewed")), (vec!["new".to_owned()], vec!["new".to_owned()]));
    assert!(!merged.0.join("removed").exists());
}

fn compare(root: &Path, folder: &Path, tree: &crate::support::erofs::Tree, seen: &mut usize) {
    use std::os::unix::ffi::OsStrExt;
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        let node = tree.get(path.strip_prefix(root).unwrap().as_os_str().as_bytes());
        let found = fs::symlink_metadata(&path).unwrap();
        let facts = (found.mode(), found.uid(), found.gid(), found.mtime(), found.nlink());
        assert_eq!(facts, (node.mode.into(), node.uid, node.gid, node.mtime.0, node.links.into()), "{}", path.display());
        let mut value = vec![0; 65_536];
        for (name, expected) in &node.xattrs {
            let len = rustix::fs::lgetxattr(&path, name.as_slice(), &mut value).unwrap();
            assert!(value[..len] == *expected, "{} {}", path.display(), name.escape_ascii());
        }
        if found.is_dir() {
            compare(root, &path, tree, seen);
        } else if found.is_symlink() {
            assert_eq!(fs::read_link(&path).unwrap().as_os_str().as_bytes(), node.content);
        } else if found.is_file() {
            assert!(fs::read(&path).unwrap() == node.content);
        }
        *seen += 1;
    }
}

fn uuid(image: &[u8], layer: &ConvertedLayer) -> String {
    let at = layer.data_blocks as usize * 4096 + 16;
    let digits = hex::encode(&image[at..at + 16]);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// A loop mount that goes with its owner.
struct Mount(std::path::PathBuf);

impl Mount {
    fn erofs(layer: &ConvertedLayer, dir: &Path, name: &str) -> Option<Self> {
        Self::new(&["-t", "erofs", "-o", "ro,loop", layer.path.to_str().unwrap()], dir, name)
    }

    fn new(arguments: &[&str], dir: &Path, name: &str) -> Option<Self> {
        let at = dir.join(name);
        fs::create_dir(&at).unwrap();
        let mounted = Command::new("mount").args(arguments).arg(&at).output().unwrap();
        if mounted.status.success() {
            return Some(Self(at));
        }
        let words = String::from_utf8_lossy(&mounted.stderr).into_owned();
        let lacks = ["must be superuser", "unknown filesystem", "permission denied", "failed to setup loop", "Operation not"];
        assert!(lacks.iter().any(|lack| words.contains(lack)), "{words}");
        assert!(std::env::var_os("CASEMATE_TEST_TOOLS").is_none_or(|v| v != "require"), "this machine cannot mount: {words}");
        eprintln!("SKIPPED: this machine cannot mount: {words}");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
