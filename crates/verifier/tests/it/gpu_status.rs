//! Revocation: who may say that a certificate is good, and for how long.

use rcgen::{
    CertificateRevocationListParams, CrlDistributionPoint, CrlIssuingDistributionPoint, ExtendedKeyUsagePurpose, Issuer,
    KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use sha2::{Digest as _, Sha256};

use crate::{
    gpu_world::{Case, Ocsp, Unsigned, device_chain, good_answers, keys, manifest_chain, tlv},
    world::{HOUR, at},
};

/// Answers, one of which is changed.
fn with(number: usize, change: impl FnOnce(&mut Ocsp)) -> Case {
    let mut answers = good_answers();
    change(&mut answers[number]);
    let mut case = Case::good();
    case.ocsp = answers.iter().map(Ocsp::der).collect();
    case
}

fn refused(case: &Case, detail: &str) {
    let (name, seen) = case.refusal();
    assert_eq!(name, "gpu.revocation", "{seen}");
    assert!(seen.contains(detail), "{seen}");
}

/// The answers by issuer (the device's) and by delegate (its issuer's).
const BY_ISSUER: usize = 0;
const BY_DELEGATE: usize = 4;
const MANIFEST: usize = 5;

#[test]
fn refuses_certificates_that_are_revoked_or_unknown() {
    for number in [BY_ISSUER, BY_DELEGATE] {
        let time = [&[0x18, 15][..], b"20260101000000Z"].concat();
        refused(&with(number, |answer| answer.status = tlv(0xa1, &time)), "is revoked");
        refused(&with(number, |answer| answer.status = tlv(0x82, &[])), "is unknown to the responder");
    }
    let (name, detail) = with(MANIFEST, |answer| answer.status = tlv(0xa1, &[])).refusal();
    assert_eq!(name, "gpu.rim");
    assert!(detail.contains("is revoked"), "{detail}");
}

#[test]
fn a_bad_answer_counts_beside_a_good_one() {
    let mut case = Case::good();
    case.ocsp.push(Ocsp { status: tlv(0xa1, &[]), ..good_answers().remove(BY_ISSUER) }.der());
    refused(&case, "is revoked");
}

#[test]
fn refuses_to_go_without_an_answer() {
    for number in [BY_ISSUER, BY_DELEGATE] {
        let mut case = Case::good();
        case.ocsp.remove(number);
        refused(&case, "neither an OCSP response nor a revocation list is about");
    }
    // About another certificate of the same issuer; by another issuer; with a digest that is not accepted.
    refused(&with(BY_ISSUER, |answer| answer.serial = 0x30), "neither an OCSP response");
    refused(&with(BY_ISSUER, |answer| answer.issuer = device_chain(0, "GH100").remove(3)), "neither an OCSP response");
    refused(&with(BY_ISSUER, |answer| answer.digest = |bytes| Sha256::digest(bytes)[..20].to_vec()), "neither an OCSP response");
    assert!(with(BY_ISSUER, |answer| answer.digest = |bytes| Sha256::digest(bytes).to_vec()).appraise().verified().is_some());
    let mut many = Case::lean();
    many.ocsp = vec![vec![]; 257];
    refused(&many, "more than the limit");
}

#[test]
fn refuses_answers_that_are_old_or_from_the_future() {
    for number in [BY_ISSUER, BY_DELEGATE] {
        refused(&with(number, |answer| answer.this_update = 60), "what is known about revocation is of");
        refused(&with(number, |answer| answer.next_update = Some(-1)), "what is known about revocation is of");
        refused(&with(number, |answer| answer.this_update = -25 * HOUR), "what is known about revocation is of");
        assert!(with(number, |answer| answer.this_update = -24 * HOUR).appraise().verified().is_some());
        assert!(with(number, |answer| answer.next_update = None).appraise().verified().is_some());
    }
}

#[test]
fn refuses_answers_by_those_who_may_not_answer() {
    let forged = "the signature on the OCSP response";
    refused(&with(BY_ISSUER, |answer| answer.forger = Some(&keys().root)), forged);
    refused(&with(BY_DELEGATE, |answer| answer.forger = Some(&keys().root)), forged);
    let delegate = |change: fn(&mut rcgen::CertificateParams)| {
        with(BY_DELEGATE, move |answer| {
            let mut params = Ocsp::responder();
            change(&mut params);
            answer.delegate = Some(params);
        })
    };
    refused(&delegate(|params| params.extended_key_usages.clear()), "signed neither by it nor by a responder");
    let other = |params: &mut rcgen::CertificateParams| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    refused(&delegate(other), "the certificate of the OCSP responder");
    refused(&delegate(|params| params.not_after = at(-1)), "the certificate of the OCSP responder");
    // Certified by another issuer: here by the device's issuer, where the question is about that one.
    let foreign = |answer: &mut Ocsp| answer.certifier = Some(device_chain(0, "GH100").remove(2));
    refused(&with(BY_DELEGATE, foreign), "the certificate of the OCSP responder");
}

#[test]
fn a_responder_may_be_named_by_the_identifier_of_its_key() {
    let named = |id: fn(&Ocsp) -> Vec<u8>| with(BY_ISSUER, |answer| answer.by_key = Some(id(answer)));
    let good = named(|answer| answer.issuer.params.key_identifier(answer.issuer.key));
    assert_eq!(good.appraise().failed(), None);
    refused(&named(|_| vec![7; 20]), "signed neither by it nor by a responder");
    refused(&named(|_| vec![]), "signed neither by it nor by a responder");
}

#[test]
fn refuses_extensions_that_change_what_an_answer_means() {
    // Of the object identifier 1.2.3.
    let extension =
        |critical: &[u8]| tlv(0xa1, &tlv(0x30, &tlv(0x30, &[&tlv(6, &[0x2a, 3])[..], critical, &tlv(4, &[])].concat())));
    for place in [0, 1] {
        let harmless = with(BY_ISSUER, |answer| answer.extensions[place] = extension(&[]));
        assert_eq!(harmless.appraise().failed(), None);
        let critical = with(BY_ISSUER, |answer| answer.extensions[place] = extension(&tlv(1, &[0xff])));
        refused(&critical, "use an OCSP response about");
        let followed = with(BY_ISSUER, |answer| answer.extensions[place] = [extension(&[]), tlv(5, &[])].concat());
        refused(&followed, "use an OCSP response about");
    }
}

#[test]
fn refuses_responses_that_are_not_well_formed() {
    for len in 0..Case::lean().ocsp[BY_ISSUER].len() {
        let mut case = Case::lean();
        case.ocsp[BY_ISSUER].truncate(len);
        refused(&case, "use an OCSP response about");
    }
    let mut longer = Case::lean();
    longer.ocsp[BY_ISSUER].push(0);
    refused(&longer, "not well-formed (envelope)");
    let mut status = Case::lean();
    status.ocsp[BY_ISSUER] = tlv(0x30, &tlv(10, &[6]));
    refused(&status, "answered with status 6");
    let mut large = Case::lean();
    large.ocsp[BY_ISSUER] = vec![0; (64 << 10) + 1];
    refused(&large, "more than the limit");
}

#[test]
fn every_flipped_byte_of_an_answer_is_refused() {
    for number in [BY_ISSUER, BY_DELEGATE] {
        for at in 0..Case::lean().ocsp[number].len() {
            let mut case = Case::lean();
            case.ocsp[number][at] ^= 1;
            assert_eq!(case.refusal().0, "gpu.revocation", "byte {at} of answer {number}");
        }
    }
}

fn crl(issuer: &Unsigned, revoked: &[u8], this_update: i64) -> Vec<u8> {
    crl_by(issuer, issuer.key, None, revoked, this_update)
}

/// Signed by `key`, and about the part of its issuer's certificates that is named.
fn crl_by(
    issuer: &Unsigned,
    key: &KeyPair,
    part: Option<CrlIssuingDistributionPoint>,
    revoked: &[u8],
    this_update: i64,
) -> Vec<u8> {
    let revoked = revoked.iter().map(|serial| RevokedCertParams {
        serial_number: SerialNumber::from(vec![*serial]),
        revocation_time: at(-HOUR),
        reason_code: None,
        invalidity_date: None,
    });
    let params = CertificateRevocationListParams {
        this_update: at(this_update),
        next_update: at(HOUR),
        crl_number: SerialNumber::from(vec![1]),
        issuing_distribution_point: part,
        revoked_certs: revoked.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&Issuer::from_params(&issuer.params, key)).unwrap().der().to_vec()
}

#[test]
fn lists_do_as_well_as_answers() {
    let lists = |revoked: &[u8], this_update| {
        let chain = device_chain(0, "GH100");
        let issuers = [&chain[2], &chain[3], &manifest_chain()[1]];
        let mut case = Case::good();
        case.ocsp.clear();
        case.crls = issuers.iter().map(|issuer| crl(issuer, revoked, this_update)).collect();
        case
    };
    assert!(lists(&[0x99], -HOUR).appraise().verified().is_some());
    refused(&lists(&[0x20], -HOUR), "is revoked");
    refused(&lists(&[0x11], -HOUR), "is revoked");
    assert_eq!(lists(&[0x61], -HOUR).refusal().0, "gpu.rim");
    refused(&lists(&[], -25 * HOUR), "what is known about revocation is of");
    let mut missing = lists(&[], -HOUR);
    missing.crls.remove(1);
    refused(&missing, "neither an OCSP response");
}

#[test]
fn refuses_lists_that_are_forged_of_the_future_or_of_a_part_only() {
    let chain = device_chain(0, "GH100");
    let with = |first: Vec<u8>| {
        let mut case = Case::good();
        case.ocsp.clear();
        case.crls = vec![first, crl(&chain[3], &[], -HOUR), crl(&manifest_chain()[1], &[], -HOUR)];
        case
    };
    assert_eq!(with(crl(&chain[2], &[], -HOUR)).appraise().failed(), None);
    refused(&with(crl(&chain[2], &[], 60)), "is valid from");
    refused(&with(crl_by(&chain[2], &keys().responder, None, &[], -HOUR)), "the signature on the revocation list");
    let part = CrlIssuingDistributionPoint {
        distribution_point: CrlDistributionPoint { uris: vec!["http://vendor.example/part.crl".to_owned()] },
        scope: None,
    };
    refused(&with(crl_by(&chain[2], chain[2].key, Some(part), &[], -HOUR)), "has a critical extension");
}
