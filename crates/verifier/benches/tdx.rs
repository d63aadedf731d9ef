//! How long the appraisal of a TDX quote takes, on one core, beside the cryptography that it cannot avoid:
//! `cargo bench -p casemate-verifier --bench tdx`.

#![allow(clippy::unwrap_used, reason = "a benchmark of what is known to be good")]

// The tests' world of good evidence.
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../tests/it/tdx_world.rs"]
mod tdx_world;

mod raw;

use std::hint::black_box;

use casemate_evidence::tdx::Quote;
use casemate_verifier::tdx::{Collateral, Endorsements, appraise_tdx};
use raw::{Signed, compare};
use rcgen::PublicKeyData as _;
use sha2::{Digest as _, Sha256};
use tdx_world::{Case, expectation, keys};

const ROUNDS: usize = 400;

fn main() {
    let encoded = |mut case: Case| {
        case.bytes = Some(case.quote.encode());
        case
    };
    let (fresh, kept) = (encoded(Case::good()), encoded(Case::good().keep()));
    let raw = Raw::of(&kept.quote);
    let json = fresh.collateral.to_string();
    let (collateral, platform) = kept.kept.as_ref().unwrap();
    let with = |case: &Case, endorsements: Endorsements<'_>| {
        let quote = case.bytes.as_ref().unwrap();
        let appraised = appraise_tdx(black_box(quote), None, &endorsements, &case.policy, &expectation(), case.now);
        assert!(black_box(appraised).verified().is_some());
    };
    let from_json = || with(&fresh, Endorsements { collateral: Collateral::Json(json.as_bytes()), platform: None });
    let from_kept = || {
        with(&kept, Endorsements { collateral: Collateral::Verified(collateral), platform: Some(platform) });
    };
    // Beside those of the quote: PCK certificate, PCK CA, two lists, TCB signer, TCB info, the quoting enclave's identity.
    let body = Signed::any_p256(900);
    let raw_fresh = || {
        (0..7).for_each(|_| body.verify());
        raw.verify();
    };
    compare("TDX quote, fresh collateral and certificates", ROUNDS, raw_fresh, from_json);
    compare("TDX quote, kept collateral and certificates", ROUNDS, || raw.verify(), from_kept);
}

/// What each quote costs: the quoting enclave's report, its digest, and header and body.
struct Raw {
    report: Signed,
    bound: Vec<u8>,
    quote: Signed,
}

impl Raw {
    fn of(quote: &Quote) -> Self {
        let auth = &quote.auth;
        let point = [&[4], &auth.attestation_key[..]].concat();
        Self {
            // rcgen has the point as it is in the certificate.
            report: Signed::p256(keys().pck.der_bytes(), &auth.qe_report.bytes, &auth.qe_report_signature),
            bound: [auth.attestation_key.as_slice(), &auth.qe_auth].concat(),
            quote: Signed::p256(&point, &quote.signed_part(), &auth.signature),
        }
    }

    fn verify(&self) {
        self.report.verify();
        black_box(Sha256::digest(&self.bound));
        self.quote.verify();
    }
}
