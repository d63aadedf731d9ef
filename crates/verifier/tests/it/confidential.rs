//! Confidential VMs: what is right is accepted, and each check fails alone, by name.

use casemate_evidence::confidential::DevicesSeen;
use casemate_verifier::{
    AttestationResult, Kind, Outcome, Tier, UnixTime,
    confidential::{CONFIDENTIAL_HEAD_CHECKS, CONFIDENTIAL_NODE_CHECKS, CONFIDENTIAL_TAIL_CHECKS, ConfidentialPolicy, CpuPolicy},
    ear::{VerifierKey, sign_jwt, verify_jwt},
    gpu::{DeviceCount, GPU_CHECKS},
    rego::AppraisalPolicy,
    snp::SNP_CHECKS,
    tdx::TDX_CHECKS,
};
use sha2::{Digest as _, Sha256};

use crate::{
    confidential_world::{Case, World, without_simulated_roots},
    world::{INSTANCE, NONCE, NOW, WORKLOAD, at, only_failure},
};

/// `name` alone fails, with `contains` in its detail, where `before` changes what is signed and `after` what is judged.
#[track_caller]
fn refused(
    mut world: World,
    name: &str,
    contains: &str,
    before: impl FnOnce(&mut World),
    after: impl FnOnce(&mut Case),
) -> AttestationResult {
    before(&mut world);
    let mut case = world.build();
    after(&mut case);
    let result = case.appraise();
    let (failed, detail) = only_failure(&result);
    assert_eq!(failed, name, "{detail}");
    assert!(detail.contains(contains), "{detail}");
    result
}

#[track_caller]
fn world_refused(name: &str, contains: &str, change: impl FnOnce(&mut World)) {
    refused(World::snp(0), name, contains, change, |_| ());
}

#[track_caller]
fn case_refused(name: &str, contains: &str, change: impl FnOnce(&mut Case)) {
    refused(World::snp(0), name, contains, |_| (), change);
}

#[track_caller]
fn tdx_refused(name: &str, contains: &str, change: impl FnOnce(&mut World)) {
    refused(World::tdx(0), name, contains, change, |_| ());
}

#[track_caller]
fn gpu_refused(name: &str, contains: &str, before: impl FnOnce(&mut World), after: impl FnOnce(&mut Case)) {
    refused(World::snp(1), name, contains, before, after);
}

fn nothing<T>(_: &mut T) {}

/// The verdict is good, each check of the lists is in it, and it says that everything is simulated.
#[track_caller]
fn good(case: &Case, cpu: (Kind, &[casemate_verifier::CheckName]), gpus: usize) -> AttestationResult {
    let result = case.appraise();
    assert!(result.is_affirming(), "{:?}, {:?}", result.failed(), result.submodules);
    let gpu_checks = if gpus == 0 { &[][..] } else { GPU_CHECKS };
    let lists = [CONFIDENTIAL_HEAD_CHECKS, cpu.1, gpu_checks, CONFIDENTIAL_NODE_CHECKS, CONFIDENTIAL_TAIL_CHECKS];
    let due = lists.concat().into_iter().map(|name| name.to_string()).chain(["policy.appraisal".to_owned()]);
    assert!(result.checks.iter().map(|check| check.name.clone()).eq(due));
    assert!(result.checks.iter().all(|check| check.outcome == Outcome::Pass && !check.detail.is_empty()));
    let enrolled = match gpus {
        0 => "no GPU was promised and none is there".to_owned(),
        some => format!("all {some} devices were enrolled with this TPM"),
    };
    assert_eq!(result.checks.iter().find(|check| check.name == "link.gpus").unwrap().detail, enrolled);

    let guest = result.guest().unwrap();
    assert_eq!((guest.hpke, guest.tls, guest.nonce), ([0x11; 32], [0x22; 32], NONCE));
    assert_eq!((guest.instance.as_str(), guest.workload_digest), (INSTANCE, WORKLOAD));

    assert_eq!(result.submodules.len(), 2 + gpus);
    assert_eq!((result.submodules["guest"].kind, result.submodules["node"].kind), (cpu.0, Kind::Node));
    assert!((0..gpus).all(|index| result.submodules[&format!("gpu{index}")].kind == Kind::Gpu));
    assert!(result.simulated && result.submodules.values().all(|part| part.simulated && part.trust.hardware == 0));
    assert_eq!(result.warnings.iter().filter(|warning| warning.starts_with("simulated: ")).count(), 2 + gpus + 1);
    result
}

