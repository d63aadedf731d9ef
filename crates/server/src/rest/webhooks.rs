//! Webhooks.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use casemate_api::rest::{Deliveries, MadeWebhook, NewWebhook, Problem, Queued, Webhooks};

use super::{Rejection, extract::JsonBody, gate::Said};
use crate::service::{Caller, Service};

/// The webhooks of your projects, and yours as a hoster; operators see all.
#[utoipa::path(get, path = "/api/v1/webhooks", tag = "webhooks", operation_id = "list_webhooks",
    responses((status = 200, body = Webhooks)), security(("token" = [])))]
pub(super) async fn list(State(service): State<Service>, caller: Caller) -> Result<Json<Webhooks>, Rejection> {
    Ok(Json(service.webhooks(&caller).await?))
}

/// Have an address called when something happens to a node. The body of a call is a `WebhookEvent`; docs/webhooks.md tells how it is signed.
#[utoipa::path(post, path = "/api/v1/webhooks", tag = "webhooks", operation_id = "make_webhook", request_body = NewWebhook,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 characters, e.g. a UUID")),
    responses((status = 201, body = MadeWebhook, description = "The secret is shown this once"),
        (status = 403, description = "Not your role, or you do not own the project", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such project, or not yours", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "There are as many as there may be", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an address that is called", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn make(
    State(service): State<Service>,
    caller: Caller,
    JsonBody(new): JsonBody<NewWebhook>,
) -> Result<(StatusCode, Extension<Said>, Json<MadeWebhook>), Rejection> {
    let made = service.make_webhook(&caller, new).await?;
    let said = Extension(Said(format!("{} of {} {}", made.webhook.id, made.webhook.scope, made.webhook.owner)));
    Ok((StatusCode::CREATED, said, Json(made)))
}

/// Have an address called no more, not even for what waits.
#[utoipa::path(delete, path = "/api/v1/webhooks/{id}", tag = "webhooks", operation_id = "remove_webhook",
    params(("id" = String, Path, description = "The webhook")),
    responses((status = 204, description = "It is not called any more"),
        (status = 403, description = "You do not own the project", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such webhook, or not yours", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn remove(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Rejection> {
    service.remove_webhook(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Have a webhook called although nothing happened.
#[utoipa::path(post, path = "/api/v1/webhooks/{id}/test", tag = "webhooks", operation_id = "test_webhook",
    params(("id" = String, Path, description = "The webhook")),
    responses((status = 202, body = Queued, description = "It will be called; its deliveries tell what came of it"),
        (status = 404, description = "No such webhook, or not yours", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many tests wait", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn test(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Queued>), Rejection> {
    Ok((StatusCode::ACCEPTED, Json(service.test_webhook(&caller, &id).await?)))
}

/// What became of the calls to a webhook, newest first.
#[utoipa::path(get, path = "/api/v1/webhooks/{id}/deliveries", tag = "webhooks", operation_id = "list_deliveries",
    params(("id" = String, Path, description = "The webhook")),
    responses((status = 200, body = Deliveries),
        (status = 404, description = "No such webhook, or not yours", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn deliveries(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Deliveries>, Rejection> {
    Ok(Json(service.webhook_deliveries(&caller, &id).await?))
}
