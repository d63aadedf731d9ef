//! Quotes and event logs of real machines.

use std::{sync::Arc, thread};

use casemate_evidence::tdx::{Body, Quote, TdReport, ccel::CcelLog};
use casemate_verifier::{
    Appraised, UnixTime,
    tdx::{
        Collateral, Endorsements, Expectation, Rtmr, TcbStatus, TdxClaims, TdxPolicy, VerifiedCollateral, VerifiedPlatform,
        VerifiedTdx, appraise_tdx,
    },
};
use proptest::prelude::*;
use serde_json::Value;

use crate::{
    tdx_checks::refused,
    tdx_world::{Case, Spec},
    vectors,
};

/// 2025-06-20, in the validity of all collateral.
const AT: UnixTime = UnixTime(1_750_420_800);
const DAY: u64 = 86_400;

fn vector(name: &str) -> Vec<u8> {
    vectors::read(&format!("tdx/{name}"))
}

/// A real machine's quote, expected to be exactly what it is.
struct Real {
    quote: Vec<u8>,
    report: TdReport,
    collateral: Vec<u8>,
    policy: TdxPolicy,
    kept: Option<(Arc<VerifiedCollateral>, Arc<VerifiedPlatform>)>,
}

impl Real {
    fn new() -> Self {
        let (quote, collateral) = (vector("v4-uptodate.quote.bin"), vector("v4-uptodate.collateral.json"));
        let report = report(&quote);
        Self { quote, report, collateral, policy: TdxPolicy::strict(), kept: None }
    }

    fn keep(mut self) -> Self {
        let result = self.appraise(&self.quote, AT);
        let verified = result.verified().unwrap();
        self.kept = Some((Arc::clone(verified.collateral()), Arc::clone(verified.platform())));
        self
    }

    fn appraise(&self, quote: &[u8], now: UnixTime) -> Appraised<VerifiedTdx, TdxClaims> {
        let (collateral, platform) = match &self.kept {
            Some((collateral, platform)) => (Collateral::Verified(collateral), Some(platform)),
            None => (Collateral::Json(&self.collateral), None),
        };
        appraise(quote, &self.report, Endorsements { collateral, platform }, &self.policy, now)
    }

    fn with_collateral(&self, change: impl FnOnce(&mut Value)) -> Appraised<VerifiedTdx, TdxClaims> {
        let mut collateral: Value = serde_json::from_slice(&self.collateral).unwrap();
        change(&mut collateral);
        let json = collateral.to_string();
        let endorsements = Endorsements { collateral: Collateral::Json(json.as_bytes()), platform: None };
        appraise(&self.quote, &self.report, endorsements, &self.policy, AT)
    }
}

fn report(quote: &[u8]) -> TdReport {
    match Quote::decode(quote).unwrap().body {
        Body::TrustDomain(report) => *report,
        Body::Enclave(_) => panic!("the vector is of a trust domain"),
    }
}

