//! Enrolment: who the TPM is, and that the attestation key lives in it.

use std::time::Instant;

use casemate_attester::{Tpm, TpmError, open};
use casemate_evidence::{
    instance::NODE_PCRS,
    tpm::{Public, PublicParams},
};

use crate::{swtpm::State, tools};

#[test]
fn a_credential_for_endorsement_and_attestation_key_opens_in_their_tpm() {
    let state = State::with_ek_certificate();
    let swtpm = state.start();
    let mut tpm = Tpm::new(open(&format!("unix:{}", swtpm.socket().display())).unwrap());
    tpm.startup_clear().unwrap();
    let (ek, ak) = (tpm.create_ek().unwrap(), tpm.create_ak().unwrap());
    let PublicParams::Rsa { n, .. } = Public::parse(&ek.public).unwrap().params else { panic!("the EK is RSA") };
    let certificate = tpm.read_ek_certificate().unwrap();
    assert!(certificate.windows(n.len()).any(|part| part == n), "the certificate is for this key");
    assert_eq!(certificate.len(), 4 + usize::from(u16::from_be_bytes([certificate[2], certificate[3]])));

    let (blob, encrypted) = tools::makecredential(&ek.public, &ak.name, &[0x5a; 32]);
    // More often than the TPM has room for sessions.
    for _ in 0..5 {
        assert_eq!(tpm.activate_credential(&ak, &ek, &blob, &encrypted).unwrap(), [0x5a; 32]);
    }
}

/// Prints what the operations cost with swtpm; `cargo test -p casemate-attester durations -- --nocapture`.
#[test]
fn durations_are_printed() {
    let state = State::with_ek_certificate();
    let swtpm = state.start();
    let mut tpm = swtpm.connect();
    let ek = timed("create_ek", || tpm.create_ek().unwrap());
    timed("read_ek_certificate", || tpm.read_ek_certificate().unwrap());
    let ak = timed("create_ak", || tpm.create_ak().unwrap());
    let (blob, encrypted) = tools::makecredential(&ek.public, &ak.name, &[1; 32]);
    timed("activate_credential", || tpm.activate_credential(&ak, &ek, &blob, &encrypted).unwrap());
    timed("first quote", || tpm.quote(&ak, &[1; 32], &NODE_PCRS).unwrap());
    timed("second quote", || tpm.quote(&ak, &[1; 32], &NODE_PCRS).unwrap());
    timed("pcr_extend", || tpm.pcr_extend(14, [1; 32]).unwrap());
    timed("pcr_read of 9", || tpm.pcr_read(&NODE_PCRS).unwrap());
}

#[test]
fn a_credential_for_another_attestation_key_is_refused_and_leaves_nothing_open() {
    let state = State::new();
    let swtpm = state.start();
    let mut tpm = swtpm.connect();
    let (ek, ak) = (tpm.create_ek().unwrap(), tpm.create_ak().unwrap());
    let mut other = ak.name.clone();
    other[33] ^= 1;
    let (blob, encrypted) = tools::makecredential(&ek.public, &other, &[1; 32]);
    // More often than the TPM has room for sessions.
    for _ in 0..5 {
        let error = tpm.activate_credential(&ak, &ek, &blob, &encrypted).unwrap_err();
        let TpmError::Refused { command: "TPM2_ActivateCredential", code } = error else { panic!("{error:?}") };
        assert_eq!(code.base(), 0x09f, "{code}");
    }
    let (blob, encrypted) = tools::makecredential(&ek.public, &ak.name, &[1; 32]);
    assert_eq!(tpm.activate_credential(&ak, &ek, &blob, &encrypted).unwrap(), [1; 32]);
}

#[test]
fn a_credential_for_another_tpm_is_refused() {
    let (mine, other) = (State::new(), State::new());
    let (swtpm, others) = (mine.start(), other.start());
    let mut tpm = swtpm.connect();
    let (ek, ak) = (tpm.create_ek().unwrap(), tpm.create_ak().unwrap());
    let other_ek = others.connect().create_ek().unwrap();
    assert_ne!(ek.public, other_ek.public);
    let (blob, encrypted) = tools::makecredential(&other_ek.public, &ak.name, &[1; 32]);
    assert!(matches!(tpm.activate_credential(&ak, &ek, &blob, &encrypted), Err(TpmError::Refused { .. })));
}

#[test]
fn oversized_credentials_are_not_even_sent() {
    let state = State::new();
    let swtpm = state.start();
    let mut tpm = swtpm.connect();
    let ak = tpm.create_ak().unwrap();
    let error = tpm.activate_credential(&ak, &ak, &[0; 133], &[]).unwrap_err();
    assert_eq!(error.to_string(), "credential for TPM2_ActivateCredential has 133 bytes, more than the limit of 132");
}

#[test]
fn a_tpm_without_a_certificate_is_told_apart() {
    let state = State::new();
    let swtpm = state.start();
    let error = swtpm.connect().read_ek_certificate().unwrap_err();
    assert_eq!(error.to_string(), "the TPM holds no RSA endorsement key certificate (NV index 0x01c00002)");
}

fn timed<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = run();
    eprintln!("{what}: {:?}", start.elapsed());
    value
}
