//! For each check of a trust domain's quote, what only that check refuses. Collateral has a file of its own.

use std::collections::BTreeMap;

use casemate_evidence::{
    eventlog::{Bank, Event, EventLog, EventType, LogFormat},
    tdx::{Body, EnclaveReport, Sha384Digest, TeeKind, ccel::CcelLog},
    tpm::alg_id,
};
use casemate_verifier::{
    Appraised, Outcome,
    tdx::{Expectation, Rtmr, TDX_CHECKS, TcbStatus, TdxClaims, TdxPolicy, VerifiedTdx, config_id},
};
use sha2::{Digest as _, Sha384};

use crate::tdx_world::{CONFIG, Case, MRTD, RTMRS, Spec, expectation};

/// `check` alone failed, for a reason with `words`; all before it passed.
#[track_caller]
pub(crate) fn refused(result: &Appraised<VerifiedTdx, TdxClaims>, check: &str, words: &str) {
    let failed = result.failed().map(|failed| (failed.name.as_str(), failed.detail.as_str()));
    let (name, detail) = failed.expect("a check failed");
    assert_eq!(name, check, "{detail}");
    assert!(detail.contains(words), "{detail}");
    assert!(result.verified().is_none());
    let passed = result.checks().iter().take_while(|check| check.outcome == Outcome::Pass).count();
    assert_eq!(result.checks()[passed].name, check);
    assert!(result.checks()[passed + 1..].iter().all(|check| check.outcome == Outcome::NotReached));
}

#[track_caller]
pub(crate) fn accepted(case: &Case) -> TdxClaims {
    let result = case.appraise();
    assert!(result.verified().is_some(), "{:?}", result.failed());
    result.claims().unwrap().clone()
}

/// What a change before the signatures leads to.
#[track_caller]
fn spec_refused(change: impl FnOnce(&mut Spec), check: &str, words: &str) {
    let mut spec = Spec::good_td15();
    change(&mut spec);
    refused(&spec.build().appraise(), check, words);
}

#[track_caller]
fn case_refused(change: impl FnOnce(&mut Case), check: &str, words: &str) {
    let mut case = Case::good();
    change(&mut case);
    refused(&case.appraise(), check, words);
}

#[track_caller]
fn expectation_refused(expectation: &Expectation<'_>, check: &str, words: &str) {
    refused(&Spec::good_td15().build().appraise_with(expectation), check, words);
}

#[test]
fn accepts_what_is_right_and_says_that_its_root_is_not_intels() {
    for case in [Case::good(), Spec::good_td15().build()] {
        let result = case.appraise();
        let names: Vec<&str> = result.checks().iter().map(|check| check.name.as_str()).collect();
        assert_eq!(names, TDX_CHECKS.iter().map(|name| name.as_str()).collect::<Vec<_>>());
        let verified = result.verified().unwrap();
        assert!(verified.is_simulated());
        assert_eq!((verified.report().mr_td, verified.platform().ppid()), (MRTD, &[0x99; 16]));
        let claims = result.claims().unwrap();
        let (platform, tcb) = (claims.platform.as_ref().unwrap(), claims.tcb.as_ref().unwrap());
        assert!(platform.simulated && platform.smt_enabled == Some(true) && platform.sgx_type == 1);
        assert_eq!(platform.platform_instance, Some("66".repeat(16)));
        assert_eq!((tcb.status, tcb.evaluation_data_number), (TcbStatus::UpToDate, 20));
        assert_eq!((claims.module.as_str(), claims.module_svn), ("TDX_01", 6));
        assert!(claims.warnings.iter().any(|warning| warning.contains("simulated")));
        let text = serde_json::to_string(claims).unwrap();
        assert_eq!(&serde_json::from_str::<TdxClaims>(&text).unwrap(), claims);
    }
}

