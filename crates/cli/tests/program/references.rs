//! `casemate reference`: keys, signatures, and both forms into each other.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{done, fails};

/// A folder with a key and a payload.
struct Desk {
    folder: TempDir,
    public: String,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("reference.key");
        let public = done(&["reference", "key", key.to_str().unwrap()]).trim().to_owned();
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let desk = Self { folder, public };
        fs::write(desk.path("payload.json"), payload().to_string()).unwrap();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn sign(&self) {
        let (payload, key, out) = (self.text("payload.json"), self.text("reference.key"), self.text("signed.json"));
        done(&["reference", "sign", &payload, "--sign-key", &key, "--out", &out]);
    }

    fn export(&self) {
        let (from, key, out) = (self.text("signed.json"), self.text("reference.key"), self.text("values.corim"));
        let mut args = vec!["reference", "export", &from, "--key", &self.public, "--sign-key", &key];
        args.extend(["--id", "values 7", "--signer", "Casemate", "--not-before", "1780000000", "--not-after", "1790000000"]);
        done(&[&args[..], &["--out", &out]].concat());
    }

    fn show(&self, name: &str) -> Value {
        let file = self.text(name);
        let args = ["reference", "show", &file, "--key", &self.public, "--at", "1785000000", "--output", "json"];
        serde_json::from_str(&done(&args)).unwrap()
    }
}

fn payload() -> Value {
    let (short, long) = (|n: &str| n.repeat(32), |n: &str| n.repeat(48));
    json!({
        "version": 1,
        "guest_os": [{
            "name": "small", "kernel": short("01"), "initrd": short("02"), "root_hash": short("03"),
            "command_lines": ["console=ttyS0 tsc_early_khz={tsc_khz} panic=-1"],
        }],
        "node_software": { "agent": [short("a6")], "vmm": [short("8e"), short("8f")] },
        "confidential": [{
            "name": "guest", "snp": [long("04")],
            "tdx": [{ "mrtd": long("05"), "rtmr": [[long("06")], [long("07"), long("08")], [long("09")], [long("00")]] }],
        }],
        "machines": [{ "ek": short("0e"), "chip_id": "c5".repeat(64), "gpus": [short("0f")] }],
        "boot": [{ "component": "shim", "sha256": [short("10")] }],
        "ima": [{ "path": "/usr/bin/agent", "sha256": [short("11"), short("12")] }],
    })
}

#[test]
fn values_go_from_json_to_corim_and_back_and_stay_the_same() {
    let desk = Desk::new();
    desk.sign();
    desk.export();
    assert_eq!(fs::read(desk.path("values.corim")).unwrap()[0], 0xd2, "COSE_Sign1 is tag 18");
    let (corim, key, back) = (desk.text("values.corim"), desk.text("reference.key"), desk.text("back.json"));
    let args = ["reference", "import", &corim, "--key", &desk.public, "--at", "1785000000", "--sign-key", &key, "--out", &back];
    done(&args);
    for file in ["signed.json", "values.corim", "back.json"] {
        assert_eq!(desk.show(file), desk.show("signed.json"), "{file}");
    }
    let signed = desk.text("signed.json");
    let table = done(&["reference", "verify", &signed, "--key", &desk.public]);
    assert!(table.starts_with("signed JSON, signed by ") && table.contains("node_software  3"), "{table}");
    let counted: Value = serde_json::from_str(&done(&[
        "reference",
        "verify",
        &corim,
        "--key",
        &desk.public,
        "--at",
        "1785000000",
        "--output",
        "json",
    ]))
    .unwrap();
    assert_eq!((&counted["form"], &counted["values"]["ima"]), (&json!("signed CoRIM"), &json!(1)));
    assert!(done(&["reference", "show", &signed, "--key", &desk.public]).contains("/usr/bin/agent"));
}

#[test]
fn a_corim_of_another_time_key_or_content_is_refused_by_name() {
    let desk = Desk::new();
    desk.sign();
    desk.export();
    let corim = desk.text("values.corim");
    let check = |file: &str, key: &str, at: &str| fails(&["reference", "verify", file, "--key", key, "--at", at], 1);
    assert!(check(&corim, &desk.public, "1790000001").contains("is valid from"));
    assert!(check(&corim, &desk.public, "1779999999").contains("is valid from"));
    assert!(check(&corim, &"00".repeat(32), "1785000000").contains("another key than the pinned one"));
    let good = fs::read(&corim).unwrap();
    let bad = desk.text("bad.corim");
    for (at, said) in [(good.len() - 1, "signature"), (good.len() / 2, "signature"), (1, "read the CoRIM")] {
        let mut changed = good.clone();
        changed[at] ^= 1;
        fs::write(&bad, changed).unwrap();
        let error = check(&bad, &desk.public, "1785000000");
        assert!(error.contains(said), "byte {at}: {error}");
    }
    for cut in [0, 1, 100] {
        fs::write(&bad, &good[..cut]).unwrap();
        assert!(check(&bad, &desk.public, "1785000000").contains("read the CoRIM"), "{cut}");
    }
    // Nothing was written of what is refused.
    let out = desk.text("never.json");
    let key = desk.text("reference.key");
    fails(&["reference", "import", &bad, "--key", &desk.public, "--sign-key", &key, "--out", &out], 1);
    assert!(!desk.path("never.json").exists());
}

#[test]
fn only_values_that_can_be_read_are_signed_and_a_key_is_never_replaced() {
    let desk = Desk::new();
    let (key, out) = (desk.text("reference.key"), desk.text("signed.json"));
    for (name, bad) in [
        ("unknown field", json!({ "version": 1, "more": [] }).to_string()),
        ("version", json!({ "version": 2 }).to_string()),
        ("JSON", "{".to_owned()),
    ] {
        fs::write(desk.path("payload.json"), bad).unwrap();
        fails(&["reference", "sign", &desk.text("payload.json"), "--sign-key", &key, "--out", &out], 1);
        assert!(!desk.path("signed.json").exists(), "{name}");
    }
    let before = fs::read(desk.path("reference.key")).unwrap();
    assert!(fails(&["reference", "key", &key], 1).contains("hint: "));
    assert_eq!(fs::read(desk.path("reference.key")).unwrap(), before);
    assert!(fails(&["reference", "verify", &key, "--key", "abc"], 64).contains("64 hexadecimal digits"));
    fs::write(desk.path("no.key"), "secret").unwrap();
    let error = fails(&["reference", "sign", &desk.text("payload.json"), "--sign-key", &desk.text("no.key"), "--out", &out], 1);
    assert!(error.contains("hint: ") && !error.contains("secret"), "{error}");
}
