//! Everything that must be refused, by name, without a key released and without anything left behind.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_attester::sim::SoftTpm;
use casemate_evidence::instance::{GuestKeys, InstanceEvidence, NODE_PCRS, Record as _};
use casemate_testbed::{Alter, Bed, BedOptions, Proxy};
use serde_json::Value;

use crate::support::{Background, guest_os_copy, prepare, run_args};

/// Bytes changed on the node: in kernel, initrd, command line, root image, verity tree, image layer.
#[test]
fn a_changed_byte_on_the_node_is_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let guest_os = guest_os_copy(scratch.path());
    let bed = Bed::start(&BedOptions { guest_os: Some(guest_os.clone()), ..BedOptions::default() }).unwrap();
    prepare(&bed);
    bed.casemate(&run_args(&[], &[])).expect_code(0);
    let manifest: Value = serde_json::from_slice(&fs::read(guest_os.join("guest-os.json")).unwrap()).unwrap();
    let data_blocks = manifest["root"]["data_blocks"].as_u64().unwrap();
    let cases: [(&str, &str, Damage); 6] = [
        ("vmlinux", "guest.kernel", Damage::Text("Linux version", "Linux Version")),
        ("initrd.cpio", "guest.initrd", Damage::LastByte),
        ("guest-os.json", "guest.command-line", Damage::Text("panic=-1", "panic=-2")),
        ("root.img", "guest.root-verity", Damage::Byte(1024)),
        ("root.img", "guest.root-verity", Damage::Byte((data_blocks + 1) * 4096 + 3)),
        ("layer.img", "guest.layer-verity", Damage::Byte(1024)),
    ];
    for (file, check, damage) in cases {
        let path = if file == "layer.img" { layer_in(&bed.state().join("agent")) } else { guest_os.join(file) };
        let good = fs::read(&path).unwrap();
        fs::write(&path, damage.apply(&good)).unwrap();
        let run = bed.casemate(&run_args(&["--output", "out"], &[])).expect_refusal(check);
        assert!(!run.stderr.contains("ok keys"), "a key was released:\n{}", run.stderr);
        assert!(!run.stdout.contains("hello"), "the workload ran:\n{}", run.stdout);
        assert!(!bed.work().join("out").exists());
        bed.assert_no_instance_remains();
        fs::write(&path, good).unwrap();
    }
    bed.casemate(&run_args(&[], &[])).expect_code(0);
    // No node is large enough: told at once, without waiting for a wipe that nobody will do.
    let run = bed.casemate(&run_args(&["--cpus", "64"], &[])).expect_refusal("schedule.no-node");
    assert!(!run.stderr.contains("was not wiped within"), "{}", run.stderr);
    bed.finish();
}

#[derive(Clone, Copy)]
enum Damage {
    Text(&'static str, &'static str),
    Byte(u64),
    LastByte,
}

impl Damage {
    fn apply(self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        match self {
            Self::Text(from, to) => {
                let mut hits = 0;
                for at in 0..bytes.len().saturating_sub(from.len()) {
                    if bytes[at..].starts_with(from.as_bytes()) {
                        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
                        hits += 1;
                    }
                }
                assert!(hits > 0, "no {from:?}");
            }
            Self::Byte(at) => bytes[usize::try_from(at).unwrap()] ^= 1,
            Self::LastByte => *bytes.last_mut().unwrap() ^= 1,
        }
        bytes
    }
}

/// Some converted layer in the agent's cache.
fn layer_in(dir: &Path) -> PathBuf {
    let mut pending = vec![dir.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_name() == "layer.img" {
                return entry.path();
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(entry.path());
            }
        }
    }
    panic!("no layer.img below {}", dir.display());
}

type Tamper = Box<dyn Fn(&mut InstanceEvidence) + Send + Sync>;

/// Changes evidence on its way to the tenant and counts what is handed over afterwards.
struct EvidenceTamper {
    tamper: Tamper,
    keys: Arc<AtomicUsize>,
}

