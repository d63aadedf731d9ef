//! Every byte counts.

use casemate_evidence::instance::{InstanceEvidence, Record as _};
use proptest::prelude::*;

use crate::world::{Case, replays_as_good};

#[test]
fn accepted_evidence_with_any_byte_changed_is_refused() {
    let case = Case::good();
    let good = case.encoded();
    let (mut refused, mut harmless) = (0, 0);
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        let result = case.appraise_bytes(&bytes);
        if !result.is_affirming() {
            assert!(result.guest().is_none() && result.failed().is_some());
            refused += 1;
            continue;
        }
        // What no PCR covers of an event log (texts, kinds, the header) is nobody's word. Nothing is read from it.
        let changed = InstanceEvidence::decode(&bytes).unwrap();
        assert!(replays_as_good(&changed.node_event_log), "byte {at}");
        let log = case.evidence.node_event_log.clone();
        assert_eq!(InstanceEvidence { node_event_log: log, ..changed }, case.evidence, "byte {at}");
        harmless += 1;
    }
    println!("{refused} of {} changes refused, {harmless} in unmeasured parts of the event log without effect", good.len());
    assert!(harmless < 100, "{harmless}");
}

#[test]
fn certificates_with_any_byte_changed_are_refused() {
    let good = Case::good();
    for at in 0..good.node_chain[0].len() {
        let mut case = Case::good_again(&good);
        case.node_chain[0][at] ^= 1;
        assert_eq!(case.appraise().failed().map(|check| check.name.clone()).as_deref(), Some("node.certificate"), "byte {at}");
    }
    for certificate in 0..2 {
        for at in 0..good.ek_chain[certificate].len() {
            let mut case = Case::good_again(&good);
            case.ek_chain[certificate][at] ^= 1;
            assert_eq!(case.appraise().failed().map(|check| check.name.clone()).as_deref(), Some("node.ek"), "byte {at}");
        }
    }
}

#[test]
fn evidence_cut_anywhere_is_refused() {
    let case = Case::good();
    let good = case.encoded();
    for len in 0..good.len() {
        let result = case.appraise_bytes(&good[..len]);
        assert_eq!(result.failed().map(|check| check.name.as_str()), Some("evidence.format"), "{len} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_bytes_as_evidence_or_certificates_are_refused_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        at in any::<prop::sample::Index>(),
    ) {
        let mut case = Case::good();
        prop_assert!(!case.appraise_bytes(&bytes).is_affirming());
        // Spliced into what is good, so that decoders get far.
        let mut evidence = case.encoded();
        let at = at.index(evidence.len());
        evidence.splice(at..(at + bytes.len() / 8).min(evidence.len()), bytes.iter().copied());
        let unchanged = evidence == case.encoded();
        prop_assert_eq!(case.appraise_bytes(&evidence).is_affirming(), unchanged);
        case.ek_chain = vec![bytes.clone()];
        prop_assert!(!case.appraise().is_affirming());
        case.node_chain = vec![bytes];
        prop_assert!(!case.appraise().is_affirming());
    }
}

impl Case {
    fn good_again(case: &Self) -> Self {
        Self {
            evidence: case.evidence.clone(),
            bytes: None,
            node_chain: case.node_chain.clone(),
            ek_chain: case.ek_chain.clone(),
            references: case.references.clone(),
            anchors: case.anchors.clone(),
            policy: case.policy.clone(),
            revocations: case.revocations.clone(),
            instance: case.instance.clone(),
            ..*case
        }
    }
}
