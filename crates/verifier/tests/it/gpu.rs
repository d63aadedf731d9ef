//! GPUs and switches: for each check, something in which only it fails.

use casemate_evidence::nvidia::{DeviceKind, Field, MAX_DEVICES};
use casemate_verifier::{
    UnixTime,
    gpu::{DeviceCount, GPU_CHECKS, GpuExpectation, GpuMode, GpuPolicy, VerifiedChain, chain_from_pem},
};
use proptest::prelude::*;
use rcgen::CustomExtension;

use crate::{
    gpu_world::{CPU_EVIDENCE, Case, DRIVER_ID, Device, FWID, Rim, VBIOS_ID, composite_device_id, device_chain, issue, keys},
    world::{HOUR, NOW, at, authority, critical},
};

fn refused(case: &Case, check: &str, detail: &str) {
    let (name, seen) = case.refusal();
    assert_eq!(name, check, "{seen}");
    assert!(seen.contains(detail), "{seen}");
}

#[test]
fn accepts_a_good_gpu_and_says_what_that_does_not_mean() {
    let appraised = Case::good().appraise();
    assert_eq!(appraised.failed(), None);
    assert_eq!(appraised.checks().len(), GPU_CHECKS.len());
    let gpu = &appraised.verified().unwrap().devices()[0];
    assert_eq!((gpu.kind(), gpu.model(), gpu.mode()), (DeviceKind::Gpu, "GH100", Some(GpuMode::MultiPassthrough)));
    assert_eq!((gpu.ueid(), gpu.driver_version()), ("20", Some("550.144.03")));
    assert!(gpu.warnings().iter().any(|warning| warning.contains("no TDISP")));
    assert!(gpu.warnings().iter().any(|warning| warning.contains("simulated")));
    let claims = &appraised.claims().unwrap()[0];
    assert!(claims.simulated);
    assert_eq!(claims.manifests, [DRIVER_ID, VBIOS_ID]);
    assert_eq!((claims.refused.as_deref(), claims.vbios_version.as_deref()), (None, Some("96.00.74.00.11")));
    let json = serde_json::to_string(claims).unwrap();
    assert_eq!(&serde_json::from_str::<casemate_verifier::gpu::GpuClaims>(&json).unwrap(), claims);
}

#[test]
fn format_refuses_what_was_not_asked_for_in_full() {
    refused(&Case::with(|gpu| gpu.request.param2 = 3), "gpu.format", "not asked for with all measurements");
    refused(&Case::with(|gpu| gpu.request.param1 = 0), "gpu.format", "not asked for with a signature");
    let mut none = Case::good();
    none.evidence.clear();
    refused(&none, "gpu.format", "evidence of 0 devices");
    let mut many = Case::good();
    many.evidence = vec![many.evidence[0].clone(); MAX_DEVICES + 1];
    refused(&many, "gpu.format", "evidence of 33 devices");
}

#[test]
fn chain_refuses_roots_that_are_not_pinned() {
    let mut case = Case::good();
    case.policy.danger_simulated_device_roots.clear();
    refused(&case, "gpu.chain", "which is no pinned root");
    // Under the root of manifests, which is pinned, but not for devices.
    let mut case = Case::good();
    case.policy.danger_simulated_device_roots.clone_from(&case.policy.danger_simulated_manifest_roots);
    refused(&case, "gpu.chain", "which is no pinned root");
}

#[test]
fn chain_refuses_what_is_not_a_path() {
    let mut shuffled = Case::good();
    shuffled.evidence[0].chain.swap(0, 1);
    refused(&shuffled, "gpu.chain", "but the next certificate is");
    let mut short = Case::good();
    short.evidence[0].chain.drain(1..3);
    refused(&short, "gpu.chain", "fewer than the 3");
    let mut long = Case::good();
    let again = long.evidence[0].chain[3].clone();
    long.evidence[0].chain.extend([again.clone(), again.clone(), again]);
    refused(&long, "gpu.chain", "7 certificates");
    refused(&Case::with(|gpu| gpu.chain[0].params.not_after = at(-1)), "gpu.chain", "the time is");
    refused(&Case::with(|gpu| gpu.chain[1].params.is_ca = rcgen::IsCa::ExplicitNoCa), "gpu.chain", "do not make it a CA");
    let unknown = |gpu: &mut Device| gpu.chain[0].params.custom_extensions.push(critical(&[1, 2, 3], vec![5, 0]));
    refused(&Case::with(unknown), "gpu.chain", "critical extension 1.2.3");
    let other = |gpu: &mut Device| gpu.chain[1].key = &keys().devices[1];
    refused(&Case::with(other), "gpu.chain", "is about another device");
}

