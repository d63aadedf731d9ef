//! Offers.

use axum::{
    Extension, Json,
    extract::{FromRequestParts, Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use casemate_api::rest::{NewOffer, Offer, Offers, Problem};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Rejection, extract, extract::JsonBody, gate::Said};
use crate::service::{Caller, Service, WantedOffers};

/// What lists of offers are asked with.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Parameters {
    level: Option<String>,
    trust_tier: Option<String>,
    cpus: Option<u64>,
    memory_mib: Option<u64>,
    within: Option<String>,
    gpu: Option<String>,
    label: Option<String>,
    most_per_hour: Option<u64>,
    ready: bool,
    sort: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        extract::query(parts, state, "/api/v1/openapi.json names the parameters").await
    }
}

/// What there is to rent. With `If-None-Match` nothing is sent that is as it was.
#[utoipa::path(get, path = "/api/v1/offers", tag = "offers", operation_id = "list_offers",
    params(("level" = Option<String>, Query, description = "With this isolation level or a stronger one"),
        ("trust_tier" = Option<String>, Query, description = "`attested`: without simulators"),
        ("cpus" = Option<u64>, Query, description = "With so many free CPUs"),
        ("memory_mib" = Option<u64>, Query, description = "With so much free memory"),
        ("within" = Option<String>, Query, description = "Within this place"),
        ("gpu" = Option<String>, Query, description = "With a GPU of this model"),
        ("label" = Option<String>, Query, description = "`name=value`"),
        ("most_per_hour" = Option<u64>, Query, description = "An hour of one CPU with 4 GiB costs this at the most"),
        ("ready" = Option<bool>, Query, description = "Only those that take new work"),
        ("sort" = Option<String>, Query, description = "`node` (default) or `price`"),
        ("after" = Option<String>, Query, description = "`next` of the page before"),
        ("limit" = Option<usize>, Query, minimum = 1, maximum = 1000, description = "How many; 100 without it"),
        ("If-None-Match" = Option<String>, Header, description = "ETag of what you have")),
    responses((status = 200, body = Offers), (status = 304, description = "As it was"),
        (status = 422, description = "Not a filter", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn list(
    State(service): State<Service>,
    caller: Caller,
    headers: HeaderMap,
    asked: Parameters,
) -> Result<Response, Rejection> {
    let wanted = WantedOffers {
        level: asked.level,
        trust_tier: asked.trust_tier,
        cpus: asked.cpus,
        memory_mib: asked.memory_mib,
        within: asked.within,
        gpu: asked.gpu,
        label: asked.label,
        most_per_hour: asked.most_per_hour,
        ready: asked.ready,
        sort: asked.sort,
        after: asked.after,
        limit: asked.limit,
    };
    Ok(tagged(&headers, &service.offers(&caller, &wanted).await?))
}

/// One offer, as it is now.
#[utoipa::path(get, path = "/api/v1/offers/{node}", tag = "offers", operation_id = "get_offer",
    params(("node" = String, Path, description = "The node"),
        ("If-None-Match" = Option<String>, Header, description = "ETag of what you have")),
    responses((status = 200, body = Offer), (status = 304, description = "As it was"),
        (status = 404, description = "No such node", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn get(
    State(service): State<Service>,
    caller: Caller,
    headers: HeaderMap,
    Path(node): Path<String>,
) -> Result<Response, Rejection> {
    Ok(tagged(&headers, &service.offer(&caller, &node).await?))
}

/// Set what you ask for your node. Instances that run keep what they were placed on.
#[utoipa::path(put, path = "/api/v1/offers/{node}", tag = "offers", operation_id = "set_offer",
    params(("node" = String, Path, description = "The node")), request_body = NewOffer,
    responses((status = 200, body = Offer),
        (status = 404, description = "No such node, or not yours", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It was changed meanwhile", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an offer, or more than was measured", body = Problem,
            content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn set(
    State(service): State<Service>,
    caller: Caller,
    Path(node): Path<String>,
    JsonBody(new): JsonBody<NewOffer>,
) -> Result<(Extension<Said>, Json<Offer>), Rejection> {
    let offer = service.set_offer(&caller, &node, new).await?;
    Ok((Extension(Said(format!("version {}", offer.version))), Json(offer)))
}

/// Take an offer back: the node takes no new work. What runs goes on.
#[utoipa::path(delete, path = "/api/v1/offers/{node}", tag = "offers", operation_id = "withdraw_offer",
    params(("node" = String, Path, description = "The node")),
    responses((status = 204, description = "Done"),
        (status = 404, description = "No such offer, or not yours", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn withdraw(
    State(service): State<Service>,
    caller: Caller,
    Path(node): Path<String>,
) -> Result<StatusCode, Rejection> {
    service.withdraw_offer(&caller, &node).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The answer with its ETag, or that it is as it was.
pub(super) fn tagged<T: Serialize>(headers: &HeaderMap, answer: &T) -> Response {
    let body = serde_json::to_vec(answer).expect("answers always serialise");
    let tag = format!("\"{}\"", hex::encode(&Sha256::digest(&body)[..16]));
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let same = known.flat_map(|value| value.split(',')).any(|one| one.trim() == tag || one.trim() == "*");
    let tag = HeaderValue::try_from(tag).expect("hex digits in quotes are a header");
    // What one caller sees is not another one's.
    let about = [(header::ETAG, tag), (header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"))];
    if same {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (about, json, body).into_response()
}
