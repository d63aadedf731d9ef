//! Every byte of an accepted device's evidence, flipped.

use casemate_verifier::gpu::{GpuPolicy, VerifiedChain, VerifiedManifest};

use crate::gpu_world::{Case, DRIVER, DRIVER_ID, Rim};

#[test]
fn every_flipped_byte_of_an_accepted_report_is_refused() {
    let mut good = Case::lean();
    assert_eq!(good.refusal().0, "gpu.rim");
    // Kept, so that only the report's own signature is left to verify.
    good.chains = vec![VerifiedChain::verify(&good.evidence[0].chain, &good.revocation(), &good.policy, good.now).unwrap()];
    for at in 0..good.evidence[0].report.len() {
        let mut case = good.clone();
        case.evidence[0].report[at] ^= 1;
        let check = case.refusal().0;
        assert!(["gpu.format", "gpu.signature"].contains(&check.as_str()), "byte {at}: {check}");
    }
}

#[test]
fn every_flipped_byte_of_the_chain_is_refused() {
    let good = Case::lean();
    for certificate in 0..good.evidence[0].chain.len() {
        for at in 0..good.evidence[0].chain[certificate].len() {
            let mut case = good.clone();
            case.evidence[0].chain[certificate][at] ^= 1;
            assert_eq!(case.refusal().0, "gpu.chain", "byte {at} of certificate {certificate}");
        }
    }
}

/// The signature element is not covered by itself: white space between its parts may change. Nothing else may.
#[test]
fn every_flipped_byte_of_a_manifest_is_refused_or_is_white_space_of_its_signature() {
    let mut rim = Rim::new(DRIVER, "GH100", 20..40);
    rim.measurements.drain(..38);
    let xml = rim.xml().into_bytes();
    let signature = xml.windows(14).position(|window| window == b"<ds:Signature ").unwrap();
    let case = Case::lean();
    let policy = GpuPolicy { danger_without_revocation: true, ..case.policy.clone() };
    let verify = |xml: &[u8]| VerifiedManifest::verify(xml, &case.revocation(), &policy, case.now);
    assert!(verify(&xml).is_ok());
    let mut uncovered = Vec::new();
    for at in 0..xml.len() {
        let mut changed = xml.clone();
        changed[at] ^= 1;
        match verify(&changed) {
            Err(_) => {}
            Ok(_) => uncovered.push((at, xml[at])),
        }
    }
    assert!(uncovered.iter().all(|(at, byte)| *at > signature && byte.is_ascii_whitespace()), "{uncovered:?}");
    let mut replaced = Case::good();
    let mut changed = xml;
    changed[100] ^= 1;
    replaced.replace_manifest(DRIVER_ID, &changed);
    assert_eq!(replaced.refusal().0, "gpu.rim");
}
