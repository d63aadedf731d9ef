//! For each check at least one attack on which only that check fails.

use std::collections::BTreeSet;

use casemate_attester::{Attester as _, quote_bundle, sim::SoftTpm};
use casemate_evidence::{
    eventlog::{Event, EventLog, EventType},
    instance::{GuestKeys, LaunchRecord, Pcr, Record as _},
    tpm::{ObjectAttributes, Public, Signature},
};
use casemate_verifier::{
    CheckName, Demand, INSTANCE_CHECKS, Policy, Simulated, Tier, UnixTime, boot::BootPolicy, revocation::Revocations,
};
use sha2::{Digest as _, Sha256};

use crate::world::{
    AGENT, Case, HOUR, INITRD, KERNEL, NODE, NONCE, NOW, ROOT, Spec, VMM, at, events, only_failure, revocations, software_event,
};

type Attack = (CheckName, &'static str, fn() -> Case);

#[test]
fn accepts_what_is_right_and_gives_the_guests_keys() {
    let result = Case::good().appraise();
    assert_eq!(result.failed(), None);
    assert!(result.is_affirming() && result.status == Tier::Affirming && !result.simulated);
    assert!(result.checks.iter().map(|check| check.name.as_str()).eq(INSTANCE_CHECKS.iter().map(|name| name.as_str())));
    let guest = result.guest().unwrap();
    assert_eq!((guest.hpke, guest.nonce), ([0x11; 32], NONCE));
    assert_eq!(result.anchors.len(), 2);
    assert!(result.anchors[1].proved.contains("Test TPM Vendor Root"));
    assert!(result.warnings[0].contains("anchors in the node's TPM"));
}

#[test]
fn each_attack_is_refused_by_the_check_that_it_is_against() {
    let mut wrong = Vec::new();
    for (check, attack, case) in ATTACKS {
        let (name, detail) = only_failure(&case().appraise());
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
    let missing: Vec<_> = INSTANCE_CHECKS.iter().filter(|name| !attacked.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn evidence_that_cannot_be_judged_has_no_tier() {
    let none = Case { bytes: Some(vec![]), ..Case::good() }.appraise();
    assert_eq!((none.status, none.anchors.len()), (Tier::None, 0));
    let bad = Case { nonce: [0; 32], ..Case::good() }.appraise();
    assert_eq!(bad.status, Tier::Contraindicated);
    assert_eq!(bad.launch_record_digest, None, "nothing vouches for it yet");
}

#[test]
fn a_simulator_is_marked_and_taken_only_where_it_is_allowed() {
    let mut spec = simulated_vendor();
    spec.policy = Policy::microvm(Simulated::Allow);
    let result = spec.build().appraise();
    assert!(result.is_affirming() && result.simulated && result.anchors[1].simulated);
    assert!(result.warnings.iter().any(|warning| warning.contains("simulated")));

    let mut fake = Spec::with_launch(|launch| launch.vmm.name = "fake".into());
    fake.policy = Policy::microvm(Simulated::Allow);
    assert!(fake.build().appraise().simulated);
}

#[test]
fn who_judged_the_nodes_boot_is_said_aloud() {
    let said = |result: &casemate_verifier::AttestationResult| {
        let claim = result.submodules["node"].claims["boot"].as_str().unwrap().to_owned();
        (claim, result.warnings.iter().any(|warning| warning.contains("the node's boot was not judged")))
    };
    assert_eq!(said(&Case::good().appraise()), ("left-to-platform".to_owned(), true));
    let danger = with(|spec| spec.policy = strict_boot(Demand::DangerNotJudged)).appraise();
    assert!(danger.is_affirming());
    assert_eq!(said(&danger), ("not-judged".to_owned(), true));

    let mut spec = simulated_vendor();
    spec.policy = Policy::microvm(Simulated::Allow).with_boot(Demand::UnlessSimulated(BootPolicy::strict()));
    let simulated = spec.build().appraise();
    assert!(simulated.is_affirming(), "{:?}", simulated.failed());
    assert_eq!(said(&simulated), ("simulated".to_owned(), true));
}

#[test]
fn emulation_is_said_aloud() {
    let result = Spec::with_launch(|launch| launch.machine.accel = "tcg".into()).build().appraise();
    assert!(result.is_affirming() && result.warnings.iter().any(|warning| warning.contains("tcg")));
}

#[test]
fn a_batch_of_any_size_is_accepted_in_any_place() {
    for others in [0, 1, 2, 6, 40] {
        let mut spec = Spec::good();
        spec.others = vec![[7; 32]; others];
        assert!(spec.build().appraise().is_affirming(), "{others} others");
    }
}

#[test]
fn the_same_inputs_give_the_same_result() {
    let case = Case::good();
    let json = || serde_json::to_string(&case.appraise()).unwrap();
    assert_eq!(json(), json());
}

#[rustfmt::skip]
const ATTACKS: &[Attack] = &[
    (CheckName::PolicyPlatform, "a platform kind without appraisal", || {
        Case { policy: Policy::confidential(Simulated::Allow), ..Case::good() }
    }),
    (CheckName::EvidenceFormat, "no evidence", || Case { bytes: Some(vec![]), ..Case::good() }),
    (CheckName::EvidenceFormat, "bytes after the end", || {
        let case = Case::good();
        Case { bytes: Some([case.encoded(), vec![0]].concat()), ..case }
    }),
    (CheckName::EvidenceFormat, "a bomb", || Case { bytes: Some(vec![0x9b; 2 << 20]), ..Case::good() }),
    (CheckName::EvidenceFormat, "another version", || changed(|case| case.evidence.version = 2)),
    (CheckName::EvidenceFormat, "a launch record that is none", || changed(|case| case.evidence.launch_record = vec![0xa0])),
    (CheckName::EvidenceFormat, "guest keys that are none", || changed(|case| case.evidence.guest_keys = vec![])),
    (CheckName::EvidenceNonce, "evidence replayed for another nonce", || Case { nonce: [1; 32], ..Case::good() }),
    (CheckName::NodeCertificate, "a stale node certificate", || {
        Case { now: UnixTime(NOW.0 + 2 * 3600), ..Case::good() }
    }),
    (CheckName::NodeCertificate, "a node certificate of the future", || {
        with(|spec| { spec.pki.node.not_before = at(1); spec.pki.node.not_after = at(HOUR); })
    }),
    (CheckName::NodeCertificate, "another platform's node", || {
        changed(|case| case.anchors = other_anchors())
    }),
    (CheckName::NodeCertificate, "no node certificate", || changed(|case| case.node_chain.clear())),
    (CheckName::NodeCertificate, "a certificate without an AK name", || {
        with(|spec| spec.pki.ak_name = Some(vec![]))
            .also(|case| case.node_chain = vec![plain_leaf()])
    }),
    (CheckName::NodeEk, "an EK certificate of no pinned vendor", || changed(|case| case.ek_chain = case.node_chain.clone())),
    (CheckName::NodeEk, "no EK certificate", || changed(|case| case.ek_chain.clear())),
    (CheckName::NodeEk, "without the intermediate", || changed(|case| case.ek_chain.truncate(1))),
    (CheckName::NodeEk, "another TPM's EK certificate", || with(|spec| spec.pki.ek_digest = Some([9; 32]))),
    (CheckName::NodeAk, "a key that the node certificate does not name", || with(|spec| spec.pki.ak_name = Some(vec![0; 34]))),
    (CheckName::NodeAk, "a quote by another AK", || {
        with(|spec| spec.pki.ak_name = Some(crate::world::name_of(spec.node_tpm.public()))).also(|case| {
            let mut other = SoftTpm::new(&[99; 32]);
            for event in events() {
                other.pcr_extend(event.pcr, event.measured_sha256().unwrap()).unwrap();
            }
            let root = quoted_root(case);
            case.evidence.node = quote_bundle(&mut other, &root, &casemate_evidence::instance::NODE_PCRS).unwrap();
        })
    }),
    (CheckName::NodeAk, "a key that also signs what others made", || {
        let unrestricted = with_attributes(ObjectAttributes(ObjectAttributes::ATTESTATION_KEY.0 & !ObjectAttributes::RESTRICTED));
        let name = Public::parse(&unrestricted).unwrap().name();
        with(|spec| spec.pki.ak_name = Some(name)).also(|case| case.evidence.node.ak_public = unrestricted)
    }),
    (CheckName::NodeAk, "no key", || changed(|case| case.evidence.node.ak_public.clear())),
    (CheckName::NodeQuote, "another signature", || {
        changed(|case| case.evidence.node.signature = case.evidence.guest.signature.clone())
    }),
    (CheckName::NodeQuote, "a changed quote", || changed(|case| case.evidence.node.attest[5] ^= 1)),
    (CheckName::NodeQuote, "a signature of another scheme", || {
        changed(|case| case.evidence.node.signature = Signature::Rsassa { hash: casemate_evidence::tpm::HashAlg::Sha256, sig: vec![1; 256] }.encode())
    }),
    (CheckName::NodeQuote, "the signature of another TPM", || changed(|case| {
        let root = quoted_root(case);
        case.evidence.node.signature = SoftTpm::new(&[99; 32]).quote(&root, &casemate_evidence::instance::NODE_PCRS).unwrap().1;
    })),
    (CheckName::NodePcrs, "a PCR less", || with(|spec| { spec.node_pcrs.pop(); })),
    (CheckName::NodePcrs, "another PCR value than quoted", || {
        changed(|case| { case.evidence.node.pcrs.insert(7, Pcr([1; 32])); })
    }),
    (CheckName::NodePcrs, "a value of a PCR that is not quoted", || {
        changed(|case| { case.evidence.node.pcrs.insert(11, Pcr([0; 32])); })
    }),
    (CheckName::NodePcrs, "a value missing", || changed(|case| { case.evidence.node.pcrs.remove(&14); })),
    (CheckName::NodeEventLog, "no log", || changed(|case| case.evidence.node_event_log.clear())),
    (CheckName::NodeEventLog, "a log that hides an event", || {
        changed(|case| case.evidence.node_event_log = log(&events()[1..]))
    }),
    (CheckName::NodeEventLog, "a log that adds an event", || {
        changed(|case| case.evidence.node_event_log = log(&[events(), vec![Event::of_data(4, EventType::IPL, *b"x")]].concat()))
    }),
    (CheckName::NodeEventLog, "a log in another order", || {
        changed(|case| { let mut e = events(); e.swap(2, 3); case.evidence.node_event_log = log(&e); })
    }),
    (CheckName::NodeEventLog, "a log without what the firmware measured into a PCR that nothing else explains", || {
        with(|spec| { spec.events.push(Event::of_data(6, EventType::EFI_ACTION, *b"x")); })
            .also(|case| case.evidence.node_event_log = log(&events()))
    }),
    (CheckName::NodeBootPolicy, "a boot that the rules do not describe", || {
        with(|spec| spec.policy = strict_boot(Demand::Required(BootPolicy::strict())))
    }),
    (CheckName::NodeBootPolicy, "a genuine TPM is judged also where a simulator is not", || {
        with(|spec| spec.policy = strict_boot(Demand::UnlessSimulated(BootPolicy::strict())))
    }),
    (CheckName::NodeSoftware, "own keys in shim, whose rules nobody gave", || {
        with(|spec| spec.events.push(Event::of_digest(14, EventType::IPL, [3; 32], *b"MokList\0")))
    }),
    (CheckName::NodeSoftware, "an unknown agent", || {
        with(|spec| spec.events[2] = software_event("casemate-agent", [1; 32]))
    }),
    (CheckName::NodeSoftware, "an unknown VMM", || with(|spec| spec.events[3] = software_event("casemate-vmm", [1; 32]))),
    (CheckName::NodeSoftware, "the VMM's digest labelled as the agent's", || {
        with(|spec| spec.events[2] = software_event("casemate-agent", VMM))
    }),
    (CheckName::NodeSoftware, "a label that lies about the digest", || {
        with(|spec| spec.events[2].data = software_event("casemate-agent", [2; 32]).data)
    }),
    (CheckName::NodeSoftware, "a second agent", || with(|spec| spec.events.push(software_event("casemate-agent", AGENT)))),
    (CheckName::NodeSoftware, "something else besides", || {
        with(|spec| spec.events.push(Event::of_data(14, EventType::IPL, *b"rootkit")))
    }),
    (CheckName::NodeSoftware, "an unmeasured label in place of the VMM", || {
        with(|spec| { spec.events.remove(3); spec.events.push(Event { kind: EventType::NO_ACTION, ..software_event("casemate-vmm", VMM) }); })
    }),
    (CheckName::NodeSoftware, "no agent", || with(|spec| { spec.events.remove(2); })),
    (CheckName::NodeSoftware, "empty reference values", || with(|spec| { spec.references.agent.clear(); })),
    (CheckName::BatchInclusion, "another leaf's path", || changed(|case| case.evidence.batch.index = 0)),
    (CheckName::BatchInclusion, "no path", || changed(|case| case.evidence.batch.siblings.clear())),
    (CheckName::BatchInclusion, "a swapped guest key", || {
        changed(|case| case.evidence.guest_keys = GuestKeys { version: 1, hpke: [0x66; 32], tls: [0x22; 32] }.encode())
    }),
    (CheckName::BatchInclusion, "a changed launch record", || {
        changed(|case| {
            let mut launch = LaunchRecord::decode(&case.evidence.launch_record).unwrap();
            launch.jail.uid = 1;
            case.evidence.launch_record = launch.encode();
        })
    }),
    (CheckName::BatchInclusion, "an old quote with a new nonce", || {
        with(|spec| spec.nonce = [3; 32]).also(|case| case.evidence.nonce = NONCE)
    }),
    (CheckName::InstanceId, "evidence replayed for another instance", || {
        changed(|case| case.instance = "0198c1f2-0000-7000-8000-000000000002".into())
    }),
    (CheckName::WorkloadDigest, "another workload than asked for", || Case { workload_digest: [1; 32], ..Case::good() }),
    (CheckName::WorkloadDigest, "another workload launched", || launched(|launch| launch.workload_digest = [1; 32])),
    (CheckName::GuestKernel, "a changed kernel", || launched(|launch| launch.kernel[31] ^= 1)),
    (CheckName::GuestInitrd, "a changed initrd", || launched(|launch| launch.initrd[0] ^= 1)),
    (CheckName::GuestInitrd, "another guest OS' initrd", || launched(|launch| launch.initrd = [2; 32])),
    (CheckName::GuestCommandLine, "a changed command line", || launched(|launch| launch.command_line.push_str(" init=/bin/sh"))),
    (CheckName::GuestCommandLine, "something in place of the frequency", || {
        launched(|launch| launch.command_line = launch.command_line.replace("2100000", "1 init=/bin/sh x=1"))
    }),
    (CheckName::GuestCommandLine, "another root hash on the command line", || {
        launched(|launch| launch.command_line = launch.command_line.replace("casemate.root=60", "casemate.root=61"))
    }),
    (CheckName::GuestRootHash, "another root hash in the launch record", || launched(|launch| launch.root_hash[0] ^= 1)),
    (CheckName::GuestRootHash, "another guest OS' root hash", || launched(|launch| launch.root_hash = [3; 32])),
    (CheckName::GuestRootHash, "reference values that contradict themselves", || {
        with(|spec| {
            spec.references.command_line = spec.references.command_line.replace("casemate.root=60", "casemate.root=61");
            spec.launch.command_line = spec.launch.command_line.replace("casemate.root=60", "casemate.root=61");
        })
    }),
    (CheckName::VmmDigest, "an unknown VMM started", || launched(|launch| launch.vmm.digest = [1; 32])),
    (CheckName::VmmDigest, "a known VMM, but not the measured one", || launched(|launch| launch.vmm.digest = [0; 32])),
    (CheckName::VmmJail, "as root", || launched(|launch| launch.jail.uid = 0)),
    (CheckName::VmmJail, "with new privileges", || launched(|launch| launch.jail.no_new_privs = false)),
    (CheckName::VmmJail, "without seccomp", || launched(|launch| launch.jail.seccomp = false)),
    (CheckName::VmmJail, "with a capability", || launched(|launch| launch.jail.capabilities = 1 << 21)),
    (CheckName::VmmJail, "in the host's network", || launched(|launch| launch.jail.namespaces.retain(|name| name != "net"))),
    (CheckName::VmmJail, "in no namespaces", || launched(|launch| launch.jail.namespaces.clear())),
    (CheckName::VmmJail, "without limits", || launched(|launch| launch.jail.cgroup = false)),
    (CheckName::GuestAk, "a guest key that the launcher did not endorse", || {
        with(|spec| spec.guest_tpm = SoftTpm::new(&[98; 32]))
    }),
    (CheckName::GuestAk, "an endorsed key that is no attestation key", || {
        let decrypting = with_attributes(ObjectAttributes(ObjectAttributes::ATTESTATION_KEY.0 | ObjectAttributes::DECRYPT));
        let public = decrypting.clone();
        let mut spec = Spec::good();
        spec.launch.vtpm_ak_public = public;
        spec.build().also(|case| case.evidence.guest.ak_public = decrypting)
    }),
    (CheckName::GuestQuote, "the node's signature under the guest's quote", || {
        changed(|case| case.evidence.guest.signature = case.evidence.node.signature.clone())
    }),
    (CheckName::GuestPcrs, "a PCR more", || with(|spec| spec.guest_pcrs.push(13))),
    (CheckName::GuestPcrs, "another value than quoted", || {
        changed(|case| { case.evidence.guest.pcrs.insert(12, Pcr([1; 32])); })
    }),
    (CheckName::GuestPcrs, "a guest that measured another workload", || {
        with(|spec| { spec.measured.insert(12, [1; 32]); })
    }),
    (CheckName::GuestPcrs, "a launcher that measured another kernel than it says", || {
        with(|spec| { spec.measured.insert(4, [1; 32]); })
    }),
    (CheckName::GuestPcrs, "a guest that measured nothing", || with(|spec| { spec.measured.remove(&12); })),
    (CheckName::GuestBinding, "a guest quote for another nonce or key", || with(|spec| spec.guest_qualifying = Some([1; 32]))),
    (CheckName::PolicyRevoked, "no revocation list", || Case { revocations: None, ..Case::good() }),
    (CheckName::PolicyRevoked, "a list that was to be renewed", || revoked(|list| list.next_update = NOW)),
    (CheckName::PolicyRevoked, "a list of the future", || {
        revoked(|list| (list.issued_at, list.next_update) = (UnixTime(NOW.0 + 3600), UnixTime(NOW.0 + 7200)))
    }),
    (CheckName::PolicyRevoked, "an older list than one that was seen", || {
        with(|spec| spec.policy = Policy::microvm(Simulated::Refuse).with_revocation_floor(18))
    }),
    (CheckName::PolicyRevoked, "a revoked attestation key", || {
        let ak = hex::encode(crate::world::name_of(Spec::good().node_tpm.public()));
        revoked(|list| list.aks = [ak].into())
    }),
    (CheckName::PolicyRevoked, "a revoked TPM", || {
        let case = Case::good();
        let ek = hex::encode(Sha256::digest(&case.ek_chain[0]));
        Case { revocations: Some(revocations(|list| list.chips = [ek].into())), ..case }
    }),
    (CheckName::PolicyRevoked, "a revoked agent", || revoked_image(AGENT)),
    (CheckName::PolicyRevoked, "a revoked VMM", || revoked_image(VMM)),
    (CheckName::PolicyRevoked, "a revoked guest kernel", || revoked_image(KERNEL)),
    (CheckName::PolicyRevoked, "a revoked guest initrd", || revoked_image(INITRD)),
    (CheckName::PolicyRevoked, "a revoked guest root", || revoked_image(ROOT)),
    (CheckName::PolicySimulated, "a root declared to be a simulator's", || with(|spec| spec.pki.simulated = true)),
    (CheckName::PolicySimulated, "a root that says so itself", || simulated_vendor().build()),
    (CheckName::PolicySimulated, "a fake VMM", || launched(|launch| launch.vmm.name = "fake".into())),
];

fn with(change: impl FnOnce(&mut Spec)) -> Case {
    let mut spec = Spec::good();
    change(&mut spec);
    spec.build()
}

fn strict_boot(demand: Demand<BootPolicy>) -> Policy {
    Policy::microvm(Simulated::Refuse).with_boot(demand)
}

fn revoked(change: impl FnOnce(&mut Revocations)) -> Case {
    Case { revocations: Some(revocations(change)), ..Case::good() }
}

fn revoked_image(digest: [u8; 32]) -> Case {
    revoked(|list| list.images = [hex::encode(digest)].into())
}

fn launched(change: impl FnOnce(&mut LaunchRecord)) -> Case {
    Spec::with_launch(change).build()
}

fn changed(change: impl FnOnce(&mut Case)) -> Case {
    Case::good().also(change)
}

impl Case {
    fn also(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

fn simulated_vendor() -> Spec {
    let mut spec = Spec::good();
    spec.pki.vendor.distinguished_name.push(rcgen::DnType::CommonName, "Casemate Simulated TPM Root");
    spec
}

fn other_anchors() -> casemate_verifier::TrustAnchors {
    let mut pki = crate::world::Pki::good();
    pki.platform = crate::world::authority("Another platform", None);
    pki.build(&[]).2
}

/// A certificate of the platform that is no node's: a server's, say.
fn plain_leaf() -> Vec<u8> {
    let pki = crate::world::Pki::good();
    let issuer = rcgen::Issuer::from_params(&pki.platform, &crate::world::keys().platform);
    crate::world::leaf(NODE).signed_by(&crate::world::keys().node, &issuer).unwrap().der().to_vec()
}

fn with_attributes(attributes: ObjectAttributes) -> Vec<u8> {
    let mut public = Public::parse(SoftTpm::new(&[1; 32]).public()).unwrap();
    public.attributes = attributes;
    public.encode()
}

fn quoted_root(case: &Case) -> Vec<u8> {
    casemate_evidence::tpm::Attest::parse(&case.evidence.node.attest).unwrap().extra_data
}

fn log(events: &[Event]) -> Vec<u8> {
    EventLog { events: events.to_vec(), ..EventLog::sha256() }.encode()
}
