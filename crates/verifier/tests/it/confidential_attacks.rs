//! Genuine parts that do not belong together, evidence of something else, and what is revoked.

use std::collections::BTreeSet;

use casemate_evidence::instance::{GuestKeys, Record as _};
use casemate_verifier::{
    AttestationResult, Kind, UnixTime,
    rego::{ExpectedParts, PolicyInput, PolicyOptions, PolicyRefusal},
    revocation::{MAX_FRESH_S, Revocations},
};

use crate::{
    confidential_world::{Case, OTHER_CHIP, STRICT, World, identity, revocations},
    gpu_world::Device,
    world::{AGENT, NOW, VMM, only_failure},
};

const OTHER_INSTANCE: &str = "0198c1f2-0000-7000-8000-000000000002";

/// Another instance on the same node, for the same nonce: its keys are its own.
fn neighbour(gpus: usize) -> World {
    let mut world = World::snp(gpus);
    world.instance = OTHER_INSTANCE.into();
    world.keys = GuestKeys { version: 1, hpke: [0x33; 32], tls: [0x44; 32] };
    world
}

#[track_caller]
fn fails(case: &Case, name: &str) -> String {
    let (failed, detail) = only_failure(&case.appraise());
    assert_eq!(failed, name, "{detail}");
    detail
}

#[test]
fn parts_of_two_instances_do_not_fit_each_other() {
    let (mine, theirs) = (World::snp(1).build(), neighbour(1).build());
    let mix = |change: fn(&mut Case, &Case)| {
        let mut case = World::snp(1).build();
        case.evidence = mine.evidence.clone();
        // The same node, whose chains go with its own quote.
        case.node_chain.clone_from(&mine.node_chain);
        case.ek_chain.clone_from(&mine.ek_chain);
        case.anchors = mine.anchors.clone();
        case.references = mine.references.clone();
        change(&mut case, &theirs);
        case
    };
    assert!(mix(|_, _| ()).appraise().is_affirming());
    fails(&mix(|case, other| case.evidence.guest_keys.clone_from(&other.evidence.guest_keys)), "snp.report-data");
    fails(&mix(|case, other| case.evidence.gpus.clone_from(&other.evidence.gpus)), "gpu.nonce");
    fails(&mix(|case, other| case.evidence.node = other.evidence.node.clone()), "batch.inclusion");
}

#[test]
fn evidence_of_something_else_is_refused() {
    fails(&neighbour(0).build(), "snp.report-data");
    let built = |change: fn(&mut World)| {
        let mut world = World::snp(0);
        change(&mut world);
        world.build()
    };
    fails(&built(|world| world.nonce = [1; 32]), "evidence.nonce");
    // Says that it answers this nonce, but its processor answered another.
    let mut replayed = built(|world| world.nonce = [1; 32]);
    replayed.evidence.nonce = replayed.nonce;
    fails(&replayed, "snp.report-data");
    fails(&built(|world| world.workload = [1; 32]), "snp.host-data");
    let mut other = World::snp(0).build();
    other.evidence.guest_keys = GuestKeys { version: 1, hpke: [0; 32], tls: [0; 32] }.encode();
    fails(&other, "snp.report-data");
    let mut hidden = World::snp(1).build();
    hidden.evidence.seen.gpus = 2;
    fails(&hidden, "snp.report-data");
    fails(&Case { instance: OTHER_INSTANCE.into(), ..World::snp(0).build() }, "snp.report-data");
    let tdx = Case { instance: OTHER_INSTANCE.into(), ..World::tdx(0).build() };
    fails(&tdx, "tdx.report-data");
}

/// Both machines are enrolled.
fn enrol_both(case: &mut Case, other: &Case) {
    let machine = other.payload["machines"][0].clone();
    case.change_references(|payload| payload["machines"].as_array_mut().unwrap().push(machine));
}

#[test]
fn the_tpm_of_one_machine_does_not_vouch_for_the_processor_of_another() {
    let elsewhere = World::elsewhere(0).build();
    let mut world = World::snp(0);
    world.other_chip();
    let mut cuckoo = world.build();
    let honest = World::snp(0).build();
    // The machine with this TPM was enrolled with its own processor.
    cuckoo.change_references(|payload| payload["machines"][0]["chip_id"] = honest.payload["machines"][0]["chip_id"].clone());
    enrol_both(&mut cuckoo, &elsewhere);
    let detail = fails(&cuckoo, "link.chip");
    assert!(detail.contains(&hex::encode(OTHER_CHIP)), "{detail}");

    // On its own machine it is good.
    assert!(elsewhere.appraise().is_affirming());
}

