//! Quotes by a key that signs anything: what a restricted key of a TPM would never sign must not pass either.

use std::collections::BTreeMap;

use casemate_evidence::{
    instance::Pcr,
    tpm::{
        Attest, AttestBody, ClockInfo, Curve, HashAlg, KeyScheme, ObjectAttributes, PcrSelection, Public, PublicParams,
        Signature, Symmetric, pcr_digest_sha256,
    },
};
use casemate_verifier::quote::{AttestationKey, KeyError, PcrError, QuoteError};
use p256::ecdsa::{SigningKey, signature::Signer as _};

fn signer() -> SigningKey {
    SigningKey::from_slice(&[7; 32]).unwrap()
}

fn public() -> Public {
    let point = signer().verifying_key().to_sec1_point(false);
    Public {
        name_alg: HashAlg::Sha256,
        attributes: ObjectAttributes::ATTESTATION_KEY,
        auth_policy: vec![],
        params: PublicParams::Ecc {
            symmetric: Symmetric::Null,
            scheme: KeyScheme::Ecdsa(HashAlg::Sha256),
            curve: Curve::P256,
            x: point.x().unwrap().to_vec(),
            y: point.y().unwrap().to_vec(),
        },
    }
}

fn attest(selections: Vec<PcrSelection>, pcr_digest: [u8; 32]) -> Vec<u8> {
    let clock = ClockInfo { clock_ms: 1, reset_count: 0, restart_count: 0, safe: true };
    let body = AttestBody::Quote { selections, pcr_digest: pcr_digest.to_vec() };
    let attest = Attest { qualified_signer: vec![], extra_data: b"challenge".to_vec(), clock, firmware_version: 0, body };
    attest.encode().unwrap()
}

fn values() -> BTreeMap<u32, [u8; 32]> {
    BTreeMap::from([(0, [1; 32]), (7, [2; 32])])
}

fn listed() -> BTreeMap<u32, Pcr> {
    values().into_iter().map(|(pcr, value)| (pcr, Pcr(value))).collect()
}

fn sign(message: &[u8]) -> Vec<u8> {
    let signature: p256::ecdsa::Signature = signer().sign(message);
    let (r, s) = signature.split_bytes();
    Signature::Ecdsa { hash: HashAlg::Sha256, r: r.to_vec(), s: s.to_vec() }.encode()
}

fn key() -> AttestationKey {
    AttestationKey::from_public(&public().encode()).unwrap()
}

#[test]
fn accepts_a_quote_of_exactly_the_expected_pcrs() {
    let attest = attest(vec![PcrSelection::sha256(&[0, 7])], pcr_digest_sha256(&values()));
    let quote = key().quote(&attest, &sign(&attest)).unwrap();
    assert!(quote.is_for(b"challenge") && !quote.is_for(b"challeng") && !quote.is_for(b""));
    assert_eq!(quote.qualifying(), b"challenge");
    assert_eq!(quote.pcrs(&[0, 7], &listed()).unwrap().values(), &values());
}

#[test]
fn refuses_what_is_signed_but_was_not_made_by_a_tpm() {
    let mut bytes = attest(vec![], [0; 32]);
    bytes[0] = 0;
    assert!(matches!(key().quote(&bytes, &sign(&bytes)), Err(QuoteError::Attest(_))));
}

#[test]
fn refuses_another_kind_of_attestation() {
    let mut bytes = attest(vec![], [0; 32]);
    // TPM_ST_ATTEST_CERTIFY.
    bytes[4..6].copy_from_slice(&0x8017u16.to_be_bytes());
    assert!(matches!(key().quote(&bytes, &sign(&bytes)), Err(QuoteError::Kind { kind: 0x8017 })));
}

