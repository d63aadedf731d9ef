//! What is refused of certificates, revocation lists, TCB info and the quoting enclave's identity.

use casemate_verifier::{
    UnixTime,
    tdx::{Collateral, Endorsements, MAX_COLLATERAL_BYTES, RootFingerprint, TcbStatus, TdxPolicy, appraise_tdx},
};
use rcgen::{CertificateParams, DnType, KeyUsagePurpose};
use serde_json::{Value, json};

use crate::{
    tdx_checks::{accepted, refused},
    tdx_world::{AUTHORITY_SERIAL, Case, DAY, PCK_SERIAL, SIGNER_SERIAL, Spec, at, date, expectation, field, keys, sign, tlv},
};

#[track_caller]
fn spec_refused(change: impl FnOnce(&mut Spec), check: &str, words: &str) {
    let mut spec = Spec::good();
    change(&mut spec);
    refused(&spec.build().appraise(), check, words);
}

#[track_caller]
fn case_refused(change: impl FnOnce(&mut Case), check: &str, words: &str) {
    let mut case = Case::good();
    change(&mut case);
    refused(&case.appraise(), check, words);
}

fn named(name: &str) -> impl FnOnce(&mut CertificateParams) {
    let name = name.to_owned();
    |params| params.distinguished_name.push(DnType::CommonName, name)
}

#[test]
fn a_quote_without_collateral_is_refused_saying_what_is_missing() {
    let case = Case::good();
    for collateral in [Collateral::Missing, Collateral::Json(b"")] {
        let endorsements = Endorsements { collateral, platform: None };
        let result = appraise_tdx(&case.quote.encode(), None, &endorsements, &case.policy, &expectation(), case.now);
        refused(&result, "tdx.collateral", "TCB info, identity of the quoting enclave and revocation lists");
    }
    let long = vec![b' '; MAX_COLLATERAL_BYTES + 1];
    for (json, words) in [(&long[..], "more than the limit"), (&long[1..], "read the collateral")] {
        let endorsements = Endorsements { collateral: Collateral::Json(json), platform: None };
        let result = appraise_tdx(&case.quote.encode(), None, &endorsements, &case.policy, &expectation(), case.now);
        refused(&result, "tdx.collateral", words);
    }
    for name in case.collateral.as_object().unwrap().keys() {
        let without = |case: &mut Case| drop(case.collateral.as_object_mut().unwrap().remove(name));
        case_refused(without, "tdx.collateral", &format!("missing field `{name}`"));
        case_refused(|case| case.collateral[name] = "zz".into(), "tdx.collateral", "");
    }
}

#[test]
fn malformed_collateral_is_refused() {
    let check = "tdx.collateral";
    case_refused(|case| case.collateral = json!([]), check, "read the collateral");
    case_refused(|case| case.collateral["tcb_info_issuer_chain"] = " ".repeat(70_000).into(), check, "70000 bytes");
    case_refused(|case| case.collateral["more"] = "x".into(), check, "unknown field `more`");
    case_refused(|case| case.collateral["tcb_info_signature"] = "00".into(), check, "tcb_info");
    case_refused(|case| case.collateral["qe_identity_signature"] = "00".repeat(64).into(), check, "qe_identity");
    spec_refused(|spec| spec.tcb_info["issueDate"] = "yesterday".into(), check, "2025-06-19T10:16:03Z");
    spec_refused(|spec| spec.tcb_info["tcbLevels"][0]["tcbStatus"] = "Fine".into(), check, "unknown variant `Fine`");
    spec_refused(|spec| spec.tcb_info["fmspc"] = "00".into(), check, "hex of 6 bytes");
    let components =
        |spec: &mut Spec| drop(spec.tcb_info["tcbLevels"][0]["tcb"]["sgxtcbcomponents"].as_array_mut().unwrap().pop());
    spec_refused(components, check, "array of length 16");
    let mut case = Case::good();
    case.collateral["pck_certificate_chain"] = "not read".into();
    // As long as a chain may be.
    let chain = case.collateral["tcb_info_issuer_chain"].as_str().unwrap();
    case.collateral["tcb_info_issuer_chain"] = format!("{chain}{}", " ".repeat((64 << 10) - chain.len())).into();
    accepted(&case);
}