#[test]
fn the_gpu_of_another_machine_is_refused() {
    let elsewhere = World::elsewhere(1).build();
    let mut world = World::snp(0);
    world.gpus = vec![Device::gpu(2)];
    world.seen.gpus = 1;
    let mut stolen = world.build();
    let own = identity(&Device::gpu(0));
    stolen.change_references(|payload| payload["machines"][0]["gpus"] = serde_json::json!([own]));
    enrol_both(&mut stolen, &elsewhere);
    let detail = fails(&stolen, "link.gpus");
    assert!(detail.contains(&identity(&Device::gpu(2))), "{detail}");
}

#[test]
fn the_node_of_another_machine_is_refused() {
    let (mut case, elsewhere) = (World::snp(0).build(), World::elsewhere(0).build());
    enrol_both(&mut case, &elsewhere);
    case.evidence.node = elsewhere.evidence.node.clone();
    fails(&case, "node.ak");
    case.node_chain.clone_from(&elsewhere.node_chain);
    fails(&case, "node.ek");
    case.ek_chain.clone_from(&elsewhere.ek_chain);
    fails(&case, "batch.inclusion");
}

#[test]
fn without_a_fresh_list_everything_is_refused() {
    let mut case = World::snp(0).build();
    let mut list = |change: fn(&mut Revocations)| {
        case.revocations = Some(revocations(change));
        case.appraise()
    };
    assert!(list(|_| ()).is_affirming());
    let mut revoked = |words: &str, change: fn(&mut Revocations)| {
        let (name, detail) = only_failure(&list(change));
        assert_eq!(name, "policy.revoked");
        assert!(detail.contains(words), "{detail}");
    };
    revoked("16, but 17", |list| list.serial = 16);
    revoked("was to be renewed", |list| {
        list.issued_at = UnixTime(NOW.0 - MAX_FRESH_S);
        list.next_update = NOW;
    });
    revoked("after", |list| {
        list.issued_at = UnixTime(NOW.0 + 1000);
        list.next_update = UnixTime(NOW.0 + 2000);
    });
    revoked("genoa", |list| list.silicon_generations = ["genoa".to_owned()].into());
    revoked("chip c5c5", |list| list.chips = ["c5".repeat(64)].into());
    revoked("image 0202", |list| list.images = ["02".repeat(48)].into());
    revoked("image a6a6", |list| list.images = [hex::encode(AGENT)].into());
    revoked("image 8e8e", |list| list.images = [hex::encode(VMM)].into());
    case.revocations = None;
    assert!(fails(&case, "policy.revoked").contains("no revocation list"));
}

/// Whatever a list may call a part of this evidence, it is found.
#[track_caller]
fn named(case: &mut Case, what: fn(&mut Revocations) -> &mut BTreeSet<String>, names: &[String]) {
    for name in names {
        case.revocations = Some(revocations(|list| *what(list) = [name.clone()].into()));
        assert!(fails(case, "policy.revoked").contains(name), "{name}");
    }
}

#[test]
fn every_part_can_be_revoked() {
    let mut case = World::tdx(1).build();
    let node = case.appraise().submodules["node"].claims["ak_name"].as_str().unwrap().to_owned();
    named(&mut case, |list| &mut list.aks, &[node]);
    let gpu = identity(&Device::gpu(0));
    named(&mut case, |list| &mut list.chips, &["66".repeat(16), "99".repeat(16), gpu]);
    named(&mut case, |list| &mut list.images, &["3d", "30", "31", "32"].map(|byte| byte.repeat(48)));
    let generations = ["hopper", "gh100", crate::tdx_world::FMSPC].map(str::to_owned);
    named(&mut case, |list| &mut list.silicon_generations, &generations);
    case.revocations = Some(revocations(|_| ()));
    assert!(case.appraise().is_affirming());
}

#[test]
fn a_turin_chip_can_be_revoked_by_its_short_identifier() {
    let mut world = World::snp(0);
    let turin = crate::snp_world::Case::new(casemate_verifier::snp::Generation::Turin);
    let crl =
        turin.crl.clone().map(|crl| crate::snp_world::Crl { this_update: "270110000000Z", next_update: "270301000000Z", ..crl });
    *world.snp_case() = crate::snp_world::Case { crl, ..turin };
    let mut case = world.build();
    assert!(case.appraise().is_affirming());
    let short = "c5".repeat(8);
    let long = format!("{short}{}", "00".repeat(56));
    named(&mut case, |list| &mut list.chips, &[short, long]);
}

#[test]
fn milan_is_refused_whatever_the_policy_for_processors_says() {
    let mut world = World::snp(0);
    let milan = crate::snp_world::Case::new(casemate_verifier::snp::Generation::Milan);
    let crl =
        milan.crl.clone().map(|crl| crate::snp_world::Crl { this_update: "270110000000Z", next_update: "270301000000Z", ..crl });
    *world.snp_case() = crate::snp_world::Case { crl, ..milan };
    let mut case = world.build();
    case.revocations = Some(revocations(|list| list.silicon_generations.clear()));
    let detail = fails(&case, "policy.appraisal");
    assert!(detail.contains("milan"), "{detail}");
}

