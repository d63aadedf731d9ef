//! Randomness from the guest's own kernel.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use getrandom::{SysRng, rand_core::UnwrapErr};
use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroizing;

use crate::fatal::{Check, Fatal, OrFatal};

/// The generator for keys. [`wait_until_ready`] came before, so it cannot fail.
pub(crate) fn rng() -> UnwrapErr<SysRng> {
    UnwrapErr(SysRng)
}

/// 64 secret bytes.
pub(crate) fn secret64() -> Result<Zeroizing<[u8; 64]>, Fatal> {
    let mut bytes = Zeroizing::new([0; 64]);
    getrandom::fill(bytes.as_mut_slice()).or_fatal(Check::Entropy, "read 64 random bytes")?;
    Ok(bytes)
}

/// 32 secret bytes.
pub(crate) fn secret32() -> Result<Zeroizing<[u8; 32]>, Fatal> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice()).or_fatal(Check::Entropy, "read 32 random bytes")?;
    Ok(bytes)
}

/// 16 random bytes for identifiers, which are no secret.
pub(crate) fn public16() -> Result<[u8; 16], Fatal> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).or_fatal(Check::Entropy, "read 16 random bytes")?;
    Ok(bytes)
}

/// Waits until the kernel's pool was seeded (RDRAND/RDSEED at boot), with a limit in place of hanging forever.
pub(crate) fn wait_until_ready() -> Result<(), Fatal> {
    let start = Instant::now();
    while getrandom(&mut [0u8; 1], GetRandomFlags::NONBLOCK) == Err(rustix::io::Errno::AGAIN) {
        if start.elapsed() > READY_LIMIT {
            return Err(Fatal::new(Check::Entropy, "the kernel's random pool was not seeded in 10 s"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Mixes bytes from the host into the pool. Writing credits no entropy: a hostile host gains nothing, an honest one helps
/// a machine whose CPU has a weak generator.
pub(crate) fn mix(bytes: &[u8]) -> Result<(), Fatal> {
    fs::write("/dev/urandom", bytes).or_fatal(Check::Entropy, "mix host entropy into the pool")
}

const READY_LIMIT: Duration = Duration::from_secs(10);