#[test]
fn the_pck_chain_leads_to_a_pinned_root() {
    let check = "tdx.pck-chain";
    case_refused(|case| case.policy.danger_simulated_roots.clear(), check, "which is not Intel's root");
    case_refused(|case| case.policy.danger_simulated_roots = vec![RootFingerprint([1; 32])], check, "which is not Intel's root");
    case_refused(|case| case.quote.auth.pck_chain.clear(), check, "no certificate");
    case_refused(|case| case.quote.auth.pck_chain.truncate(1000), check, "other text around");
    case_refused(|case| case.quote.auth.pck_chain.push(b' '), check, "other text around");
    case_refused(|case| case.quote.auth.pck_chain.insert(0, b'#'), check, "other text around");
    let mut case = Case::good();
    case.quote.auth.pck_chain.push(0);
    accepted(&case);
    let text = |case: &Case| String::from_utf8(case.quote.auth.pck_chain.clone()).unwrap();
    let parts = |case: &Case| text(case).split_inclusive("-----END CERTIFICATE-----").map(str::to_owned).collect::<Vec<_>>();
    let put = |case: &mut Case, order: &[usize]| {
        let parts = parts(case);
        case.quote.auth.pck_chain = order.iter().map(|index| parts[*index].as_str()).collect::<String>().into_bytes();
    };
    case_refused(|case| put(case, &[0, 1]), check, "has 2 certificates");
    case_refused(|case| put(case, &[0, 1, 1, 2]), check, "has 4 certificates");
    case_refused(|case| put(case, &[1, 0, 2]), check, "\"Intel SGX PCK Certificate\" is expected");
    case_refused(|case| put(case, &[0, 0, 2]), check, "\"Intel SGX PCK Platform CA\" is expected");
}

#[test]
fn pck_certificates_are_valid_and_of_their_roles() {
    let check = "tdx.pck-chain";
    spec_refused(|spec| spec.pck.not_after = at(-1), check, "is valid from");
    spec_refused(|spec| spec.pck.not_before = at(1), check, "is valid from");
    spec_refused(|spec| spec.authority.not_after = at(-1), check, "is valid from");
    spec_refused(|spec| spec.root.not_after = at(-1), check, "is valid from");
    spec_refused(|spec| named("Intel SGX TCB Signing")(&mut spec.pck), check, "\"Intel SGX PCK Certificate\" is expected");
    spec_refused(|spec| named("Other CA")(&mut spec.authority), check, "\"Intel SGX PCK Platform CA\" is expected");
    spec_refused(|spec| spec.authority.key_usages = vec![KeyUsagePurpose::CrlSign], check, "keyCertSign");
    let mut spec = Spec::good();
    named("Intel SGX PCK Processor CA")(&mut spec.authority);
    accepted(&spec.build());
}

#[test]
fn the_sgx_extension_is_read_strictly() {
    let check = "tdx.pck-chain";
    let raw = |change: fn(&mut Vec<Vec<u8>>), words| {
        let change = |spec: &mut Spec| {
            let mut fields = spec.extension.fields();
            change(&mut fields);
            spec.extension.raw = Some(tlv(0x30, &fields.concat()));
        };
        spec_refused(change, check, words);
    };
    for (index, what) in [(0, "PPID"), (1, "the TCB"), (2, "PCEID"), (3, "FMSPC"), (4, "SGX type")] {
        let words = format!("{what} is not there");
        let without = |spec: &mut Spec| {
            let mut fields = spec.extension.fields();
            fields.remove(index);
            spec.extension.raw = Some(tlv(0x30, &fields.concat()));
        };
        spec_refused(without, check, &words);
    }
    raw(|fields| fields.push(fields[3].clone()), "is there twice");
    raw(|fields| fields.push(field(&[8], &tlv(0x04, &[1]))), "which is not known");
    raw(|fields| fields[3] = field(&[4], &tlv(0x04, &[0; 5])), "FMSPC has a value");
    raw(|fields| fields[4] = field(&[5], &tlv(0x0a, &[3])), "SGX type has a value");
    raw(|fields| fields[1] = field(&[2], &tlv(0x30, &[])), "a component of the TCB is not there");
    raw(|fields| fields[6] = field(&[7], &tlv(0x30, &[])), "dynamic platform is not there");
    spec_refused(|spec| spec.extension.raw = Some(vec![0x30]), check, "not well-formed");
    spec_refused(|spec| spec.extension.raw = Some([spec.extension.encode(), vec![0]].concat()), check, "not well-formed");
    // Platforms of one package have neither instance nor configuration.
    let mut spec = Spec::good();
    spec.extension.raw = Some(tlv(0x30, &spec.extension.fields()[..5].concat()));
    assert_eq!(accepted(&spec.build()).platform.unwrap().smt_enabled, None);
}