fn strict(result: &AttestationResult, gpus: u32, allow_simulated: bool) -> Result<Vec<String>, PolicyRefusal> {
    let input = PolicyInput {
        platform: &result.platform,
        submodules: &result.submodules,
        checks: &result.checks,
        now: result.at,
        expectation: ExpectedParts { instance: &result.instance, workload_digest: &result.workload_digest, gpus },
        policy: PolicyOptions { allow_simulated },
    };
    STRICT.judge(&input).map(|accepted| accepted.warnings)
}

/// The result as if real hardware had made it.
fn as_if_genuine(case: &Case) -> AttestationResult {
    let mut result = case.appraise();
    for part in result.submodules.values_mut() {
        part.simulated = false;
        for pointer in ["/simulated", "/platform/simulated", "/tpm_simulated"] {
            if let Some(value) = part.claims.pointer_mut(pointer) {
                *value = false.into();
            }
        }
        if let Some(value) = part.claims.pointer_mut("/integrity_assured") {
            *value = true.into();
        }
    }
    result
}

#[test]
fn the_built_in_rules_fit_the_claims_of_each_kind() {
    for world in [World::snp(2), World::tdx(2)] {
        let case = world.build();
        strict(&case.appraise(), 2, true).unwrap();
        strict(&case.appraise(), 2, false).unwrap_err();
        let genuine = as_if_genuine(&case);
        strict(&genuine, 2, false).unwrap();
        strict(&genuine, 1, false).unwrap_err();
        for name in genuine.submodules.keys() {
            let mut lacking = genuine.clone();
            lacking.submodules.remove(name);
            strict(&lacking, 2, false).unwrap_err();
            // What the rules ask for is there under another name.
            for claim in genuine.submodules[name].claims.as_object().unwrap().keys() {
                if !asked(genuine.submodules[name].kind).contains(&claim.as_str()) {
                    continue;
                }
                let mut renamed = genuine.clone();
                let claims = renamed.submodules.get_mut(name).unwrap().claims.as_object_mut().unwrap();
                let value = claims.remove(claim).unwrap();
                claims.insert(format!("{claim}_"), value);
                assert!(strict(&renamed, 2, false).is_err(), "{name} without {claim}");
            }
        }
    }
}

/// Claims that the built-in rules look at.
fn asked(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Node => &["agent", "vmm"],
        Kind::SnpGuest => &["generation", "integrity_assured", "revocation_checked", "guest_policy", "simulated"],
        Kind::TdxGuest => &["tcb", "debug", "migratable", "platform"],
        Kind::Gpu => &["kind", "mode", "refused", "revocation_known_at", "simulated"],
        Kind::ContainerGuest | Kind::MicrovmGuest => &[],
    }
}

#[test]
fn the_built_in_rules_weigh_each_claim() {
    let changes = [
        ("snp", "/integrity_assured", serde_json::json!(false)),
        ("snp", "/revocation_checked", serde_json::json!(false)),
        ("snp", "/guest_policy/debug", serde_json::json!(true)),
        ("snp", "/guest_policy/migrate_ma", serde_json::json!(true)),
        ("snp", "/generation", serde_json::json!("milan")),
        ("snp", "/simulated", serde_json::json!(true)),
        ("tdx", "/tcb/status", serde_json::json!("OutOfDate")),
        ("tdx", "/tcb/qe_status", serde_json::json!("OutOfDate")),
        ("tdx", "/debug", serde_json::json!(true)),
        ("tdx", "/migratable", serde_json::json!(true)),
        ("tdx", "/platform/simulated", serde_json::json!(true)),
    ];
    let (snp, tdx) = (as_if_genuine(&World::snp(0).build()), as_if_genuine(&World::tdx(0).build()));
    for (kind, pointer, value) in changes {
        let mut result = if kind == "snp" { snp.clone() } else { tdx.clone() };
        *result.submodules.get_mut("guest").unwrap().claims.pointer_mut(pointer).unwrap() = value;
        assert!(strict(&result, 0, false).is_err(), "{kind} {pointer}");
    }
}

#[test]
fn the_built_in_rules_have_time_for_a_machine_of_eight_gpus_and_four_switches() {
    let mut result = as_if_genuine(&World::snp(1).build());
    let gpu = result.submodules["gpu0"].clone();
    let mut switch = gpu.clone();
    switch.claims["kind"] = "switch".into();
    for index in 1..8 {
        result.submodules.insert(format!("gpu{index}"), gpu.clone());
    }
    for index in 8..12 {
        result.submodules.insert(format!("gpu{index}"), switch.clone());
    }
    strict(&result, 8, false).unwrap();
    strict(&result, 12, false).unwrap_err();
}