#[test]
fn chain_refuses_names_that_contradict_each_other() {
    let renamed = |gpu: &mut Device| gpu.chain[1].params.distinguished_name = named("GB100 A01 GSP BROM");
    refused(&Case::with(renamed), "gpu.chain", "is for another device");
    let nameless = |gpu: &mut Device| gpu.chain[1].params.distinguished_name = named(" A01");
    refused(&Case::with(nameless), "gpu.chain", "has no common name");
}

fn named(name: &str) -> rcgen::DistinguishedName {
    crate::world::leaf(name).distinguished_name
}

#[test]
fn signature_refuses_another_key() {
    refused(&Case::with(|gpu| gpu.key = &keys().leaves[1]), "gpu.signature", "not that of the leaf's key");
    // Another genuine device's chain.
    let mut case = Case::good();
    case.evidence[0].chain = issue(&device_chain(1, "GH100"));
    refused(&case, "gpu.signature", "not that of the leaf's key");
}

#[test]
fn nonce_refuses_evidence_for_another_processors_report() {
    let mut case = Case::good();
    let count = case.expectation.claimed;
    case.expectation = GpuExpectation::for_cpu_evidence(b"a report of another processor", count, count);
    refused(&case, "gpu.nonce", "expected");
    assert_ne!(case.expectation.nonce, GpuExpectation::for_cpu_evidence(CPU_EVIDENCE, count, count).nonce);
    // The responder's nonce is not the one that counts.
    refused(&Case::with(|gpu| gpu.request.nonce = [0x5e; 32]), "gpu.nonce", "expected");
}

#[test]
fn identity_refuses_firmware_that_the_device_did_not_certify() {
    refused(&Case::with(|gpu| gpu.set(Field::FWID, &[1; 48])), "gpu.identity", "the digest of the firmware that signed");
    let uncertified = |gpu: &mut Device| gpu.chain[0].params.custom_extensions.clear();
    refused(&Case::with(uncertified), "gpu.identity", "the leaf certificate has no digest of it");
    // Devices with a driver from before reports named it are accepted, with a warning.
    let unnamed = Case::with(|gpu| gpu.opaque.retain(|(field, _)| *field != Field::FWID)).appraise();
    assert!(unnamed.verified().unwrap().devices()[0].warnings().iter().any(|warning| warning.contains("firmware")));
}

#[test]
fn identity_reads_both_forms_of_the_certified_digest_and_refuses_broken_ones() {
    let with = |extension: CustomExtension| Case::with(move |gpu| gpu.chain[0].params.custom_extensions = vec![extension]);
    refused(&with(composite_device_id(&keys().devices[0], &[7; 48])), "gpu.identity", "expected 0707");
    refused(&with(composite_device_id(&keys().devices[1], &FWID)), "gpu.chain", "is about another device");
    refused(&with(composite_device_id(&keys().devices[0], &[7; 32])), "gpu.chain", "has no SHA-384 digest");
    let fwid = crate::gpu_world::tlv(4, &FWID);
    let fwid = crate::gpu_world::tlv(0x30, &[&[6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2], &fwid[..]].concat());
    let info = crate::gpu_world::tlv(0x30, &crate::gpu_world::tlv(0xa6, &fwid));
    let tcb_info = with(CustomExtension::from_oid_content(&[2, 23, 133, 5, 4, 1, 1], info));
    assert!(tcb_info.appraise().verified().is_some());
}

#[test]
fn identity_refuses_manifests_that_are_for_something_else() {
    let driver = Rim::new("550.144.04", "GH100", 20..40);
    let detail = "the version of the manifest: expected 550.144.03, seen 550.144.04";
    refused(&Case::with_manifest(DRIVER_ID, driver, |_| {}), "gpu.identity", detail);
    let vbios = Rim::new("96.00.74.00.12", "GH100", 0..8);
    let detail = "the version of the manifest: expected 96.00.74.00.11, seen 96.00.74.00.12";
    refused(&Case::with_manifest(VBIOS_ID, vbios, |_| {}), "gpu.identity", detail);
    let product = Rim::new("550.144.03", "GB100", 20..40);
    refused(&Case::with_manifest(DRIVER_ID, product, |_| {}), "gpu.identity", "the product of the manifest");
    // The other way round: the driver's for both.
    let mut both = Case::good();
    let driver = both.manifests[0].1.clone();
    both.replace_manifest(VBIOS_ID, &driver);
    refused(&both, "gpu.identity", "the version of the manifest");
}

