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
mod raw;
#[allow(dead_code)]
#[path = "../tests/it/snp_world.rs"]
mod snp_world;
#[allow(dead_code)]
#[path = "../tests/it/tdx_world.rs"]
mod tdx_world;
#[allow(dead_code)]
#[path = "../tests/it/world.rs"]
mod world;

use std::hint::black_box;

use casemate_verifier::rego::AppraisalPolicy;
use confidential_world::World;
use raw::{Signed, compare};

const ROUNDS: usize = 300;

fn main() {
    // On a node: its certificate, the TPM's by an intermediate's, the quote; that intermediate's by the vendor's key of P-384.
    let worlds = [
        ("SNP, no GPU", World::snp(0), Signatures { p256: 3, p384: 2 }),
        ("SNP, two GPUs", World::snp(2), Signatures { p256: 3, p384: 4 }),
        ("TDX, one GPU", World::tdx(1), Signatures { p256: 5, p384: 2 }),
    ];
    for (what, world, signatures) in worlds {
        let mut case = world.build().keep();
        let bytes = case.encoded();
        report(&format!("{what}, {} bytes", bytes.len()), &signatures, || case.appraise_bytes(&bytes).is_affirming());
        case.rules = AppraisalPolicy::compile("yes", "package casemate.appraisal\nallow := true\ndeny := set()\n").unwrap();
        let what = format!("{what}, with rules that say yes");
        report(&what, &signatures, || case.appraise_bytes(&bytes).is_affirming());
    }
    let case = world::Case::good();
    let bytes = case.encoded();
    let signatures = Signatures { p256: 4, p384: 1 };
    report(&format!("micro VM, {} bytes", bytes.len()), &signatures, || case.appraise_bytes(&bytes).is_affirming());
}

/// How many there are.
struct Signatures {
    p256: usize,
    p384: usize,
}

/// Beside as many signatures over messages of a certificate's or report's length. A verdict is there every time.
fn report(what: &str, signatures: &Signatures, whole: impl Fn() -> bool) {
    let Signatures { p256, p384 } = *signatures;
    let (small, large) = (Signed::any_p256(1000), Signed::any_p384(1000));
    let raw = || {
        (0..p256).for_each(|_| small.verify());
        (0..p384).for_each(|_| large.verify());
    };
    let what = format!("{what} ({p256} signatures of P-256, {p384} of P-384)");
    compare(&what, ROUNDS, raw, || assert!(black_box(whole())));
}