#[test]
fn a_vm_of_snp_is_accepted_and_marked() {
    let result = good(&World::snp(0).build(), (Kind::SnpGuest, SNP_CHECKS), 0);
    assert_eq!(result.submodules["guest"].silicon.as_ref().unwrap().generation, "genoa");
    let kinds: Vec<_> = result.anchors.iter().map(|anchor| (anchor.kind.as_str(), anchor.simulated)).collect();
    assert_eq!(kinds, [("amd-root", true), ("platform-ca", false), ("tpm-vendor-root", true)]);
    assert_eq!(result.submodules["node"].anchors, result.anchors[1..]);
}

#[test]
fn a_vm_of_snp_with_two_gpus_is_accepted_and_marked() {
    let result = good(&World::snp(2).build(), (Kind::SnpGuest, SNP_CHECKS), 2);
    assert_eq!(result.submodules["gpu1"].silicon.as_ref().unwrap().generation, "hopper");
    good(&World::snp(2).build().keep(), (Kind::SnpGuest, SNP_CHECKS), 2);
}

#[test]
fn a_vm_of_tdx_with_a_gpu_is_accepted_and_marked() {
    let result = good(&World::tdx(1).build(), (Kind::TdxGuest, TDX_CHECKS), 1);
    let guest = &result.submodules["guest"];
    assert_eq!(guest.silicon.as_ref().unwrap().generation, crate::tdx_world::FMSPC);
    assert!(guest.tcb_age_s.unwrap() > 0);
    good(&World::tdx(1).build().keep(), (Kind::TdxGuest, TDX_CHECKS), 1);
}

#[test]
fn the_anchor_of_a_simulator_is_its_own_root() {
    for world in [World::snp(0), World::tdx(0)] {
        let case = world.build();
        let roots = match &case.policy.cpu {
            CpuPolicy::Snp(snp) => snp.danger_simulated_roots.iter().map(|root| root.fingerprint.clone()).collect::<Vec<_>>(),
            CpuPolicy::Tdx(tdx) => tdx.danger_simulated_roots.iter().map(|root| hex::encode(root.0)).collect(),
        };
        let result = case.appraise();
        assert!(result.anchors[0].simulated && roots.contains(&result.anchors[0].fingerprint));
    }
}

#[test]
fn simulated_hardware_is_refused_where_it_is_not_allowed() {
    for world in [World::snp(1), World::tdx(0)] {
        let result = refused(world, "policy.simulated", "refuses", nothing, |case| case.policy.danger_allow_simulated = false);
        assert!(result.simulated && result.status == Tier::Contraindicated);
        assert!(result.submodules.values().all(|part| part.tier() == Tier::Contraindicated));
    }
    // Each part that is simulated is named.
    let mut case = World::snp(1).build();
    case.policy.danger_allow_simulated = false;
    let (_, detail) = only_failure(&case.appraise());
    for part in ["the node's TPM", "the processor", "gpu0"] {
        assert!(detail.contains(part), "{detail}");
    }
    case_refused("snp.chain", "not pinned", |case| without_simulated_roots(&mut case.policy));
    refused(World::tdx(0), "tdx.pck-chain", "not Intel's root", nothing, |case| without_simulated_roots(&mut case.policy));
    gpu_refused("gpu.chain", "no pinned root", nothing, |case| case.policy.gpu.danger_simulated_device_roots.clear());
    gpu_refused("gpu.rim", "no pinned root", nothing, |case| case.policy.gpu.danger_simulated_manifest_roots.clear());
}

#[test]
fn the_head_is_checked() {
    case_refused("policy.platform", "accepts no generation", |case| {
        let CpuPolicy::Snp(snp) = &mut case.policy.cpu else { panic!("of SNP") };
        (snp.genoa, snp.turin, snp.danger_milan) = (None, None, None);
    });
    refused(World::tdx(0), "policy.platform", "accepts no status", nothing, |case| {
        let CpuPolicy::Tdx(tdx) = &mut case.policy.cpu else { panic!("of TDX") };
        tdx.accepted_tcb.clear();
    });
    case_refused("evidence.format", "after the end", |case| case.bytes = Some([case.encoded(), vec![0]].concat()));
    case_refused("evidence.format", "version 2", |case| case.evidence.version = 2);
    case_refused("evidence.format", "guest keys", |case| case.evidence.guest_keys.truncate(5));
    case_refused("evidence.nonce", "expected", |case| case.nonce = [0; 32]);
    let tdx = World::tdx(0).build();
    case_refused("evidence.parts", "asks for TDX, the evidence is of SEV-SNP", |case| case.policy.cpu = tdx.policy.cpu.clone());
    case_refused("evidence.parts", "the endorsements are for TDX", |case| case.vendor = tdx.vendor);
    gpu_refused("evidence.parts", "no device was promised", nothing, |case| case.devices.gpus = 0);
    let hidden = |world: &mut World| world.seen.gpus = 1;
    refused(World::snp(0), "evidence.parts", "the guest sees 1", hidden, |case| case.devices.gpus = 0);
    gpu_refused("evidence.parts", "evidence of none", nothing, |case| case.evidence.gpus.clear());
    gpu_refused("evidence.parts", "more than the limit", nothing, |case| {
        case.evidence.gpus = vec![case.evidence.gpus[0].clone(); 33];
    });
}

