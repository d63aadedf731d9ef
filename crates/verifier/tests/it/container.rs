//! Containers: for each check an attack on which only that check fails, and the two ways in which one level could be taken for another.

use std::collections::BTreeSet;

use casemate_attester::{Attester as _, quote_bundle, sim::SoftTpm};
use casemate_evidence::{
    container::{ContainerEvidence, ContainerLaunch, LayerRoot, container_leaf},
    eventlog::{Event, EventLog},
    instance::{GuestKeys, InstanceEvidence, Jail, NODE_PCRS, QuoteBundle, Record as _, Vmm, instance_leaf},
    merkle,
};
use casemate_verifier::{
    AttestationResult, CONTAINER_CHECKS, CheckName, ContainerLevel, Endorsements, Expectation, Kind, Outcome, Policy,
    ReferenceValues, RelyingParty, Simulated, Tier, TrustAnchors, UnixTime,
    container::{ContainerExpectation, appraise, appraise_container},
    ear,
    rego::{AppraisalPolicy, PolicyOptions, apply_policy},
    revocation::RevocationList,
};
use sha2::{Digest as _, Sha256};

use crate::world::{
    AGENT, Case, INSTANCE, NONCE, NOW, Pki, References, VMM, WORKLOAD, events, name_of, only_failure, reference_key, revocations,
    signed_references, software_event,
};

const CRUN: [u8; 32] = [0xc1; 32];
const RUNSC: [u8; 32] = [0xc2; 32];
const GUEST: [u8; 32] = [0xc3; 32];
const LAYERS: [[u8; 32]; 2] = [[0xd1; 32], [0xd2; 32]];

/// What will be signed, and what the verifier gets.
struct World {
    launch: ContainerLaunch,
    keys: GuestKeys,
    nonce: [u8; 32],
    events: Vec<Event>,
    references: serde_json::Value,
    policy: Policy,
    layers: Vec<[u8; 32]>,
    revocations: Option<RevocationList>,
    pki: Pki,
    /// Changed after everything was signed.
    tamper: fn(&mut ContainerEvidence),
    expected_instance: &'static str,
    expected_workload: [u8; 32],
    now: UnixTime,
}

impl World {
    fn good(level: ContainerLevel) -> Self {
        let (name, digest) = match level {
            ContainerLevel::Container => ("crun", CRUN),
            ContainerLevel::Sandbox => ("runsc", RUNSC),
        };
        let mut references: serde_json::Value = serde_json::from_str(&References::good().payload()).unwrap();
        references["node_software"]["container_runtime"] = serde_json::json!([hex::encode(CRUN)]);
        references["node_software"]["sandbox_runtime"] = serde_json::json!([hex::encode(RUNSC)]);
        references["node_software"]["container_guest"] = serde_json::json!([hex::encode(GUEST)]);
        let runtimes = [CRUN, RUNSC].map(|digest| software_event("casemate-runtime", digest));
        Self {
            launch: ContainerLaunch {
                version: 1,
                instance: INSTANCE.into(),
                workload_digest: WORKLOAD,
                level,
                guest_program: GUEST,
                layers: LAYERS.map(LayerRoot).to_vec(),
                runtime: Vmm { name: name.into(), version: "1.8".into(), digest },
                cpus: 1,
                memory_mib: 256,
                jail: Jail {
                    uid: 1 << 30,
                    no_new_privs: true,
                    seccomp: true,
                    capabilities: 0xe1,
                    namespaces: ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"].map(String::from).to_vec(),
                    cgroup: true,
                },
                monitor: None,
            },
            keys: GuestKeys { version: 1, hpke: [0x11; 32], tls: [0x22; 32] },
            nonce: NONCE,
            events: events().into_iter().chain(runtimes).collect(),
            references,
            policy: Policy::container(level, Simulated::Refuse),
            layers: LAYERS.to_vec(),
            revocations: Some(revocations(|_| ())),
            pki: Pki::good(),
            tamper: |_| (),
            expected_instance: INSTANCE,
            expected_workload: WORKLOAD,
            now: NOW,
        }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut world = Self::good(ContainerLevel::Container);
        change(&mut world);
        world
    }

