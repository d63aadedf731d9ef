//! Evidence of real GPUs, and a real manifest.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_evidence::nvidia::{DeviceEvidence, DeviceKind, Field, Report};
use casemate_verifier::{
    UnixTime,
    gpu::{
        DeviceCount, GpuEndorsements, GpuExpectation, GpuPolicy, Manifest, ManifestDocument, Revocation, VerifiedChain,
        VerifiedManifest, appraise_gpu, appraise_gpus, chain_from_pem,
    },
};
use serde_json::Value;

use crate::vectors;

/// 2025-06-01.
const NOW: UnixTime = UnixTime(1_748_736_000);

fn read(name: &str) -> Vec<u8> {
    vectors::read(&format!("nvidia/{name}"))
}

fn read_text(name: &str) -> String {
    String::from_utf8(read(name)).unwrap()
}

/// The vectors have no OCSP responses.
fn policy() -> GpuPolicy {
    GpuPolicy { danger_without_revocation: true, ..GpuPolicy::strict() }
}

fn report(name: &str) -> Vec<u8> {
    hex::decode(read_text(&format!("{name}.report.txt")).trim()).unwrap()
}

fn hopper(name: &str) -> DeviceEvidence {
    let chain = chain_from_pem(&read_text("hopper.chain.txt")).unwrap();
    DeviceEvidence { kind: DeviceKind::Gpu, report: report(name), chain }
}

fn nonce(evidence: &DeviceEvidence) -> [u8; 32] {
    Report::parse(&evidence.report).unwrap().request.nonce
}

