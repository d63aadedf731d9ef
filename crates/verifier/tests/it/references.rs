//! Signed reference values.

use casemate_verifier::{EnvelopeError, Machine, Processor, ReferenceError, ReferenceValues};
use ed25519_dalek::SigningKey;

use serde_json::{Value, json};

use crate::world::{References, reference_key, signed_references};

fn read(file: &[u8]) -> Result<ReferenceValues, ReferenceError> {
    ReferenceValues::from_signed(file, &reference_key().verifying_key().to_bytes())
}

fn payload(change: impl FnOnce(&mut serde_json::Value)) -> Result<ReferenceValues, ReferenceError> {
    let mut value = serde_json::from_str(&References::good().payload()).unwrap();
    change(&mut value);
    read(&signed_references(&value.to_string(), &reference_key()))
}

#[test]
fn accepts_what_the_pinned_key_signed() {
    assert!(payload(|_| ()).is_ok());
}

#[test]
fn refuses_another_key_even_if_it_signed_well() {
    let other = SigningKey::from_bytes(&[1; 32]);
    let file = signed_references(&References::good().payload(), &other);
    assert!(matches!(read(&file), Err(ReferenceError::Envelope(EnvelopeError::OtherKey { .. }))));
}

#[test]
fn refuses_any_change() {
    let file = signed_references(&References::good().payload(), &reference_key());
    for at in 0..file.len() {
        let mut changed = file.clone();
        changed[at] ^= 1;
        assert!(read(&changed).is_err(), "byte {at}");
    }
    let other = signed_references("{}", &reference_key());
    let mut mixed: serde_json::Value = serde_json::from_slice(&file).unwrap();
    mixed["signature"] = serde_json::from_slice::<serde_json::Value>(&other).unwrap()["signature"].clone();
    assert!(matches!(read(mixed.to_string().as_bytes()), Err(ReferenceError::Envelope(EnvelopeError::Signature))));
}

#[test]
fn refuses_unknown_fields_versions_and_broken_values() {
    assert!(matches!(payload(|value| value["version"] = 2.into()), Err(ReferenceError::Version { version: 2 })));
    assert!(payload(|value| value["more"] = 1.into()).is_err());
    assert!(payload(|value| value["guest_os"][0]["kernel"] = "ab".into()).is_err());
    assert!(payload(|value| value["guest_os"][0]["command_lines"][0] = "{tsc_khz}{tsc_khz}".into()).is_err());
    assert!(matches!(read(&vec![b' '; 2 << 20]), Err(ReferenceError::Envelope(EnvelopeError::TooLong { .. }))));
    assert!(read(b"").is_err());
}

/// A payload with every section.
pub(crate) fn full() -> Value {
    let mut value: Value = serde_json::from_str(&References::good().payload()).unwrap();
    value["confidential"] = json!([
        {"name": "guest 1", "snp": ["aa".repeat(48), "ab".repeat(48)],
         "tdx": [{"mrtd": "ac".repeat(48), "rtmr": [["01".repeat(48)], ["02".repeat(48), "03".repeat(48)], ["04".repeat(48)], ["00".repeat(48)]]}]},
        {"name": "guest 2", "snp": ["ad".repeat(48)]},
    ]);
    value["machines"] = json!([
        {"ek": "e1".repeat(32), "chip_id": "c1".repeat(64), "gpus": ["GPU-1", "GPU-2"]},
        {"ek": "e2".repeat(32), "platform_instance_id": "c2".repeat(16)},
        {"ek": "e3".repeat(32), "gpus": ["GPU-3"]},
    ]);
    value["boot"] = json!([{"component": "shim", "sha256": ["b1".repeat(32), "b2".repeat(32)]}]);
    value["ima"] = json!([{"path": "/usr/bin/init", "sha256": ["f1".repeat(32)]}]);
    value
}

pub(crate) fn of(payload: &Value) -> Result<ReferenceValues, ReferenceError> {
    read(&signed_references(&payload.to_string(), &reference_key()))
}

fn changed(change: impl FnOnce(&mut Value)) -> Result<ReferenceValues, ReferenceError> {
    let mut payload = full();
    change(&mut payload);
    of(&payload)
}

