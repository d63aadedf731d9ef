//! Projects.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use casemate_api::rest::{Membership, NewProject, Problem, Project, Projects, Quota};

use super::{Rejection, extract::JsonBody, gate::Said};
use crate::service::{Accounts, Caller};

/// Your projects; an operator sees all.
#[utoipa::path(get, path = "/api/v1/projects", tag = "projects", operation_id = "list_projects",
    responses((status = 200, body = Projects)), security(("token" = [])))]
pub(super) async fn list(State(accounts): State<Accounts>, caller: Caller) -> Result<Json<Projects>, Rejection> {
    Ok(Json(accounts.projects(&caller).await?))
}

/// Make a project, which you own.
#[utoipa::path(post, path = "/api/v1/projects", tag = "projects", operation_id = "make_project", request_body = NewProject,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 characters, e.g. a UUID")),
    responses((status = 201, body = Project),
        (status = 422, description = "Not a name", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn make(
    State(accounts): State<Accounts>,
    caller: Caller,
    JsonBody(new): JsonBody<NewProject>,
) -> Result<(StatusCode, Extension<Said>, Json<Project>), Rejection> {
    let project = accounts.make_project(&caller, new).await?;
    Ok((StatusCode::CREATED, Extension(Said(project.id.clone())), Json(project)))
}

/// One project: its members, its quota and what it takes.
#[utoipa::path(get, path = "/api/v1/projects/{id}", tag = "projects", operation_id = "get_project",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 200, body = Project),
        (status = 404, description = "No such project, or not yours", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn get(
    State(accounts): State<Accounts>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Project>, Rejection> {
    Ok(Json(accounts.project(&caller, &id).await?))
}

/// Make an account a member of your project, or change what it is there.
#[utoipa::path(put, path = "/api/v1/projects/{id}/members/{account}", tag = "projects", operation_id = "set_member",
    params(("id" = String, Path, description = "The project"), ("account" = String, Path, description = "The account")),
    request_body = Membership,
    responses((status = 204, description = "Done"),
        (status = 403, description = "You do not own it", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such project or account", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The last owner", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn set_member(
    State(accounts): State<Accounts>,
    caller: Caller,
    Path((id, account)): Path<(String, String)>,
    JsonBody(membership): JsonBody<Membership>,
) -> Result<(StatusCode, Extension<Said>), Rejection> {
    // A role that is none is refused before this is read by anybody.
    let said = Extension(Said(crate::life::clipped(&membership.role, 20)));
    accounts.set_member(&caller, &id, &account, Some(membership)).await?;
    Ok((StatusCode::NO_CONTENT, said))
}

/// Take an account out of your project. Its tokens for the project are worth nothing from then on.
#[utoipa::path(delete, path = "/api/v1/projects/{id}/members/{account}", tag = "projects", operation_id = "remove_member",
    params(("id" = String, Path, description = "The project"), ("account" = String, Path, description = "The account")),
    responses((status = 204, description = "Done"),
        (status = 403, description = "You do not own it", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such project or member", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The last owner", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn remove_member(
    State(accounts): State<Accounts>,
    caller: Caller,
    Path((id, account)): Path<(String, String)>,
) -> Result<StatusCode, Rejection> {
    accounts.set_member(&caller, &id, &account, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Limit what the live instances of a project take together. Needs an operator's token. What runs goes on.
#[utoipa::path(put, path = "/api/v1/projects/{id}/quota", tag = "projects", operation_id = "set_quota",
    params(("id" = String, Path, description = "The project")), request_body = Quota,
    responses((status = 204, description = "Done"),
        (status = 404, description = "No such project", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn set_quota(
    State(accounts): State<Accounts>,
    caller: Caller,
    Path(id): Path<String>,
    JsonBody(quota): JsonBody<Quota>,
) -> Result<(StatusCode, Extension<Said>), Rejection> {
    accounts.set_quota(&caller, &id, quota).await?;
    let text = |limit: Option<u64>| limit.map_or("default".to_owned(), |limit| limit.to_string());
    let said = format!("{} instances, {} cpus, {} MiB", text(quota.instances), text(quota.cpus), text(quota.memory_mib));
    Ok((StatusCode::NO_CONTENT, Extension(Said(said))))
}