impl Alter for EvidenceTamper {
    fn request(&self, path: &str, _body: &mut Value) {
        if path.ends_with("/keys") {
            self.keys.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn answer(&self, _path: &str, body: &mut Value) {
        let Some(text) = body["evidence"].as_str() else { return };
        let mut evidence = InstanceEvidence::decode(&BASE64.decode(text).unwrap()).unwrap();
        (self.tamper)(&mut evidence);
        body["evidence"] = BASE64.encode(evidence.encode()).into();
    }
}

/// A hostile platform or node changes evidence, keys, receipts, workloads.
#[test]
fn a_hostile_platform_is_refused_by_name() {
    let bed = Bed::start(&BedOptions::default()).unwrap();
    prepare(&bed);
    let through = |alter: Arc<dyn Alter>| Proxy::start(&bed.context(), &bed.state().join("server"), alter).unwrap();

    // The proxy alone changes nothing: otherwise the refusals below would prove nothing.
    struct Nothing;
    impl Alter for Nothing {}
    let proxy = through(Arc::new(Nothing));
    let honest = bed.casemate_in(&run_args(&[], &[]), Some(proxy.context())).expect_code(0);
    drop(proxy);

    let keys = Arc::new(AtomicUsize::new(0));
    let stored = Arc::new(Mutex::new(None::<InstanceEvidence>));
    let soft = |e: &mut InstanceEvidence| {
        let mut tpm = SoftTpm::new(&[9; 32]);
        let root = [3; 32];
        e.node = casemate_attester::quote_bundle(&mut tpm, &root, &NODE_PCRS).unwrap();
    };
    let cases: Vec<(&str, Tamper)> = vec![
        ("batch.inclusion", Box::new(|e| e.guest_keys = GuestKeys { version: 1, hpke: [8; 32], tls: [8; 32] }.encode())),
        ("node.ak", Box::new(soft)),
        ("node.quote", Box::new(|e| flip_last(&mut e.node.signature))),
        ("node.event-log", Box::new(|e| flip_last_digest(&mut e.node_event_log))),
        ("evidence.nonce", Box::new(|e| e.nonce[0] ^= 1)),
    ];
    for (check, tamper) in cases {
        let proxy = through(Arc::new(EvidenceTamper { tamper, keys: Arc::clone(&keys) }));
        bed.casemate_in(&run_args(&[], &[]), Some(proxy.context())).expect_refusal(check);
        bed.assert_no_instance_remains();
    }
    // Replay: what one instance answered is given for the next.
    for expected in [None, Some("evidence.nonce")] {
        let stored = Arc::clone(&stored);
        let replay: Tamper = Box::new(move |e| {
            let mut stored = stored.lock().unwrap();
            match stored.as_ref() {
                Some(old) => *e = old.clone(),
                None => *stored = Some(e.clone()),
            }
        });
        let counted = if expected.is_some() { Arc::clone(&keys) } else { Arc::default() };
        let proxy = through(Arc::new(EvidenceTamper { tamper: replay, keys: counted }));
        let run = bed.casemate_in(&run_args(&[], &[]), Some(proxy.context()));
        match expected {
            None => run.expect_code(0),
            Some(check) => run.expect_refusal(check),
        };
    }
    assert_eq!(keys.load(Ordering::Relaxed), 0, "keys were handed over after a refusal");
    other_attacks(&bed, &honest.instance(), &through);
    bed.assert_no_instance_remains();
    bed.finish();
}

fn other_attacks(bed: &Bed, ended: &str, through: &dyn Fn(Arc<dyn Alter>) -> Proxy) {
    struct OtherWorkload;
    impl Alter for OtherWorkload {
        fn request(&self, path: &str, body: &mut Value) {
            if path.ends_with("/instances")
                && let Some(workload) = body["workload"].as_str()
            {
                body["workload"] = workload.replace("\"ttl_s\":3600", "\"ttl_s\":3601").into();
            }
        }
    }
    let proxy = through(Arc::new(OtherWorkload));
    let run = bed.casemate_in(&run_args(&[], &[]), Some(proxy.context())).expect_refusal("workload.digest");
    assert!(!run.stderr.contains("ok keys"));

    struct AlteredList;
    impl Alter for AlteredList {
        fn answer(&self, path: &str, body: &mut Value) {
            if path.ends_with("/appraisals/revocations")
                && let Some(file) = body["file"].as_str()
            {
                body["file"] = file.replace("serial", "serials").into();
            }
        }
    }
    let proxy = through(Arc::new(AlteredList));
    let run = bed.casemate_in(&run_args(&[], &[]), Some(proxy.context())).expect_refusal("policy.revoked");
    assert!(!run.stderr.contains("ok keys"));

    struct AlteredKeys;
    impl Alter for AlteredKeys {
        fn request(&self, path: &str, body: &mut Value) {
            if path.ends_with("/keys") {
                let mut sealed = BASE64.decode(body["sealed"].as_str().unwrap_or_default()).unwrap();
                flip_last(&mut sealed);
                body["sealed"] = BASE64.encode(sealed).into();
            }
        }
    }
    let proxy = through(Arc::new(AlteredKeys));
    let run = bed.casemate_in(&run_args(&[], &[]), Some(proxy.context())).expect_refusal("keys.authentic");
    assert!(!run.stdout.contains("hello"));

    struct AlteredReceipt;
    impl Alter for AlteredReceipt {
        fn answer(&self, path: &str, body: &mut Value) {
            if path.ends_with("/receipt")
                && let Some(text) = body["body"].as_str()
            {
                body["body"] = text.replace("\"exit_code\":0", "\"exit_code\":1").into();
            }
        }
    }
    let proxy = through(Arc::new(AlteredReceipt));
    bed.casemate_in(&["receipt", "verify", ended], Some(proxy.context())).expect_refusal("receipt.signature");

    struct AlteredRecords;
    impl Alter for AlteredRecords {
        fn answer(&self, path: &str, body: &mut Value) {
            if path.contains("/records")
                && let Some(records) = body["records"].as_array_mut()
                && records.len() > 1
            {
                records.swap(0, 1);
            }
        }
    }
    let proxy = through(Arc::new(AlteredRecords));
    bed.casemate_in(&["logs", ended], Some(proxy.context())).expect_refusal("records.authentic");
}

/// Evidence of one running instance is no evidence of another.
#[test]
fn evidence_of_another_instance_is_refused() {
    let bed = Bed::start(&BedOptions::default()).unwrap();
    prepare(&bed);
    let mut first = Background::start(&bed, &run_args(&[], &["60"]));
    let mut second = Background::start(&bed, &run_args(&[], &["60"]));
    let (a, b) = (first.instance(), second.instance());
    first.wait_for("ok running");
    second.wait_for("ok running");

    bed.casemate(&["verify", &b, "--save", "b.json"]).expect_code(0);
    let mut saved: Value = serde_json::from_slice(&fs::read(bed.work().join("b.json")).unwrap()).unwrap();
    saved["bundle"]["instance"] = a.as_str().into();
    fs::write(bed.work().join("swapped.json"), saved.to_string()).unwrap();
    bed.casemate(&["verify", "--evidence", "swapped.json"]).expect_refusal("instance.id");
    bed.casemate(&["stop", &a]).expect_code(0);
    bed.casemate(&["stop", &b]).expect_code(0);
    first.finish();
    second.finish();
    bed.finish();
}

fn flip_last(bytes: &mut [u8]) {
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
}

/// Somewhere in the last event's digest: the event data after it is not covered by any digest.
fn flip_last_digest(log: &mut [u8]) {
    let text = b"casemate-vmm sha256:";
    let at = log.windows(text.len()).rposition(|window| window == text).expect("the log ends with the VMM's event");
    log[at - 4 - 16] ^= 1;
}
