//! The role `verifier`.

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use casemate_api::rest::{
    Appraisal, AppraisalChallenge, Jwks, NewAppraisal, PolicyVersion, PolicyVersions, Problem, Revocations,
};

use super::{Rejection, extract::read_limited};
use crate::{
    revocations::MAX_REVOCATIONS,
    service::{
        Caller, Service,
        appraisals::{Appraisals, MAX_BODY, MAX_POLICY, METRICS_MEDIA_TYPE, Written},
    },
};

/// Make a nonce for one use. The attester answers it, and names the challenge in its request for an appraisal.
#[utoipa::path(post, path = "/api/v1/appraisals/challenges", tag = "appraisals", operation_id = "make_appraisal_challenge",
    responses((status = 201, body = AppraisalChallenge),
        (status = 429, description = "Too many are outstanding", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn challenge(
    State(appraisals): State<Appraisals>,
    caller: Caller,
) -> Result<(StatusCode, Json<AppraisalChallenge>), Rejection> {
    Ok((StatusCode::CREATED, Json(appraisals.new_challenge(&caller).await?)))
}

/// Judge evidence. A refusal is an answer with status 200, `accepted` false, and a token that says so.
#[utoipa::path(post, path = "/api/v1/appraisals", tag = "appraisals", operation_id = "appraise", request_body = NewAppraisal,
    responses(
        (status = 200, body = Appraisal),
        (status = 404, description = "No such policy", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The challenge or nonce is used, expired or another one", body = Problem,
            content_type = "application/problem+json"),
        (status = 413, description = "More than 12 MiB", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not a request", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many at the same time", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The judgement took too long", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn appraise(
    State(appraisals): State<Appraisals>,
    caller: Caller,
    body: Body,
) -> Result<Json<Appraisal>, Rejection> {
    let place = appraisals.enter()?;
    let body = read_limited(body, MAX_BODY).await?;
    Ok(Json(appraisals.appraise(&caller, place, body).await?))
}

/// Public keys of this verifier. Pin them; a relying party that fetches them each time trusts the connection instead.
#[utoipa::path(get, path = "/api/v1/appraisals/keys", tag = "appraisals", operation_id = "get_appraisal_keys",
    responses((status = 200, body = Jwks)))]
pub(super) async fn keys(State(appraisals): State<Appraisals>) -> Json<Jwks> {
    Json(appraisals.keys())
}

/// The policy in force.
#[utoipa::path(get, path = "/api/v1/appraisals/policies/{name}", tag = "appraisals", operation_id = "get_policy",
    params(("name" = String, Path, description = "Its name; `strict` is built in")),
    responses((status = 200, body = PolicyVersion),
        (status = 404, description = "No such policy", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn policy(
    State(appraisals): State<Appraisals>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<PolicyVersion>, Rejection> {
    Ok(Json(appraisals.policy(&caller, &name).await?))
}

/// All versions of a policy, oldest first. Each covers the one before by its digest.
#[utoipa::path(get, path = "/api/v1/appraisals/policies/{name}/versions", tag = "appraisals", operation_id = "get_policy_versions",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 200, body = PolicyVersions),
        (status = 404, description = "No such policy", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn policy_versions(
    State(appraisals): State<Appraisals>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<PolicyVersions>, Rejection> {
    Ok(Json(appraisals.policy_versions(&caller, &name).await?))
}

/// Add a version to a policy. Needs an operator's token. The text is compiled before it is stored.
#[utoipa::path(put, path = "/api/v1/appraisals/policies/{name}", tag = "appraisals", operation_id = "put_policy",
    params(("name" = String, Path, description = "1 to 64 lower case letters, digits and hyphens")),
    request_body(content = String, content_type = "text/plain", description = "Rego, package `casemate.appraisal`"),
    responses(
        (status = 201, description = "Added", body = PolicyVersion),
        (status = 200, description = "It is the version in force", body = PolicyVersion),
        (status = 403, description = "Not an operator", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not a policy, or the built-in one", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn put_policy(
    State(appraisals): State<Appraisals>,
    caller: Caller,
    Path(name): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<PolicyVersion>), Rejection> {
    let text = read_limited(body, MAX_POLICY).await?;
    Ok(match appraisals.put_policy(&caller, &name, &text).await? {
        Written::New(version) => (StatusCode::CREATED, Json(version)),
        Written::Same(version) => (StatusCode::OK, Json(version)),
    })
}

/// The revocation list in force.
#[utoipa::path(get, path = "/api/v1/appraisals/revocations", tag = "appraisals", operation_id = "get_revocations",
    responses((status = 200, body = Revocations),
        (status = 404, description = "There is none yet", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn revocations(State(appraisals): State<Appraisals>, caller: Caller) -> Result<Json<Revocations>, Rejection> {
    Ok(Json(appraisals.revocations(&caller).await?))
}

/// The same of a server that runs instances, but is no verifier for others: tenants judge by that list, too.
pub(super) async fn platform_revocations(
    State(service): State<Service>,
    _caller: Caller,
) -> Result<Json<Revocations>, Rejection> {
    Ok(Json(service.revocations().view().await?))
}

/// Replace the revocation list. Needs an operator's token. A lower serial than one that was ever accepted is refused.
#[utoipa::path(put, path = "/api/v1/appraisals/revocations", tag = "appraisals", operation_id = "put_revocations",
    request_body(content = String, content_type = "application/json", description = "The signed list"),
    responses(
        (status = 200, body = Revocations),
        (status = 403, description = "Not an operator", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Older than the list in force", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not signed by the configured key", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn put_revocations(
    State(appraisals): State<Appraisals>,
    caller: Caller,
    body: Body,
) -> Result<Json<Revocations>, Rejection> {
    let file = read_limited(body, MAX_REVOCATIONS).await?;
    Ok(Json(appraisals.put_revocations(&caller, &file).await?))
}

/// Counters, for Prometheus. They name no instance, node or tenant.
#[utoipa::path(get, path = "/metrics", tag = "appraisals", operation_id = "get_metrics",
    responses((status = 200, description = "Prometheus text format 0.0.4", body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(appraisals): State<Appraisals>) -> Result<Response, Rejection> {
    Ok(([(header::CONTENT_TYPE, METRICS_MEDIA_TYPE)], appraisals.metrics().await?).into_response())
}
