//! PCRs and quotes, judged by tpm2-tools.

use std::{collections::BTreeMap, fs, time::Instant};

use casemate_attester::{Attester, GuestMeasurements, TpmAttester, TpmError, guest_provision, quote_bundle};
use casemate_evidence::{
    eventlog::extend_sha256,
    instance::{NODE_PCRS, Pcr, guest_pcr},
    tpm::{Attest, AttestBody, HashAlg, PcrSelection, Public, Signature, pcr_digest_sha256},
};

use crate::{
    swtpm::State,
    tools::{self, Quote, checkquote},
};

const NONCE: [u8; 32] = [0xc5; 32];

#[test]
fn extended_pcrs_read_back_all_at_once() {
    let state = State::new();
    let swtpm = state.start();
    let mut tpm = swtpm.connect();
    let mut expected: BTreeMap<u32, [u8; 32]> = (0..16).map(|pcr| (pcr, [0; 32])).collect();
    for (pcr, digest) in [(0, [1; 32]), (9, [2; 32]), (14, [3; 32]), (14, [4; 32])] {
        tpm.pcr_extend(pcr, digest).unwrap();
        expected.insert(pcr, extend_sha256(&expected[&pcr], &digest));
    }
    let all: Vec<u32> = (0..16).rev().collect();
    assert_eq!(tpm.pcr_read(&all).unwrap(), expected);
    assert_eq!(tpm.pcr_read(&[]).unwrap(), BTreeMap::new());
}

#[test]
fn a_pcr_that_is_not_there_is_named() {
    let state = State::new();
    let swtpm = state.start();
    let mut tpm = swtpm.connect();
    assert!(matches!(tpm.pcr_read(&[7, 30]), Err(TpmError::NoSuchPcr { pcr: 30 }) | Err(TpmError::Refused { .. })));
    let error = tpm.pcr_extend(30, [0; 32]).unwrap_err();
    assert!(matches!(error, TpmError::Refused { command: "TPM2_PCR_Extend", .. }), "{error}");
}

#[test]
fn tpm2_checkquote_accepts_our_quote_and_nothing_altered() {
    let state = State::new();
    let swtpm = state.start();
    let mut attester = TpmAttester::new(swtpm.connect()).unwrap();
    attester.pcr_extend(14, [7; 32]).unwrap();
    let bundle = quote_bundle(&mut attester, &NONCE, &NODE_PCRS).unwrap();
    let quote = Quote { ak_public: &bundle.ak_public, attest: &bundle.attest, signature: &bundle.signature };

    assert!(checkquote(&quote, &NONCE, &bundle.pcrs));
    assert!(!checkquote(&quote, &[0xc6; 32], &bundle.pcrs), "another nonce");
    let mut other_values = bundle.pcrs.clone();
    other_values.insert(14, Pcr([0; 32]));
    assert!(!checkquote(&quote, &NONCE, &other_values), "another PCR value");
    for at in [8, 50, bundle.attest.len() - 1] {
        let mut attest = bundle.attest.clone();
        attest[at] ^= 1;
        assert!(!checkquote(&Quote { attest: &attest, ..quote }, &NONCE, &bundle.pcrs), "flipped byte {at}");
    }
    let other = State::new().start().connect().create_ak().unwrap();
    assert!(!checkquote(&Quote { ak_public: &other.public, ..quote }, &NONCE, &bundle.pcrs), "another key");
}

#[test]
fn a_quote_says_what_it_was_asked() {
    let state = State::new();
    let swtpm = state.start();
    let mut attester = TpmAttester::new(swtpm.connect()).unwrap();
    let bundle = quote_bundle(&mut attester, &NONCE, &guest_pcr::QUOTED).unwrap();
    let attest = Attest::parse(&bundle.attest).unwrap();
    assert_eq!(attest.extra_data, NONCE);
    assert_eq!(attest.encode().unwrap(), bundle.attest, "our encoder gives the TPM's own bytes");
    let values: BTreeMap<_, _> = bundle.pcrs.iter().map(|(pcr, value)| (*pcr, value.0)).collect();
    let expected = AttestBody::Quote {
        selections: vec![PcrSelection::sha256(&guest_pcr::QUOTED)],
        pcr_digest: pcr_digest_sha256(&values).to_vec(),
    };
    assert_eq!(attest.body, expected);
    let error = attester.quote(&[0; 65], &[0]).unwrap_err();
    assert_eq!(error.to_string(), "qualifying data for TPM2_Quote has 65 bytes, more than the limit of 64");
}

#[test]
fn a_quote_made_with_tpm2_tools_parses() {
    let state = State::new();
    let swtpm = state.start();
    let folder = tempfile::tempdir().unwrap();
    tools::quote(&swtpm, folder.path(), &NONCE, "sha256:0,1,14");

    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let attest = Attest::parse(&read("attest")).unwrap();
    assert_eq!(attest.extra_data, NONCE);
    assert!(matches!(attest.body, AttestBody::Quote { selections, .. } if selections == [PcrSelection::sha256(&[0, 1, 14])]));
    assert!(matches!(Signature::parse(&read("signature")).unwrap(), Signature::Ecdsa { hash: HashAlg::Sha256, .. }));
    // The tool writes TPM2B_PUBLIC, with its size.
    assert_eq!(Public::parse(&read("ak.pub")[2..]).unwrap().name(), read("ak.name"));
}

#[test]
fn provisioning_leaves_the_measurements_and_the_guests_own_key() {
    let state = State::new();
    let swtpm = state.start();
    let mut tpm = swtpm.connect();
    let measurements = GuestMeasurements { kernel: [1; 32], initrd: [2; 32], command_line: "console=ttyS0", root_hash: [3; 32] };
    let start = Instant::now();
    let endorsed = guest_provision(&mut tpm, &measurements).unwrap();
    eprintln!("guest_provision: {:?}", start.elapsed());

    let values = tpm.pcr_read(&guest_pcr::QUOTED).unwrap();
    for (pcr, digest) in measurements.extensions() {
        assert_eq!(values[&pcr], extend_sha256(&[0; 32], &digest), "PCR {pcr}");
    }
    assert_eq!(values[&guest_pcr::WORKLOAD], [0; 32]);
    assert_eq!(tpm.create_ak().unwrap().public, endorsed, "the guest makes the endorsed key again");
}

#[test]
fn refuses_to_provision_a_vtpm_that_was_used_before() {
    let state = State::new();
    let swtpm = state.start();
    let mut tpm = swtpm.connect();
    tpm.pcr_extend(guest_pcr::WORKLOAD, [1; 32]).unwrap();
    let measurements = GuestMeasurements { kernel: [1; 32], initrd: [2; 32], command_line: "", root_hash: [3; 32] };
    let error = guest_provision(&mut tpm, &measurements).unwrap_err();
    assert_eq!(error.to_string(), "PCR 12 of the fresh vTPM is not zero");
}
