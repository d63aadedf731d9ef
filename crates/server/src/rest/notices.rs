//! What tenants are told of nodes.

use axum::{
    Json,
    extract::{FromRequestParts, Path, State},
    http::request::Parts,
};
use casemate_api::rest::{Notice, Notices, Problem};
use serde::Deserialize;

use super::{Rejection, extract};
use crate::service::{Caller, Service};

/// What lists of notices are asked with.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Parameters {
    instance: Option<String>,
    before: Option<u64>,
    limit: Option<u32>,
}

impl<S: Send + Sync> FromRequestParts<S> for Parameters {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        extract::query(parts, state, "the parameters are `instance`, `before` and `limit`").await
    }
}

/// What your projects were told of the nodes that have or had their instances, newest first; operators see all.
#[utoipa::path(get, path = "/api/v1/notices", tag = "notices", operation_id = "list_notices",
    params(("instance" = Option<String>, Query, description = "Only those about this instance"),
        ("before" = Option<u64>, Query, description = "Only those before this number"),
        ("limit" = Option<u32>, Query, description = "1 to 100; 50 when absent")),
    responses((status = 200, body = Notices)), security(("token" = [])))]
pub(super) async fn list(State(service): State<Service>, caller: Caller, asked: Parameters) -> Result<Json<Notices>, Rejection> {
    Ok(Json(service.notices(&caller, asked.instance.as_deref(), asked.before, asked.limit).await?))
}

/// One notice, with the lines of the node's record, and how your instances ended.
#[utoipa::path(get, path = "/api/v1/notices/{id}", tag = "notices", operation_id = "get_notice",
    params(("id" = String, Path, description = "The notice")),
    responses((status = 200, body = Notice),
        (status = 404, description = "No such notice, or not your project's", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn get(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Notice>, Rejection> {
    Ok(Json(service.notice(&caller, &id).await?))
}