#[test]
fn revoked_certificates_are_refused() {
    let check = "tdx.revocation";
    spec_refused(|spec| spec.pck_list.revoked.push(PCK_SERIAL), check, "\"CN=Intel SGX PCK Certificate\" with serial number");
    spec_refused(|spec| spec.root_list.revoked.push(AUTHORITY_SERIAL), check, "\"CN=Intel SGX PCK Platform CA\" with");
    spec_refused(|spec| spec.root_list.revoked.push(SIGNER_SERIAL), check, "\"CN=Intel SGX TCB Signing\" with");
    // A number in the other issuer's list is another certificate.
    let mut spec = Spec::good();
    spec.root_list.revoked.push(PCK_SERIAL);
    spec.pck_list.revoked.push(AUTHORITY_SERIAL);
    accepted(&spec.build());
}

#[test]
fn revocation_lists_are_signed_by_their_issuers_and_current() {
    let check = "tdx.revocation";
    spec_refused(|spec| spec.pck_list.to = -1, check, "the revocation list of the PCK CA: the revocation list by");
    spec_refused(|spec| spec.pck_list.from = 1, check, "valid from");
    spec_refused(|spec| spec.root_list.to = -1, check, "the revocation list of the root: the revocation list by");
    spec_refused(|spec| spec.root_list.from = 1, check, "valid from");
    spec_refused(|spec| spec.pck_list.issuer = Some("Intel SGX PCK Processor CA"), check, "Processor CA");
    case_refused(|case| case.collateral["pck_crl"] = case.collateral["root_ca_crl"].clone(), check, "expected is one by");
    let flipped = |name: &str, case: &mut Case| {
        let mut bytes = hex::decode(case.collateral[name].as_str().unwrap()).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        case.collateral[name] = hex::encode(bytes).into();
    };
    case_refused(|case| flipped("pck_crl", case), check, "the signature on the revocation list");
    case_refused(|case| flipped("root_ca_crl", case), check, "the signature on the revocation list");
    let other_chain =
        |case: &mut Case| case.collateral["pck_crl_issuer_chain"] = case.collateral["tcb_info_issuer_chain"].clone();
    case_refused(other_chain, check, "does not consist of the PCK CA");
    spec_refused(|spec| spec.authority.key_usages = vec![KeyUsagePurpose::KeyCertSign], check, "may not sign revocation lists");
    spec_refused(|spec| spec.root.key_usages = vec![KeyUsagePurpose::KeyCertSign], check, "\"CN=Intel SGX Root CA\" may not");
}

/// Both documents: name in the world, check, and where the collateral has it.
const DOCUMENTS: [(&str, &str); 2] = [("tcb_info", "tdx.tcb-info"), ("qe_identity", "tdx.qe-identity")];

fn document<'a>(spec: &'a mut Spec, name: &str) -> &'a mut Value {
    if name == "tcb_info" { &mut spec.tcb_info } else { &mut spec.qe_identity }
}

