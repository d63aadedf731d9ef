//! What handlers take: the caller, a JSON body, the wait of a long poll.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRef, FromRequest, FromRequestParts, Query, Request},
    http::{header, request::Parts},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{MAX_JSON, Rejection};
use crate::{
    fault::Fault,
    service::{Caller, Service, appraisals::Appraisals, authenticate},
    store::Store,
};

/// Longest time for a JSON body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest accepted token.
const MAX_TOKEN: usize = 256;

impl<S: Send + Sync> FromRequestParts<S> for Caller
where
    Store: FromRef<S>,
{
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|text| text.strip_prefix("Bearer ")).filter(|token| token.len() <= MAX_TOKEN);
        Ok(authenticate(&Store::from_ref(state), token.ok_or(Fault::Unauthenticated)?).await?)
    }
}

/// A JSON body of at most [`MAX_JSON`] bytes.
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub(super) T);

impl FromRef<Service> for Store {
    fn from_ref(service: &Service) -> Self {
        service.store().clone()
    }
}

impl FromRef<Appraisals> for Store {
    fn from_ref(appraisals: &Appraisals) -> Self {
        appraisals.store().clone()
    }
}

impl<T: DeserializeOwned> FromRequest<Service> for JsonBody<T> {
    type Rejection = Rejection;

    async fn from_request(request: Request, _: &Service) -> Result<Self, Rejection> {
        let bytes = read_limited(request.into_body(), MAX_JSON).await?;
        let value = serde_json::from_slice(&bytes).map_err(|error| Fault::Invalid {
            what: "body",
            detail: error.to_string(),
            hint: "send the JSON that /api/v1/openapi.json describes",
        })?;
        Ok(Self(value))
    }
}

/// A body of at most `limit` bytes.
pub(super) async fn read_limited(body: Body, limit: usize) -> Result<bytes::Bytes, Fault> {
    let invalid = |detail: &str| Fault::Invalid { what: "body", detail: detail.into(), hint: "send the request again" };
    match tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, limit)).await {
        Err(_) => Err(invalid("it took too long to arrive")),
        Ok(Ok(bytes)) => Ok(bytes),
        // The body's own error does not say which; a cut connection gets no answer anyway.
        Ok(Err(_)) => Err(Fault::TooLarge { what: "the body", limit: limit as u64 }),
    }
}

/// `?after=N&wait_ms=M`, `?from=N&wait_ms=M`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Poll {
    /// Events after this number.
    pub(super) after: u64,
    /// Records from this number on.
    pub(super) from: u64,
    wait_ms: u64,
}

impl Poll {
    pub(super) fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms)
    }
}

impl FromRequestParts<Service> for Poll {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, service: &Service) -> Result<Self, Rejection> {
        let query = Query::<Self>::from_request_parts(parts, service).await;
        let query = query.map_err(|error| Fault::Invalid {
            what: "query",
            detail: error.body_text(),
            hint: "use whole numbers for `after`, `from` and `wait_ms`",
        })?;
        Ok(query.0)
    }
}
