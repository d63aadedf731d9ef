//! Trust domains: what is kept from one appraisal to the next, which collateral to fetch, and what a verdict says of its roots.

use std::sync::Arc;

use casemate_verifier::{
    UnixTime,
    tdx::{CollateralWanted, PckCa, WantedError, collateral_wanted},
};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};

use crate::{
    tdx_checks::{accepted, refused},
    tdx_world::{Case, DAY, FMSPC, Spec, at, date, keys},
};

const END: &str = "-----END CERTIFICATE-----";

#[test]
fn each_document_and_signer_that_is_kept_ends_by_itself() {
    let ends_in_a_day = |change: fn(&mut Spec), words: &str| {
        let mut spec = Spec::good();
        change(&mut spec);
        let mut case = spec.build().keep();
        case.now = UnixTime(case.now.0 + DAY.unsigned_abs());
        accepted(&case);
        case.now = UnixTime(case.now.0 + 1);
        refused(&case.appraise(), "tdx.collateral", words);
    };
    ends_in_a_day(|spec| spec.tcb_info["nextUpdate"] = date(DAY).into(), "TCB info is valid from");
    ends_in_a_day(|spec| spec.qe_identity["nextUpdate"] = date(DAY).into(), "the identity of the quoting enclave is valid from");
    ends_in_a_day(|spec| spec.signer.not_after = at(DAY), "certificate \"CN=Intel SGX TCB Signing\" is valid from");
    ends_in_a_day(|spec| spec.root_list.to = DAY, "the revocation list of the root is valid from");
    ends_in_a_day(|spec| spec.pck_list.to = DAY, "the revocation list of the PCK CA is valid from");
}

#[test]
fn a_kept_platform_is_used_for_its_own_certificates_only() {
    let case = Case::good().keep();
    let kept = &case.kept.as_ref().unwrap().1;
    let again = case.appraise();
    assert!(Arc::ptr_eq(again.verified().unwrap().platform(), kept));
    let mut other = Spec::good();
    other.pck.serial_number = Some(0x2002.into());
    let (_, issuers) = chain_of(&case);
    let mut case = case;
    case.quote.auth.pck_chain = (other.processor() + &issuers).into_bytes();
    let fresh = case.appraise();
    assert!(!Arc::ptr_eq(fresh.verified().unwrap().platform(), &case.kept.as_ref().unwrap().1));
}

/// The chain in a quote: the PCK certificate with its end, and what follows.
fn chain_of(case: &Case) -> (String, String) {
    let text = String::from_utf8(case.quote.auth.pck_chain.clone()).unwrap();
    let (pck, issuers) = text.split_once(END).unwrap();
    (format!("{pck}{END}"), issuers.to_owned())
}

/// A PCK CA under the root of the world.
fn authority(change: impl FnOnce(&mut CertificateParams), key: &KeyPair) -> String {
    let mut spec = Spec::good();
    change(&mut spec.authority);
    spec.authority.signed_by(key, &Issuer::from_params(&spec.root, &keys().root)).unwrap().pem()
}

#[test]
fn lists_kept_for_one_pck_ca_say_nothing_of_another_under_the_same_root() {
    let mut case = Case::good().keep();
    let (pck, issuers) = chain_of(&case);
    let root = issuers.split_once(END).unwrap().1.to_owned();
    // The same name and key, so that the certificate below it verifies.
    let renewed = authority(|params| params.serial_number = Some(0x1111.into()), &keys().authority);
    case.quote.auth.pck_chain = format!("{pck}\n{renewed}{root}").into_bytes();
    refused(&case.appraise(), "tdx.revocation", "not those of this PCK certificate's issuers");
}

#[test]
fn the_issuer_of_the_pck_list_has_the_name_and_the_key_of_the_pck_ca() {
    let with = |listed: String| {
        let mut case = Case::good();
        let chain = case.collateral["pck_crl_issuer_chain"].as_str().unwrap();
        case.collateral["pck_crl_issuer_chain"] = format!("{listed}{}", chain.split_once(END).unwrap().1).into();
        case
    };
    let renewed = authority(|params| params.serial_number = Some(0x1111.into()), &keys().authority);
    let detail = |case: &Case| {
        let result = case.appraise();
        result.checks().iter().find(|check| check.name == "tdx.revocation").unwrap().detail.clone()
    };
    accepted(&with(renewed.clone()));
    assert!(detail(&with(renewed)).ends_with("name nothing of the chain"));
    let renamed = |params: &mut CertificateParams| params.distinguished_name.push(DnType::CommonName, "Other CA");
    for other in [authority(|_| (), &keys().signer), authority(renamed, &keys().authority)] {
        refused(&with(other).appraise(), "tdx.revocation", "does not consist of the PCK CA");
    }
}

#[test]
fn a_verdict_names_its_root() {
    let result = Case::good().appraise();
    assert_eq!(result.verified().unwrap().platform().root_subject(), "CN=Intel SGX Root CA");
}

#[test]
fn which_collateral_to_fetch_follows_from_the_processors_certificate() {
    let wanted = |issuer: &str| {
        let mut spec = Spec::good();
        spec.authority.distinguished_name.push(DnType::CommonName, issuer);
        collateral_wanted(spec.processor().as_bytes())
    };
    let fmspc = hex::decode(FMSPC).unwrap().try_into().unwrap();
    for (issuer, ca, name) in [
        ("Intel SGX PCK Platform CA", PckCa::Platform, "platform"),
        ("Intel SGX PCK Processor CA", PckCa::Processor, "processor"),
    ] {
        assert_eq!((wanted(issuer).unwrap(), ca.as_str()), (CollateralWanted { fmspc, ca }, name));
    }
    let both = "Intel SGX PCK Platform CA and Intel SGX PCK Processor CA";
    for issuer in ["Other CA", both] {
        let seen = wanted(issuer);
        assert!(matches!(&seen, Err(WantedError::Issuer { seen }) if *seen == format!("CN={issuer}")), "{seen:?}");
    }
    assert!(matches!(collateral_wanted(b""), Err(WantedError::Certificates(_))));
}
