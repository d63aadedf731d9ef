//! What every request goes through: is there room, who is it, may he, and is it written down.

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{Rejection, keyed};
use crate::{
    access::{self, Rule, Who},
    clock::now_ms,
    fault::{Fault, chain},
    life::clipped,
    listener::Peer,
    rates::Limiter,
    service::{Caller, authenticate},
    store::{Begun, Store},
};

/// Longest accepted token.
const MAX_TOKEN: usize = 256;
/// Most characters of a path in the audit record.
const MAX_TARGET: usize = 300;

/// What requests are held against.
#[derive(Debug, Clone)]
pub struct Gate {
    pub(super) store: Store,
    limiter: Limiter,
}

impl Gate {
    /// Over this database, with these limits.
    pub fn new(store: Store, rates: crate::config::Rates) -> Self {
        Self { store, limiter: Limiter::new(rates) }
    }
}

/// Said by handlers for the audit record: what was made, or what it changed to. Never a secret.
#[derive(Debug, Clone)]
pub(super) struct Said(pub(super) String);

/// Around every route. What has no rule is refused.
pub(super) async fn guard(State(gate): State<Gate>, mut request: Request, next: Next) -> Result<Response, Rejection> {
    if let Some(peer) = request.extensions().get::<Peer>() {
        let limited = gate.limiter.address(peer.address);
        limited.map_err(|retry_after_s| Fault::TooOften { of: "address", retry_after_s })?;
    }
    let rule = rule_for(&request)?;
    if matches!(rule.who, Who::Anybody) {
        return Ok(next.run(request).await);
    }
    let bearer = bearer(request.headers())?.to_owned();
    let caller = authenticate(&gate.store, &bearer).await?;
    let limited = gate.limiter.token(&caller.token.id);
    limited.map_err(|retry_after_s| Fault::TooOften { of: "token", retry_after_s })?;
    if rule.reads() {
        access::permit(&caller, rule)?;
        request.extensions_mut().insert(caller);
        return Ok(next.run(request).await);
    }
    // A client that goes away does not leave a change half done, or without its outcome.
    let done = tokio::spawn(recorded(gate, rule, caller, bearer, request, next)).await;
    done.map_err(|error| Fault::internal("finish a change")(error.into()))?
}

/// Writes a change down, does it, and writes down what came of it.
async fn recorded(
    gate: Gate,
    rule: &Rule,
    caller: Caller,
    bearer: String,
    request: Request,
    next: Next,
) -> Result<Response, Rejection> {
    let target = clipped(request.uri().path(), MAX_TARGET);
    let (account, token) = (caller.account.as_str(), Some(caller.token.id.as_str()));
    let begun = Begun { at_ms: now_ms(), account, token, action: rule.verb, target: &target };
    // Before it is done: nothing changes without a line.
    let line = gate.store.audit(&begun).await.map_err(Fault::from)?;
    let response = match change(&gate, rule, (caller, &bearer), request, next).await {
        Ok(response) => response,
        Err(rejection) => rejection.into_response(),
    };
    let said = response.extensions().get::<Said>().map(|said| said.0.as_str());
    if let Err(error) = gate.store.audit_outcome(line, response.status().as_u16(), said).await {
        tracing::error!(audit.line = line, error.chain = %chain(&error), "the outcome of a change was not written down");
    }
    Ok(response)
}

async fn change(
    gate: &Gate,
    rule: &Rule,
    (caller, bearer): (Caller, &str),
    mut request: Request,
    next: Next,
) -> Result<Response, Rejection> {
    access::permit(&caller, rule)?;
    let token = caller.token.id.clone();
    request.extensions_mut().insert(caller);
    // The platform's own instances know their keys themselves, as long as they live.
    let keyed = rule.method == Method::POST && rule.path != "/api/v1/instances";
    match request.headers().get(keyed::HEADER).cloned() {
        Some(key) if keyed => keyed::once(&gate.store, (&token, bearer), key, request, next).await,
        _ => Ok(next.run(request).await),
    }
}

fn rule_for(request: &Request) -> Result<&'static Rule, Rejection> {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let rule = path.and_then(|path| access::rule(request.method(), path));
    rule.ok_or_else(|| Rejection(Fault::NotFound { what: "resource", id: clipped(request.uri().path(), 200) }))
}

fn bearer(headers: &HeaderMap) -> Result<&str, Fault> {
    let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = header.and_then(|text| text.strip_prefix("Bearer ")).filter(|token| token.len() <= MAX_TOKEN);
    token.ok_or(Fault::Unauthenticated)
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        parts.extensions.get::<Self>().cloned().ok_or(Rejection(Fault::Unauthenticated))
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, body::Body, http::StatusCode, middleware::from_fn_with_state, routing::get};
    use tower_service::Service as _;

    use super::*;
    use crate::{
        config::RateConfig,
        service::make_token,
        store::{Role, StoreAccess},
    };

    #[tokio::test]
    async fn a_route_without_a_line_is_refused_to_everybody() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&StoreAccess::Sqlite(dir.path().join("db"))).await.unwrap();
        let (token, _) = make_token(&store, Role::Operator, None, None).await.unwrap();
        let gate = Gate::new(store, RateConfig::default().into());
        let forgotten = || async { "somebody forgot the line" };
        let mut router = Router::new()
            .route("/api/v1/forgotten", get(forgotten))
            .route("/api/v1/nodes", get(forgotten).delete(forgotten))
            .layer(from_fn_with_state(gate, guard));
        for (method, path, status) in [
            (Method::GET, "/api/v1/forgotten", StatusCode::NOT_FOUND),
            (Method::DELETE, "/api/v1/nodes", StatusCode::NOT_FOUND),
            (Method::GET, "/api/v1/nodes", StatusCode::OK),
        ] {
            let request = Request::builder().method(method.clone()).uri(path).header("authorization", format!("Bearer {token}"));
            let answer = router.call(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(answer.status(), status, "{method} {path}");
        }
    }
}