    fn built(self) -> Built {
        let (container_launch, guest_keys) = (self.launch.encode(), self.keys.encode());
        let leaf = container_leaf(&self.nonce, &container_launch, &guest_keys);
        let (node, node_event_log, batch, tpm_name) = quoted(&self.events, leaf);
        let mut evidence =
            ContainerEvidence { version: 1, nonce: self.nonce, container_launch, guest_keys, node, node_event_log, batch };
        (self.tamper)(&mut evidence);
        let (node_chain, ek_chain, anchors) = self.pki.build(&tpm_name);
        let key = reference_key();
        let references =
            ReferenceValues::from_signed(&signed_references(&self.references.to_string(), &key), &key.verifying_key().to_bytes());
        Built {
            bytes: evidence.encode(),
            node_chain,
            ek_chain,
            anchors,
            references: references.unwrap(),
            policy: self.policy,
            layers: self.layers,
            revocations: self.revocations,
            instance: self.expected_instance,
            workload: self.expected_workload,
            now: self.now,
        }
    }

    fn appraise(self) -> AttestationResult {
        self.built().appraise()
    }
}

/// The node's quote over a batch in which `leaf` is the last.
fn quoted(events: &[Event], leaf: [u8; 32]) -> (QuoteBundle, Vec<u8>, merkle::InclusionPath, Vec<u8>) {
    let mut tpm = SoftTpm::new(&[1; 32]);
    for event in events {
        if let Some(digest) = event.measured_sha256() {
            tpm.pcr_extend(event.pcr, digest).unwrap();
        }
    }
    let leaves = [[0xee; 32], leaf];
    let node = quote_bundle(&mut tpm, &merkle::root(&leaves).unwrap(), &NODE_PCRS).unwrap();
    let log = EventLog { events: events.to_vec(), ..EventLog::sha256() };
    (node, log.encode(), merkle::path(&leaves, 1).unwrap(), name_of(tpm.public()))
}

struct Built {
    bytes: Vec<u8>,
    node_chain: Vec<Vec<u8>>,
    ek_chain: Vec<Vec<u8>>,
    anchors: TrustAnchors,
    references: ReferenceValues,
    policy: Policy,
    layers: Vec<[u8; 32]>,
    revocations: Option<RevocationList>,
    instance: &'static str,
    workload: [u8; 32],
    now: UnixTime,
}

impl Built {
    fn appraise(&self) -> AttestationResult {
        self.appraise_by(&self.bytes, &self.policy, appraise_container)
    }

