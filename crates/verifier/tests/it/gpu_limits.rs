//! GPUs: each limit lets through exactly what it says, and what a verdict says of a device is the device's.

use casemate_evidence::nvidia::{Field, MAX_DEVICES};
use casemate_verifier::{
    UnixTime,
    gpu::{Fingerprint, GpuMode, MAX_SOURCES, VerifiedChain, VerifiedManifest, chain_from_pem},
};
use rcgen::{OtherNameValue, SanType};
use sha2::{Digest as _, Sha256};

use crate::{
    gpu_world::{C14N11, Case, DRIVER, Device, Ocsp, Rim, device_chain, enveloped, good_answers, issue, keys, manifest_chain},
    world::{HOUR, NOW},
};

fn refused(case: &Case, check: &str, detail: &str) {
    let (name, seen) = case.refusal();
    assert_eq!(name, check, "{seen}");
    assert!(seen.contains(detail), "{seen}");
}

#[test]
fn as_many_devices_as_the_limit_are_looked_at() {
    let mut case = Case::lean();
    case.evidence[0].chain.clear();
    case.evidence = vec![case.evidence[0].clone(); MAX_DEVICES];
    refused(&case, "gpu.chain", "fewer than the 3");
}

#[test]
fn as_much_about_revocation_as_the_limits_say_is_looked_at() {
    let malformed = "not well-formed";
    let with = |ocsp: Vec<Vec<u8>>, crls: Vec<Vec<u8>>| Case { ocsp, crls, ..Case::lean() };
    refused(&with(vec![vec![]; MAX_SOURCES], vec![]), "gpu.revocation", malformed);
    refused(&with(vec![vec![0; 64 << 10]], vec![]), "gpu.revocation", malformed);
    refused(&with(vec![], vec![vec![0; 1 << 20]]), "gpu.revocation", malformed);
    refused(&with(vec![], vec![vec![0; (1 << 20) + 1]]), "gpu.revocation", "more than the limit of 1048576");
}

#[test]
fn an_answer_is_for_the_issuers_name_and_its_key() {
    let with = |change: fn(&mut Ocsp)| {
        let mut answers = good_answers();
        change(&mut answers[0]);
        Case { ocsp: answers.iter().map(Ocsp::der).collect(), ..Case::lean() }
    };
    let other = "neither an OCSP response";
    // A namesake of the issuer, and somebody else with its key.
    refused(&with(|answer| answer.issuer.key = &keys().root), "gpu.revocation", other);
    refused(&with(|answer| answer.issuer.params = device_chain(0, "GH100").remove(3).params), "gpu.revocation", other);
}

#[test]
fn a_text_of_certificates_may_be_as_long_as_the_limit() {
    let mut text = crate::world::authority("A", None).self_signed(&keys().root).unwrap().pem();
    text.push_str(&"\n".repeat((64 << 10) - text.len()));
    assert_eq!(chain_from_pem(&text).unwrap().len(), 1);
    text.push('\n');
    assert!(chain_from_pem(&text).is_err());
}

#[test]
fn the_leafs_name_for_the_device_is_short_plain_text() {
    let named = |serial: &str| {
        let info = OtherNameValue::Utf8String(format!("NVIDIA:GH100:{serial}"));
        let mut case = Case::lean();
        let mut chain = device_chain(0, "GH100");
        chain[0].params.subject_alt_names = vec![SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 412, 274, 1], info))];
        case.evidence[0].chain = issue(&chain);
        VerifiedChain::verify(&case.evidence[0].chain, &case.revocation(), &case.policy, case.now)
            .map(|chain| chain.serial().unwrap().len())
            .map_err(|error| error.to_string())
    };
    let longest = 128 - "NVIDIA:GH100:".len();
    assert_eq!(named(&"0".repeat(longest)), Ok(longest));
    for serial in ["0".repeat(longest + 1), "48B02D\u{e9}".to_owned()] {
        assert!(named(&serial).unwrap_err().contains("is not well-formed"), "{serial}");
    }
}

#[test]
fn a_kept_chain_is_used_from_its_first_to_its_last_second_and_for_itself_only() {
    let mut case = Case::good();
    let chain = &case.evidence[0].chain;
    case.chains = vec![VerifiedChain::verify(chain, &case.revocation(), &case.policy, case.now).unwrap()];
    for edge in [NOW.0 - HOUR.unsigned_abs(), NOW.0 + HOUR.unsigned_abs()] {
        case.now = UnixTime(edge);
        assert_eq!(case.appraise().failed(), None, "{edge}");
    }
    // Its revocation was looked at before: all that is asked for now is about the manifests.
    case.now = NOW;
    case.ocsp.drain(..5);
    assert_eq!(case.appraise().failed(), None);
    let other = Case { evidence: vec![Device::gpu(1).evidence()], ..case };
    refused(&other, "gpu.revocation", "neither an OCSP response");
}