#[test]
fn documents_are_signed_over_their_exact_text() {
    for (name, check) in DOCUMENTS {
        let words = "not that of the signer over exactly this text";
        let space = |case: &mut Case| case.collateral[name] = format!("{} ", case.collateral[name].as_str().unwrap()).into();
        case_refused(space, check, words);
        let number = |case: &mut Case| {
            let text = case.collateral[name]
                .as_str()
                .unwrap()
                .replace("\"tcbEvaluationDataNumber\":20", "\"tcbEvaluationDataNumber\":21");
            case.collateral[name] = text.into();
        };
        case_refused(number, check, words);
        let signature = |case: &mut Case| {
            let text = case.collateral[name].as_str().unwrap();
            case.collateral[format!("{name}_signature")] = hex::encode(sign(&keys().pck, text.as_bytes())).into();
        };
        case_refused(signature, check, words);
    }
    // The other document's signature.
    let swapped = |case: &mut Case| case.collateral["tcb_info_signature"] = case.collateral["qe_identity_signature"].clone();
    case_refused(swapped, "tdx.tcb-info", "exactly this text");
}

#[test]
fn documents_are_signed_by_the_tcb_signer_under_the_same_root() {
    for (name, check) in DOCUMENTS {
        let chain = format!("{name}_issuer_chain");
        let put = |text: fn(&Case) -> String| {
            let chain = chain.clone();
            move |case: &mut Case| case.collateral[chain] = text(case).into()
        };
        let alone = |case: &Case| {
            let text = case.collateral["tcb_info_issuer_chain"].as_str().unwrap();
            text.split_inclusive("-----END CERTIFICATE-----").next().unwrap().to_owned()
        };
        case_refused(put(alone), check, "has 1 certificates");
        // A PCK CA, and a processor that signs for its own TCB.
        let authority = |case: &Case| case.collateral["pck_crl_issuer_chain"].as_str().unwrap().to_owned();
        case_refused(put(authority), check, "expected is \"Intel SGX TCB Signing\"");
        let pck = |case: &Case| {
            let text = String::from_utf8(case.quote.auth.pck_chain.clone()).unwrap();
            let parts: Vec<_> = text.split_inclusive("-----END CERTIFICATE-----").collect();
            format!("{}{}", parts[0], parts[2])
        };
        case_refused(put(pck), check, "expected is \"Intel SGX TCB Signing\"");
        // Another world's root has another key, or at least another certificate.
        let mut other = Spec::good();
        other.root.not_after = at(99 * DAY);
        let other = other.build().collateral[&chain].clone();
        case_refused(|case| case.collateral[&chain] = other, check, "does not end with the root");
    }
    spec_refused(|spec| spec.signer.not_after = at(-1), "tdx.tcb-info", "is valid from");
}

#[test]
fn documents_are_current_of_the_right_version_and_about_trust_domains() {
    for (name, check) in DOCUMENTS {
        spec_refused(|spec| document(spec, name)["nextUpdate"] = date(-1).into(), check, "is valid from");
        spec_refused(|spec| document(spec, name)["issueDate"] = date(1).into(), check, "is valid from");
        spec_refused(|spec| document(spec, name)["version"] = 9.into(), check, "of version 9");
        spec_refused(|spec| document(spec, name)["tcbEvaluationDataNumber"] = 19.into(), check, "below the policy's floor of 20");
    }
    spec_refused(|spec| spec.tcb_info["id"] = "SGX".into(), "tdx.tcb-info", "about \"SGX\"");
    spec_refused(|spec| spec.qe_identity["id"] = "QE".into(), "tdx.qe-identity", "about \"QE\"");
    spec_refused(|spec| spec.tcb_info["tcbType"] = 1.into(), "tdx.tcb-info", "TCB type is 1");
    spec_refused(|spec| spec.tcb_info["fmspc"] = "00906ED50000".into(), "tdx.tcb-info", "for FMSPC 00906ed50000");
    spec_refused(|spec| spec.tcb_info["pceId"] = "0001".into(), "tdx.tcb-info", "for PCE id 0001");
}

fn status_of(change: impl FnOnce(&mut Spec)) -> TcbStatus {
    let mut spec = Spec::good_td15();
    change(&mut spec);
    let result = spec.build().appraise();
    let status = result.claims().unwrap().tcb.as_ref().unwrap().status;
    if status != TcbStatus::UpToDate {
        refused(&result, "tdx.tcb-status", &format!("the status is {status}, accepted are: UpToDate"));
    }
    status
}

