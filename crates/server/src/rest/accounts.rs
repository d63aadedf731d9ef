//! Accounts, tokens, and the audit record.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use casemate_api::rest::{
    Account, AccountUpdate, Accounts as AccountList, AuditLines, BootstrapToken, MadeToken, Me, NewAccount, NewBootstrapToken,
    NewToken, Problem, Tokens,
};

use super::{
    Rejection,
    extract::{JsonBody, OptionalBody, Parameters},
    gate::Said,
};
use crate::service::{Accounts, Caller};

/// Who calls, and what the token is limited to.
#[utoipa::path(get, path = "/api/v1/me", tag = "accounts", operation_id = "get_me",
    responses((status = 200, body = Me)), security(("token" = [])))]
pub(super) async fn me(State(accounts): State<Accounts>, caller: Caller) -> Result<Json<Me>, Rejection> {
    Ok(Json(accounts.me(&caller).await?))
}

/// Accounts by name, at most 1000. Needs an operator's token.
#[utoipa::path(get, path = "/api/v1/accounts", tag = "accounts", operation_id = "list_accounts",
    params(("after" = Option<String>, Query, description = "Only names after this one")),
    responses((status = 200, body = AccountList)), security(("token" = [])))]
pub(super) async fn list(
    State(accounts): State<Accounts>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Json<AccountList>, Rejection> {
    Ok(Json(accounts.list(&caller, &parameters.after.unwrap_or_default()).await?))
}

/// Make an account and its own project. Needs an operator's token.
#[utoipa::path(post, path = "/api/v1/accounts", tag = "accounts", operation_id = "make_account", request_body = NewAccount,
    responses((status = 201, body = Account),
        (status = 409, description = "There is one of this name", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not a name, or not roles", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn make(
    State(accounts): State<Accounts>,
    caller: Caller,
    JsonBody(new): JsonBody<NewAccount>,
) -> Result<(StatusCode, Extension<Said>, Json<Account>), Rejection> {
    let account = accounts.make(&caller, new).await?;
    Ok((StatusCode::CREATED, said(&account), Json(account)))
}

/// One account. Needs an operator's token.
#[utoipa::path(get, path = "/api/v1/accounts/{name}", tag = "accounts", operation_id = "get_account",
    params(("name" = String, Path, description = "Its name")),
    responses((status = 200, body = Account),
        (status = 404, description = "No such account", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn get(
    State(accounts): State<Accounts>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<Account>, Rejection> {
    Ok(Json(accounts.account(&caller, &name).await?))
}

/// Change the roles of an account, disable or enable it. Needs an operator's token; the last operator stays one.
#[utoipa::path(put, path = "/api/v1/accounts/{name}", tag = "accounts", operation_id = "change_account",
    params(("name" = String, Path, description = "Its name")), request_body = AccountUpdate,
    responses((status = 200, body = Account),
        (status = 404, description = "No such account", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The last operator", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn change(
    State(accounts): State<Accounts>,
    caller: Caller,
    Path(name): Path<String>,
    JsonBody(update): JsonBody<AccountUpdate>,
) -> Result<(Extension<Said>, Json<Account>), Rejection> {
    let account = accounts.change(&caller, &name, update).await?;
    Ok((said(&account), Json(account)))
}

/// Tokens of your account, newest first; an operator may ask for another account's.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "accounts", operation_id = "list_tokens",
    params(("account" = Option<String>, Query, description = "Whose")),
    responses((status = 200, body = Tokens)), security(("token" = [])))]
pub(super) async fn tokens(
    State(accounts): State<Accounts>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Json<Tokens>, Rejection> {
    Ok(Json(accounts.tokens(&caller, parameters.account.as_deref()).await?))
}

/// Make a token. It is shown once, and never does more than the token that makes it.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "accounts", operation_id = "make_token", request_body = NewToken,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 characters, e.g. a UUID")),
    responses((status = 201, body = MadeToken),
        (status = 403, description = "It would do more", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such account or project", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not limits of a token", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn make_token(
    State(accounts): State<Accounts>,
    caller: Caller,
    JsonBody(new): JsonBody<NewToken>,
) -> Result<(StatusCode, Extension<Said>, Json<MadeToken>), Rejection> {
    let made = accounts.make_token(&caller, new).await?;
    let said = Extension(Said(format!("{} of {}", made.info.id, made.info.account)));
    Ok((StatusCode::CREATED, said, Json(made)))
}

/// End a token, at once and on every server. With `made=true` also all that were made with it.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "accounts", operation_id = "revoke_token",
    params(("id" = String, Path, description = "Its id"), ("made" = Option<bool>, Query, description = "And what it made")),
    responses((status = 204, description = "It is worth nothing any more"),
        (status = 404, description = "No such token, or not yours", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn revoke_token(
    State(accounts): State<Accounts>,
    caller: Caller,
    Path(id): Path<String>,
    parameters: Parameters,
) -> Result<StatusCode, Rejection> {
    accounts.revoke_token(&caller, &id, parameters.made).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Make a one-time token for enrolling a node: as a hoster for yourself, as an operator for anybody.
#[utoipa::path(post, path = "/api/v1/bootstrap-tokens", tag = "nodes", operation_id = "make_bootstrap_token",
    request_body = Option<NewBootstrapToken>,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 characters, e.g. a UUID")),
    responses((status = 201, body = BootstrapToken),
        (status = 403, description = "Neither hoster nor operator", body = Problem, content_type = "application/problem+json")),
    security(("token" = [])))]
pub(super) async fn bootstrap_token(
    State(accounts): State<Accounts>,
    caller: Caller,
    OptionalBody(new): OptionalBody<NewBootstrapToken>,
) -> Result<(StatusCode, Json<BootstrapToken>), Rejection> {
    Ok((StatusCode::CREATED, Json(accounts.make_bootstrap_token(&caller, new.unwrap_or_default()).await?)))
}

/// Who changed what, newest first: all of it for operators, your own account's for others.
#[utoipa::path(get, path = "/api/v1/audit", tag = "accounts", operation_id = "get_audit",
    params(("before" = Option<u64>, Query, description = "Only lines before this number"),
        ("limit" = Option<u32>, Query, description = "1 to 1000; 100 when absent")),
    responses((status = 200, body = AuditLines)), security(("token" = [])))]
pub(super) async fn audit(
    State(accounts): State<Accounts>,
    caller: Caller,
    parameters: Parameters,
) -> Result<Json<AuditLines>, Rejection> {
    Ok(Json(accounts.audit(&caller, parameters.before, parameters.limit).await?))
}

fn said(account: &Account) -> Extension<Said> {
    let disabled = if account.disabled { ", disabled" } else { "" };
    Extension(Said(format!("{}: {}{disabled}", account.name, account.roles.join(","))))
}
