//! Instances.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use casemate_api::rest::{
    Event, Events, EvidenceBundle, Instance, Instances, KeyRelease, NewChallenge, NewInstance, Problem, Receipt, Records,
    ScoreCard,
};

use super::{
    Rejection,
    extract::{JsonBody, Poll},
    gate::Said,
    watch,
};
use crate::{
    fault::Fault,
    service::{Caller, Placed, Service},
};

/// Run a workload. With an `Idempotency-Key`, the same request again answers with the same instance.
#[utoipa::path(post, path = "/api/v1/instances", tag = "instances", operation_id = "create_instance",
    request_body = NewInstance,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 bytes, e.g. a UUID")),
    responses(
        (status = 201, description = "Made", body = Instance),
        (status = 200, description = "The same request made it before", body = Instance),
        (status = 409, description = "The project's quota does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The workload is not acceptable, or names blobs that are missing", body = Problem,
            content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn create(
    State(service): State<Service>,
    caller: Caller,
    headers: HeaderMap,
    JsonBody(request): JsonBody<NewInstance>,
) -> Result<(StatusCode, Extension<Said>, Json<Instance>), Rejection> {
    let key = match headers.get("idempotency-key") {
        None => None,
        Some(value) => Some(value.to_str().map_err(|_| not_text())?.to_owned()),
    };
    let (status, instance) = match service.create(&caller, request, key).await? {
        Placed::New(instance) => (StatusCode::CREATED, instance),
        Placed::Existing(instance) => (StatusCode::OK, instance),
    };
    Ok((status, Extension(Said(instance.id.clone())), Json(instance)))
}

/// The instances of your projects, newest first; an operator sees all.
#[utoipa::path(get, path = "/api/v1/instances", tag = "instances", operation_id = "list_instances",
    responses((status = 200, body = Instances)), security(("token" = [])))]
pub(super) async fn list(State(service): State<Service>, caller: Caller) -> Result<Json<Instances>, Rejection> {
    Ok(Json(service.list(&caller).await?))
}

/// One instance: intended and actual state.
#[utoipa::path(get, path = "/api/v1/instances/{id}", tag = "instances", operation_id = "get_instance",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, body = Instance),
        (status = 404, description = "No such instance, or not yours", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn get(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Instance>, Rejection> {
    Ok(Json(service.get(&caller, &id).await?))
}

/// What happened, from a number on. Waits for something to happen, at most `wait_ms`. With `Accept: text/event-stream` a stream of
/// server-sent events, each an event of the JSON form with its number as `id` and its kind as `event`. A stream ends after ten
/// minutes, and when the server does: come back then with `Last-Event-ID`, to any server.
#[utoipa::path(get, path = "/api/v1/instances/{id}/events", tag = "instances", operation_id = "get_events",
    params(("id" = String, Path, description = "Its id"),
        ("after" = Option<u64>, Query, description = "Only events with a greater number"),
        ("wait_ms" = Option<u64>, Query, description = "Longest wait"),
        ("Last-Event-ID" = Option<u64>, Header, description = "Of a stream: what `after` says otherwise")),
    responses(
        (status = 200, content((Events = "application/json"), (Event = "text/event-stream"))),
        (status = 429, description = "Too many streams or long polls", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn events(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    poll: Poll,
) -> Result<Response, Rejection> {
    if watch::is_wanted(&headers) {
        let after = watch::last_event(&headers)?.unwrap_or(poll.after);
        return watch::events(&service, &caller, &id, after).await;
    }
    Ok(Json(service.events(&caller, &id, poll.after, poll.wait()).await?).into_response())
}

/// Ask for evidence over your own fresh nonce, to verify it yourself.
#[utoipa::path(post, path = "/api/v1/instances/{id}/challenges", tag = "instances", operation_id = "challenge",
    params(("id" = String, Path, description = "Its id")), request_body = NewChallenge,
    responses(
        (status = 200, body = EvidenceBundle),
        (status = 409, description = "Not booted, ended, or the nonce was used before", body = Problem,
            content_type = "application/problem+json"),
        (status = 502, description = "The node has no evidence", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The node is not connected", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "The node did not answer", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn challenge(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
    JsonBody(request): JsonBody<NewChallenge>,
) -> Result<Json<EvidenceBundle>, Rejection> {
    Ok(Json(service.challenge(&caller, &id, &request).await?))
}

/// Send keys, sealed to the guest whose evidence you verified. Opaque to the platform.
#[utoipa::path(post, path = "/api/v1/instances/{id}/keys", tag = "instances", operation_id = "release_keys",
    params(("id" = String, Path, description = "Its id")), request_body = KeyRelease,
    responses((status = 202, description = "On their way"),
        (status = 409, description = "Not attested by the platform, or ended", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn release_keys(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
    JsonBody(request): JsonBody<KeyRelease>,
) -> Result<StatusCode, Rejection> {
    service.release_keys(&caller, &id, &request).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Sealed records of the guest, from a number on. Waits for one, at most `wait_ms`.
#[utoipa::path(get, path = "/api/v1/instances/{id}/records", tag = "instances", operation_id = "get_records",
    params(("id" = String, Path, description = "Its id"),
        ("from" = Option<u64>, Query, description = "Number of the first"),
        ("wait_ms" = Option<u64>, Query, description = "Longest wait")),
    responses((status = 200, body = Records)), security(("token" = [])))]
pub(super) async fn records(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
    poll: Poll,
) -> Result<Json<Records>, Rejection> {
    Ok(Json(service.records(&caller, &id, poll.from, poll.wait()).await?))
}

/// End an instance: stop, wipe, keep the record.
#[utoipa::path(post, path = "/api/v1/instances/{id}/stop", tag = "instances", operation_id = "stop_instance",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 202, description = "On its way, or ended already")), security(("token" = [])))]
pub(super) async fn stop(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Rejection> {
    service.stop(&caller, &id).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Forget an instance that is wiped, with its events, records and receipt.
#[utoipa::path(delete, path = "/api/v1/instances/{id}", tag = "instances", operation_id = "delete_instance",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 204, description = "Forgotten"),
        (status = 409, description = "Not wiped yet", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn delete(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Rejection> {
    service.delete(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The node's signed receipt of the wipe.
#[utoipa::path(get, path = "/api/v1/instances/{id}/receipt", tag = "instances", operation_id = "get_receipt",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, body = Receipt),
        (status = 404, description = "There is none yet", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn receipt(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Receipt>, Rejection> {
    Ok(Json(service.receipt(&caller, &id).await?))
}

fn not_text() -> Fault {
    Fault::Invalid { what: "Idempotency-Key", detail: "must be ASCII text".into(), hint: "use a random UUID" }
}

/// What holds an instance, by layer, each line from an observation.
#[utoipa::path(get, path = "/api/v1/instances/{id}/score-card", tag = "instances", operation_id = "get_score_card",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, body = ScoreCard),
        (status = 404, description = "No such instance, or not yours", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn score_card(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<ScoreCard>, Rejection> {
    Ok(Json(service.score_card(&caller, &id).await?))
}
