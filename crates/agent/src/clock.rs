//! The one place where the agent reads the wall clock and the random source.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes of the kernel's random source.
///
/// # Panics
/// When the kernel has none, which Linux rules out once it has booted.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("getrandom(2) works on every kernel since 3.17");
    bytes
}

/// A number below `bound`, for jitter; 0 when `bound` is 0.
pub(crate) fn jitter(bound: u64) -> u64 {
    u64::from_le_bytes(random()).checked_rem(bound).unwrap_or(0)
}
