//! The signature checks that an appraisal cannot avoid, by the library that the verifier uses, and the comparison with them.

#![allow(dead_code, clippy::unwrap_used, reason = "each benchmark takes what it needs")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use p256::ecdsa::signature::Signer as _;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, EcdsaVerificationAlgorithm, UnparsedPublicKey};

/// A message with a signature, and who signed it.
pub(crate) struct Signed {
    algorithm: &'static EcdsaVerificationAlgorithm,
    point: Vec<u8>,
    message: Vec<u8>,
    signature: Vec<u8>,
}

impl Signed {
    /// On P-256 with SHA-256; the key is a SEC 1 point, the signature two numbers.
    pub(crate) fn p256(point: &[u8], message: &[u8], signature: &[u8]) -> Self {
        Self::new(&ECDSA_P256_SHA256_FIXED, point, message, signature)
    }

    /// On P-384 with SHA-384; the key is a SEC 1 point, the signature two numbers.
    pub(crate) fn p384(point: &[u8], message: &[u8], signature: &[u8]) -> Self {
        Self::new(&ECDSA_P384_SHA384_FIXED, point, message, signature)
    }

    /// Any message of `len` bytes, as long as a certificate or a report, on P-256.
    pub(crate) fn any_p256(len: usize) -> Self {
        let (key, message) = (p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap(), vec![0x5a; len]);
        let signature: p256::ecdsa::Signature = key.sign(&message);
        Self::p256(key.verifying_key().to_sec1_point(false).as_bytes(), &message, &signature.to_bytes())
    }

    /// Any message of `len` bytes, as long as a certificate or a report, on P-384.
    pub(crate) fn any_p384(len: usize) -> Self {
        let (key, message) = (p384::ecdsa::SigningKey::from_slice(&[7; 48]).unwrap(), vec![0x5a; len]);
        let signature: p384::ecdsa::Signature = key.sign(&message);
        Self::p384(key.verifying_key().to_sec1_point(false).as_bytes(), &message, &signature.to_bytes())
    }

    fn new(algorithm: &'static EcdsaVerificationAlgorithm, point: &[u8], message: &[u8], signature: &[u8]) -> Self {
        Self { algorithm, point: point.to_vec(), message: message.to_vec(), signature: signature.to_vec() }
    }

    /// Verifies the signature, key and digest included.
    pub(crate) fn verify(&self) {
        UnparsedPublicKey::new(self.algorithm, black_box(&self.point)).verify(black_box(&self.message), &self.signature).unwrap();
    }
}

/// Prints the medians of both, what a core does in a second, and the ratio. Rounds of the two alternate, so that what disturbs one
/// disturbs the other.
pub(crate) fn compare(what: &str, rounds: usize, raw: impl Fn(), whole: impl Fn()) {
    let (mut raws, mut wholes): (Vec<Duration>, Vec<Duration>) = (0..rounds).map(|_| (time(&raw), time(&whole))).unzip();
    let (raw, whole) = (median(&mut raws), median(&mut wholes));
    let (ratio, rate) = (whole.as_secs_f64() / raw.as_secs_f64(), 1.0 / whole.as_secs_f64());
    println!("{what}: {whole:.1?} ({rate:.0}/s and core), cryptography alone {raw:.1?}, ratio {ratio:.2} (target 1.3)");
}

/// Prints the median of something without a counterpart.
pub(crate) fn alone(what: &str, rounds: usize, run: impl Fn()) {
    let mut times: Vec<Duration> = (0..rounds).map(|_| time(&run)).collect();
    let median = median(&mut times);
    println!("{what}: {median:.1?} ({:.0}/s and core)", 1.0 / median.as_secs_f64());
}

fn time(run: &impl Fn()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