#[test]
fn the_status_follows_from_every_part_of_the_tcb() {
    assert_eq!(status_of(|_| {}), TcbStatus::UpToDate);
    assert_eq!(status_of(|spec| spec.extension.components[0] = 2), TcbStatus::OutOfDate);
    assert_eq!(status_of(|spec| spec.extension.components[2] = 2), TcbStatus::OutOfDate);
    assert_eq!(status_of(|spec| spec.extension.pce_svn = 10), TcbStatus::Revoked);
    assert_eq!(status_of(|spec| spec.report().tee_tcb_svn[2] = 2), TcbStatus::OutOfDate);
    assert_eq!(status_of(|spec| spec.quote.auth.qe_report.bytes[258] = 3), TcbStatus::OutOfDate);
    assert_eq!(status_of(|spec| spec.quote.auth.qe_report.bytes[258] = 2), TcbStatus::Revoked);
    // A module of version 0 is judged by the components.
    let first_version = |spec: &mut Spec| spec.report().tee_tcb_svn[..2].copy_from_slice(&[5, 0]);
    assert_eq!(status_of(first_version), TcbStatus::UpToDate);
    let levels = |spec: &mut Spec| spec.tcb_info["tcbLevels"][0]["tcbStatus"] = "ConfigurationAndSWHardeningNeeded".into();
    assert_eq!(status_of(levels), TcbStatus::ConfigurationAndSwHardeningNeeded);
}

#[test]
fn a_tcb_below_every_level_is_refused() {
    spec_refused(|spec| spec.extension.components = [0; 16], "tdx.tcb-status", "below every level");
    spec_refused(|spec| spec.report().tee_tcb_svn[2] = 0, "tdx.tcb-status", "below every level");
    spec_refused(|spec| spec.report().tee_tcb_svn[..2].copy_from_slice(&[4, 0]), "tdx.tcb-status", "below every level");
    // Levels of enclaves say nothing of TDX.
    let enclave_levels = |spec: &mut Spec| {
        for level in spec.tcb_info["tcbLevels"].as_array_mut().unwrap() {
            level["tcb"].as_object_mut().unwrap().remove("tdxtcbcomponents");
        }
    };
    spec_refused(enclave_levels, "tdx.tcb-status", "below every level");
}

#[test]
fn a_policy_may_accept_another_status_but_never_a_revoked_one() {
    let outdated = |change: fn(&mut Spec)| {
        let mut spec = Spec::good();
        spec.policy.accepted_tcb = vec![TcbStatus::OutOfDate, TcbStatus::Revoked];
        change(&mut spec);
        spec.build()
    };
    let claims = accepted(&outdated(|spec| {
        spec.extension.components[0] = 2;
        spec.quote.auth.qe_report.bytes[258] = 3;
    }));
    let tcb = claims.tcb.unwrap();
    assert_eq!(tcb.advisories, ["INTEL-SA-00001", "INTEL-SA-00002", "INTEL-SA-00004"]);
    assert_eq!((tcb.date, tcb.qe_status), (UnixTime(1_740_787_200), TcbStatus::OutOfDate));
    refused(&outdated(|spec| spec.extension.pce_svn = 10).appraise(), "tdx.tcb-status", "Revoked; INTEL-SA-00003");
    refused(&outdated(|_| {}).appraise(), "tdx.tcb-status", "the status is UpToDate, accepted are: OutOfDate, Revoked");
}

