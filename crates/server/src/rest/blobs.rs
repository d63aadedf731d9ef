//! Blobs.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use casemate_api::rest::Problem;

use super::Rejection;
use crate::{
    blobs::Put,
    service::{Caller, Service},
};

/// Whether a blob was uploaded.
#[utoipa::path(head, path = "/api/v1/blobs/{digest}", tag = "blobs", operation_id = "head_blob",
    params(("digest" = String, Path, description = "`sha256:` and 64 hex digits")),
    responses((status = 200, description = "It is there"), (status = 404, description = "It is not there")),
    security(("token" = [])))]
pub(super) async fn head(
    State(service): State<Service>,
    caller: Caller,
    Path(digest): Path<String>,
) -> Result<Response, Rejection> {
    let size = service.blob_size(&caller, &digest).await?;
    Ok((StatusCode::OK, [(header::CONTENT_LENGTH, size.to_string())]).into_response())
}

/// Upload a blob: an image layer or an encrypted asset. The digest is checked.
#[utoipa::path(put, path = "/api/v1/blobs/{digest}", tag = "blobs", operation_id = "put_blob",
    params(("digest" = String, Path, description = "`sha256:` and 64 hex digits")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "Stored"),
        (status = 200, description = "It was there"),
        (status = 413, description = "Larger than the platform allows", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The bytes have another digest", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn put(
    State(service): State<Service>,
    caller: Caller,
    Path(digest): Path<String>,
    body: Body,
) -> Result<StatusCode, Rejection> {
    Ok(match service.put_blob(&caller, &digest, body.into_data_stream()).await? {
        Put::Stored => StatusCode::CREATED,
        Put::Known => StatusCode::OK,
    })
}
