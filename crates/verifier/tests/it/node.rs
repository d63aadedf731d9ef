//! Enrolment and renewal: a node's quote with the logs that lead to it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::OnceLock,
};

use casemate_attester::{Attester as _, quote_bundle, sim::SoftTpm};
use casemate_evidence::{
    eventlog::{Event, EventLog, EventType},
    ima::DigestKind,
    instance::{NODE_PCRS, QuoteBundle},
    tpm::{Digest, HashAlg},
};
use casemate_verifier::{
    Demand, ImaMemory, ImaPart, NODE_CHECKS, NodeAppraisal, NodeBeliefs, NodePolicy, NodeQuoteInput, Outcome, Simulated,
    TrustAnchors, appraise_node,
    boot::{BootPolicy, MokRule},
    ek::{VerifiedEk, verify_chain},
    ima::{FileDigest, ImaPolicy},
    rego::AppraisalPolicy,
    revocation::RevocationList,
};

use crate::{
    boot::Machine,
    world::{AGENT, NOW, Pki, References, VMM, events, name_of, revocations, software_event},
};

pub(crate) const QUALIFYING: [u8; 32] = [0x51; 32];

/// A node and the platform that it asks for a certificate.
pub(crate) struct Node {
    pub(crate) tpm: SoftTpm,
    pub(crate) log: Vec<u8>,
    /// The kernel's list, whole.
    list: Vec<u8>,
    pub(crate) policy: NodePolicy,
    references: References,
    revocations: Option<RevocationList>,
    floor: u64,
    simulated: bool,
    rules: AppraisalPolicy,
}

impl Node {
    /// It started as [`Machine::good`] says and measured two files; the policy describes exactly it.
    pub(crate) fn good() -> Self {
        let Machine { mut events, policy } = Machine::good();
        events.extend([software_event("casemate-agent", AGENT), software_event("casemate-vmm", VMM)]);
        let mut node = Self::booted(&events, policy);
        let aggregate = boot_aggregate(&mut node.tpm);
        node.measures("boot_aggregate", &aggregate);
        node.opens("/init");
        node.opens("/bin/sh");
        node
    }

    fn booted(events: &[Event], boot: BootPolicy) -> Self {
        let mut tpm = SoftTpm::new(&[1; 32]);
        extend(&mut tpm, events);
        let log = EventLog { events: events.to_vec(), ..EventLog::sha256() }.encode();
        let ima = ImaPolicy { allowed: known(&["/init", "/bin/sh", "/bin/ls"]), ..ImaPolicy::strict() };
        Self {
            tpm,
            log,
            list: Vec::new(),
            policy: NodePolicy { boot: Demand::Required(boot), ima: Demand::Required(ima) },
            references: References::good(),
            revocations: Some(revocations(|_| ())),
            floor: 17,
            simulated: false,
            rules: AppraisalPolicy::strict(),
        }
    }

    /// A development machine: nobody measured anything but agent and VMM.
    fn simulated() -> Self {
        let mut node = Self::booted(&events(), BootPolicy::strict());
        (node.simulated, node.policy) = (true, NodePolicy::strict());
        node
    }

    fn opens(&mut self, file: &str) {
        self.measures(file, &HashAlg::Sha256.digest(&[file.as_bytes()]));
    }

    /// As the kernel does: an `ima-ng` entry, and its digest of the bank into PCR 10.
    fn measures(&mut self, name: &str, digest: &Digest) {
        let sized = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat();
        let fields = [sized(&[b"sha256:\0", digest.as_slice()].concat()), sized(&[name.as_bytes(), b"\0"].concat())].concat();
        let sha1 = HashAlg::Sha1.digest(&[&fields]);
        self.list.extend([&10u32.to_le_bytes()[..], sha1.as_slice(), &sized(b"ima-ng"), &sized(&fields)].concat());
        let entry = HashAlg::Sha256.digest(&[&fields]);
        self.tpm.pcr_extend(10, entry.as_slice().try_into().unwrap()).unwrap();
    }

