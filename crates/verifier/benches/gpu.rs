//! How long the appraisal of GPUs takes, on one core, beside the cryptography that it cannot do without:
//! `cargo bench -p casemate-verifier --bench gpu`.

// The tests' simulated vendor.
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../tests/it/gpu_world.rs"]
mod gpu_world;
mod raw;
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../tests/it/world.rs"]
mod world;

use std::hint::black_box;

use casemate_evidence::nvidia::split_signature;
use casemate_verifier::gpu::{GpuEndorsements, Manifest, ManifestDocument, VerifiedChain, VerifiedManifest, appraise_gpus};
use gpu_world::{Case, keys};
use raw::{Signed, alone, compare};
use rcgen::PublicKeyData as _;

const ROUNDS: usize = 300;

fn main() {
    let case = Case::good();
    let report = &case.evidence[0].report;
    let (signed, signature) = split_signature(report).expect("a report");
    // rcgen has the point as it is in the certificate.
    let signed = Signed::p384(keys().leaves[0].der_bytes(), signed, signature);

    let chain = VerifiedChain::verify(&case.evidence[0].chain, &case.revocation(), &case.policy, case.now).expect("good");
    let kept: Vec<_> = case
        .manifests
        .iter()
        .map(|(id, xml)| (id, VerifiedManifest::verify(xml, &case.revocation(), &case.policy, case.now).expect("good")))
        .collect();
    let manifests: Vec<_> = kept.iter().map(|(id, kept)| Manifest { id, document: ManifestDocument::Verified(kept) }).collect();
    let chains = [chain];
    let endorsements = GpuEndorsements { chains: &chains, manifests: &manifests, revocation: case.revocation() };
    let whole = || {
        let appraised = appraise_gpus(&case.evidence, &endorsements, &case.policy, &case.expectation, case.now);
        assert!(black_box(appraised).verified().is_some());
    };
    let what = format!("one GPU, {} bytes of report, kept chain and manifests", report.len());
    compare(&what, ROUNDS, || signed.verify(), whole);
    alone("one GPU, nothing kept", ROUNDS, || assert!(black_box(case.appraise()).verified().is_some()));
}