#[test]
fn the_processor_is_checked() {
    world_refused("snp.measurement", "", |world| world.snp_case().report.measurement = [0; 48]);
    world_refused("snp.host-data", "", |world| world.workload = [0; 32]);
    world_refused("snp.report-data", "", |world| world.report_data = Some([0; 64]));
    world_refused("snp.vmpl", "", |world| world.snp_case().report.vmpl = 1);
    case_refused("snp.revocation", "no revocation list", |case| {
        let crate::confidential_world::Vendor::Snp(_, crl) = &mut case.vendor else { panic!("of SNP") };
        *crl = None;
    });
    tdx_refused("tdx.mrtd", "", |world| world.tdx_spec().report().mr_td = [0; 48]);
    tdx_refused("tdx.rtmr", "RTMR2", |world| world.tdx_spec().report().rtmr[2] = [0; 48]);
    tdx_refused("tdx.config-id", "", |world| world.workload = [0; 32]);
    tdx_refused("tdx.report-data", "", |world| world.report_data = Some([0; 64]));
    refused(World::tdx(0), "tdx.rtmr", "event log", nothing, |case| {
        let casemate_evidence::confidential::CpuEvidence::Tdx { event_log, .. } = &mut case.evidence.cpu else {
            panic!("of TDX")
        };
        *event_log = vec![1];
    });
    refused(World::tdx(0), "tdx.mrtd", "none of the 0", nothing, |case| {
        case.change_references(|payload| payload["confidential"] = serde_json::json!([]));
    });
}

#[test]
fn the_gpus_are_checked() {
    gpu_refused("gpu.format", "device 0", nothing, |case| case.evidence.gpus[0].report.truncate(40));
    gpu_refused("gpu.chain", "device 0", nothing, |case| case.evidence.gpus[0].chain.clear());
    gpu_refused("gpu.revocation", "neither", nothing, |case| case.ocsp.clear());
    gpu_refused("gpu.signature", "", nothing, |case| *case.evidence.gpus[0].report.last_mut().unwrap() ^= 1);
    gpu_refused("gpu.nonce", "", |world| world.gpu_nonce = Some([0; 32]), nothing);
    gpu_refused("gpu.rim", "", nothing, |case| case.manifests.clear());
    gpu_refused("gpu.measurements", "measurement 21", |world| world.gpus[0].blocks[21].1 = vec![0; 48], nothing);
    gpu_refused("gpu.mode", "", nothing, |case| case.policy.gpu.modes.clear());
    // The guest sees two and drives one; it was promised two and sees one; it sees what nobody promised.
    gpu_refused("gpu.count", "the guest sees 2", |world| world.seen.gpus = 2, |case| case.devices.gpus = 2);
    gpu_refused("gpu.count", "2 GPUs and 0 switches were promised", nothing, |case| case.devices.gpus = 2);
    let unasked = DevicesSeen { gpus: 1, switches: 1 };
    let promised = DeviceCount { gpus: 1, switches: 0 };
    gpu_refused("gpu.count", "1 switches", |world| world.seen = unasked, |case| case.devices = promised);
    let twice = |world: &mut World| world.gpus = vec![crate::gpu_world::Device::gpu(0), crate::gpu_world::Device::gpu(0)];
    refused(World::snp(2), "gpu.count", "twice", twice, nothing);
}