#[test]
fn format_is_refused_where_bytes_are_cut_or_more_than_padding_follows() {
    case_refused(|case| case.bytes = Some(Vec::new()), "tdx.format", "the version");
    case_refused(|case| case.bytes = Some(case.quote.encode()[..1000].to_vec()), "tdx.format", "ends inside");
    case_refused(|case| case.bytes = Some([case.quote.encode(), vec![1]].concat()), "tdx.format", "1 bytes follow");
}

#[test]
fn quotes_of_enclaves_are_refused_as_the_wrong_kind() {
    for version in [3, 4, 5] {
        let mut case = Case::good();
        case.quote.header.version = version;
        case.quote.header.tee = TeeKind::Sgx;
        case.quote.body = Body::Enclave(Box::new(EnclaveReport { bytes: [1; 384] }));
        case.sign_quote();
        refused(&case.appraise(), "tdx.kind", "SGX enclave");
    }
}

#[test]
fn the_quoting_enclave_must_be_intels_and_of_the_signed_identity() {
    let check = "tdx.qe-report";
    spec_refused(|spec| spec.quote.header.qe_vendor[0] ^= 1, check, "of vendor 929a7233f79c4ca9940a0db3957f0607");
    spec_refused(|spec| spec.quote.auth.qe_report.bytes[EnclaveReport::MR_SIGNER] ^= 1, check, "MRSIGNER");
    spec_refused(|spec| spec.quote.auth.qe_report.bytes[EnclaveReport::ISV_PROD_ID] = 1, check, "ISVPRODID");
    spec_refused(|spec| spec.quote.auth.qe_report.bytes[EnclaveReport::MISC_SELECT] = 1, check, "MISCSELECT");
    // A debuggable quoting enclave.
    spec_refused(|spec| spec.quote.auth.qe_report.bytes[EnclaveReport::ATTRIBUTES] = 0x13, check, "ATTRIBUTES");
    spec_refused(|spec| spec.quote.auth.qe_report.bytes[EnclaveReport::ISV_SVN] = 1, check, "SVN 1, below every level");
    // Bits outside the masks do not matter.
    let mut spec = Spec::good();
    spec.quote.auth.qe_report.bytes[EnclaveReport::ATTRIBUTES] = 0x15;
    spec.quote.auth.qe_report.bytes[EnclaveReport::ATTRIBUTES + 8] = 7;
    accepted(&spec.build());
}

#[test]
fn the_quoting_enclaves_report_must_be_signed_by_the_pck_and_bind_the_attestation_key() {
    let check = "tdx.qe-report";
    case_refused(|case| case.quote.auth.qe_report_signature[5] ^= 1, check, "not signed by the PCK");
    case_refused(|case| case.quote.auth.qe_report_signature = [0; 64], check, "not signed by the PCK");
    case_refused(|case| case.quote.auth.qe_report.bytes[0] ^= 1, check, "not signed by the PCK");
    case_refused(|case| case.quote.auth.qe_auth[0] ^= 1, check, "does not bind");
    case_refused(|case| case.quote.auth.attestation_key[0] ^= 1, check, "does not bind");
    spec_refused(|spec| spec.binds = false, check, "does not bind");
    // The second half of the report data is zero.
    let tail = |spec: &mut Spec| spec.quote.auth.qe_report.bytes[EnclaveReport::REPORT_DATA + 63] = 1;
    spec_refused(tail, check, "does not bind");
}

#[test]
fn the_quote_must_be_signed_by_the_attestation_key() {
    let check = "tdx.signature";
    case_refused(|case| case.quote.auth.signature[0] ^= 1, check, "not signed by the attestation key");
    case_refused(|case| case.quote.auth.signature = [0; 64], check, "not signed by the attestation key");
    case_refused(|case| case.report().report_data[0] ^= 1, check, "not signed by the attestation key");
    case_refused(|case| case.quote.header.user_data[0] ^= 1, check, "not signed by the attestation key");
    // A bound key that is none.
    let no_point = |case: &mut Case| {
        case.quote.auth.attestation_key = [0xff; 64];
        case.bind();
        case.sign_qe_report();
    };
    case_refused(no_point, check, "no point of P-256");
}

