//! Maintenance of nodes.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use casemate_api::rest::{NewMaintenance, NodeMaintenance, Problem};

use super::{Rejection, extract::JsonBody, gate::Said};
use crate::service::{Caller, Service};

/// Begin the maintenance of a node of yours on which nothing runs. It gets neither work nor keys from now on, and is unsealed.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/maintenance", tag = "nodes", operation_id = "begin_maintenance",
    params(("id" = String, Path, description = "The node")), request_body = NewMaintenance,
    responses((status = 202, description = "It begins; GET tells when the node is open"),
        (status = 403, description = "Forced by a hoster", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such node, or not yours", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Instances run there, or it is in maintenance already", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn begin(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
    JsonBody(new): JsonBody<NewMaintenance>,
) -> Result<(StatusCode, Extension<Said>), Rejection> {
    service.begin_maintenance(&caller, &id, &new).await?;
    let how = if new.forced { "forced: " } else { "" };
    Ok((StatusCode::ACCEPTED, Extension(Said(format!("{how}{}", new.reason.trim())))))
}

/// End the maintenance of a node of yours: it is sealed, and trusted again when its appraisal passes.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/maintenance/end", tag = "nodes", operation_id = "end_maintenance",
    params(("id" = String, Path, description = "The node")),
    responses((status = 202, description = "It is to end; GET tells what came of it"),
        (status = 404, description = "No such node, or not yours", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Not in maintenance, or in an operator's", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn end(State(service): State<Service>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode, Rejection> {
    service.end_maintenance(&caller, &id).await?;
    Ok(StatusCode::ACCEPTED)
}

/// The last maintenance of a node of yours, and what happened to the node.
#[utoipa::path(get, path = "/api/v1/nodes/{id}/maintenance", tag = "nodes", operation_id = "get_maintenance",
    params(("id" = String, Path, description = "The node")),
    responses((status = 200, body = NodeMaintenance),
        (status = 404, description = "No such node, or not yours", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn get(
    State(service): State<Service>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<NodeMaintenance>, Rejection> {
    Ok(Json(service.node_maintenance(&caller, &id).await?))
}
