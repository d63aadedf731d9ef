//! How long the verdict over a confidential VM takes, on one core, beside the signatures that it cannot avoid; and the same for a
//! micro VM: `cargo bench -p casemate-verifier --bench composite`.

#![allow(clippy::unwrap_used, reason = "a benchmark of what is known to be good")]

// The tests' worlds of good evidence.
#[allow(dead_code)]
#[path = "../tests/it/confidential_world.rs"]
mod confidential_world;
#[allow(dead_code)]
#[path = "../tests/it/gpu_world.rs"]
mod gpu_world;
#[allow(dead_code)]
#[path = "../tests/it/snp_world.rs"]
mod snp_world;
#[allow(dead_code)]
#[path = "../tests/it/tdx_world.rs"]
mod tdx_world;
#[allow(dead_code)]
#[path = "../tests/it/world.rs"]
mod world;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use casemate_verifier::rego::AppraisalPolicy;
use confidential_world::World;
use p256::ecdsa::signature::hazmat::{PrehashSigner as _, PrehashVerifier as _};
use sha2::{Digest as _, Sha256, Sha384};

const ROUNDS: usize = 300;

fn main() {
    let raw = Raw::new();
    // On a node: its certificate, the TPM's by an intermediate's, the quote; that intermediate's by the vendor's key of P-384.
    let worlds = [
        ("SNP, no GPU", World::snp(0), Signatures { p256: 3, p384: 2 }),
        ("SNP, two GPUs", World::snp(2), Signatures { p256: 3, p384: 4 }),
        ("TDX, one GPU", World::tdx(1), Signatures { p256: 5, p384: 2 }),
    ];
    for (what, world, signatures) in worlds {
        let mut case = world.build().keep();
        let bytes = case.encoded();
        report(&format!("{what}, {} bytes", bytes.len()), &raw, &signatures, || case.appraise_bytes(&bytes).is_affirming());
        case.rules = AppraisalPolicy::compile("yes", "package casemate.appraisal\nallow := true\ndeny := set()\n").unwrap();
        let what = format!("{what}, with rules that say yes");
        report(&what, &raw, &signatures, || case.appraise_bytes(&bytes).is_affirming());
    }
    let case = world::Case::good();
    let bytes = case.encoded();
    let signatures = Signatures { p256: 4, p384: 1 };
    report(&format!("micro VM, {} bytes", bytes.len()), &raw, &signatures, || case.appraise_bytes(&bytes).is_affirming());
}

/// How many there are.
struct Signatures {
    p256: usize,
    p384: usize,
}

/// A signature of each kind, over a message of a certificate's or report's length.
struct Raw {
    message: Vec<u8>,
    p256: (p256::ecdsa::VerifyingKey, p256::ecdsa::Signature),
    p384: (p384::ecdsa::VerifyingKey, p384::ecdsa::Signature),
}

impl Raw {
    fn new() -> Self {
        let message = vec![0x5a; 1000];
        let small = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let large = p384::ecdsa::SigningKey::from_slice(&[7; 48]).unwrap();
        let p256 = (*small.verifying_key(), small.sign_prehash(&Sha256::digest(&message)).unwrap());
        let p384 = (*large.verifying_key(), large.sign_prehash(&Sha384::digest(&message)).unwrap());
        Self { message, p256, p384 }
    }

    fn verify(&self, signatures: &Signatures) -> bool {
        let message = black_box(&self.message);
        let p256 = || self.p256.0.verify_prehash(&Sha256::digest(message), &self.p256.1).is_ok();
        let p384 = || self.p384.0.verify_prehash(&Sha384::digest(message), &self.p384.1).is_ok();
        (0..signatures.p256).all(|_| p256()) && (0..signatures.p384).all(|_| p384())
    }
}

/// Prints both medians and their ratio; rounds of the two alternate, so that both see the same machine.
fn report(what: &str, raw: &Raw, signatures: &Signatures, whole: impl Fn() -> bool) {
    let timed = |run: &dyn Fn() -> bool| {
        let start = Instant::now();
        assert!(black_box(run()));
        start.elapsed()
    };
    let round = |_| (timed(&|| raw.verify(signatures)), timed(&whole));
    let (mut raws, mut wholes): (Vec<Duration>, Vec<Duration>) = (0..ROUNDS).map(round).unzip();
    raws.sort_unstable();
    wholes.sort_unstable();
    let (raw, whole) = (raws[ROUNDS / 2], wholes[ROUNDS / 2]);
    let ratio = whole.as_secs_f64() / raw.as_secs_f64();
    let Signatures { p256, p384 } = signatures;
    println!("{what}: appraisal {whole:?}; {p256} signatures of P-256 and {p384} of P-384 alone {raw:?}; ratio {ratio:.2}");
}