/// The names of the checks that passed, and the one that failed with its detail.
fn outcome(evidence: &DeviceEvidence, nonce: &[u8; 32], endorsements: &GpuEndorsements<'_>) -> (usize, String, String) {
    let appraised = appraise_gpu(evidence, endorsements, &policy(), nonce, NOW);
    let failed = appraised.failed().unwrap();
    let passed = appraised.checks().iter().position(|check| check.name == failed.name).unwrap();
    (passed, failed.name.clone(), failed.detail.clone())
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_real_gpu_is_one_of_the_vendors_signed_its_report_and_answers_its_nonce() {
    let json: Value = serde_json::from_slice(&read("hopper-evidence.json")).unwrap();
    let field = |name: &str| json[0][name].as_str().unwrap().to_owned();
    let pem = String::from_utf8(STANDARD.decode(field("certificate")).unwrap()).unwrap();
    let evidence = DeviceEvidence {
        kind: DeviceKind::Gpu,
        report: STANDARD.decode(field("evidence")).unwrap(),
        chain: chain_from_pem(&pem).unwrap(),
    };
    assert_eq!(evidence.chain.len(), 5);
    let nonce: [u8; 32] = hex::decode(field("nonce")).unwrap().try_into().unwrap();
    // All that can be judged without its manifests, which are named.
    let expected = (5, "gpu.rim".to_owned(), "no manifest \"NV_GPU_DRIVER_GH100_590.12\" is given".to_owned());
    assert_eq!(outcome(&evidence, &nonce, &GpuEndorsements::default()), expected);
    let appraised = appraise_gpu(&evidence, &GpuEndorsements::default(), &policy(), &nonce, NOW);
    let claims = appraised.claims().unwrap();
    assert_eq!((claims.model.as_str(), claims.serial.as_deref()), ("GH100", Some("48B02DF44660DA06")));
    assert_eq!((claims.ueid.as_str(), claims.vbios_version.as_deref()), ("412921ce551e4eeda3", Some("96.00.A5.00.01")));
    assert_eq!((claims.mode.as_deref(), claims.pdis.len()), (Some("protected-pcie"), 4));
    assert_eq!((claims.refused.as_deref(), claims.simulated), (Some("gpu.rim"), false));
    assert!(claims.firmware_id.is_some());

    let other = outcome(&evidence, &[0; 32], &GpuEndorsements::default());
    assert_eq!((other.0, other.1.as_str()), (4, "gpu.nonce"));
    let strict = appraise_gpu(&evidence, &GpuEndorsements::default(), &GpuPolicy::strict(), &nonce, NOW);
    assert_eq!(strict.failed().unwrap().name, "gpu.revocation");
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_real_report_in_text_form_is_accepted_and_one_with_a_bad_signature_is_not() {
    let evidence = hopper("hopper");
    let seen = outcome(&evidence, &nonce(&evidence), &GpuEndorsements::default());
    assert_eq!(seen, (5, "gpu.rim".to_owned(), "no manifest \"NV_GPU_DRIVER_GH100_535.86.09\" is given".to_owned()));
    let evidence = hopper("hopper-bad-signature");
    let seen = outcome(&evidence, &nonce(&evidence), &GpuEndorsements::default());
    let detail = "the signature on the report is not that of the leaf's key".to_owned();
    assert_eq!(seen, (3, "gpu.signature".to_owned(), detail));
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_real_report_parses_to_every_value_of_the_published_parse() {
    let bytes = report("spdm-parsed");
    let parsed = Report::parse(&bytes).unwrap();
    let json: Value = serde_json::from_slice(&read("spdm-parsed.json")).unwrap();
    let hex_of = |value: &Value| hex::decode(value.as_str().unwrap().strip_prefix("0x").unwrap()).unwrap();
    let response = &parsed.response;
    assert_eq!((hex_of(&json["SPDMVersion"]), hex_of(&json["RequestResponseCode"])), (vec![0x11], vec![0x60]));
    assert_eq!((hex_of(&json["Param1"]), hex_of(&json["Param2"])), (vec![response.param1], vec![response.param2]));
    assert_eq!(json["NumberOfBlocks"], response.blocks.len());
    assert_eq!(json["MeasurementRecordLength"], response.blocks.iter().map(|block| 7 + block.value.len()).sum::<usize>());
    assert_eq!(json["OpaqueLength"], response.opaque.0.iter().map(|(_, value)| 4 + value.len()).sum::<usize>());
    assert_eq!(hex_of(&json["Nonce"]), response.nonce);
    assert_eq!(hex_of(&json["Signature"]), response.signature);
    let blocks = json["MeasurementRecord"]["MeasurementBlocks"].as_object().unwrap();
    assert_eq!(blocks.len(), response.blocks.len());
    for block in &response.blocks {
        let expected = &blocks[&block.index.to_string()];
        assert_eq!(expected["DMTFSpecMeasurementValueType"], block.value_type);
        assert_eq!(expected["DMTFSpecMeasurementValueSize"], block.value.len());
        assert_eq!(hex_of(&expected["DMTFSpecMeasurementValue"]), block.value, "{}", block.index);
    }
    let fields = json["OpaqueData"]["OpaqueDataField"].as_object().unwrap();
    let mut unlisted = Vec::new();
    for (field, value) in &response.opaque.0 {
        match fields.get(&format!("OPAQUE_FIELD_ID_{}", field.name().unwrap())) {
            Some(Value::Array(counts)) => assert_eq!(*counts, response.opaque.measurement_counts()),
            Some(expected) => assert_eq!(hex_of(expected), *value, "{field:?}"),
            None => unlisted.push(*field),
        }
    }
    // The published parse is of a program that does not know these two yet.
    assert_eq!(unlisted, [Field::DATA_VERSION, Field::FEATURE_FLAG]);
    assert_eq!(fields.len() + unlisted.len(), response.opaque.0.len());
    assert_eq!(parsed.encode(), bytes);
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_real_manifest_is_signed_by_the_vendor_until_its_signer_expires() {
    let xml = read("rim-driver-gh100-550.144.03.xml");
    let verify = |xml: &[u8], now| VerifiedManifest::verify(xml, &Revocation::default(), &policy(), now);
    let manifest = verify(&xml, NOW).unwrap();
    assert_eq!((manifest.version(), manifest.product()), ("550.144.03", "GH100"));
    let text = |error: &dyn std::error::Error| format!("{error}: {}", error.source().unwrap());
    // 2027-01-01.
    let expired = verify(&xml, UnixTime(1_798_761_600)).unwrap_err();
    assert_eq!(text(&expired), "verify who signed the manifest: verify the path to the pinned root");
    let changed = String::from_utf8(xml).unwrap().replacen("index=\"1\" active=\"False\"", "index=\"1\" active=\"True\"", 1);
    let changed = verify(changed.as_bytes(), NOW).unwrap_err();
    let expected = "verify the signature of the manifest: the digest of the document is not the one that was signed";
    assert_eq!(text(&changed), expected);
    let strict =
        VerifiedManifest::verify(&read("rim-driver-gh100-550.144.03.xml"), &Revocation::default(), &GpuPolicy::strict(), NOW);
    let missing = "the revocation of who signed the manifest: neither an OCSP response nor a revocation list is about \"CN=HCC RIM L4 Signer,";
    assert!(text(&strict.unwrap_err()).starts_with(missing));
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_real_manifest_under_another_id_is_not_taken_for_it() {
    let xml = read("rim-driver-gh100-550.144.03.xml");
    let manifest = |id| Manifest { id, document: ManifestDocument::Xml(&xml) };
    let manifests = [manifest("NV_GPU_DRIVER_GH100_535.86.09"), manifest("NV_GPU_VBIOS_1010_0200_882_96005E0001")];
    let evidence = hopper("hopper");
    let endorsements = GpuEndorsements { manifests: &manifests, ..GpuEndorsements::default() };
    let seen = outcome(&evidence, &nonce(&evidence), &endorsements);
    let detail = "the version of the manifest: expected 535.86.09, seen 550.144.03".to_owned();
    assert_eq!(seen, (6, "gpu.identity".to_owned(), detail));
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn every_flipped_byte_of_a_real_report_is_refused_and_none_is_uncovered() {
    let good = hopper("hopper");
    let nonce = nonce(&good);
    let chains = [VerifiedChain::verify(&good.chain, &Revocation::default(), &policy(), NOW).unwrap()];
    let endorsements = GpuEndorsements { chains: &chains, ..GpuEndorsements::default() };
    let mut by_signature = 0;
    for at in 0..good.report.len() {
        let mut evidence = good.clone();
        evidence.report[at] ^= 0x10;
        match outcome(&evidence, &nonce, &endorsements).1.as_str() {
            "gpu.signature" => by_signature += 1,
            // Versions, codes, lengths, indices: what makes it a report at all.
            "gpu.format" => {}
            other => panic!("byte {at}: {other}"),
        }
    }
    assert!(by_signature > 3400, "{by_signature}");
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_real_gpu_of_another_processors_evidence_is_refused() {
    let evidence = hopper("hopper");
    let one = DeviceCount { gpus: 1, switches: 0 };
    let expectation = GpuExpectation::for_cpu_evidence(b"another report", one, one);
    let appraised = appraise_gpus(&[evidence], &GpuEndorsements::default(), &policy(), &expectation, NOW);
    assert_eq!(appraised.failed().unwrap().name, "gpu.nonce");
}