/// Expects the values of `report`.
fn appraise(
    quote: &[u8],
    report: &TdReport,
    endorsements: Endorsements<'_>,
    policy: &TdxPolicy,
    now: UnixTime,
) -> Appraised<VerifiedTdx, TdxClaims> {
    let expectation = Expectation {
        mrtd: &[report.mr_td],
        rtmrs: report.rtmr.each_ref().map(|value| Rtmr::OneOf(std::slice::from_ref(value))),
        config_id: report.mr_config_id,
        owner: report.mr_owner,
        owner_config: report.mr_owner_config,
        service_td: report.td15.as_ref().map_or([0; 48], |td15| td15.mr_service_td),
        report_data: report.report_data,
    };
    appraise_tdx(quote, None, &endorsements, policy, &expectation, now)
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_real_machines_quote_is_up_to_date_without_advisories_at_the_time_of_its_collateral() {
    let real = Real::new();
    let result = real.appraise(&real.quote, AT);
    let verified = result.verified().unwrap_or_else(|| panic!("{:?}", result.failed()));
    assert!(!verified.is_simulated());
    let claims = result.claims().unwrap();
    let (tcb, platform) = (claims.tcb.as_ref().unwrap(), claims.platform.as_ref().unwrap());
    assert_eq!((tcb.status, tcb.advisories.len()), (TcbStatus::UpToDate, 0));
    assert_eq!((tcb.module_status, tcb.qe_status), (Some(TcbStatus::UpToDate), TcbStatus::UpToDate));
    assert_eq!((tcb.evaluation_data_number, tcb.date), (17, UnixTime(1_710_288_000)));
    assert_eq!((platform.fmspc.as_str(), platform.pce_id.as_str(), platform.pce_svn), ("b0c06f000000", "0000", 11));
    assert_eq!(platform.ppid, "811dca2a26b952e85bb6448b097ba4fd");
    assert_eq!(platform.platform_instance.as_deref(), Some("07828474603e7019dc930775ffe8cdd2"));
    assert_eq!((platform.sgx_type, platform.smt_enabled, platform.simulated), (1, Some(true), false));
    assert_eq!((claims.module.as_str(), claims.module_svn, claims.quote_version), ("TDX_01", 6, 4));
    assert!(claims.warnings.is_empty());
    assert_eq!(Quote::decode(&real.quote).unwrap().encode(), real.quote);
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn collateral_outside_its_dates_is_refused() {
    let real = Real::new();
    // From 2025-06-19T10:32:27Z, when the youngest part begins, to 2025-07-19T10:00:35Z, when the PCK revocation list ends.
    assert!(real.appraise(&real.quote, UnixTime(1_750_329_147)).verified().is_some());
    refused(&real.appraise(&real.quote, UnixTime(1_750_329_146)), "tdx.qe-identity", "is valid from 2025-06-19T10:32:27Z");
    refused(&real.appraise(&real.quote, UnixTime(1_750_328_162)), "tdx.tcb-info", "is valid from 2025-06-19T10:16:03Z");
    refused(&real.appraise(&real.quote, UnixTime(AT.0 - 2 * DAY)), "tdx.revocation", "valid from 2025-06-19T10:00:35Z");
    assert!(real.appraise(&real.quote, UnixTime(1_752_919_235)).verified().is_some());
    refused(&real.appraise(&real.quote, UnixTime(1_752_919_236)), "tdx.revocation", "to 2025-07-19T10:00:35Z");
    refused(&real.appraise(&real.quote, UnixTime(1_600_000_000)), "tdx.pck-chain", "is valid from 2025-02-06");
    let real = real.keep();
    let kept = &real.kept.as_ref().unwrap().0;
    assert_eq!(kept.valid_until(), UnixTime(1_752_919_235));
    refused(&real.appraise(&real.quote, UnixTime(1_752_919_236)), "tdx.collateral", "to 2025-07-19T10:00:35Z");
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn an_enclaves_quote_is_refused_as_the_wrong_kind() {
    let (quote, json, real) = (vector("sgx-v3.quote.bin"), vector("sgx-v3.collateral.json"), Real::new());
    let endorsements = Endorsements { collateral: Collateral::Json(&json), platform: None };
    refused(&appraise(&quote, &real.report, endorsements, &TdxPolicy::strict(), AT), "tdx.kind", "SGX enclave");
    assert_eq!(Quote::decode(&quote).unwrap().encode(), quote);
    // Collateral of enclaves is none of trust domains.
    let result = appraise(&real.quote, &real.report, endorsements, &TdxPolicy::strict(), AT);
    refused(&result, "tdx.revocation", "does not consist of the PCK CA");
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_debuggable_domain_is_refused() {
    let (quote, real) = (vector("v4-debug-td.quote.bin"), Real::new());
    let report = report(&quote);
    let endorsements = Endorsements { collateral: Collateral::Json(&real.collateral), platform: None };
    let result = appraise(&quote, &report, endorsements, &TdxPolicy::strict(), AT);
    // It is of another processor, for which there is no collateral.
    refused(&result, "tdx.tcb-info", "for FMSPC b0c06f000000, the processor has");
    assert!(result.claims().unwrap().debug);
    // The same body on a processor for which there is.
    let mut spec = Spec::good();
    for level in spec.tcb_info["tcbLevels"].as_array_mut().unwrap() {
        level["tcb"]["tdxtcbcomponents"][0]["svn"] = 3.into();
    }
    *spec.report() = report;
    refused(&spec.build().appraise(), "tdx.attributes", "0x0000000010000001 have DEBUG");
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_quote_of_version_5_decodes_and_without_collateral_is_refused_for_that() {
    let quote = vector("v5.quote.bin");
    let report = report(&quote);
    assert!(report.td15.is_some());
    let endorsements = Endorsements { collateral: Collateral::Missing, platform: None };
    let result = appraise(&quote, &report, endorsements, &TdxPolicy::strict(), AT);
    refused(&result, "tdx.collateral", "TCB info");
    assert_eq!(result.claims().unwrap().quote_version, 5);
    assert_eq!(Quote::decode(&quote).unwrap().encode(), quote);
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn every_byte_of_a_real_quote_counts() {
    let real = Real::new();
    let real = real.keep();
    let half = real.quote.len() / 2;
    let harmless = thread::scope(|scope| {
        let first = scope.spawn(|| flips(&real, 0..half));
        let mut second = flips(&real, half..real.quote.len());
        let mut all = first.join().unwrap();
        all.append(&mut second);
        all
    });
    assert!(harmless.is_empty(), "{harmless:?}");
}

/// Changes each byte; gives those that change nothing. Each refusal is by the check that covers the byte.
fn flips(real: &Real, range: std::ops::Range<usize>) -> Vec<usize> {
    let mut harmless = Vec::new();
    for at in range {
        let mut bytes = real.quote.clone();
        bytes[at] ^= 1 << (at % 8);
        let result = real.appraise(&bytes, AT);
        let Some(failed) = result.failed() else {
            harmless.push(at);
            continue;
        };
        assert!(result.verified().is_none());
        let expected: &[&str] = match at {
            // Version, key type, TEE type.
            0..8 => &["tdx.format", "tdx.kind"],
            12..28 => &["tdx.qe-report"],
            8..632 => &["tdx.signature"],
            // Size of the signature data.
            632..636 => &["tdx.format"],
            636..700 => &["tdx.signature"],
            // Attestation key.
            700..764 => &["tdx.qe-report"],
            764..770 => &["tdx.format"],
            // The quoting enclave's report and its signature.
            770..1218 => &["tdx.qe-report"],
            // Size of its data.
            1218..1220 => &["tdx.format"],
            1220..1252 => &["tdx.qe-report"],
            1252..1258 => &["tdx.format"],
            // Certificates; padding.
            1258..4936 => &["tdx.pck-chain"],
            _ => &["tdx.format"],
        };
        assert!(expected.contains(&failed.name.as_str()), "byte {at}: {failed:?}");
    }
    harmless
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn every_signed_part_of_real_collateral_counts() {
    let real = Real::new();
    let replaced = |name: &'static str, from: &'static str, to: &'static str| {
        real.with_collateral(|collateral| {
            let text = collateral[name].as_str().unwrap();
            assert!(text.contains(from), "{name}: {from}");
            collateral[name] = text.replacen(from, to, 1).into();
        })
    };
    let changes = [
        ("tcb_info", "\"nextUpdate\":\"2025-07-19", "\"nextUpdate\":\"2026-07-19", "tdx.tcb-info"),
        ("tcb_info", "\"issueDate\":\"2025-06-19", "\"issueDate\":\"2024-06-19", "tdx.tcb-info"),
        ("tcb_info", "\"tcbEvaluationDataNumber\":17", "\"tcbEvaluationDataNumber\":18", "tdx.tcb-info"),
        ("tcb_info", "\"fmspc\":\"B0C0", "\"fmspc\":\"B0c0", "tdx.tcb-info"),
        ("tcb_info", "\"OutOfDate\"", "\"UpToDate\"", "tdx.tcb-info"),
        ("tcb_info", "{\"isvsvn\":4}", "{\"isvsvn\":3}", "tdx.tcb-info"),
        ("tcb_info", "{\"svn\":2", "{\"svn\":1", "tdx.tcb-info"),
        ("tcb_info", "{\"id\"", "{ \"id\"", "tdx.tcb-info"),
        ("tcb_info_signature", "02", "03", "tdx.tcb-info"),
        ("qe_identity", "\"nextUpdate\":\"2025-07-19", "\"nextUpdate\":\"2026-07-19", "tdx.qe-identity"),
        ("qe_identity", "\"isvprodid\":2", "\"isvprodid\":1", "tdx.qe-identity"),
        ("qe_identity", "\"mrsigner\":\"DC", "\"mrsigner\":\"DD", "tdx.qe-identity"),
        ("qe_identity", "{\"isvsvn\":4}", "{\"isvsvn\":5}", "tdx.qe-identity"),
        ("qe_identity_signature", "d6", "d7", "tdx.qe-identity"),
    ];
    for (name, from, to, check) in changes {
        refused(&replaced(name, from, to), check, "");
    }
    for name in ["root_ca_crl", "pck_crl"] {
        let len = real.with_collateral_len(name);
        for at in (0..len).step_by(len / 60) {
            let flip = |collateral: &mut Value| {
                let mut bytes = hex::decode(collateral[name].as_str().unwrap()).unwrap();
                bytes[at] ^= 1;
                collateral[name] = hex::encode(bytes).into();
            };
            refused(&real.with_collateral(flip), "tdx.revocation", "");
        }
    }
    for (name, check) in [("tcb_info_issuer_chain", "tdx.tcb-info"), ("qe_identity_issuer_chain", "tdx.qe-identity")] {
        let swapped = |collateral: &mut Value| collateral[name] = collateral["pck_crl_issuer_chain"].clone();
        refused(&real.with_collateral(swapped), check, "expected is \"Intel SGX TCB Signing\"");
    }
}

impl Real {
    fn with_collateral_len(&self, name: &str) -> usize {
        let collateral: Value = serde_json::from_slice(&self.collateral).unwrap();
        collateral[name].as_str().unwrap().len() / 2
    }
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn real_event_logs_replay_to_the_values_that_others_compute() {
    let expected = [
        (
            "ovmf",
            [
                "8566f998798db09443b244c62de9a3041fb02e2e6936c4396d784bba2e90177329ec5aba3bb484404f2ab9cc90abe193",
                "775b9f6bfe99f8a31396f0d0218e67ffa796d3b96ccf961cbb0deba48c79c00f082cda1a5567c1c16305f1fc210c13c6",
                "94eaf7a7bf398ed8d888c91057ae0261802e4f3df084213a76ca7f0b5055ac9d2241de43cd58d9e8b49c503bbf25f34a",
            ],
        ),
        (
            "grub",
            [
                "cec0a104f691f60da2387fea3c2de00c4ac035e2bb479ff02edcce69039d9e9907f0b3e55031da3dc7038f423adebd79",
                "6c289e0c62182d41ebe97bdbc9872d10998a08eaa86adcdc684001a363207ee72942c7522cdf00a4bbc3d784bed7b670",
                "08919d017ba0e52cd6d966351c7de16fe76c1d3d3d3da4554239e4c7d16cb8b82a94e7eaea3a0e6e18eb690b999fd31e",
            ],
        ),
    ];
    for (name, registers) in expected {
        let bytes = vector(&format!("{name}.ccel.bin"));
        let log = CcelLog::parse(&bytes).unwrap();
        let replay = log.replay();
        assert_eq!(replay.map(hex::encode)[..3], registers, "{name}");
        assert_eq!(replay[3], [0; 48]);
        judged_by(&bytes, &log);
    }
}

/// A domain of which all four registers are judged by a real log, with one event taken away, put in, or exchanged.
fn judged_by(bytes: &[u8], log: &CcelLog) {
    let mut spec = Spec::good();
    spec.report().rtmr = log.replay();
    let mut case: Case = spec.build();
    case.event_log = Some(bytes.to_vec());
    let digests: [Vec<_>; 4] = std::array::from_fn(|register| log.digests(register).copied().collect());
    let rtmrs = digests.each_ref().map(|required| Rtmr::Events { required, allowed: &[] });
    let expectation = Expectation { rtmrs, ..crate::tdx_world::expectation() };
    assert!(case.appraise_with(&expectation).verified().is_some());
    let event = digests[1].last().unwrap();
    let at = bytes.windows(48).rposition(|window| window == event).unwrap();
    let changed = case.event_log.as_mut().unwrap();
    changed[at] ^= 1;
    refused(&case.appraise_with(&expectation), "tdx.rtmr", "does not replay to RTMR1");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_bytes_as_quote_log_certificates_or_collateral_are_refused_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 1..300), at in any::<prop::sample::Index>(),
    ) {
        let mut case = Case::good();
        let good = case.quote.encode();
        case.bytes = Some(bytes.clone());
        prop_assert!(case.appraise().verified().is_none());
        // Spliced into what is good, so that decoders get far.
        let at = at.index(good.len());
        let mut spliced = good.clone();
        spliced.splice(at..(at + bytes.len() / 8).min(good.len()), bytes.iter().copied());
        case.bytes = Some(spliced);
        prop_assert!(case.appraise().verified().is_none());
        case.bytes = None;
        case.event_log = Some(bytes.clone());
        prop_assert!(case.appraise().verified().is_none());
        case.event_log = None;
        for name in ["root_ca_crl", "tcb_info", "qe_identity_issuer_chain"] {
            let kept = case.collateral[name].clone();
            case.collateral[name] = hex::encode(&bytes).into();
            prop_assert!(case.appraise().verified().is_none());
            case.collateral[name] = kept;
        }
        case.quote.auth.pck_chain = bytes;
        prop_assert!(case.appraise().verified().is_none());
    }
}
