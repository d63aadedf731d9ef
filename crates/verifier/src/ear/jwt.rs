//! EAR as JWT (RFC 7519), in the compact form of JWS (RFC 7515).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{EarError, MAX_TOKEN, Order, VerifiedEar, VerifierKey, VerifierPublicKey, claims};
use crate::{result::AttestationResult, time::UnixTime};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

/// Signs a result as JWT. `policy` identifies the policy that was applied, see
/// [`AppraisalPolicy::id`](crate::rego::AppraisalPolicy::id).
pub fn sign_jwt(
    result: &AttestationResult,
    key: &VerifierKey,
    policy: &str,
    now: UnixTime,
    lifetime_s: u32,
) -> Result<String, EarError> {
    Order { result, key, policy, now, lifetime_s, freshness: None }.jwt()
}

pub(super) fn sign(order: &Order<'_>) -> Result<String, EarError> {
    let (claims, key) = (order.claims()?, order.key);
    let header = Header { alg: ALG.to_owned(), kid: key.public().kid(), typ: TYP.to_owned() };
    let header = serde_json::to_vec(&header).expect("a header is plain data");
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    let token = format!("{signed}.{signature}");
    if token.len() > MAX_TOKEN { Err(EarError::TooLong { len: token.len() }) } else { Ok(token) }
}

/// Verifies a JWT against a pinned key. The header chooses nothing: algorithm, type and key must be the only ones.
pub fn verify_jwt(token: &[u8], pinned: &VerifierPublicKey, now: UnixTime) -> Result<VerifiedEar, EarError> {
    if token.len() > MAX_TOKEN {
        return Err(EarError::TooLong { len: token.len() });
    }
    let parts: Vec<&[u8]> = token.split(|byte| *byte == b'.').collect();
    let [header, claims, signature] = parts.as_slice() else {
        return Err(EarError::Parts);
    };
    let decode = |part: &[u8]| URL_SAFE_NO_PAD.decode(part).map_err(|_| EarError::Parts);
    let parsed: Header = serde_json::from_slice(&decode(header)?).map_err(|source| EarError::Json { part: "header", source })?;
    for (field, seen, expected) in [("alg", parsed.alg, ALG), ("typ", parsed.typ, TYP)] {
        if seen != expected {
            return Err(EarError::Header { field, seen, expected });
        }
    }
    if parsed.kid != pinned.kid() {
        return Err(EarError::OtherKey { seen: parsed.kid, pinned: pinned.kid() });
    }
    let signed = &token[..header.len() + 1 + claims.len()];
    pinned.verify(signed, &decode(signature)?)?;
    claims::judge(&decode(claims)?, now)
}

const ALG: &str = "ES256";
/// RFC 9782: `application/eat+jwt`, written as RFC 7515, section 4.1.9, says.
const TYP: &str = "eat+jwt";
