//! How long the appraisal of a TDX quote takes, on one core, beside the cryptography that it cannot avoid:
//! `cargo bench -p casemate-verifier --bench tdx`.

#![allow(clippy::unwrap_used, reason = "a benchmark of what is known to be good")]

// The tests' world of good evidence.
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../tests/it/tdx_world.rs"]
mod tdx_world;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use p256::{
    ecdsa::{Signature, VerifyingKey, signature::Verifier as _},
    pkcs8::DecodePublicKey as _,
};
use rcgen::PublicKeyData as _;
use sha2::{Digest as _, Sha256};
use tdx_world::{Case, keys, sign};

const ROUNDS: usize = 400;

fn main() {
    let fresh = Case::good();
    let kept = Case::good().keep();
    let raw = Raw::of(&kept);
    // Beside those of the quote: PCK certificate, PCK CA, two lists, TCB signer, TCB info, the quoting enclave's identity.
    let all = || (0..7).for_each(|_| raw.signature());
    let (fresh_raw, fresh_whole) = measure(|| all_and_quote(&all, &raw), || appraise(&fresh));
    report("with fresh collateral and certificates", fresh_raw, fresh_whole);
    let (kept_raw, kept_whole) = measure(|| raw.quote(), || appraise(&kept));
    report("with kept collateral and certificates", kept_raw, kept_whole);
}

fn all_and_quote(all: &impl Fn(), raw: &Raw) {
    all();
    raw.quote();
}

fn appraise(case: &Case) {
    assert!(black_box(case.appraise()).verified().is_some());
}

fn report(what: &str, raw: Duration, whole: Duration) {
    let ratio = whole.as_secs_f64() / raw.as_secs_f64();
    println!("appraise_tdx {what}, {ROUNDS} rounds: cryptography {raw:?}, appraisal {whole:?} (medians), ratio {ratio:.2}");
}

/// Medians of both, taken in turn, so that what disturbs one disturbs the other.
fn measure(mut raw: impl FnMut(), mut whole: impl FnMut()) -> (Duration, Duration) {
    let (mut raws, mut wholes) = (Vec::new(), Vec::new());
    let time = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    for _ in 0..ROUNDS {
        raws.push(time(&mut raw));
        wholes.push(time(&mut whole));
    }
    raws.sort_unstable();
    wholes.sort_unstable();
    (raws[ROUNDS / 2], wholes[ROUNDS / 2])
}

/// The signatures on a quote, and what they are over.
struct Raw {
    pck: VerifyingKey,
    report: Vec<u8>,
    report_signature: [u8; 64],
    attestation_key: [u8; 65],
    bound: Vec<u8>,
    signed: Vec<u8>,
    signature: [u8; 64],
    certificate: (Vec<u8>, [u8; 64]),
}

impl Raw {
    fn of(case: &Case) -> Self {
        let auth = &case.quote.auth;
        let mut attestation_key = [4; 65];
        attestation_key[1..].copy_from_slice(&auth.attestation_key);
        let body = vec![7; 900];
        Self {
            pck: VerifyingKey::from_public_key_der(&keys().pck.subject_public_key_info()).unwrap(),
            report: auth.qe_report.bytes.to_vec(),
            report_signature: auth.qe_report_signature,
            attestation_key,
            bound: [auth.attestation_key.as_slice(), &auth.qe_auth].concat(),
            signed: case.quote.signed_part(),
            signature: auth.signature,
            certificate: (body.clone(), sign(&keys().pck, &body)),
        }
    }

    /// What each quote costs: the quoting enclave's report, its digest, and header and body.
    fn quote(&self) {
        check(&self.pck, &self.report, &self.report_signature);
        black_box(Sha256::digest(&self.bound));
        let key = VerifyingKey::from_sec1_bytes(&self.attestation_key).unwrap();
        check(&key, &self.signed, &self.signature);
    }

    /// A certificate or list, whose issuer's key has to be decoded, too.
    fn signature(&self) {
        let der = self.pck.to_sec1_point(false);
        let key = VerifyingKey::from_sec1_bytes(der.as_bytes()).unwrap();
        check(&key, &self.certificate.0, &self.certificate.1);
    }
}

fn check(key: &VerifyingKey, message: &[u8], signature: &[u8; 64]) {
    assert!(key.verify(black_box(message), &Signature::from_slice(signature).unwrap()).is_ok());
}
