//! Keys come back with the seed, and do not pile up.

use casemate_attester::{TpmError, ak_template};
use casemate_evidence::tpm::{KeyScheme, Public, PublicParams};

use crate::swtpm::State;

#[test]
fn the_attestation_key_is_the_same_after_a_restart_with_the_same_seed() {
    let state = State::new();
    let before = state.start().connect().create_ak().unwrap();
    let after = state.start().connect().create_ak().unwrap();
    assert_eq!((&before.public, &before.name), (&after.public, &after.name));
    let other = State::new().start().connect().create_ak().unwrap();
    assert_ne!(before.public, other.public);
}

#[test]
fn the_tpm_makes_the_attestation_key_as_asked_and_names_it_as_we_do() {
    let state = State::new();
    let swtpm = state.start();
    let key = swtpm.connect().create_ak().unwrap();
    let public = Public::parse(&key.public).unwrap();
    assert_eq!(public.name(), key.name);
    assert_eq!(public.attributes, ak_template().attributes);
    let PublicParams::Ecc { scheme, x, .. } = public.params else { panic!("the AK is on a curve") };
    assert!(matches!(scheme, KeyScheme::Ecdsa(_)));
    assert_eq!(x.len(), 32);
}

#[test]
fn what_a_killed_owner_left_loaded_is_cleared_by_the_next() {
    let state = State::new();
    let swtpm = state.start();
    let mut killed = swtpm.connect();
    let error = (0..20).find_map(|_| killed.create_ak().err()).expect("a TPM has room for few keys");
    let TpmError::Refused { code, .. } = &error else { panic!("{error:?}") };
    assert_eq!(code.0, 0x902);
    assert_eq!(
        error.to_string(),
        "the TPM refused TPM2_CreatePrimary with response code 0x902 (TPM_RC_OBJECT_MEMORY: too many keys are loaded)"
    );
    drop(killed);
    let mut next = swtpm.connect();
    next.flush_all().unwrap();
    next.create_ak().unwrap();
}

#[test]
fn starting_twice_and_shutting_down_are_harmless() {
    let state = State::new();
    let swtpm = state.start();
    let mut tpm = swtpm.connect();
    tpm.startup_clear().unwrap();
    tpm.startup_clear().unwrap();
    tpm.shutdown().unwrap();
    tpm.create_ak().unwrap();
}