#[test]
fn measurements_refuses_each_that_is_no_reference_value() {
    for index in (0..8).chain(20..40) {
        let case = Case::with(|gpu| gpu.blocks[index].1[47] ^= 1);
        refused(&case, "gpu.measurements", &format!("measurement {index} "));
    }
    // What no manifest speaks of does not count, and any of the alternatives does.
    assert!(Case::with(|gpu| gpu.blocks[10].1 = vec![0; 48]).appraise().verified().is_some());
    assert!(Case::with(|gpu| gpu.blocks[20].1 = vec![0xee; 48]).appraise().verified().is_some());
    refused(&Case::with(|gpu| gpu.blocks[20].1 = vec![20; 49]), "gpu.measurements", "measurement 20 ");
    refused(&Case::with(|gpu| gpu.blocks[20].1.clear()), "gpu.measurements", "measurement 20 ");
}

#[test]
fn measurements_refuses_missing_ones_and_manifests_in_conflict() {
    refused(&Case::with(|gpu| _ = gpu.blocks.remove(3)), "gpu.measurements", "measurement 3 is missing");
    let conflict = Case::with_manifest(VBIOS_ID, Rim::new("96.00.74.00.11", "GH100", 0..8), |rim| rim.measurements[20].1 = true);
    refused(&conflict, "gpu.measurements", "measurement 20 is active in both manifests");
}

#[test]
fn measurement_35_counts_unless_nvdec0_is_said_to_be_disabled() {
    let changed = |status: Option<&'static [u8]>| {
        Case::with(move |gpu| {
            gpu.blocks[35].1 = vec![0; 48];
            gpu.opaque.retain(|(field, _)| *field != Field::NVDEC0_STATUS);
            gpu.opaque.extend(status.map(|status| (Field::NVDEC0_STATUS, status.to_vec())));
        })
    };
    assert!(changed(Some(&[0x55])).appraise().verified().is_some());
    refused(&changed(Some(&[0xaa])), "gpu.measurements", "measurement 35 (driver)");
    refused(&changed(Some(&[0])), "gpu.measurements", "whether NVDEC0 is there is not said");
    refused(&changed(None), "gpu.measurements", "whether NVDEC0 is there is not said");
}

#[test]
fn mode_refuses_what_is_unsaid_unclear_or_unwanted() {
    let unsaid = |gpu: &mut Device| gpu.opaque.retain(|(field, _)| *field != Field::FEATURE_FLAG);
    refused(&Case::with(unsaid), "gpu.mode", "the mode is unsaid, which the policy does not accept");
    let mut allowed = Case::with(unsaid);
    allowed.policy.modes.insert(GpuMode::Unsaid);
    assert!(allowed.appraise().verified().is_some());
    let unclear = "unknown or contradict";
    refused(&Case::with(|gpu| gpu.set(Field::FEATURE_FLAG, &[2, 0])), "gpu.mode", unclear);
    refused(&Case::with(|gpu| gpu.set(Field::PROTECTED_PCIE_STATUS, &[0xaa])), "gpu.mode", unclear);
    refused(&Case::with(|gpu| gpu.set(Field::PROTECTED_PCIE_STATUS, &[0])), "gpu.mode", unclear);
    refused(&Case::with(|gpu| gpu.set(Field::FEATURE_FLAG, &[3, 0])), "gpu.mode", unclear);
    let mut unwanted = Case::good();
    unwanted.policy.modes.remove(&GpuMode::MultiPassthrough);
    refused(&unwanted, "gpu.mode", "the mode is multi-passthrough");
}

#[test]
fn count_refuses_fewer_more_and_the_same_twice() {
    let two = || Case::of(&[Device::gpu(0), Device::gpu(1)]);
    assert_eq!(two().appraise().verified().unwrap().devices().len(), 2);
    let count = |gpus| DeviceCount { gpus, switches: 0 };
    for (claimed, seen) in [(1, 2), (2, 1), (3, 3), (2, 3), (1, 1)] {
        let mut case = two();
        case.expectation = GpuExpectation { claimed: count(claimed), seen: count(seen), ..case.expectation };
        refused(&case, "gpu.count", &format!("{claimed} GPUs and 0 switches were promised, the guest sees {seen} GPUs"));
    }
    refused(&Case::of(&[Device::gpu(0), Device::gpu(0)]), "gpu.count", "is there twice");
    // The same device with another leaf, as if it had restarted with other firmware.
    let mut again = Device::gpu(0);
    again.chain[0].key = &keys().leaves[1];
    again.key = &keys().leaves[1];
    refused(&Case::of(&[Device::gpu(0), again]), "gpu.count", "is there twice");
}

