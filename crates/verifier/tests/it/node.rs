//! Enrolment and renewal.

use std::collections::BTreeMap;

use casemate_attester::{Attester as _, quote_bundle, sim::SoftTpm};
use casemate_evidence::{
    eventlog::EventLog,
    instance::{NODE_PCRS, QuoteBundle},
};
use casemate_verifier::{NODE_CHECKS, NodeAppraisal, NodeQuoteInput, Outcome, appraise_node};

use crate::world::{AGENT, References, VMM, events, name_of};

const QUALIFYING: [u8; 32] = [0x51; 32];

fn node() -> (QuoteBundle, Vec<u8>) {
    let mut tpm = SoftTpm::new(&[1; 32]);
    for event in events() {
        tpm.pcr_extend(event.pcr, event.measured_sha256().unwrap()).unwrap();
    }
    let log = EventLog { events: events(), ..EventLog::sha256() }.encode();
    (quote_bundle(&mut tpm, &QUALIFYING, &NODE_PCRS).unwrap(), log)
}

fn appraise(bundle: &QuoteBundle, event_log: &[u8], qualifying: &[u8; 32], references: &References) -> NodeAppraisal {
    let pcrs: BTreeMap<u32, [u8; 32]> = bundle.pcrs.iter().map(|(pcr, value)| (*pcr, value.0)).collect();
    let (attest, signature, ak_public) = (&bundle.attest, &bundle.signature, &bundle.ak_public);
    let input = NodeQuoteInput { attest, signature, ak_public, pcrs: &pcrs, event_log };
    appraise_node(&input, qualifying, &references.build())
}

fn failed(appraisal: &NodeAppraisal) -> &str {
    assert!(appraisal.verified().is_none());
    &appraisal.checks.iter().find(|check| check.outcome == Outcome::Fail).unwrap().name
}

#[test]
fn a_known_node_is_verified() {
    let (bundle, log) = node();
    let appraisal = appraise(&bundle, &log, &QUALIFYING, &References::good());
    assert!(appraisal.checks.iter().map(|check| check.name.as_str()).eq(NODE_CHECKS.iter().map(|name| name.as_str())));
    let node = appraisal.verified().unwrap();
    assert_eq!(node.ak_name(), name_of(&bundle.ak_public));
    assert_eq!((node.software().agent(), node.software().vmm()), (AGENT, VMM));
}

#[test]
fn each_attack_is_refused_by_name() {
    let (good, log) = node();
    let references = References::good();
    let with = |change: fn(&mut QuoteBundle)| {
        let mut bundle = good.clone();
        change(&mut bundle);
        appraise(&bundle, &log, &QUALIFYING, &references)
    };
    assert_eq!(failed(&with(|bundle| bundle.ak_public.truncate(9))), "node.ak");
    assert_eq!(failed(&with(|bundle| bundle.attest[40] ^= 1)), "node.quote");
    assert_eq!(failed(&with(|bundle| bundle.ak_public = SoftTpm::new(&[9; 32]).public().to_vec())), "node.quote");
    assert_eq!(failed(&appraise(&good, &log, &[0; 32], &references)), "evidence.nonce");
    assert_eq!(failed(&with(|bundle| bundle.pcrs.retain(|pcr, _| *pcr != 0))), "node.pcrs");
    assert_eq!(failed(&appraise(&good, &[], &QUALIFYING, &references)), "node.event-log");
    let unknown = References { agent: vec![], ..References::good() };
    assert_eq!(failed(&appraise(&good, &log, &QUALIFYING, &unknown)), "node.software");
}
