//! How long an appraisal takes, on one core: `cargo bench -p casemate-verifier`.

// The tests' world of good evidence.
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../tests/it/world.rs"]
mod world;

use std::time::{Duration, Instant};

const ROUNDS: usize = 300;

fn main() {
    let case = world::Case::good();
    let bytes = case.encoded();
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            assert!(case.appraise_bytes(&bytes).is_affirming());
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let (median, p99) = (times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
    println!("appraise_instance, {} bytes of evidence, {ROUNDS} rounds: median {median:?}, p99 {p99:?}", bytes.len());
}