#[test]
fn the_tdx_module_must_be_one_that_intel_knows() {
    let check = "tdx.module";
    spec_refused(|spec| spec.report().tee_tcb_svn[1] = 2, check, "no TDX module of version 2");
    spec_refused(|spec| spec.report().tee_tcb_svn[0] = 1, check, "SVN 1, below every level");
    spec_refused(|spec| spec.report().mr_signer_seam[0] = 1, check, "MRSIGNERSEAM");
    spec_refused(|spec| spec.report().seam_attributes = 1, check, "SEAMATTRIBUTES");
    let first_version = |spec: &mut Spec| {
        spec.report().tee_tcb_svn[1] = 0;
        spec.report().mr_signer_seam[47] = 1;
    };
    spec_refused(first_version, check, "MRSIGNERSEAM");
    let mut spec = Spec::good();
    spec.report().tee_tcb_svn[1] = 0;
    assert_eq!(accepted(&spec.build()).tcb.unwrap().module_status, None);
}

#[test]
fn domains_that_the_host_may_read_or_profile_are_refused() {
    let check = "tdx.attributes";
    spec_refused(|spec| spec.report().td_attributes |= 1, check, "DEBUG");
    for bit in 1..8 {
        spec_refused(|spec| spec.report().td_attributes |= 1 << bit, check, "profiles");
    }
    spec_refused(|spec| spec.report().td_attributes = 0, check, "SEPT_VE_DISABLE");
    spec_refused(|spec| spec.report().td_attributes |= 1 << 29, check, "MIGRATABLE");
    spec_refused(|spec| spec.report().td_attributes |= 1 << 63, check, "PERFMON");
    for bit in (8..27).chain(32..63) {
        spec_refused(|spec| spec.report().td_attributes |= 1 << bit, check, "not known");
    }
}

#[test]
fn attributes_that_a_policy_allows_are_accepted() {
    let allow = |change: fn(&mut TdxPolicy), attributes: u64| {
        let mut spec = Spec::good();
        change(&mut spec.policy);
        spec.report().td_attributes = attributes;
        accepted(&spec.build())
    };
    let sept = 1 << 28;
    assert!(allow(|policy| policy.allow_migratable = true, sept | 1 << 29).migratable);
    assert!(allow(|policy| policy.allow_perfmon = true, sept | 1 << 63).perfmon);
    assert!(!allow(|policy| policy.danger_allow_sept_ve = true, 0).sept_ve_disable);
    let debug = allow(|policy| policy.danger_allow_debug = true, sept | 1);
    assert!(debug.debug && debug.warnings.iter().any(|warning| warning.contains("the host may read")));
    allow(|_| {}, sept | 1 << 27 | 1 << 30 | 1 << 31);
}

#[test]
fn extended_features_are_within_what_tdx_and_the_policy_allow() {
    let check = "tdx.xfam";
    spec_refused(|spec| spec.report().xfam = 0x6_02e6, check, "lacks the bits 0x1");
    spec_refused(|spec| spec.report().xfam = 0, check, "lacks the bits 0x3");
    spec_refused(|spec| spec.report().xfam |= 1 << 19, check, "does not give to domains");
    // Processor trace and last branch records.
    spec_refused(|spec| spec.report().xfam |= 1 << 8, check, "the policy does not allow");
    spec_refused(|spec| spec.report().xfam |= 1 << 15, check, "the policy does not allow");
    spec_refused(|spec| spec.policy.xfam_allowed = 0x2e7, check, "bits 0x60000, which the policy does not allow");
}