#[test]
fn count_refuses_gpus_that_differ() {
    let mut other = Device::gpu(1);
    other.set(Field::DRIVER_VERSION, b"550.144.04\0");
    let mut case = Case::of(&[Device::gpu(0), other]);
    let id = "NV_GPU_DRIVER_GH100_550.144.04".to_owned();
    case.manifests.push((id, Rim::new("550.144.04", "GH100", 20..40).xml().into_bytes()));
    refused(&case, "gpu.count", "do not all have the same driver");
    let mut other = Device::gpu(1);
    other.set(Field::FEATURE_FLAG, &[1, 0]);
    refused(&Case::of(&[Device::gpu(0), other]), "gpu.count", "do not all have the same mode");
}

const SWITCHES: [[u8; 8]; 2] = [[0xb1; 8], [0xb2; 8]];
const GPUS: [[u8; 8]; 2] = [[0xa1; 8], [0xa2; 8]];

/// Two GPUs and two switches in protected PCIe mode.
fn fabric() -> Vec<Device> {
    let gpu = |number| {
        let mut gpu = Device::gpu(number);
        gpu.set(Field::FEATURE_FLAG, &[2, 0]);
        gpu.set(Field::PROTECTED_PCIE_STATUS, &[0xaa]);
        gpu.set(Field::PDI, &[SWITCHES[1], SWITCHES[0], [0; 8], SWITCHES[1]].concat());
        gpu
    };
    vec![gpu(0), gpu(1), Device::switch(2, SWITCHES[0], &GPUS), Device::switch(3, SWITCHES[1], &GPUS)]
}

#[test]
fn accepts_gpus_and_switches_that_name_each_other() {
    let appraised = Case::of(&fabric()).appraise();
    assert_eq!(appraised.failed(), None);
    let devices = appraised.verified().unwrap().devices();
    assert_eq!((devices[3].kind(), devices[3].model(), devices[3].mode()), (DeviceKind::Switch, "LS10", None));
    assert!(devices[0].warnings().iter().any(|warning| warning.contains("NVLink is not encrypted")));
    assert_eq!(appraised.claims().unwrap()[2].gpu_pdis, [hex::encode(GPUS[0]), hex::encode(GPUS[1])]);
}

#[test]
fn count_refuses_a_fabric_with_something_else_in_it() {
    let with = |at: usize, field, value: &[u8]| {
        let mut devices = fabric();
        devices[at].set(field, value);
        Case::of(&devices)
    };
    refused(&with(0, Field::PDI, &[SWITCHES[0], SWITCHES[1], [9; 8]].concat()), "gpu.count", "GPU 20 is joined to the switches");
    refused(&with(1, Field::PDI, &SWITCHES[0]), "gpu.count", "GPU 21 is joined to the switches");
    refused(&with(2, Field::PDI, &SWITCHES[1]), "gpu.count", "is joined to the switches");
    refused(&with(2, Field::PDI, &[0; 8]), "gpu.count", "does not say which one it is");
    let three = [&GPUS[0][..], &GPUS[1], &[9; 8], &[0; 40]].concat();
    refused(&with(3, Field::SWITCH_GPU_PDIS, &three), "gpu.count", "is joined to 3 GPUs, expected 2");
    let others = [&GPUS[0][..], &[9; 8], &[0; 48]].concat();
    refused(&with(3, Field::SWITCH_GPU_PDIS, &others), "gpu.count", "the same as the other switches");
    // Protected PCIe without any switch.
    refused(&Case::of(&fabric()[..2]), "gpu.count", "but the attested ones are []");
    // GPUs that encrypt NVLink, but say nothing of the switches that are there.
    let mut devices = fabric();
    devices[0] = Device::gpu(0);
    devices[1] = Device::gpu(1);
    refused(&Case::of(&devices), "gpu.count", "is joined to the switches []");
}

#[test]
fn a_switch_does_not_pass_for_a_gpu() {
    let mut case = Case::of(&[Device::switch(2, SWITCHES[0], &GPUS)]);
    case.evidence[0].kind = DeviceKind::Gpu;
    refused(&case, "gpu.rim", "does not say which manifests are for it");
    let mut case = Case::good();
    case.evidence[0].kind = DeviceKind::Switch;
    refused(&case, "gpu.rim", "does not say which manifests are for it");
}

