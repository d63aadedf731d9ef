//! Requests with an idempotency key: done once, answered as often as they come.
//!
//! Some answers hold a secret that is shown once. So an answer is kept encrypted under a key that only the asker's token gives, and the
//! platform has no copy of that token.

use aes_gcm::{
    Aes256Gcm, KeyInit as _,
    aead::{Aead as _, Payload},
};
use axum::{
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

use super::{MAX_JSON, Rejection, extract::read_limited};
use crate::{
    clock::now_ms,
    fault::Fault,
    store::{Earlier, Keyed, Store},
};

/// Where the key is.
pub(super) const HEADER: &str = "idempotency-key";
/// Longest key.
const MAX_KEY: usize = 200;
/// Largest answer that is kept. Answers that are larger are evidence, which is good for one nonce anyway.
const MAX_ANSWER: usize = 1 << 20;
/// After this time without an answer a request is nobody's: the server that had it is gone.
const ABANDONED_MS: u64 = 10 * 60_000;
/// Domain of the key that answers are encrypted under.
const DOMAIN: &[u8] = b"casemate/answer/v1\0";
/// Bytes of a nonce of AES-GCM.
const NONCE: usize = 12;

/// Does a request, or answers as it was answered before.
pub(super) async fn once(
    store: &Store,
    (token, bearer): (&str, &str),
    key: HeaderValue,
    request: Request,
    next: Next,
) -> Result<Response, Rejection> {
    let key = key.to_str().ok().filter(|key| (1..=MAX_KEY).contains(&key.len())).ok_or_else(|| Fault::Invalid {
        what: "Idempotency-Key",
        detail: format!("must be 1 to {MAX_KEY} ASCII characters"),
        hint: "use a random UUID",
    })?;
    let (parts, body) = request.into_parts();
    let body = read_limited(body, MAX_JSON).await?;
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let digest: [u8; 32] = Sha256::new().chain_update(path).chain_update([0]).chain_update(&body).finalize().into();
    let mut attempt = [0; 16];
    getrandom::fill(&mut attempt).map_err(|error| Fault::internal("draw randomness")(error.into()))?;
    let key_digest = Sha256::digest(key).into();
    let keyed = Keyed { token, key: &key_digest, request: &digest, attempt: &attempt };
    let now_ms = now_ms();
    let earlier = store.take_request(keyed, now_ms, now_ms.saturating_sub(ABANDONED_MS)).await.map_err(Fault::from)?;
    let seal = Seal::new(bearer, key);
    match earlier {
        Earlier::Nothing => {}
        Earlier::KeyTaken => return Err(Fault::KeyTaken.into()),
        Earlier::UnderWay => return Err(Fault::UnderWay.into()),
        Earlier::Answered { status, sealed } => {
            let body = seal.open(&sealed).ok_or_else(|| damaged("its seal does not fit"))?;
            return answer(status, body);
        }
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    keep(store, keyed, &seal, response).await
}

/// Keeps a success. What failed changed nothing, and may be tried again with the same key.
async fn keep(store: &Store, keyed: Keyed<'_>, seal: &Seal, response: Response) -> Result<Response, Rejection> {
    let status = response.status();
    let long = response.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if !status.is_success() || long.is_some_and(|length| length > MAX_ANSWER) {
        store.end_request(keyed, None).await.map_err(Fault::from)?;
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let unreadable = |error: axum::Error| Fault::internal("keep an answer")(error.into());
    let body = to_bytes(body, usize::MAX).await.map_err(unreadable)?;
    let sealed = seal.close(&body)?;
    let kept = (body.len() <= MAX_ANSWER).then_some((status.as_u16(), sealed.as_slice()));
    store.end_request(keyed, kept).await.map_err(Fault::from)?;
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn answer(status: u16, body: Vec<u8>) -> Result<Response, Rejection> {
    let status = StatusCode::from_u16(status).map_err(|_| damaged("its status is none"))?;
    if body.is_empty() {
        return Ok(status.into_response());
    }
    Ok((status, [(header::CONTENT_TYPE, "application/json")], Bytes::from(body)).into_response())
}

fn damaged(detail: &'static str) -> Fault {
    Fault::internal("read a kept answer")(detail.into())
}

/// Encrypts answers for whoever asks again with the same token and key.
struct Seal(Aes256Gcm);

impl Seal {
    fn new(bearer: &str, key: &str) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(bearer.as_bytes()).expect("a key of any length will do");
        mac.update(DOMAIN);
        mac.update(key.as_bytes());
        let derived: [u8; 32] = mac.finalize().into_bytes().into();
        Self(Aes256Gcm::new(&derived.into()))
    }

    /// Nonce, ciphertext and tag.
    fn close(&self, plain: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce).map_err(|error| Fault::internal("draw randomness")(error.into()))?;
        let sealed = self.0.encrypt(&nonce.into(), Payload::from(plain));
        let sealed = sealed.map_err(|_| Fault::internal("seal an answer")("it is too long".into()))?;
        Ok([&nonce[..], &sealed].concat())
    }

    fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
        self.0.decrypt(&(*nonce).into(), Payload::from(sealed)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_readable_with_its_token_and_key_and_no_other() {
        let sealed = Seal::new("token", "key").close(b"secret").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(Seal::new("token", "key").open(&sealed).unwrap(), b"secret");
        for (token, key) in [("token", "other"), ("other", "key"), ("", "")] {
            assert_eq!(Seal::new(token, key).open(&sealed), None);
        }
        for at in [0, NONCE, sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(Seal::new("token", "key").open(&changed), None);
        }
        assert_eq!(Seal::new("token", "key").open(&sealed[..5]), None);
    }
}