#[test]
fn every_section_can_be_asked() {
    let values = of(&full()).unwrap();
    assert_eq!(values.snp_measurements(), [[0xaa; 48], [0xab; 48], [0xad; 48]]);
    let tdx: Vec<_> = values.tdx_references().collect();
    assert_eq!((tdx.len(), tdx[0].mrtd, tdx[0].rtmr[1].clone()), (1, [0xac; 48], vec![[2; 48], [3; 48]]));
    assert_eq!(values.confidential()[1].name, "guest 2");
    let machine = values.machine(&[0xe1; 32]).unwrap();
    assert_eq!(machine.processor, Some(Processor::SnpChip([0xc1; 64])));
    assert_eq!(machine.gpus.iter().collect::<Vec<_>>(), ["GPU-1", "GPU-2"]);
    assert_eq!(values.machine(&[0xe2; 32]).unwrap().processor, Some(Processor::TdxPlatform([0xc2; 16])));
    assert!(matches!(values.machine(&[0xe3; 32]), Some(Machine { processor: None, .. })));
    assert!(values.machine(&[0xe4; 32]).is_none());
    assert!(values.boot_digests("shim").unwrap().contains(&[0xb2; 32]) && values.boot_digests("grub").is_none());
    assert!(values.knows_boot_digest(&[0xb1; 32]) && !values.knows_boot_digest(&[0xf1; 32]));
    assert!(values.ima_digests("/usr/bin/init").unwrap().contains(&[0xf1; 32]) && values.ima_digests("/init").is_none());
}

#[test]
fn what_is_written_reads_back_the_same() {
    let values = of(&full()).unwrap();
    let file = values.to_signed(&reference_key());
    assert_eq!(read(file.as_bytes()).unwrap(), values);
}

#[test]
fn a_file_without_the_newer_sections_knows_nothing_of_them() {
    let values = payload(|_| ()).unwrap();
    assert!(values.confidential().is_empty() && values.snp_measurements().is_empty() && values.machine(&[0xe1; 32]).is_none());
    let empty = of(&json!({"version": 1})).unwrap();
    assert!(empty.snp_measurements().is_empty());
}

#[test]
fn refuses_sections_that_say_nothing_or_two_things() {
    let empty = changed(|value| value["confidential"][1]["snp"] = json!([]));
    assert!(matches!(empty, Err(ReferenceError::Confidential { .. })), "{empty:?}");
    let register = changed(|value| value["confidential"][0]["tdx"][0]["rtmr"][3] = json!([]));
    assert!(matches!(register, Err(ReferenceError::Confidential { .. })));
    assert!(matches!(changed(|value| value["confidential"][0]["tdx"][0]["rtmr"] = json!([[]])), Err(ReferenceError::Json(_))));
    let machines = [
        ("machine twice", "/machines/1/ek", json!("e1".repeat(32))),
        ("processor in two machines", "/machines/2/chip_id", json!("c1".repeat(64))),
        ("GPU in two machines", "/machines/2/gpus", json!(["GPU-1"])),
        ("GPU twice", "/machines/2/gpus", json!(["GPU-3", "GPU-3"])),
        ("two processors", "/machines/0/platform_instance_id", json!("00".repeat(16))),
    ];
    for (name, pointer, value) in machines {
        let refused = changed(|all| {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            all.pointer_mut(parent).unwrap()[field] = value;
        });
        assert!(matches!(refused, Err(ReferenceError::Machine { .. })), "{name}: {refused:?}");
    }
    for (pointer, field) in [("/confidential/0", "more"), ("/machines/0", "more"), ("/boot/0", "more"), ("/ima/0", "more")] {
        let refused = changed(|all| all.pointer_mut(pointer).unwrap()[field] = json!(1));
        assert!(matches!(refused, Err(ReferenceError::Json(_))), "{pointer}");
    }
    assert!(changed(|all| all["confidential"][0]["snp"][0] = json!("aa")).is_err());
}

#[test]
fn several_files_know_what_either_knows() {
    let split = |names: &[&str]| {
        let full = full();
        let mut value = json!({"version": 1});
        for name in names {
            value[*name] = full[*name].clone();
        }
        of(&value).unwrap()
    };
    let (one, other) = (split(&["guest_os", "node_software", "machines", "boot"]), split(&["confidential", "ima", "machines"]));
    let merged = one.clone().merge(other).unwrap();
    assert_eq!(merged, of(&full()).unwrap());
    assert_eq!(merged.clone().merge(merged.clone()).unwrap(), merged);
    let mut changed = full();
    changed["machines"][0]["gpus"] = json!(["GPU-9"]);
    assert!(matches!(one.clone().merge(of(&changed).unwrap()), Err(ReferenceError::Machine { .. })));
    let moved = json!({"version": 1, "machines": [{"ek": "e9".repeat(32), "gpus": ["GPU-1"]}]});
    assert!(matches!(one.merge(of(&moved).unwrap()), Err(ReferenceError::Machine { .. })));
}