#[test]
fn the_initial_measurement_is_an_expected_one() {
    expectation_refused(&Expectation { mrtd: &[[1; 48], [2; 48]], ..expectation() }, "tdx.mrtd", "none of the 2 expected");
    expectation_refused(&Expectation { mrtd: &[], ..expectation() }, "tdx.mrtd", "none of the 0 expected");
}

#[test]
fn run_time_measurements_by_value_are_expected_ones() {
    for register in 0..4 {
        let mut rtmrs = expectation().rtmrs;
        rtmrs[register] = Rtmr::OneOf(&[MRTD]);
        let words = format!("RTMR{register} is");
        expectation_refused(&Expectation { rtmrs, ..expectation() }, "tdx.rtmr", &words);
        rtmrs[register] = Rtmr::OneOf(&[]);
        expectation_refused(&Expectation { rtmrs, ..expectation() }, "tdx.rtmr", &words);
    }
}

#[test]
fn a_register_of_which_nothing_is_asked_is_warned_of() {
    let mut rtmrs = expectation().rtmrs;
    rtmrs[3] = Rtmr::DangerAny;
    let result = Case::good().appraise_with(&Expectation { rtmrs, ..expectation() });
    assert!(result.verified().is_some());
    assert!(result.claims().unwrap().warnings.iter().any(|warning| warning.starts_with("RTMR3 was not judged")));
}

#[test]
fn what_the_creator_of_the_domain_gave_is_what_is_expected() {
    let check = "tdx.config-id";
    expectation_refused(&Expectation { config_id: [1; 48], ..expectation() }, check, "MRCONFIGID: expected 0101");
    expectation_refused(&Expectation { owner: [1; 48], ..expectation() }, check, "MROWNER: expected 0101");
    expectation_refused(&Expectation { owner_config: [1; 48], ..expectation() }, check, "MROWNERCONFIG: expected 0101");
    expectation_refused(&Expectation { service_td: [1; 48], ..expectation() }, check, "MRSERVICETD: expected 0101");
    spec_refused(|spec| spec.report().td15.as_mut().unwrap().mr_service_td[0] = 1, check, "MRSERVICETD");
    // Without the field, no service domain can be vouched for.
    let wanted = Expectation { service_td: [1; 48], ..expectation() };
    refused(&Case::good().appraise_with(&wanted), check, "MRSERVICETD");
    assert_eq!(config_id(&[5; 32])[..], [[5; 32].as_slice(), &[0; 16]].concat());
    assert_ne!(config_id(&[0x3c; 32]), CONFIG);
}

#[test]
fn report_data_is_the_expected_one() {
    let mut other = expectation().report_data;
    other[63] ^= 1;
    expectation_refused(&Expectation { report_data: other, ..expectation() }, "tdx.report-data", "REPORTDATA: expected");
}

#[test]
fn a_policy_file_says_everything_but_the_dangers_and_nothing_else() {
    let strict = serde_json::to_value(TdxPolicy::strict()).unwrap();
    for (name, value) in strict.as_object().unwrap() {
        let mut without = strict.clone();
        without.as_object_mut().unwrap().remove(name);
        let read = serde_json::from_value::<TdxPolicy>(without);
        if name.starts_with("danger_") {
            assert_eq!(read.unwrap(), TdxPolicy::strict(), "{name}: {value}");
        } else {
            assert!(read.is_err(), "{name}");
        }
    }
    let with = |name: &str, value: serde_json::Value| {
        let mut policy = strict.clone();
        policy[name] = value;
        serde_json::from_value::<TdxPolicy>(policy)
    };
    assert!(with("more", true.into()).is_err());
    assert!(with("danger_simulated_roots", serde_json::json!(["00"])).is_err());
    assert_eq!(
        with("danger_simulated_roots", serde_json::json!(["0a".repeat(32)])).unwrap().danger_simulated_roots[0].0,
        [10; 32]
    );
    assert!(with("accepted_tcb", serde_json::json!(["Fine"])).is_err());
    let statuses = with("accepted_tcb", serde_json::json!(["UpToDate", "SWHardeningNeeded"])).unwrap().accepted_tcb;
    assert_eq!(statuses, [TcbStatus::UpToDate, TcbStatus::SwHardeningNeeded]);
    let none = Spec { policy: TdxPolicy { accepted_tcb: vec![], ..Spec::good().policy }, ..Spec::good() };
    refused(&none.build().appraise(), "tdx.tcb-status", "accepted are: ");
}