    fn appraise_by(
        &self,
        bytes: &[u8],
        policy: &Policy,
        by: fn(&[u8], &Endorsements<'_>, &RelyingParty<'_>, &ContainerExpectation<'_>, UnixTime) -> AttestationResult,
    ) -> AttestationResult {
        let endorsements = Endorsements { node_chain: &self.node_chain, ek_chain: &self.ek_chain };
        let instance = Expectation { instance: self.instance, workload_digest: self.workload, nonce: NONCE };
        let believes =
            RelyingParty { references: &self.references, anchors: &self.anchors, policy, revocations: self.revocations.as_ref() };
        by(bytes, &endorsements, &believes, &ContainerExpectation { instance, layers: &self.layers }, self.now)
    }
}

const LEVELS: [ContainerLevel; 2] = [ContainerLevel::Container, ContainerLevel::Sandbox];

#[test]
fn what_is_right_is_accepted_as_a_warning_that_says_what_it_does_not_protect_from() {
    for level in LEVELS {
        let result = World::good(level).appraise();
        assert_eq!(result.failed(), None);
        assert_eq!((result.status, result.worst(), result.platform.as_str()), (Tier::Warning, Tier::Warning, level.as_str()));
        assert!(result.is_accepted() && !result.is_affirming());
        assert!(result.checks.iter().map(|check| check.name.as_str()).eq(CONTAINER_CHECKS.iter().map(|name| name.as_str())));
        let guest = result.guest().unwrap();
        assert_eq!((guest.hpke, guest.nonce, guest.instance.as_str()), ([0x11; 32], NONCE, INSTANCE));
        assert!(result.warnings[0].contains("does NOT protect you from the host"), "{:?}", result.warnings);
        assert!(result.warnings[1].starts_with(&format!("level {}: ", level.as_str())));
        let part = &result.submodules["guest"];
        assert_eq!((part.kind, part.status, part.trust.runtime_opaque), (Kind::ContainerGuest, Tier::Warning, 32));
        assert_eq!(part.claims["level"], level.as_str());
        assert_eq!(result.submodules["node"].claims["runtimes"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn a_warning_is_accepted_of_a_container_only_and_nothing_else_of_it() {
    let good = World::good(ContainerLevel::Container).appraise();
    let (mut machine, mut better) = (good.clone(), good);
    machine.platform = "microvm".to_owned();
    // Its guest is no better than a warning still.
    better.status = Tier::Affirming;
    for forged in [machine, better] {
        assert!(!forged.is_accepted() && forged.guest().is_none(), "{}: {}", forged.platform, forged.status);
    }
}

#[test]
fn a_verdict_names_the_launch_that_it_is_about() {
    let world = World::good(ContainerLevel::Sandbox);
    let digest: [u8; 32] = Sha256::digest(world.launch.encode()).into();
    let result = world.appraise();
    assert_eq!(result.launch_record_digest, Some(hex::encode(digest)));
    assert_eq!(result.guest().unwrap().launch_record_digest, digest);
}

#[test]
fn a_node_may_have_eight_runtimes() {
    let with = |more| {
        World::with(|world| world.events.extend((0..more).map(|_| software_event("casemate-runtime", CRUN))))
            .appraise()
            .is_accepted()
    };
    assert_eq!((with(6), with(7)), (true, false));
}

#[test]
fn the_built_in_policy_accepts_a_container_only_where_its_level_was_asked_for() {
    let judged = |result| apply_policy(result, &AppraisalPolicy::strict(), PolicyOptions::strict(), 0);
    for level in LEVELS {
        let good = World::good(level).appraise();
        let result = judged(good.clone());
        assert_eq!(result.failed(), None);
        assert!(result.guest().is_some());
        for other in
            ["container", "sandbox", "microvm", "confidential", "node"].into_iter().filter(|name| *name != level.as_str())
        {
            let mut forged = good.clone();
            forged.platform = other.to_owned();
            let result = judged(forged);
            assert!(result.guest().is_none() && result.failed().unwrap().name == "policy.appraisal", "{other}");
        }
    }
}

#[test]
fn a_token_does_not_say_of_a_container_what_it_says_of_a_micro_vm() {
    let claims = |result: &AttestationResult| {
        let key = ear::VerifierKey::new(&[7; 32], "https://casemate.example", "test").unwrap();
        let token = ear::sign_jwt(result, &key, "strict", NOW, 300).unwrap();
        ear::verify_jwt(token.as_bytes(), &key.public(), NOW).unwrap()
    };
    let container = claims(&World::good(ContainerLevel::Container).appraise());
    let machine = claims(&Case::good().appraise());
    assert_eq!((container.status, machine.status), (Tier::Warning, Tier::Affirming));
    assert_ne!(container.submodules["guest"].kind, machine.submodules["guest"].kind);
    assert_ne!(container.submodules["guest"].trust, machine.submodules["guest"].trust);
}

#[test]
fn evidence_of_one_kind_never_satisfies_a_policy_for_another() {
    let container = World::good(ContainerLevel::Container).built();
    let machine = Case::good();
    let microvm = Policy::microvm(Simulated::Allow);
    // A container for a micro VM.
    let refused = container.appraise_by(&container.bytes, &microvm, appraise);
    assert_eq!(only_failure(&refused).0, "evidence.format");
    let refused = container.appraise_by(&container.bytes, &microvm, appraise_container);
    assert_eq!(only_failure(&refused).0, "policy.platform");
    // A micro VM for a container: whoever asked for one is told what he has, and does not get something else under its name.
    for level in LEVELS {
        let policy = Policy::container(level, Simulated::Allow);
        let refused = container.appraise_by(&machine.encoded(), &policy, appraise);
        assert_eq!(only_failure(&refused).0, "evidence.format");
        let refused = Case { policy, ..Case::good() }.appraise();
        assert_eq!(only_failure(&refused).0, "policy.platform");
    }
    // One of the two levels for the other.
    for (level, other) in [(LEVELS[0], LEVELS[1]), (LEVELS[1], LEVELS[0])] {
        let built = World::good(level).built();
        let refused = built.appraise_by(&built.bytes, &Policy::container(other, Simulated::Allow), appraise);
        assert_eq!(only_failure(&refused).0, "container.level");
    }
    let confidential = Policy::confidential(Simulated::Allow);
    let refused = container.appraise_by(&container.bytes, &confidential, appraise);
    assert_eq!(only_failure(&refused).0, "policy.platform");
}

/// Everything of a container in the frame of a machine, with the node's honest quote of either leaf.
#[test]
fn a_containers_launch_in_the_frame_of_a_machine_is_no_machine() {
    let machine = Case::good();
    let world = World::good(ContainerLevel::Container);
    let (launch, keys) = (world.launch.encode(), world.keys.encode());
    let leaves = [
        container_leaf(&NONCE, &launch, &keys),
        instance_leaf(&NONCE, &launch, &keys, &machine.evidence.guest.attest),
        instance_leaf(&NONCE, &machine.evidence.launch_record, &keys, &machine.evidence.guest.attest),
    ];
    for leaf in leaves {
        let (node, node_event_log, batch, _) = quoted(&world.events, leaf);
        let forged = InstanceEvidence { launch_record: launch.clone(), node, node_event_log, batch, ..machine.evidence.clone() };
        let result = machine.appraise_bytes(&forged.encode());
        assert!(result.guest().is_none() && result.failed().is_some());
    }
    // And the other way round: a container's quote does not cover a machine's leaf.
    let leaf = instance_leaf(&NONCE, &launch, &keys, b"");
    let (node, node_event_log, batch, _) = quoted(&world.events, leaf);
    let forged =
        ContainerEvidence { version: 1, nonce: NONCE, container_launch: launch, guest_keys: keys, node, node_event_log, batch };
    let built = world.built();
    let refused = built.appraise_by(&forged.encode(), &built.policy, appraise);
    assert_eq!(only_failure(&refused).0, "batch.inclusion");
}

#[test]
fn each_attack_is_refused_by_the_check_that_it_is_against() {
    let mut wrong = Vec::new();
    for (check, attack, world) in ATTACKS {
        let (name, detail) = only_failure(&world().appraise());
        if name != check.as_str() {
            wrong.push(format!("{attack}: expected {check}, refused by {name}: {detail}"));
        }
        assert!(!detail.is_empty(), "{attack}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_check_has_an_attack() {
    let attacked: BTreeSet<_> = ATTACKS.iter().map(|(check, ..)| check.as_str()).collect();
    let missing: Vec<_> = CONTAINER_CHECKS.iter().filter(|name| !attacked.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn accepted_evidence_with_any_byte_changed_is_refused() {
    let built = World::good(ContainerLevel::Sandbox).built();
    let good = ContainerEvidence::decode(&built.bytes).unwrap();
    let mut harmless = 0;
    for at in 0..built.bytes.len() {
        let mut bytes = built.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let result = built.appraise_by(&bytes, &built.policy, appraise);
        if !result.is_accepted() {
            assert!(result.guest().is_none() && result.failed().is_some_and(|check| check.outcome == Outcome::Fail));
            continue;
        }
        // Texts and kinds of the event log are in no PCR, and nothing is read from them.
        let changed = ContainerEvidence::decode(&bytes).unwrap();
        assert_eq!(ContainerEvidence { node_event_log: good.node_event_log.clone(), ..changed }, good, "byte {at}");
        harmless += 1;
    }
    assert!(harmless < 100, "{harmless}");
}

type Attack = (CheckName, &'static str, fn() -> World);

#[rustfmt::skip]
const ATTACKS: &[Attack] = &[
    (CheckName::PolicyPlatform, "a policy for micro VMs", || World::with(|world| world.policy = Policy::microvm(Simulated::Allow))),
    (CheckName::EvidenceFormat, "a launch that is none", || World::with(|world| world.tamper = |evidence| evidence.container_launch = vec![0xa0])),
    (CheckName::EvidenceFormat, "guest keys that are none", || World::with(|world| world.tamper = |evidence| evidence.guest_keys = vec![])),
    (CheckName::EvidenceNonce, "evidence replayed for another nonce", || World::with(|world| world.nonce = [1; 32])),
    (CheckName::NodeCertificate, "a stale node certificate", || World::with(|world| world.now = UnixTime(NOW.0 + 2 * 3600))),
    (CheckName::NodeEk, "another TPM's EK certificate", || World::with(|world| world.pki.ek_digest = Some([9; 32]))),
    (CheckName::NodeAk, "a key that the node certificate does not name", || World::with(|world| world.pki.ak_name = Some(vec![0; 34]))),
    (CheckName::NodeQuote, "a changed quote", || World::with(|world| world.tamper = |evidence| evidence.node.attest[5] ^= 1)),
    (CheckName::NodePcrs, "a value missing", || World::with(|world| world.tamper = |evidence| { evidence.node.pcrs.remove(&14); })),
    (CheckName::NodeEventLog, "a log that hides a runtime", || World::with(|world| world.tamper = |evidence| {
        evidence.node_event_log = EventLog { events: events(), ..EventLog::sha256() }.encode();
    })),
    (CheckName::NodeBootPolicy, "a boot that the rules do not describe", || World::with(|world| {
        let boot = casemate_verifier::Demand::Required(casemate_verifier::boot::BootPolicy::strict());
        world.policy = world.policy.clone().with_boot(boot);
    })),
    (CheckName::NodeSoftware, "a runtime that nobody knows", || World::with(|world| world.events.push(software_event("casemate-runtime", [1; 32])))),
    (CheckName::NodeSoftware, "more runtimes than a node has", || World::with(|world| {
        world.events.extend((0..9).map(|_| software_event("casemate-runtime", CRUN)));
    })),
    (CheckName::BatchInclusion, "a swapped guest key", || World::with(|world| world.tamper = |evidence| {
        evidence.guest_keys = GuestKeys { version: 1, hpke: [0x99; 32], tls: [0x22; 32] }.encode();
    })),
    (CheckName::BatchInclusion, "another launch than the node quoted", || World::with(|world| world.tamper = |evidence| {
        let mut launch = ContainerLaunch::decode(&evidence.container_launch).unwrap();
        launch.level = ContainerLevel::Sandbox;
        evidence.container_launch = launch.encode();
    })),
    (CheckName::InstanceId, "another instance", || World::with(|world| world.expected_instance = "another")),
    (CheckName::WorkloadDigest, "another workload", || World::with(|world| world.expected_workload = [1; 32])),
    (CheckName::ContainerLevel, "a container where a sandbox was asked for", || World::with(|world| {
        world.policy = Policy::container(ContainerLevel::Sandbox, Simulated::Refuse);
    })),
    (CheckName::ContainerRuntime, "a runtime that nobody knows", || World::with(|world| world.launch.runtime.digest = [1; 32])),
    (CheckName::ContainerRuntime, "a known runtime that makes no sandbox", || {
        World { policy: Policy::container(ContainerLevel::Sandbox, Simulated::Refuse), ..World::with(|world| world.launch.level = ContainerLevel::Sandbox) }
    }),
    (CheckName::ContainerRuntime, "a runtime that was not there when the node started", || World::with(|world| world.events = events())),
    (CheckName::ContainerRuntime, "reference values without runtimes", || World::with(|world| {
        world.events = events();
        world.references["node_software"]["container_runtime"] = serde_json::json!([]);
    })),
    (CheckName::ContainerGuest, "another program as process 1", || World::with(|world| world.launch.guest_program = [1; 32])),
    (CheckName::ContainerGuest, "reference values without one", || World::with(|world| {
        world.references["node_software"]["container_guest"] = serde_json::json!([]);
    })),
    (CheckName::ContainerImage, "a layer less", || World::with(|world| { world.launch.layers.pop(); })),
    (CheckName::ContainerImage, "layers in another order", || World::with(|world| world.launch.layers.reverse())),
    (CheckName::ContainerImage, "a layer more", || World::with(|world| world.launch.layers.push(LayerRoot([1; 32])))),
    (CheckName::ContainerImage, "no layers on either side", || World::with(|world| { world.launch.layers.clear(); world.layers.clear(); })),
    (CheckName::ContainerJail, "the host's root", || World::with(|world| world.launch.jail.uid = 0)),
    (CheckName::ContainerJail, "new privileges", || World::with(|world| world.launch.jail.no_new_privs = false)),
    (CheckName::ContainerJail, "no filter", || World::with(|world| world.launch.jail.seccomp = false)),
    (CheckName::ContainerJail, "the host's users", || World::with(|world| world.launch.jail.namespaces.retain(|name| name != "user"))),
    (CheckName::ContainerJail, "no limits", || World::with(|world| world.launch.jail.cgroup = false)),
    (CheckName::PolicyRevoked, "no list", || World::with(|world| world.revocations = None)),
    (CheckName::PolicyRevoked, "a revoked runtime", || revoked(CRUN)),
    (CheckName::PolicyRevoked, "a revoked guest program", || revoked(GUEST)),
    (CheckName::PolicyRevoked, "a revoked agent", || revoked(AGENT)),
    (CheckName::PolicyRevoked, "a revoked VMM of the node", || revoked(VMM)),
    (CheckName::PolicySimulated, "a root declared to be a simulator's", || World::with(|world| world.pki.simulated = true)),
];

fn revoked(digest: [u8; 32]) -> World {
    World::with(|world| world.revocations = Some(revocations(|list| list.images = [hex::encode(digest)].into())))
}