/// TDX 1.5 says what the platform is at now, beside what it was at when the domain was launched.
#[test]
fn a_domain_launched_before_an_update_is_to_be_launched_again() {
    let launched_at_svn_2 = |spec: &mut Spec| spec.report().tee_tcb_svn[0] = 2;
    assert_eq!(status_of(launched_at_svn_2), TcbStatus::TdRelaunchAdvised);
    let configuration = |spec: &mut Spec| {
        launched_at_svn_2(spec);
        spec.tcb_info["tcbLevels"][0]["tcbStatus"] = "ConfigurationNeeded".into();
    };
    assert_eq!(status_of(configuration), TcbStatus::TdRelaunchAdvisedConfigurationNeeded);
    let now = |svn2: [u8; 3]| {
        status_of(|spec| {
            launched_at_svn_2(spec);
            spec.report().td15.as_mut().unwrap().tee_tcb_svn2[..3].copy_from_slice(&svn2);
        })
    };
    // A module of version 0 is judged by the components.
    assert_eq!((now([5, 0, 3]), now([4, 0, 3])), (TcbStatus::TdRelaunchAdvised, TcbStatus::OutOfDate));
    // Not yet updated; updated in part; a version that nobody knows.
    assert_eq!(now([2, 1, 3]), TcbStatus::OutOfDate);
    assert_eq!(now([6, 1, 2]), TcbStatus::OutOfDate);
    assert_eq!(now([6, 2, 3]), TcbStatus::OutOfDate);
    assert_eq!(now([3, 3, 3]), TcbStatus::TdRelaunchAdvised);
    // What else is out of date remains so.
    let with = |change: fn(&mut Spec)| {
        status_of(|spec| {
            launched_at_svn_2(spec);
            change(spec);
        })
    };
    assert_eq!(with(|spec| spec.quote.auth.qe_report.bytes[258] = 3), TcbStatus::OutOfDate);
    assert_eq!(with(|spec| spec.extension.components[0] = 2), TcbStatus::OutOfDate);
}

#[test]
fn what_was_verified_before_is_used_again_and_judged_at_its_time() {
    let mut case = Case::good().keep();
    accepted(&case);
    case.collateral = json!("not read");
    accepted(&case);
    let now = case.now.0;
    let after = |days: u64| UnixTime(now + days * 86_400 + 1);
    case.now = after(30);
    refused(&case.appraise(), "tdx.collateral", "is valid from");
    case.now = UnixTime(now - 86_401);
    refused(&case.appraise(), "tdx.collateral", "is valid from");
    case.now = UnixTime(now);
    case.policy.min_tcb_evaluation = 21;
    refused(&case.appraise(), "tdx.tcb-info", "below the policy's floor of 21");
    case.policy = TdxPolicy::strict();
    refused(&case.appraise(), "tdx.pck-chain", "which is not Intel's root");

    // A processor's certificates that end before the collateral does.
    let mut spec = Spec::good();
    spec.pck.not_after = at(DAY);
    let mut case = spec.build().keep();
    accepted(&case);
    case.now = after(1);
    refused(&case.appraise(), "tdx.pck-chain", "is valid from");
}

/// The same quote from another processor under the same PCK CA, with what was verified for the first.
fn of_another_processor(change: impl FnOnce(&mut Spec)) -> Case {
    let mut case = Case::good().keep();
    let mut spec = Spec::good();
    change(&mut spec);
    let pck = spec.processor();
    let text = String::from_utf8(case.quote.auth.pck_chain.clone()).unwrap();
    let (_, issuers) = text.split_once("-----END CERTIFICATE-----").unwrap();
    case.quote.auth.pck_chain = (pck + issuers).into_bytes();
    case
}

#[test]
fn collateral_kept_for_one_processor_is_judged_for_another() {
    let serial = |serial: u64| move |spec: &mut Spec| spec.pck.serial_number = Some(serial.into());
    accepted(&of_another_processor(serial(0x2002)));
    refused(&of_another_processor(serial(0x99)).appraise(), "tdx.revocation", "is revoked");
    let family = of_another_processor(|spec| spec.extension.fmspc = "00906ed50000");
    refused(&family.appraise(), "tdx.tcb-info", "for FMSPC 10b0c06f0000, the processor has 00906ed50000");
    let outdated = of_another_processor(|spec| spec.extension.components[0] = 2);
    refused(&outdated.appraise(), "tdx.tcb-status", "OutOfDate");
    // Of another vendor, whose root has the same name.
    let mut other = Case::good();
    other.kept = Case::good().keep().kept;
    refused(&other.appraise(), "tdx.revocation", "not those of this PCK certificate's issuers");
}
