//! EAR as CWT (RFC 8392): a tagged COSE_Sign1.

use ciborium::Value;

use super::{EarError, MAX_TOKEN, Order, VerifiedEar, VerifierKey, VerifierPublicKey, claims, labels};
use crate::{
    cbor::{self, CborError, Sign1},
    result::AttestationResult,
    time::UnixTime,
};

/// Signs a result as CWT; otherwise as [`sign_jwt`](super::sign_jwt).
pub fn sign_cwt(
    result: &AttestationResult,
    key: &VerifierKey,
    policy: &str,
    now: UnixTime,
    lifetime_s: u32,
) -> Result<Vec<u8>, EarError> {
    Order { result, key, policy, now, lifetime_s, freshness: None }.cwt()
}

pub(super) fn sign(order: &Order<'_>) -> Result<Vec<u8>, EarError> {
    let (claims, key) = (order.claims()?, order.key);
    let payload = cbor::encode(&labels::to_cbor(&claims));
    let headers = vec![
        (ALG, Value::from(ES256)),
        (KID, Value::Bytes(key.public().kid().into_bytes())),
        (TYP, Value::Text(MEDIA_TYPE.to_owned())),
    ];
    let token = Sign1::encode(headers, payload, |message| key.sign(message));
    if token.len() > MAX_TOKEN { Err(EarError::TooLong { len: token.len() }) } else { Ok(token) }
}

/// Verifies a CWT against a pinned key; otherwise as [`verify_jwt`](super::verify_jwt).
pub fn verify_cwt(token: &[u8], pinned: &VerifierPublicKey, now: UnixTime) -> Result<VerifiedEar, EarError> {
    let message = Sign1::decode(token, MAX_TOKEN).map_err(EarError::Cbor)?;
    headers(&message, pinned)?;
    pinned.verify(&message.signed_bytes(), &message.signature)?;
    let payload = cbor::decode(&message.payload, MAX_TOKEN).map_err(EarError::Cbor)?;
    let claims = labels::from_cbor(payload).map_err(EarError::Cbor)?;
    claims::judge(claims.to_string().as_bytes(), now)
}

fn headers(message: &Sign1, pinned: &VerifierPublicKey) -> Result<(), EarError> {
    let mut headers = message.headers(&[ALG, KID, TYP]).map_err(EarError::Cbor)?;
    let mut field = |label| headers.required(label).map_err(EarError::Cbor);
    let (alg, kid, typ) = (field(ALG)?, field(KID)?, field(TYP)?);
    for (name, seen, value, expected) in
        [("alg", &alg, Value::from(ES256), "-7"), ("typ", &typ, Value::Text(MEDIA_TYPE.to_owned()), MEDIA_TYPE)]
    {
        if *seen != value {
            let seen = format!("{seen:?}").chars().take(60).collect();
            return Err(EarError::Header { field: name, seen, expected });
        }
    }
    let kid = cbor::bytes(kid, "kid").map_err(EarError::Cbor)?;
    if kid != pinned.kid().as_bytes() {
        let seen = String::from_utf8(kid).map_err(|_| EarError::Cbor(CborError::Type { what: "kid", expected: "text" }))?;
        return Err(EarError::OtherKey { seen, pinned: pinned.kid() });
    }
    Ok(())
}

/// COSE header parameters (RFC 9052, section 3.1; `typ`: RFC 9596).
const ALG: i64 = 1;
const KID: i64 = 4;
const TYP: i64 = 16;
/// COSE algorithm (RFC 9053, section 2.1).
const ES256: i64 = -7;
const MEDIA_TYPE: &str = "application/eat+cwt";
