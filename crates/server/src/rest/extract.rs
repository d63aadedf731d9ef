//! What handlers take: a JSON body, the wait of a long poll, other parameters. The caller comes from `gate`.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Query, Request},
    http::request::Parts,
};
use serde::{Deserialize, de::DeserializeOwned};

use super::{MAX_JSON, Rejection};
use crate::fault::Fault;

/// Longest time for a JSON body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A JSON body of at most [`MAX_JSON`] bytes.
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Rejection;

    async fn from_request(request: Request, _: &S) -> Result<Self, Rejection> {
        let bytes = read_limited(request.into_body(), MAX_JSON).await?;
        Ok(Self(parse(&bytes)?))
    }
}

/// A JSON body that may be left out.
#[derive(Debug)]
pub(super) struct OptionalBody<T>(pub(super) Option<T>);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for OptionalBody<T> {
    type Rejection = Rejection;

    async fn from_request(request: Request, _: &S) -> Result<Self, Rejection> {
        let bytes = read_limited(request.into_body(), MAX_JSON).await?;
        Ok(Self(if bytes.is_empty() { None } else { parse(&bytes)? }))
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Fault> {
    let invalid = |detail| Fault::Invalid { what: "body", detail, hint: "send the JSON that /api/v1/openapi.json describes" };
    // An array would be taken for an object's values in the order of the type.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(invalid("must be a JSON object, not an array".to_owned()));
    }
    serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))
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

impl<S: Send + Sync> FromRequestParts<S> for Poll {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        query(parts, state, "use whole numbers for `after`, `from` and `wait_ms`").await
    }
}

/// `?node=ID`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OfNode {
    /// Only what concerns this node.
    pub(super) node: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for OfNode {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        query(parts, state, "the only parameter is `node`, an id from /api/v1/nodes").await
    }
}

/// What lists of accounts, tokens and audit lines are asked with.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Parameters {
    /// Names after this one.
    pub(super) after: Option<String>,
    /// Lines before this one.
    pub(super) before: Option<u64>,
    /// How many lines.
    pub(super) limit: Option<u32>,
    /// Whose.
    pub(super) account: Option<String>,
    /// What a token made, too.
    pub(super) made: bool,
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        query(parts, state, "/api/v1/openapi.json names the parameters").await
    }
}

/// The parameters behind the path; others than those of `T` are refused.
pub(super) async fn query<T: DeserializeOwned, S: Send + Sync>(
    parts: &mut Parts,
    state: &S,
    hint: &'static str,
) -> Result<T, Rejection> {
    let query = Query::from_request_parts(parts, state).await;
    let query = query.map_err(|error| Fault::Invalid { what: "query", detail: error.body_text(), hint })?;
    Ok(query.0)
}
