//! Receipts.

use casemate_verifier::{ReceiptError, UnixTime, VerifiedReceipt, verify_receipt};
use ed25519_dalek::{Signer as _, SigningKey};

use crate::world::{HOUR, NODE, NOW, Pki, at, receipt_key};

fn body(node: &str, wiped_at: u64) -> Vec<u8> {
    format!("{{\"instance\":\"i\",\"node\":\"{node}\",\"wiped_at_ms\":{}}}", wiped_at * 1000 + 999).into_bytes()
}

fn signed(body: &[u8], key: &SigningKey) -> [u8; 64] {
    key.sign(&[b"casemate/receipt/v1\0", body].concat()).to_bytes()
}

fn verify(pki: Pki, body: &[u8], signature: &[u8], now: UnixTime) -> Result<VerifiedReceipt, ReceiptError> {
    let (node_chain, _, anchors) = pki.build(&[0; 34]);
    verify_receipt(body, signature, &node_chain, &anchors, now)
}

fn refused_by(result: Result<VerifiedReceipt, ReceiptError>) -> &'static str {
    result.expect_err("refused").check()
}

#[test]
fn a_receipt_of_a_node_is_accepted_long_after_its_certificate_ended() {
    let body = body(NODE, NOW.0);
    let years_later = UnixTime(NOW.0 + 3 * 365 * 86_400);
    let verified = verify(Pki::good(), &body, &signed(&body, &receipt_key()), years_later);
    let verified = verified.unwrap();
    assert_eq!((verified.body(), verified.node(), verified.wiped_at()), (&body[..], NODE, NOW));
}

#[test]
fn where_nothing_was_wiped_the_certificate_must_be_valid_now() {
    let body = format!("{{\"node\":\"{NODE}\",\"wiped_at_ms\":0}}").into_bytes();
    let signature = signed(&body, &receipt_key());
    assert!(verify(Pki::good(), &body, &signature, NOW).is_ok());
    assert_eq!(refused_by(verify(Pki::good(), &body, &signature, UnixTime(NOW.0 + 86_400))), "receipt.node");
}

#[test]
fn an_altered_receipt_is_refused() {
    let good = body(NODE, NOW.0);
    let signature = signed(&good, &receipt_key());
    for at in 0..good.len() {
        let mut body = good.clone();
        body[at] ^= 1;
        assert!(verify(Pki::good(), &body, &signature, NOW).is_err(), "byte {at}");
    }
    for at in 0..signature.len() {
        let mut signature = signature;
        signature[at] ^= 1;
        assert_eq!(refused_by(verify(Pki::good(), &good, &signature, NOW)), "receipt.signature", "byte {at}");
    }
    assert_eq!(refused_by(verify(Pki::good(), &good, &signature[..63], NOW)), "receipt.signature");
}

#[test]
fn a_receipt_by_another_key_is_refused() {
    let body = body(NODE, NOW.0);
    let other = SigningKey::from_bytes(&[1; 32]);
    assert_eq!(refused_by(verify(Pki::good(), &body, &signed(&body, &other), NOW)), "receipt.signature");
    // Signed in another context by the right key.
    let elsewhere = receipt_key().sign(&body).to_bytes();
    assert_eq!(refused_by(verify(Pki::good(), &body, &elsewhere, NOW)), "receipt.signature");
}

#[test]
fn a_receipt_of_another_node_is_refused() {
    let body = body("node-2", NOW.0);
    assert_eq!(refused_by(verify(Pki::good(), &body, &signed(&body, &receipt_key()), NOW)), "receipt.node");
}

#[test]
fn a_receipt_from_outside_the_certificates_time_is_refused() {
    for offset in [-2 * HOUR, 2 * HOUR] {
        let wiped_at = at(offset).unix_timestamp().unsigned_abs();
        let body = body(NODE, wiped_at);
        let result = verify(Pki::good(), &body, &signed(&body, &receipt_key()), UnixTime(wiped_at));
        assert_eq!(refused_by(result), "receipt.node", "{offset}");
    }
}

#[test]
fn a_receipt_from_the_future_is_refused() {
    let body = body(NODE, NOW.0 + 1000);
    let result = verify(Pki::good(), &body, &signed(&body, &receipt_key()), NOW);
    assert!(matches!(result, Err(ReceiptError::Future { .. })));
    assert_eq!(refused_by(result), "receipt.node");
}

#[test]
fn a_clock_that_is_ahead_as_far_as_it_may_is_no_reason_to_refuse() {
    let body = body(NODE, NOW.0 + 300);
    let verified = verify(Pki::good(), &body, &signed(&body, &receipt_key()), NOW).unwrap();
    assert_eq!(verified.wiped_at(), UnixTime(NOW.0 + 300));
    let body = self::body(NODE, NOW.0 + 301);
    let result = verify(Pki::good(), &body, &signed(&body, &receipt_key()), NOW);
    assert!(matches!(result, Err(ReceiptError::Future { .. })));
}

#[test]
fn a_receipt_may_be_as_long_as_the_limit() {
    let mut body = body(NODE, NOW.0);
    body.resize(64 << 10, b' ');
    assert!(verify(Pki::good(), &body, &signed(&body, &receipt_key()), NOW).is_ok());
    body.push(b' ');
    let result = verify(Pki::good(), &body, &signed(&body, &receipt_key()), NOW);
    assert!(matches!(result, Err(ReceiptError::TooLong { .. })));
}

#[test]
fn a_receipt_of_a_node_of_another_platform_is_refused() {
    let body = body(NODE, NOW.0);
    let (chain, ..) = Pki::good().build(&[0; 34]);
    let mut other = Pki::good();
    other.platform = crate::world::authority("Another platform", None);
    let anchors = other.build(&[]).2;
    let result = verify_receipt(&body, &signed(&body, &receipt_key()), &chain, &anchors, NOW);
    assert_eq!(refused_by(result), "receipt.node");
}

#[test]
fn refuses_what_is_no_receipt() {
    for body in [&b""[..], b"{}", b"[]", b"{\"node\":\"node-1\"}", &vec![b' '; 65 << 10]] {
        let result = verify(Pki::good(), body, &signed(body, &receipt_key()), NOW);
        assert_eq!(refused_by(result), "receipt.signature");
    }
}
