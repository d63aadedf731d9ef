//! How long the appraisal of GPUs takes, on one core, beside the cryptography that it cannot do without:
//! `cargo bench -p casemate-verifier --bench gpu`.

// The tests' simulated vendor.
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../tests/it/gpu_world.rs"]
mod gpu_world;
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../tests/it/world.rs"]
mod world;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use casemate_evidence::nvidia::split_signature;
use casemate_verifier::gpu::{GpuEndorsements, Manifest, ManifestDocument, VerifiedChain, VerifiedManifest, appraise_gpus};
use gpu_world::{Case, keys};
use p384::{
    ecdsa::{Signature, VerifyingKey, signature::hazmat::PrehashVerifier as _},
    pkcs8::DecodePublicKey as _,
};
use rcgen::PublicKeyData as _;
use sha2::{Digest as _, Sha384};

const ROUNDS: usize = 300;

fn main() {
    let case = Case::good();
    let key = VerifyingKey::from_public_key_der(&keys().leaves[0].subject_public_key_info()).expect("a P-384 key");
    let report = &case.evidence[0].report;
    let raw = median(|| {
        let (signed, signature) = split_signature(report).expect("a report");
        let signature = Signature::from_slice(signature).expect("a signature");
        key.verify_prehash(&Sha384::digest(signed), &signature).expect("the leaf's");
    });

    let chain = VerifiedChain::verify(&case.evidence[0].chain, &case.revocation(), &case.policy, case.now).expect("good");
    let kept: Vec<_> = case
        .manifests
        .iter()
        .map(|(id, xml)| (id, VerifiedManifest::verify(xml, &case.revocation(), &case.policy, case.now).expect("good")))
        .collect();
    let manifests: Vec<_> = kept.iter().map(|(id, kept)| Manifest { id, document: ManifestDocument::Verified(kept) }).collect();
    let chains = [chain];
    let endorsements = GpuEndorsements { chains: &chains, manifests: &manifests, revocation: case.revocation() };
    let whole = median(|| {
        let appraised = appraise_gpus(&case.evidence, &endorsements, &case.policy, &case.expectation, case.now);
        assert!(black_box(appraised).verified().is_some());
    });
    let cold = median(|| assert!(black_box(case.appraise()).verified().is_some()));
    let ratio = whole.as_secs_f64() / raw.as_secs_f64();
    println!(
        "one GPU, {} bytes of report, {ROUNDS} rounds, median: P-384 and SHA-384 alone {raw:?}; appraisal with kept chain and \
         manifests {whole:?}, ratio {ratio:.2} (target 1.3); with nothing kept {cold:?}",
        report.len()
    );
}

fn median(mut run: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[ROUNDS / 2]
}
