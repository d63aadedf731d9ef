//! The bytes of composite evidence count.
//!
//! Flipping each of them takes minutes. So within the long statements of processor, GPU and firmware, of which each byte is flipped in
//! tests of their own, most are left out here; everything else is flipped byte by byte.

use casemate_evidence::{confidential::ConfidentialEvidence, instance::Record as _};
use proptest::prelude::*;

use crate::{
    confidential_world::{Case, World},
    world::replays_as_good,
};

/// Flips a bit of each byte, in `long` parts of every 29th; what is still accepted says the same as before.
fn flip(case: &Case, long: &[&[u8]]) {
    let good = case.encoded();
    assert!(case.appraise_bytes(&good).is_affirming());
    let (mut refused, mut harmless) = (0, 0);
    let begin = |part: &&[u8]| good.windows(part.len()).position(|window| window == *part).expect("a part of it");
    let long: Vec<_> = long.iter().map(|part| begin(part)..begin(part) + part.len()).collect();
    let is_due = |at: &usize| at.is_multiple_of(29) || !long.iter().any(|part| part.contains(at));
    for at in (0..good.len()).filter(is_due) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        let result = case.appraise_bytes(&bytes);
        if !result.is_affirming() {
            assert!(result.guest().is_none() && result.failed().is_some());
            refused += 1;
            continue;
        }
        // What no PCR covers of an event log (texts, kinds, the header) is nobody's word. Nothing is read from it.
        let mut changed = ConfidentialEvidence::decode(&bytes).unwrap();
        assert!(replays_as_good(&changed.node.event_log), "byte {at}");
        changed.node.event_log.clone_from(&case.evidence.node.event_log);
        assert_eq!(changed, case.evidence, "byte {at}");
        harmless += 1;
    }
    println!(
        "{refused} of {} changes to {} bytes refused, {harmless} in unmeasured parts of the event log without effect",
        refused + harmless,
        good.len()
    );
    assert!(harmless < 100, "{harmless}");
}

#[test]
fn evidence_of_snp_and_a_gpu_with_any_byte_changed_is_refused() {
    let case = World::snp(1).build().keep();
    let gpu = &case.evidence.gpus[0];
    flip(&case, &[case.evidence.cpu.signed(), &gpu.report, gpu.chain.as_bytes(), &case.evidence.node.event_log]);
}

#[test]
fn evidence_of_tdx_with_any_byte_changed_is_refused() {
    let case = World::tdx(0).build().keep();
    flip(&case, &[case.evidence.cpu.signed(), &case.evidence.node.event_log]);
}

#[test]
fn evidence_cut_anywhere_is_refused() {
    let case = World::snp(1).build();
    let good = case.encoded();
    for len in 0..good.len() {
        let result = case.appraise_bytes(&good[..len]);
        assert_eq!(result.failed().map(|check| check.name.as_str()), Some("evidence.format"), "{len} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_refused_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        at in any::<prop::sample::Index>(),
    ) {
        static CASE: std::sync::LazyLock<Case> = std::sync::LazyLock::new(|| World::snp(1).build().keep());
        prop_assert!(ConfidentialEvidence::decode(&bytes).is_err());
        prop_assert!(!CASE.appraise_bytes(&bytes).is_affirming());
        // Spliced into what is good, so that decoders get far.
        let mut evidence = CASE.encoded();
        let at = at.index(evidence.len());
        evidence.splice(at..(at + bytes.len() / 8).min(evidence.len()), bytes.iter().copied());
        let unchanged = evidence == CASE.encoded();
        prop_assert_eq!(CASE.appraise_bytes(&evidence).is_affirming(), unchanged);
    }
}
