//! The platform, its nodes, and tokens for new ones.

use axum::{Json, extract::State, http::StatusCode};
use casemate_api::rest::{BootstrapToken, Nodes, Platform, Problem};

use super::{Common, Rejection};
use crate::{
    fault::Fault,
    service::{Caller, Service},
};

/// What a client needs to know of the platform. Trust anchors come from the client's own context, never from here.
#[utoipa::path(get, path = "/api/v1/platform", tag = "platform", operation_id = "get_platform",
    responses((status = 200, body = Platform)))]
pub(super) async fn platform(State(common): State<Common>) -> Result<Json<Platform>, Rejection> {
    common.store.check().await.map_err(Fault::Store)?;
    Ok(Json(Platform { version: env!("CARGO_PKG_VERSION").to_owned(), roles: common.roles.names(), status: "ok".to_owned() }))
}

/// All nodes.
#[utoipa::path(get, path = "/api/v1/nodes", tag = "nodes", operation_id = "list_nodes",
    responses((status = 200, body = Nodes)), security(("token" = [])))]
pub(super) async fn list(State(service): State<Service>, caller: Caller) -> Result<Json<Nodes>, Rejection> {
    Ok(Json(service.nodes(&caller).await?))
}

/// Make a one-time token for enrolling a node. Needs an operator's token.
#[utoipa::path(post, path = "/api/v1/bootstrap-tokens", tag = "nodes", operation_id = "make_bootstrap_token",
    responses((status = 201, body = BootstrapToken),
        (status = 403, description = "Not an operator", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn bootstrap_token(
    State(service): State<Service>,
    caller: Caller,
) -> Result<(StatusCode, Json<BootstrapToken>), Rejection> {
    Ok((StatusCode::CREATED, Json(service.make_bootstrap_token(&caller).await?)))
}