    fn ek(&self) -> VerifiedEk {
        // Signatures are random: the same certificate for all calls.
        static MADE: OnceLock<[(Vec<Vec<u8>>, TrustAnchors); 2]> = OnceLock::new();
        let made = MADE.get_or_init(|| {
            [false, true].map(|simulated| {
                let (_, chain, anchors) = Pki { simulated, ..Pki::good() }.build(&[0; 34]);
                (chain, anchors)
            })
        });
        let (chain, anchors) = &made[usize::from(self.simulated)];
        verify_chain(chain, anchors, NOW).unwrap()
    }

    pub(crate) fn quote(&mut self) -> QuoteBundle {
        quote_bundle(&mut self.tpm, &QUALIFYING, &NODE_PCRS).unwrap()
    }

    fn whole(&self) -> Option<ImaPart<'_>> {
        Some(ImaPart { list: &self.list, offset: 0 })
    }

    fn appraise(&mut self) -> NodeAppraisal {
        let bundle = self.quote();
        self.judge(&bundle, self.whole(), None)
    }

    pub(crate) fn judge(&self, bundle: &QuoteBundle, ima: Option<ImaPart<'_>>, remembered: Option<&ImaMemory>) -> NodeAppraisal {
        let pcrs: BTreeMap<u32, [u8; 32]> = bundle.pcrs.iter().map(|(pcr, value)| (*pcr, value.0)).collect();
        let (attest, signature, ak_public) = (&bundle.attest, &bundle.signature, &bundle.ak_public);
        let (ek, event_log) = (&self.ek(), &self.log);
        let input = NodeQuoteInput { node: "n-1", ek, attest, signature, ak_public, pcrs: &pcrs, event_log, ima, remembered };
        let simulated = if self.simulated { Simulated::Allow } else { Simulated::Refuse };
        let beliefs = NodeBeliefs {
            references: &self.references.build(),
            policy: &self.policy,
            rules: &self.rules,
            simulated,
            revocations: self.revocations.as_ref(),
            revocation_floor: self.floor,
        };
        appraise_node(&input, &QUALIFYING, &beliefs, NOW)
    }

    fn boot(&mut self) -> &mut BootPolicy {
        let Demand::Required(boot) = &mut self.policy.boot else { panic!("the boot is judged") };
        boot
    }
}

fn extend(tpm: &mut SoftTpm, events: &[Event]) {
    for event in events {
        if let Some(digest) = event.measured_sha256() {
            tpm.pcr_extend(event.pcr, digest).unwrap();
        }
    }
}