#[test]
fn what_a_device_says_of_itself_is_in_its_claims() {
    let appraised = Case::with(|gpu| gpu.set(Field::BOARD_ID, &[0xb0, 0x0a])).appraise();
    assert_eq!(appraised.failed(), None);
    let claims = &appraised.claims().unwrap()[0];
    let said = [&claims.project, &claims.project_sku, &claims.chip_sku, &claims.board_id].map(|said| said.as_deref().unwrap());
    assert_eq!(said, ["1010", "0210", "886", "b00a"]);
    assert_eq!(claims.nonce, hex::encode(Device::gpu(0).request.nonce));
    let root = Fingerprint(Sha256::digest(issue(&device_chain(0, "GH100")).last().unwrap()).into());
    assert_eq!((claims.root.clone(), root.to_string()), (hex::encode(root.0), hex::encode(root.0)));
}

#[test]
fn the_status_of_protected_pcie_alone_says_the_mode() {
    let mut gpu = Device::gpu(0);
    gpu.opaque.retain(|(field, _)| *field != Field::FEATURE_FLAG);
    gpu.set(Field::PROTECTED_PCIE_STATUS, &[0xaa]);
    let mut case = Case::of(&[gpu]);
    case.policy.modes.insert(GpuMode::ProtectedPcie);
    let appraised = case.appraise();
    assert_eq!(appraised.failed(), None);
    assert_eq!(appraised.verified().unwrap().devices()[0].mode(), Some(GpuMode::ProtectedPcie));
    assert_eq!(appraised.claims().unwrap()[0].mode.as_deref(), Some("protected-pcie"));
}

#[test]
fn a_device_without_nvdec0_is_measured_in_all_else() {
    let changed = |at: usize| {
        Case::with(move |gpu| {
            gpu.set(Field::NVDEC0_STATUS, &[0x55]);
            gpu.blocks[at].1 = vec![0x66; 48];
        })
    };
    refused(&changed(0), "gpu.measurements", "measurement 0 (VBIOS)");
    refused(&changed(36), "gpu.measurements", "measurement 36 (driver)");
    assert_eq!(changed(35).appraise().failed(), None);
}

#[test]
fn details_say_how_many_were_compared() {
    let detail = |case: &Case, name: &str| {
        let appraised = case.appraise();
        appraised.checks().iter().find(|check| check.name == name).unwrap().detail.clone()
    };
    let one = Case::good();
    assert_eq!(detail(&one, "gpu.measurements"), "28 measurements are reference values");
    assert_eq!(detail(&one, "gpu.nonce"), "it answers the expected nonce");
    let two = Case::of(&[Device::gpu(0), Device::gpu(1)]);
    assert_eq!(detail(&two, "gpu.nonce"), "2 devices; the first: it answers the expected nonce");
}

/// What [`VerifiedManifest::verify`] says, with its causes.
fn manifest(xml: &str) -> Result<VerifiedManifest, String> {
    let case = Case::lean();
    VerifiedManifest::verify(xml.as_bytes(), &case.revocation(), &case.policy, case.now).map_err(|error| {
        let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    })
}

#[test]
fn a_manifest_has_as_many_measurements_and_values_as_the_limits_say() {
    let with = |change: &dyn Fn(&mut Rim)| {
        let mut rim = Rim::new(DRIVER, "GH100", 20..40);
        change(&mut rim);
        manifest(&rim.xml()).map(|_| ())
    };
    let measurements = |len: u16| with(&|rim| rim.measurements = (0..len).map(|at| (at, true, vec![vec![1; 48]])).collect());
    assert_eq!(measurements(255), Ok(()));
    assert!(measurements(256).unwrap_err().contains("it has too many measurements"));
    let values = |len: usize| with(&|rim| rim.measurements[20].2 = vec![vec![1; 48]; len]);
    assert_eq!(values(64), Ok(()));
    for len in [0, 65] {
        assert!(values(len).unwrap_err().contains("the number of its alternatives"), "{len}");
    }
}

#[test]
fn a_value_of_no_bytes_is_refused() {
    let mut rim = Rim::new(DRIVER, "GH100", 20..40);
    rim.measurements.push((40, true, vec![vec![]]));
    let content = rim.content().replace("name=\"M_40\" size=\"48\"", "name=\"M_40\" size=\"0\"");
    let xml = enveloped(&content, &issue(&manifest_chain()), &keys().rim_signer, C14N11);
    assert!(manifest(&xml).unwrap_err().contains("measurement 40 of the manifest is not of the expected form: a value"));
}

#[test]
fn a_manifest_has_one_to_six_certificates() {
    let content = Rim::new(DRIVER, "GH100", 20..40).content();
    let with = |len: usize| {
        let chain = vec![issue(&manifest_chain()).remove(1); len];
        manifest(&enveloped(&content, &chain, &keys().rim_signer, C14N11)).unwrap_err()
    };
    let number = "there are no certificates, or too many";
    assert!(with(0).contains(number) && with(7).contains(number));
    // As many as are accepted; that these are no chain is found later.
    assert!(!with(6).contains(number), "{}", with(6));
}
