//! Malformed workloads and images: a clear error, and nothing half-applied.

use std::fs;

use casemate_testbed::{Bed, BedOptions, ImageBuilder};

use crate::support::prepare;

#[test]
fn bad_workloads_and_images_change_nothing() {
    let bed = Bed::start(&BedOptions::default()).unwrap();
    prepare(&bed);
    let work = bed.work();
    let file = work.join("w.yaml");
    for (text, expected) in [
        ("version: 2\nimage: oci:./image\n", "version"),
        ("version: 1\nimagee: x\n", "imagee"),
        ("version: 1\nimage: oci:./none\n", "none"),
        ("version: 1\nimage: oci:./image\nisolation: strong\n", "isolation"),
        ("version: 1\nimage: oci:./image\nresources: {memory_mib: 1}\n", "memory_mib"),
        ("version: 1\nimage: oci:./image\noutput: {path: ../x}\n", "output_path"),
        ("version: 1\nimage: oci:./image\nassets: [{name: d, file: data.enc}]\n", "no key"),
        ("version: 1\nimage: oci:./image\nassets: [{name: ../d, file: data.enc, key: data.key}]\n", "name"),
        ("{", "workload"),
    ] {
        fs::write(&file, text).unwrap();
        let run = bed.casemate(&["run", "w.yaml"]).expect_code(1);
        assert!(run.stderr.contains(expected), "{text}: {}", run.stderr);
    }
    for (name, tar, expected) in bad_layers() {
        let image = work.join(format!("bad-{name}"));
        ImageBuilder::new().raw_layer(tar).entrypoint(&["/app"]).write(&image).unwrap();
        let run = bed.casemate(&["run", "--image", &format!("oci:{}", image.display())]).expect_code(1);
        assert!(run.stderr.contains(expected), "{name}: {}", run.stderr);
    }
    damaged_blob(&bed);
    bed.casemate(&["run", "--isolation", "strong", "--image", "oci:./image"]).expect_code(1);
    assert_eq!(bed.instances().len(), 0, "nothing was created");
    bed.finish();
}

fn bad_layers() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    use tar::EntryType::{Link, Regular};
    let file = raw(&[("../../etc/evil", Regular, None)]);
    let link = raw(&[("x", Link, Some("../../etc/passwd"))]);
    let mut truncated = raw(&[("app", Regular, None)]);
    truncated.truncate(700);
    vec![
        ("traversal", file, "evil"),
        ("hard-link", link, "x"),
        ("truncated", truncated, "layer"),
        ("noise", vec![0x5a; 5000], "layer"),
    ]
}

/// A tar whose names no library would write.
fn raw(entries: &[(&str, tar::EntryType, Option<&str>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, target) in entries {
        let data: &[u8] = if target.is_some() { b"" } else { &[b'x'; 600] };
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o755);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(target) = target {
            header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn damaged_blob(bed: &Bed) {
    let image = bed.work().join("damaged");
    ImageBuilder::new().layer(&[("app", b"unique content of a damaged image")]).entrypoint(&["/app"]).write(&image).unwrap();
    for entry in fs::read_dir(image.join("blobs/sha256")).unwrap().flatten() {
        let mut bytes = fs::read(entry.path()).unwrap();
        if bytes.windows(14).any(|window| window == b"unique content") {
            bytes[600] ^= 1;
            fs::write(entry.path(), bytes).unwrap();
        }
    }
    let run = bed.casemate(&["run", "--image", "oci:./damaged"]).expect_code(1);
    assert!(run.stderr.contains("digest"), "{}", run.stderr);
}
