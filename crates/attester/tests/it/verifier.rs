//! What is made here is what our own verifier accepts.

use std::{
    collections::BTreeMap,
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use casemate_evidence::{instance::Pcr, tpm::Public};
use casemate_verifier::{
    TrustAnchors, UnixTime, VendorRoot,
    credential::{Randomness, make_credential},
    ek,
    quote::AttestationKey,
};

use crate::{swtpm::State, tools};

#[test]
fn a_node_enrols_with_the_verifiers_own_credential() {
    let state = State::with_ek_certificate();
    let swtpm = state.start();
    let mut tpm = swtpm.connect();
    let chain = [tpm.read_ek_certificate().unwrap(), der(&fs::read_to_string(state.path("ca/cert.pem")).unwrap())];
    let root = fs::read_to_string(state.path("ca/swtpm-localca-rootca-cert.pem")).unwrap();
    let anchors = TrustAnchors::new(&root, &[VendorRoot { pem: root.clone(), simulated: true }]).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let verified = ek::verify_chain(&chain, &anchors, UnixTime(now)).unwrap();
    assert!(verified.is_simulated());

    let (ek, ak) = (tpm.create_ek().unwrap(), tpm.create_ak().unwrap());
    let public = verified.public_area(&ek.public).unwrap();
    let name = Public::parse(&ak.public).unwrap().name();
    let random = Randomness { seed: [1; 32], oaep: [2; 32], ephemeral: [3; 32] };
    let credential = make_credential(&public, &name, &[0x77; 32], &random).unwrap();
    let secret = tpm.activate_credential(&ak, &ek, &credential.blob, &credential.encrypted_secret).unwrap();
    assert_eq!(secret, [0x77; 32]);
    assert!(verified.public_area(&ak.public).is_err(), "an attestation key does not pass for an endorsement key");
}

#[test]
fn the_verifier_accepts_a_quote_made_with_tpm2_tools() {
    let state = State::new();
    let swtpm = state.start();
    let folder = tempfile::tempdir().unwrap();
    tools::quote(&swtpm, folder.path(), &[4; 32], "sha256:0,1,14");
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let key = AttestationKey::from_public(&read("ak.pub")[2..]).unwrap();
    let quote = key.quote(&read("attest"), &read("signature")).unwrap();
    assert!(quote.is_for(&[4; 32]));
    assert!(!quote.is_for(&[5; 32]));
    let mut zero: BTreeMap<u32, Pcr> = [0, 1, 14].into_iter().map(|pcr| (pcr, Pcr([0; 32]))).collect();
    assert!(quote.pcrs(&[0, 1, 14], &zero).is_ok());
    zero.insert(14, Pcr([1; 32]));
    assert!(quote.pcrs(&[0, 1, 14], &zero).is_err());
}

fn der(pem: &str) -> Vec<u8> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let body = pem.lines().skip_while(|line| !line.starts_with("-----BEGIN")).filter(|line| !line.starts_with("-----"));
    STANDARD.decode(body.collect::<String>()).unwrap()
}