fn digest(data: &[u8]) -> Sha384Digest {
    Sha384::digest(data).into()
}

fn log(events: &[(u32, &[u8])]) -> Vec<u8> {
    let event = |(register, data): &(u32, &[u8])| Event {
        pcr: *register,
        kind: EventType::IPL,
        digests: BTreeMap::from([(alg_id::SHA384, digest(data).to_vec())]),
        data: data.to_vec(),
    };
    let mut log = EventLog::sha256();
    let LogFormat::CryptoAgile(spec) = &mut log.format else { unreachable!("sha256() is crypto-agile") };
    spec.banks = vec![Bank { alg: alg_id::SHA384, digest_size: 48 }];
    log.events = events.iter().map(event).collect();
    log.encode()
}

/// A domain that measured firmware, a kernel and an application, and how it is expected to.
fn measured() -> (Case, Vec<u8>) {
    let log = log(&[(1, b"firmware"), (2, b"loader"), (2, b"kernel"), (4, b"application")]);
    let mut spec = Spec::good();
    spec.report().rtmr = CcelLog::parse(&log).unwrap().replay();
    (spec.build(), log)
}

#[test]
fn run_time_measurements_by_events_are_judged_by_a_log_that_replays() {
    let (firmware, loader, kernel, application) =
        (digest(b"firmware"), digest(b"loader"), digest(b"kernel"), digest(b"application"));
    let (kernels, loaders, firmwares, applications) = ([kernel], [loader], [firmware], [application]);
    let swapped = [kernel, loader];
    let rule = |required, allowed| Rtmr::Events { required, allowed };
    let rtmrs = [rule(&firmwares, &[]), rule(&kernels, &loaders), rule(&[], &[]), rule(&[], &applications)];
    let good = Expectation { rtmrs, ..expectation() };
    let (mut case, log_bytes) = measured();
    refused(&case.appraise_with(&good), "tdx.rtmr", "no event log");
    case.event_log = Some(log_bytes);
    assert!(case.appraise_with(&good).verified().is_some());

    let with = |register: usize, rule| {
        let mut rtmrs = rtmrs;
        rtmrs[register] = rule;
        Expectation { rtmrs, ..good }
    };
    refused(&case.appraise_with(&with(1, rule(&kernels, &[]))), "tdx.rtmr", "event 0 of RTMR1");
    refused(&case.appraise_with(&with(1, rule(&swapped, &[]))), "tdx.rtmr", "event 0 of RTMR1");
    refused(&case.appraise_with(&with(1, rule(&swapped, &loaders))), "tdx.rtmr", "RTMR1 lacks");
    refused(&case.appraise_with(&with(2, rule(&kernels, &[]))), "tdx.rtmr", "RTMR2 lacks");
    refused(&case.appraise_with(&with(3, rule(&[], &[]))), "tdx.rtmr", "event 0 of RTMR3");
}

#[test]
fn a_log_that_does_not_match_is_refused_also_where_values_are_judged() {
    let with = |event_log: Vec<u8>| {
        let mut case = Case::good();
        case.event_log = Some(event_log);
        refused(&case.appraise(), "tdx.rtmr", "event log");
    };
    with(log(&[]));
    with(log(&[(1, b"other")]));
    with(vec![1, 2, 3]);
    assert_eq!(CcelLog::parse(&log(&[])).unwrap().replay(), [[0; 48]; 4]);
    assert_ne!(RTMRS[0], [0; 48]);
}
