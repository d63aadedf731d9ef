//! Encrypted layers: the guest reads them with its keys, and nobody else does.

use std::{
    fs,
    path::{Path, PathBuf},
};

use casemate_testbed::{Bed, BedOptions, ImageBuilder, Outcome, static_program};
use serde_json::Value;

use crate::{main_job::walk, support::MARKER};

/// Says what a file of the other layer has, and reads all of it.
const PROGRAM: &str = r#"
#include <stdio.h>
int main(void) {
    char line[256] = "";
    FILE *file = fopen("/secret/weights", "r");
    if (file && fgets(line, sizeof line, file)) printf("the layer says %s", line);
    while (file && fread(line, 1, sizeof line, file) > 0) ;
    return 0;
}
"#;

/// The lowest layer has the secret; both have about the same size.
fn prepare(bed: &Bed) {
    let program = static_program(PROGRAM).unwrap();
    let mut weights = format!("{MARKER}\n").into_bytes();
    weights.resize(program.len(), b'w');
    let image = ImageBuilder::new().layer(&[("secret/weights", &weights)]).layer(&[("app", &program)]).entrypoint(&["/app"]);
    image.write(&bed.work().join("plain")).unwrap();
}

/// What `image encrypt` says.
fn encrypt(bed: &Bed, to: &str, which: &[&str]) -> Value {
    let target = format!("oci:./{to}");
    let words = [&["--json", "image", "encrypt", "--in", "oci:./plain", "--out", &target, "--key-out", "keys"], which].concat();
    serde_json::from_str(&bed.casemate(&words).expect_code(0).stdout).unwrap()
}

fn run(bed: &Bed, image: &str, extra: &[&str]) -> Outcome {
    let image = format!("oci:./{image}");
    bed.casemate(&[&["run", "--memory-mib", "256", "--scratch-mib", "32", "--image", &image], extra].concat())
}

#[test]
fn only_the_guest_reads_an_encrypted_layer() {
    let bed = Bed::start(&BedOptions::default()).unwrap();
    prepare(&bed);
    let one = encrypt(&bed, "one", &["--layer", "1"]);
    let both = encrypt(&bed, "both", &["--all"]);
    assert_eq!((one["layers"].as_array().unwrap().len(), both["layers"].as_array().unwrap().len()), (1, 2));
    for image in ["one", "both"] {
        let done = run(&bed, image, &["--isolation", "microvm", "--layer-keys", "keys"]).expect_code(0);
        assert!(done.stdout.contains(&format!("the layer says {MARKER}\n")), "{}", done.stdout);
    }
    let key_file = bed.work().join(both["layers"][0]["key_file"].as_str().unwrap());
    let key = fs::read_to_string(key_file).unwrap().trim().to_owned();
    let raw: Vec<u8> = (0..32).map(|i| u8::from_str_radix(&key[2 * i..2 * i + 2], 16).unwrap()).collect();
    let mut layers = 0;
    walk(&bed.state(), &mut |path| {
        layers += usize::from(path.ends_with("layer.img"));
        let bytes = fs::read(path).unwrap_or_default();
        for needle in [MARKER.as_bytes(), key.as_bytes(), &raw] {
            assert!(!bytes.windows(needle.len()).any(|window| window == needle), "a secret is in {}", path.display());
        }
    });
    assert_eq!(layers, 4, "the node's layers were looked at: one plain, three encrypted");

    refuses_other_keys(&bed, &both);
    refuses_other_blocks(&bed, &both);
    refuses_where_nobody_could_keep_it_secret(&bed);
    bed.assert_no_instance_remains();
    bed.finish();
}

/// No key, and each layer with the key of the other.
fn refuses_other_keys(bed: &Bed, image: &Value) {
    let before = bed.instances().len();
    let none = run(bed, "both", &[]).expect_code(1);
    assert!(none.stderr.contains("there is no key for it") && none.stderr.contains("--layer-keys"), "{}", none.stderr);
    let unknown = run(bed, "both", &["--layer-keys", "keys", "--key", "layer-7=keys/x"]).expect_code(1);
    assert!(unknown.stderr.contains("neither an asset nor an encrypted layer"), "{}", unknown.stderr);
    assert_eq!(bed.instances().len(), before, "nothing was created");
    let [first, second] = [0, 1].map(|index| &image["layers"][index]);
    let with = |name: &Value, file: &Value| format!("{}={}", name["key"].as_str().unwrap(), file["key_file"].as_str().unwrap());
    let swapped = ["--key", &with(first, second), "--key", &with(second, first)];
    let refused = run(bed, "both", &swapped).expect_refusal("layer.decrypt");
    assert!(refused.stdout.is_empty() && refused.stderr.contains("ok receipt"), "{}", refused.stderr);
}

/// The node's copy of a layer, changed at its start and at its end, and replaced by the other one.
fn refuses_other_blocks(bed: &Bed, image: &Value) {
    let file = |index: usize| layer_file(bed, image["layers"][index]["blob"].as_str().unwrap());
    let (path, other) = (file(0), fs::read(file(1)).unwrap());
    let good = fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let mut exchanged = other;
    exchanged.resize(good.len(), 0);
    // The superblock is read before there are keys; where the file's content is, only the program reads.
    let content = good.len() / 2 / 4096 * 4096;
    for (what, bytes, keys_come) in
        [("start", flipped(9), false), ("content", flipped(content), true), ("other layer", exchanged, false)]
    {
        fs::write(&path, bytes).unwrap();
        let refused = run(bed, "both", &["--layer-keys", "keys"]).expect_refusal("guest.layer-verity");
        assert_eq!(refused.stderr.contains("ok keys"), keys_come, "{what}: {}", refused.stderr);
    }
    fs::write(&path, good).unwrap();
    run(bed, "both", &["--layer-keys", "keys"]).expect_code(0);
}

fn refuses_where_nobody_could_keep_it_secret(bed: &Bed) {
    let before = bed.instances().len();
    for level in ["container", "sandbox"] {
        let refused = run(bed, "both", &["--isolation", level, "--layer-keys", "keys"]).expect_code(1);
        let words = format!("level {level} cannot keep them from the node");
        assert!(refused.stderr.contains(&words) && refused.stderr.contains("hint:"), "{}", refused.stderr);
    }
    assert_eq!(bed.instances().len(), before, "nothing was created");
}

/// In the node's cache.
fn layer_file(bed: &Bed, blob: &str) -> PathBuf {
    let digits = blob.strip_prefix("sha256:").unwrap();
    let mut found = None;
    walk(&bed.state().join("agent"), &mut |path| {
        if path.ends_with(Path::new(digits).join("layer.img")) {
            found = Some(path.to_owned());
        }
    });
    found.unwrap_or_else(|| panic!("the node has no layer {blob}"))
}
