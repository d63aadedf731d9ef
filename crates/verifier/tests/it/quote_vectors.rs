//! A quote of a real machine.

use std::collections::BTreeMap;

use casemate_evidence::{
    instance::Pcr,
    tpm::{HashAlg, KeyScheme, ObjectAttributes, Public, PublicParams, Symmetric},
};
use casemate_verifier::quote::{AttestationKey, PcrError, QuoteError};
use rsa::{RsaPublicKey, pkcs8::DecodePublicKey as _, traits::PublicKeyParts as _};

use crate::vectors;

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_machines_rsassa_quote_is_accepted_and_three_changes_are_told_apart() {
    let read = |name: &str| vectors::read(&format!("tpm/{name}"));
    let (attest, signature) = (read("quote-rsa.tpms-attest.bin"), read("quote-rsa.tpmt-signature.bin"));
    let key = attestation_key(std::str::from_utf8(&read("quote-rsa.ak.pem")).unwrap());
    let pcrs = listed_pcr_16(&read("quote-rsa.pcrs.bin"));

    let quote = key.quote(&attest, &signature).unwrap();
    assert!(quote.is_for(b"Ai5M5SjYjnkyv4P7itH1"));
    quote.pcrs(&[16], &pcrs).unwrap();

    let mut flipped = attest.clone();
    flipped[5] ^= 1;
    assert!(matches!(key.quote(&flipped, &signature), Err(QuoteError::Signature)));
    assert!(!quote.is_for(b"Ai5M5SjYjnkyv4P7itH2"));
    let changed = BTreeMap::from([(16, Pcr([1; 32]))]);
    assert!(matches!(quote.pcrs(&[16], &changed), Err(PcrError::Digest { .. })));
    assert!(matches!(quote.pcrs(&[15], &changed), Err(PcrError::Selection { .. })));
}

/// The vector has the key in PEM form; the public area around it is that of an RSASSA attestation key.
fn attestation_key(pem: &str) -> AttestationKey {
    let key = RsaPublicKey::from_public_key_pem(pem).unwrap();
    let public = Public {
        name_alg: HashAlg::Sha256,
        attributes: ObjectAttributes::ATTESTATION_KEY,
        auth_policy: vec![],
        params: PublicParams::Rsa {
            symmetric: Symmetric::Null,
            scheme: KeyScheme::Rsassa(HashAlg::Sha256),
            bits: 2048,
            exponent: 0,
            n: key.n_bytes().to_vec(),
        },
    };
    AttestationKey::from_public(&public.encode()).unwrap()
}

/// tpm2-tools' `--pcrs_format=serialized`: TPML_PCR_SELECTION of 16 entries in memory layout (132 bytes), a count, then
/// digest lists of a count and eight entries of size and 64 bytes; here one value.
fn listed_pcr_16(bytes: &[u8]) -> BTreeMap<u32, Pcr> {
    let value = bytes[142..174].try_into().unwrap();
    BTreeMap::from([(16, Pcr(value))])
}