#[test]
fn a_refusal_names_the_device_and_its_claims_name_the_check() {
    let mut bad = Device::gpu(1);
    bad.blocks[0].1[0] ^= 1;
    let case = Case::of(&[Device::gpu(0), bad]);
    refused(&case, "gpu.measurements", "device 1, 21: measurement 0 ");
    let appraised = case.appraise();
    let claims = appraised.claims().unwrap();
    assert_eq!((&claims[0].refused, claims[1].refused.as_deref()), (&None, Some("gpu.measurements")));
    // The earliest check of any device.
    let mut early = Device::gpu(2);
    early.key = &keys().leaves[0];
    let mut bad = Device::gpu(1);
    bad.blocks[0].1[0] ^= 1;
    refused(&Case::of(&[bad, early]), "gpu.signature", "device 1, 22: ");
}

#[test]
fn a_kept_chain_is_judged_anew_at_each_use() {
    let mut case = Case::good();
    let chain = &case.evidence[0].chain;
    case.chains = vec![VerifiedChain::verify(chain, &case.revocation(), &case.policy, case.now).unwrap()];
    assert!(case.appraise().verified().is_some());
    let hours = |hours: i64| UnixTime((NOW.0 as i64 + hours * HOUR) as u64);
    let (early, late) = (hours(-2), hours(2));
    case.now = late;
    refused(&case, "gpu.chain", "is valid from");
    case.now = early;
    refused(&case, "gpu.chain", "is valid from");
    case.now = hours(0);
    case.policy.max_status_age_s = 60;
    refused(&case, "gpu.revocation", "what is known about revocation is of");
    case.policy.danger_simulated_device_roots.clear();
    refused(&case, "gpu.chain", "which is no pinned root");
    // Another chain than the kept one is verified itself.
    let mut other = Case::of(&[Device::gpu(1)]);
    other.chains = case.chains;
    assert!(other.appraise().verified().is_some());
}

#[test]
fn a_chain_kept_without_revocation_does_not_pass_where_it_is_wanted() {
    let mut case = Case::good();
    let lax = GpuPolicy { danger_without_revocation: true, ..case.policy.clone() };
    case.chains = vec![VerifiedChain::verify(&case.evidence[0].chain, &case.revocation(), &lax, case.now).unwrap()];
    case.ocsp.clear();
    refused(&case, "gpu.revocation", "neither an OCSP response nor a revocation list");
    case.policy = lax;
    let appraised = case.appraise();
    let warnings = appraised.verified().unwrap().devices()[0].warnings();
    assert!(warnings.iter().any(|warning| warning.contains("revoked was not looked at")));
    assert_eq!(appraised.claims().unwrap()[0].revocation_known_at, None);
}

#[test]
fn pem_text_gives_the_chain_in_its_order() {
    let params = authority("A", None);
    let text = params.self_signed(&keys().root).unwrap().pem();
    assert_eq!(chain_from_pem(&format!("{text}\n{text}")).unwrap().len(), 2);
    assert!(chain_from_pem("nothing").is_err());
    assert!(chain_from_pem(&" ".repeat(70_000)).is_err());
}

#[test]
fn policies_are_read_strictly() {
    let strict = serde_json::to_value(GpuPolicy::strict()).unwrap();
    assert_eq!(serde_json::from_value::<GpuPolicy>(strict.clone()).unwrap(), GpuPolicy::strict());
    let mut unknown = strict;
    unknown["more"] = true.into();
    assert!(serde_json::from_value::<GpuPolicy>(unknown).is_err());
    let short = "{\"modes\":[\"unsaid\"],\"max_status_age_s\":1}";
    assert!(!serde_json::from_str::<GpuPolicy>(short).unwrap().danger_without_revocation);
    let bad = "{\"modes\":[],\"max_status_age_s\":1,\"danger_simulated_device_roots\":[\"00\"]}";
    assert!(serde_json::from_str::<GpuPolicy>(bad).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_make_it_panic(report in proptest::collection::vec(any::<u8>(), 0..300), der in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut case = Case::lean();
        case.ocsp = vec![der.clone()];
        case.crls = vec![der.clone()];
        prop_assert!(case.appraise().verified().is_none());
        case.evidence[0].chain[0] = der;
        prop_assert!(case.appraise().verified().is_none());
        case.evidence[0].report = report;
        prop_assert_eq!(case.refusal().0, "gpu.format");
    }
}
