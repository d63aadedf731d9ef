//! Signed reference values.

use casemate_verifier::{ReferenceError, ReferenceValues};
use ed25519_dalek::SigningKey;

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
    assert!(matches!(read(&file), Err(ReferenceError::OtherKey { .. })));
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
    assert!(matches!(read(mixed.to_string().as_bytes()), Err(ReferenceError::Signature)));
}

#[test]
fn refuses_unknown_fields_versions_and_broken_values() {
    assert!(matches!(payload(|value| value["version"] = 2.into()), Err(ReferenceError::Version { version: 2 })));
    assert!(payload(|value| value["more"] = 1.into()).is_err());
    assert!(payload(|value| value["guest_os"][0]["kernel"] = "ab".into()).is_err());
    assert!(payload(|value| value["guest_os"][0]["command_lines"][0] = "{tsc_khz}{tsc_khz}".into()).is_err());
    assert!(matches!(read(&vec![b' '; 2 << 20]), Err(ReferenceError::TooLong { .. })));
    assert!(read(b"").is_err());
}