fn boot_aggregate(tpm: &mut SoftTpm) -> Digest {
    let values = tpm.pcr_read(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
    HashAlg::Sha256.digest(&values.values().map(<[u8; 32]>::as_slice).collect::<Vec<_>>())
}

fn known(names: &[&str]) -> HashMap<String, Vec<FileDigest>> {
    let known = |name: &&str| {
        let digest = HashAlg::Sha256.digest(&[name.as_bytes()]);
        ((*name).to_owned(), vec![FileDigest { kind: DigestKind::Ima, alg: HashAlg::Sha256, digest }])
    };
    names.iter().map(known).collect()
}

/// The check that failed, and why.
#[track_caller]
pub(crate) fn refusal(appraisal: &NodeAppraisal) -> (&str, &str) {
    assert!(appraisal.verified().is_none() && !appraisal.result.is_affirming());
    assert!(appraisal.result.submodules.values().all(|part| part.status != casemate_verifier::Tier::Affirming));
    let check = appraisal.result.checks.iter().find(|check| check.outcome == Outcome::Fail).expect("a check failed");
    (&check.name, &check.detail)
}

#[track_caller]
fn refused(appraisal: &NodeAppraisal, check: &str, why: &str) {
    let (name, detail) = refusal(appraisal);
    assert!(name == check && detail.contains(why), "{name}: {detail}");
}

#[test]
fn a_node_with_a_known_boot_and_known_files_is_verified() {
    let mut node = Node::good();
    let appraisal = node.appraise();
    assert_eq!(appraisal.result.failed(), None);
    let names = appraisal.result.checks.iter().map(|check| check.name.as_str());
    assert!(names.eq(NODE_CHECKS.iter().map(|name| name.as_str()).chain(["policy.appraisal"])));
    let verified = appraisal.verified().unwrap();
    assert_eq!(verified.ak_name(), name_of(node.tpm.public()));
    assert_eq!((verified.software().agent(), verified.software().vmm()), (AGENT, VMM));
    let memory = verified.ima().unwrap();
    assert_eq!((memory.count(), memory.offset()), (3, u64::try_from(node.list.len()).unwrap()));
    let claims = &appraisal.result.submodules["node"].claims;
    assert_eq!((&claims["boot"], &claims["files"], &claims["secure_boot"]), (&"judged".into(), &"judged".into(), &true.into()));
    assert_eq!(appraisal.result.warnings, Vec::<String>::new());
}

#[test]
fn a_simulator_is_not_judged_by_logs_that_it_cannot_have_and_that_is_said() {
    let mut node = Node::simulated();
    let bundle = node.quote();
    let appraisal = node.judge(&bundle, None, None);
    assert_eq!(appraisal.result.failed(), None);
    assert!(appraisal.verified().unwrap().ima().is_none() && appraisal.result.simulated);
    let claims = &appraisal.result.submodules["node"].claims;
    assert_eq!((&claims["boot"], &claims["files"]), (&"simulated".into(), &"simulated".into()));
    for what in ["the node's boot was not judged", "the node's list of files was not judged", "simulated: the node's TPM"] {
        assert!(appraisal.result.warnings.iter().any(|warning| warning.contains(what)), "{what}");
    }
    // The same node with a genuine TPM, and the same demand.
    node.simulated = false;
    refused(&node.judge(&bundle, None, None), "node.boot-policy", "");
    // And where the demand makes no exception.
    node.simulated = true;
    node.policy.boot = Demand::Required(BootPolicy::strict());
    refused(&node.judge(&bundle, None, None), "node.boot-policy", "");
    node.policy = NodePolicy { boot: Demand::DangerNotJudged, ima: Demand::Required(ImaPolicy::strict()) };
    refused(&node.judge(&bundle, None, None), "node.ima", "the node sent none");
}

#[test]
fn each_attack_is_refused_by_name() {
    let mut node = Node::good();
    let good = node.quote();
    let with = |change: fn(&mut QuoteBundle)| {
        let mut bundle = good.clone();
        change(&mut bundle);
        node.judge(&bundle, node.whole(), None)
    };
    refused(&with(|bundle| bundle.ak_public.truncate(9)), "node.ak", "");
    refused(&with(|bundle| bundle.attest[40] ^= 1), "node.quote", "");
    refused(&with(|bundle| bundle.ak_public = SoftTpm::new(&[9; 32]).public().to_vec()), "node.quote", "");
    refused(&with(|bundle| bundle.pcrs.retain(|pcr, _| *pcr != 0)), "node.pcrs", "");
    let of_another_challenge = quote_bundle(&mut node.tpm, &[0; 32], &NODE_PCRS).unwrap();
    refused(&node.judge(&of_another_challenge, node.whole(), None), "evidence.nonce", "");
    node.references = References { agent: vec![], ..References::good() };
    refused(&node.appraise(), "node.software", "");
}

#[test]
fn a_boot_log_that_is_missing_cut_swapped_or_not_described_is_refused() {
    let mut node = Node::good();
    let bundle = node.quote();
    let judge_log = |node: &mut Node, log: Vec<u8>| {
        let good = std::mem::replace(&mut node.log, log);
        let appraisal = node.judge(&bundle, node.whole(), None);
        node.log = good;
        appraisal
    };
    let events = EventLog::parse(&node.log).unwrap().events;
    refused(&judge_log(&mut node, Vec::new()), "node.event-log", "");
    let another = EventLog { events: crate::world::events(), ..EventLog::sha256() }.encode();
    refused(&judge_log(&mut node, another), "node.event-log", "PCR 0");
    for dropped in 0..events.len() {
        let mut fewer = events.clone();
        fewer.remove(dropped);
        let fewer = EventLog { events: fewer, ..EventLog::sha256() }.encode();
        refused(&judge_log(&mut node, fewer), "node.event-log", "");
    }
    // Types and labels are covered by nothing: what passes is what was there.
    let mut passed = 0;
    for at in 0..node.log.len() {
        let mut changed = node.log.clone();
        changed[at] ^= 1;
        let appraisal = judge_log(&mut node, changed);
        if appraisal.verified().is_some() {
            passed += 1;
        } else {
            assert!(["node.event-log", "node.boot-policy", "node.software"].contains(&refusal(&appraisal).0), "byte {at}");
        }
    }
    assert!(passed < node.log.len() / 5, "{passed} of {}", node.log.len());
    node.boot().min_dbx_entries = 6;
    refused(&node.appraise(), "node.boot-policy", "dbx has 5 entries");
    let mut left = Node::good();
    left.policy.boot = Demand::LeftToPlatform;
    refused(&left.appraise(), "node.boot-policy", "this is the platform's appraisal");
}

#[test]
fn own_keys_in_shim_are_accepted_where_the_policy_lists_them() {
    let Machine { mut events, policy } = Machine::good();
    let mok = Event::of_digest(14, EventType::IPL, [3; 32], *b"MokList\0");
    events.extend([mok, software_event("casemate-agent", AGENT), software_event("casemate-vmm", VMM)]);
    let mut node = Node::booted(&events, policy);
    node.policy.ima = Demand::DangerNotJudged;
    refused(&node.appraise(), "node.boot-policy", "shim measured MokList");
    let listed = serde_json::json!({ "listed": { "MokList": [hex::encode([3; 32])] } });
    node.boot().shim = serde_json::from_value::<MokRule>(listed).unwrap();
    let appraisal = node.appraise();
    assert_eq!(appraisal.result.failed(), None);
    assert_eq!(appraisal.result.submodules["node"].claims["files"], "not-judged");
}

#[test]
fn a_list_goes_on_where_the_platform_remembers_that_it_ended() {
    let mut node = Node::good();
    let memory = node.appraise().verified().unwrap().ima().unwrap().clone();
    let stored: ImaMemory = serde_json::from_str(&serde_json::to_string(&memory).unwrap()).unwrap();
    assert_eq!(stored, memory);
    let at = usize::try_from(memory.offset()).unwrap();
    node.opens("/bin/ls");
    let bundle = node.quote();
    let added = |node: &Node| ImaPart { list: &node.list[at..], offset: memory.offset() }.list.to_vec();
    let part = added(&node);
    let judge = |node: &Node, list: &[u8], offset: u64, memory: Option<&ImaMemory>| {
        node.judge(&bundle, Some(ImaPart { list, offset }), memory)
    };
    let appraisal = judge(&node, &part, memory.offset(), Some(&memory));
    assert_eq!(appraisal.verified().unwrap().ima().unwrap().count(), 4, "{:?}", appraisal.result.failed());
    // Whole again is fine at any time.
    assert!(judge(&node, &node.list, 0, Some(&memory)).verified().is_some());

    refused(&judge(&node, &part, memory.offset(), None), "node.ima", "expected 0");
    refused(&judge(&node, &part, memory.offset() + 1, Some(&memory)), "node.ima", "expected 0 or");
    refused(&judge(&node, &part, 0, Some(&memory)), "node.ima", "");
    refused(&judge(&node, b"", memory.offset(), Some(&memory)), "node.ima", "replays to");
    refused(&judge(&node, &node.list, memory.offset(), Some(&memory)), "node.ima", "");
    for at in 0..part.len() {
        let mut changed = part.clone();
        changed[at] ^= 1;
        refused(&judge(&node, &changed, memory.offset(), Some(&memory)), "node.ima", "");
    }
    // An increment that was shown before, after the kernel went on.
    let later = judge(&node, &part, memory.offset(), Some(&memory)).verified().unwrap().ima().unwrap().clone();
    node.opens("/bin/sh");
    let bundle = node.quote();
    let replayed = Some(ImaPart { list: &part, offset: memory.offset() });
    refused(&node.judge(&bundle, replayed, Some(&memory)), "node.ima", "replays to");
    refused(&node.judge(&bundle, replayed, Some(&later)), "node.ima", "expected 0 or");
}

#[test]
fn after_another_start_of_the_machine_the_list_begins_anew() {
    let mut node = Node::good();
    let memory = node.appraise().verified().unwrap().ima().unwrap().clone();
    node.tpm.reset();
    node.list.clear();
    extend(&mut node.tpm, &EventLog::parse(&node.log).unwrap().events);
    let aggregate = boot_aggregate(&mut node.tpm);
    node.measures("boot_aggregate", &aggregate);
    node.opens("/init");
    let bundle = node.quote();
    let stale = Some(ImaPart { list: b"", offset: memory.offset() });
    refused(&node.judge(&bundle, stale, Some(&memory)), "node.ima", "started anew");
    let appraisal = node.judge(&bundle, node.whole(), Some(&memory));
    assert_eq!(appraisal.verified().unwrap().ima().unwrap().count(), 2, "{:?}", appraisal.result.failed());
}

#[test]
fn unknown_files_and_a_kernel_that_measures_none_are_refused() {
    let mut node = Node::good();
    node.opens("/tmp/miner");
    refused(&node.appraise(), "node.ima", "/tmp/miner");
    let mut silent = Node::good();
    silent.tpm.reset();
    silent.list.clear();
    extend(&mut silent.tpm, &EventLog::parse(&silent.log).unwrap().events);
    refused(&silent.appraise(), "node.ima", "the list is empty");
    let bundle = silent.quote();
    refused(&silent.judge(&bundle, None, None), "node.ima", "the node sent none");
    silent.policy.ima = Demand::LeftToPlatform;
    refused(&silent.appraise(), "node.ima", "this is the platform's appraisal");
}

#[test]
fn a_fresh_list_of_revocations_must_not_name_the_node() {
    let mut node = Node::good();
    let (ak, ek) = (hex::encode(name_of(node.tpm.public())), hex::encode(node.ek().certificate_digest()));
    node.floor = 18;
    refused(&node.appraise(), "policy.revoked", "18 was seen before");
    node.floor = 0;
    let lists = [
        revocations(|list| list.aks = [ak].into()),
        revocations(|list| list.chips = [ek].into()),
        revocations(|list| list.images = [hex::encode(AGENT)].into()),
        revocations(|list| list.images = [hex::encode(VMM)].into()),
        revocations(|list| list.next_update = NOW),
    ];
    for list in lists {
        node.revocations = Some(list);
        refused(&node.appraise(), "policy.revoked", "");
    }
    node.revocations = None;
    refused(&node.appraise(), "policy.revoked", "there is no revocation list");
}

#[test]
fn the_platforms_rules_have_the_last_word() {
    let mut node = Node::good();
    let text = |rule: &str| {
        format!(
            "package casemate.appraisal\nimport rego.v1\ndefault allow := false\nallow if {rule}\ndeny contains \"no\" if false\n"
        )
    };
    node.rules = AppraisalPolicy::compile("ours", &text("input.submodules.node.claims.boot == \"judged\"")).unwrap();
    assert!(node.appraise().verified().is_some());
    node.rules = AppraisalPolicy::compile("ours", &text("input.platform == \"microvm\"")).unwrap();
    refused(&node.appraise(), "policy.appraisal", "");
}

#[test]
fn a_policy_file_says_all_that_it_means() {
    let policy = NodePolicy { boot: Demand::Required(Machine::good().policy), ima: Demand::UnlessSimulated(ImaPolicy::strict()) };
    let json = serde_json::to_value(&policy).unwrap();
    assert_eq!(serde_json::from_value::<NodePolicy>(json.clone()).unwrap(), policy);
    for (name, bad) in [("boot", serde_json::json!("required")), ("ima", serde_json::json!("when_present"))] {
        let mut changed = json.clone();
        changed[name] = bad;
        assert!(serde_json::from_value::<NodePolicy>(changed.clone()).is_err(), "{name}");
        changed.as_object_mut().unwrap().remove(name);
        assert!(serde_json::from_value::<NodePolicy>(changed).is_err(), "without {name}");
    }
}
