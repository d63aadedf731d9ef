//! What the built-in appraisal policy costs beside the appraisal itself: `cargo bench -p casemate-verifier --bench policy`.

// The tests' world of good evidence.
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../tests/it/world.rs"]
mod world;

use std::time::{Duration, Instant};

use casemate_verifier::rego::{AppraisalPolicy, PolicyOptions, apply_policy};

const ROUNDS: usize = 100;

fn main() {
    let case = world::Case::good();
    let bytes = case.encoded();
    let appraisal = median(|| assert!(case.appraise_bytes(&bytes).is_affirming()));
    let compile = median(|| assert!(!AppraisalPolicy::strict().id().is_empty()));
    let (policy, result) = (AppraisalPolicy::strict(), case.appraise_bytes(&bytes));
    let judge = median(|| assert!(apply_policy(result.clone(), &policy, PolicyOptions::strict(), 0).is_affirming()));
    println!(
        "{ROUNDS} rounds, medians: appraise_instance {appraisal:?}, compile the policy {compile:?} (once), evaluate it {judge:?}"
    );
}

fn median(run: impl Fn()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    let mut times: Vec<Duration> = (0..ROUNDS).map(time).collect();
    times.sort_unstable();
    times[ROUNDS / 2]
}