#[test]
fn refuses_selections_other_than_one_of_sha256() {
    let sha256 = || PcrSelection::sha256(&[0, 7]);
    let sha1 = PcrSelection { hash: HashAlg::Sha1, pcrs: vec![0, 7] };
    let empty = PcrSelection { hash: HashAlg::Sha1, pcrs: vec![] };
    let more = PcrSelection::sha256(&[0, 7, 8]);
    let named = |selection: &PcrSelection| format!("{:?} PCRs {:?}", selection.hash, selection.pcrs);
    for selections in [vec![], vec![sha1], vec![sha256(), sha256()], vec![sha256(), empty], vec![more]] {
        let bytes = attest(selections.clone(), pcr_digest_sha256(&values()));
        let quote = key().quote(&bytes, &sign(&bytes)).unwrap();
        let Err(PcrError::Selection { seen, .. }) = quote.pcrs(&[0, 7], &listed()) else { panic!("{selections:?}") };
        assert_eq!(seen, selections.iter().map(named).collect::<Vec<_>>().join(" and "));
    }
}

#[test]
fn refuses_values_that_are_not_the_quoted_ones() {
    let bytes = attest(vec![PcrSelection::sha256(&[0, 7])], pcr_digest_sha256(&values()));
    let quote = key().quote(&bytes, &sign(&bytes)).unwrap();
    let with = |change: fn(&mut BTreeMap<u32, Pcr>)| {
        let mut listed = listed();
        change(&mut listed);
        quote.pcrs(&[0, 7], &listed)
    };
    assert!(matches!(with(|l| l.extend([(7, Pcr([3; 32]))])), Err(PcrError::Digest { .. })));
    assert!(matches!(with(|l| l.retain(|pcr, _| *pcr != 7)), Err(PcrError::Listed { .. })));
    assert!(matches!(with(|l| l.extend([(8, Pcr([0; 32]))])), Err(PcrError::Listed { .. })));
}

#[test]
fn refuses_each_key_that_could_sign_more_or_leave_the_tpm() {
    let all = ObjectAttributes::ATTESTATION_KEY.0;
    let needed = [
        ObjectAttributes::FIXED_TPM,
        ObjectAttributes::FIXED_PARENT,
        ObjectAttributes::SENSITIVE_DATA_ORIGIN,
        ObjectAttributes::RESTRICTED,
        ObjectAttributes::SIGN,
    ];
    for attributes in needed.map(|bit| all & !bit).into_iter().chain([all | ObjectAttributes::DECRYPT, 0]) {
        let bad = Public { attributes: ObjectAttributes(attributes), ..public() };
        assert!(matches!(AttestationKey::from_public(&bad.encode()), Err(KeyError::Attributes { .. })), "{attributes:#x}");
    }
}

#[test]
fn refuses_keys_with_other_algorithms() {
    let sha512 = Public { name_alg: HashAlg::Sha512, ..public() };
    assert!(matches!(AttestationKey::from_public(&sha512.encode()), Err(KeyError::NameAlgorithm)));
    for weak in [KeyScheme::Null, KeyScheme::Ecdsa(HashAlg::Sha1), KeyScheme::Ecdsa(HashAlg::Sha512)] {
        let mut bad = public();
        if let PublicParams::Ecc { scheme, .. } = &mut bad.params {
            *scheme = weak;
        }
        assert!(matches!(AttestationKey::from_public(&bad.encode()), Err(KeyError::Scheme)), "{weak:?}");
    }
    let mut off_curve = public();
    if let PublicParams::Ecc { x, .. } = &mut off_curve.params {
        x[31] ^= 1;
    }
    assert!(matches!(AttestationKey::from_public(&off_curve.encode()), Err(KeyError::Numbers)));
}

#[test]
fn refuses_signatures_with_other_hashes_and_odd_numbers() {
    let bytes = attest(vec![], [0; 32]);
    let Signature::Ecdsa { r, s, .. } = Signature::parse(&sign(&bytes)).unwrap() else { unreachable!() };
    let of = |hash, r: &[u8], s: &[u8]| key().quote(&bytes, &Signature::Ecdsa { hash, r: r.to_vec(), s: s.to_vec() }.encode());
    assert!(of(HashAlg::Sha256, &r, &s).is_ok());
    for other in [HashAlg::Sha1, HashAlg::Sha384, HashAlg::Sha512] {
        assert!(matches!(of(other, &r, &s), Err(QuoteError::Scheme)), "{other:?}");
    }
    for (r, s) in [(&[][..], &s[..]), (&[0; 32], &s), (&[0xff; 32], &s), (&[0; 33], &s), (&r, &[])] {
        assert!(matches!(of(HashAlg::Sha256, r, s), Err(QuoteError::Signature)));
    }
}
