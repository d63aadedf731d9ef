//! The platform and its nodes.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use casemate_api::rest::{HostedInstances, Incidents, NodeDrain, NodeHoster, Nodes, Platform, Problem};

use super::{
    Common, Rejection,
    extract::{JsonBody, OfNode},
    gate::Said,
};
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

/// All nodes; a hoster who neither rents nor operates sees his own.
#[utoipa::path(get, path = "/api/v1/nodes", tag = "nodes", operation_id = "list_nodes",
    responses((status = 200, body = Nodes)), security(("token" = [])))]
pub(super) async fn list(State(service): State<Service>, caller: Caller) -> Result<Json<Nodes>, Rejection> {
    Ok(Json(service.nodes(&caller).await?))
}

/// What the nodes' monitors ended work for, newest first: on all nodes for operators, on their own for hosters.
#[utoipa::path(get, path = "/api/v1/incidents", tag = "nodes", operation_id = "list_incidents",
    params(("node" = Option<String>, Query, description = "Only those of this node")),
    responses((status = 200, body = Incidents),
        (status = 403, description = "Neither hoster nor operator", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such node, or not yours", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn incidents(State(service): State<Service>, caller: Caller, of: OfNode) -> Result<Json<Incidents>, Rejection> {
    Ok(Json(service.incidents(&caller, of.node.as_deref()).await?))
}

/// Give a suspended node work again. Needs an operator's token.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/restore", tag = "nodes", operation_id = "restore_node",
    params(("id" = String, Path, description = "The node")),
    responses((status = 204, description = "Restored"),
        (status = 403, description = "Not an operator", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such node", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Not suspended, or revoked", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn restore(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Rejection> {
    service.restore_node(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Give a node no new instances; those that it has may come to their end, until the deadline where there is one.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/drain", tag = "nodes", operation_id = "drain_node",
    params(("id" = String, Path, description = "The node")), request_body = NodeDrain,
    responses((status = 204, description = "It drains"),
        (status = 403, description = "A deadline by a hoster", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such node, or not yours", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn drain(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
    JsonBody(drain): JsonBody<NodeDrain>,
) -> Result<StatusCode, Rejection> {
    service.drain_node(&caller, &id, drain.deadline_s).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Give a drained node work again. What an operator has drained, only he gives work.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/undrain", tag = "nodes", operation_id = "undrain_node",
    params(("id" = String, Path, description = "The node")),
    responses((status = 204, description = "It gets work"),
        (status = 404, description = "No such node, or not yours", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "An operator has drained it", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn undrain(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Rejection> {
    service.undrain_node(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a node of yours has: what the instances take, and not what they are.
#[utoipa::path(get, path = "/api/v1/nodes/{id}/instances", tag = "nodes", operation_id = "list_hosted_instances",
    params(("id" = String, Path, description = "The node")),
    responses((status = 200, body = HostedInstances),
        (status = 404, description = "No such node, or not yours", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn hosted(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<HostedInstances>, Rejection> {
    Ok(Json(service.hosted(&caller, &id).await?))
}

/// Give a node to a hoster, or back to the platform. Needs an operator's token.
#[utoipa::path(put, path = "/api/v1/nodes/{id}/hoster", tag = "nodes", operation_id = "give_node",
    params(("id" = String, Path, description = "The node")), request_body = NodeHoster,
    responses((status = 204, description = "Done"),
        (status = 404, description = "No such node or account", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The account is no hoster", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn give(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
    JsonBody(new): JsonBody<NodeHoster>,
) -> Result<(StatusCode, Extension<Said>), Rejection> {
    service.give_node(&caller, &id, new.hoster.as_deref()).await?;
    Ok((StatusCode::NO_CONTENT, Extension(Said(new.hoster.unwrap_or_else(|| "the platform".to_owned())))))
}