#[test]
fn the_node_is_checked() {
    world_refused("node.certificate", "", |world| world.pki.node.not_after = at(-10));
    world_refused("node.ek", "", |world| world.pki.ek_digest = Some([0; 32]));
    world_refused("node.ak", "", |world| world.pki.ak_name = Some(vec![0; 34]));
    case_refused("node.quote", "", |case| *case.evidence.node.quote.signature.last_mut().unwrap() ^= 1);
    case_refused("node.pcrs", "", |case| case.evidence.node.quote.pcrs.get_mut(&4).unwrap().0[0] ^= 1);
    world_refused("node.software", "", |world| drop(world.events.pop()));
    case_refused("node.event-log", "", |case| case.evidence.node.event_log.truncate(80));
    case_refused("node.software", "", |case| {
        case.change_references(|payload| payload["node_software"]["agent"] = serde_json::json!([]));
    });
    world_refused("batch.inclusion", "was not made for", |world| world.leaf = Some([0; 32]));
    case_refused("batch.inclusion", "", |case| case.evidence.node.batch.siblings.clear());
    case_refused("link.chip", "name no machine", |case| {
        case.change_references(|payload| payload["machines"] = serde_json::json!([]));
    });
    case_refused("link.chip", "without a processor", |case| {
        case.change_references(|payload| drop(payload["machines"][0].as_object_mut().unwrap().remove("chip_id")));
    });
    case_refused("link.chip", "another processor", |case| {
        case.change_references(|payload| payload["machines"][0]["chip_id"] = "01".repeat(64).into());
    });
    refused(World::tdx(0), "link.chip", "another processor", nothing, |case| {
        case.change_references(|payload| payload["machines"][0]["platform_instance_id"] = "01".repeat(16).into());
    });
    gpu_refused("link.gpus", "was not enrolled", nothing, |case| {
        case.change_references(|payload| payload["machines"][0]["gpus"] = serde_json::json!([]));
    });
}

#[test]
fn the_relying_partys_rules_have_the_last_word() {
    let never = "package casemate.appraisal\nimport rego.v1\nallow := true\ndeny contains \"never\"\n";
    case_refused("policy.appraisal", "never", |case| case.rules = AppraisalPolicy::compile("never", never).unwrap());
    // A rule that says yes to everything changes no refusal.
    let always = "package casemate.appraisal\nallow := true\ndeny := set()\n";
    case_refused("snp.report-data", "", |case| {
        case.rules = AppraisalPolicy::compile("always", always).unwrap();
        case.evidence.guest_keys = casemate_evidence::instance::Record::encode(&casemate_evidence::instance::GuestKeys {
            version: 1,
            hpke: [0; 32],
            tls: [0; 32],
        });
    });
}

#[test]
fn a_policy_file_says_everything_that_is_not_dangerous() {
    let case = World::tdx(0).build();
    let text = serde_json::to_value(&case.policy).unwrap();
    assert_eq!(serde_json::from_value::<ConfidentialPolicy>(text.clone()).unwrap(), case.policy);
    for field in ["cpu", "gpu", "revocation_floor"] {
        let mut lacking = text.clone();
        lacking.as_object_mut().unwrap().remove(field);
        assert!(serde_json::from_value::<ConfidentialPolicy>(lacking).is_err(), "{field}");
    }
    let mut without = text.clone();
    without.as_object_mut().unwrap().remove("danger_allow_simulated");
    assert!(!serde_json::from_value::<ConfidentialPolicy>(without).unwrap().danger_allow_simulated);
    let mut unknown = text;
    unknown["other"] = 1.into();
    assert!(serde_json::from_value::<ConfidentialPolicy>(unknown).is_err());
}

#[test]
fn a_token_carries_node_guest_and_gpu() {
    let key = VerifierKey::new(&[7; 32], "https://casemate.example", "casemate-verifier").unwrap();
    let case = World::snp(1).build();
    let result = case.appraise();
    let token = sign_jwt(&result, &key, case.rules.id(), NOW, 300).unwrap();
    let ear = verify_jwt(token.as_bytes(), &key.public(), UnixTime(NOW.0 + 1)).unwrap();
    assert_eq!(ear.submodules.keys().collect::<Vec<_>>(), ["gpu0", "guest", "node"]);
    assert_eq!((ear.status, &ear.submodules), (Tier::Affirming, &result.submodules));
    assert_eq!((ear.extension.platform.as_str(), ear.extension.simulated), ("confidential", true));
    assert_eq!(ear.nonce_sha256, <[u8; 32]>::from(Sha256::digest(NONCE)));
    // And of a refusal: nobody reads a good guest out of it.
    let refused = Case { nonce: NONCE, workload: [0; 32], ..case }.appraise();
    let token = sign_jwt(&refused, &key, "strict", NOW, 300).unwrap();
    let ear = verify_jwt(token.as_bytes(), &key.public(), NOW).unwrap();
    assert_eq!((ear.status, ear.submodules["guest"].status), (Tier::Contraindicated, Tier::Contraindicated));
    assert_eq!(ear.extension.failed.as_deref(), Some("snp.host-data"));
}
