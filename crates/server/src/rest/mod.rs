//! REST: thin handlers over the services. Paths, limits and errors are settled here and in `router`.

mod accounts;
mod appraisals;
mod blobs;
mod extract;
mod gate;
mod instances;
mod keyed;
mod maintenance;
mod nodes;
mod notices;
mod offers;
mod openapi;
mod projects;
mod watch;
mod webhooks;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::{any, delete, get, head, post, put},
};

pub use gate::Gate;
pub use openapi::openapi_json;

use crate::{
    fault::Fault,
    roles::{RoleName, Roles},
    service::{Accounts, Service, appraisals::Appraisals},
    store::Store,
};

/// Largest JSON body, in bytes.
const MAX_JSON: usize = 1 << 20;

/// What is served here, by role.
#[derive(Debug)]
pub struct Served {
    /// What every server has.
    pub common: Common,
    /// The role `api`.
    pub api: Option<Service>,
    /// The role `verifier`.
    pub verifier: Option<Appraisals>,
}

/// What every server has.
#[derive(Debug, Clone)]
pub struct Common {
    /// The database.
    pub store: Store,
    /// What this server does.
    pub roles: Roles,
    /// Who may come.
    pub accounts: Accounts,
    /// What every request is held against.
    pub gate: Gate,
}

/// All routes. Those of a role that is not served here say so.
pub fn router(served: Served) -> Router {
    let Served { common, api, verifier } = served;
    let lists = api.clone().filter(|_| verifier.is_none()).map_or_else(Router::new, |service| {
        Router::new().route("/api/v1/appraisals/revocations", get(appraisals::platform_revocations)).with_state(service)
    });
    let (gate, accounts) = (common.gate.clone(), common.accounts.clone());
    let always = Router::new()
        .route("/api/v1/platform", get(nodes::platform))
        .route("/api/v1/openapi.json", get(openapi::serve))
        .with_state(common);
    let served = [
        api.clone().map(|service| platform_routes(service).merge(enrolling(accounts.clone()))),
        verifier.clone().map(verifier_routes),
    ]
    .into_iter()
    .flatten();
    let absent = [
        api.is_none().then(|| absent(RoleName::Api, &API_PATHS)),
        verifier.is_none().then(|| absent(RoleName::Verifier, &VERIFIER_PATHS)),
    ];
    let routes = always.merge(account_routes(accounts)).merge(lists);
    let routes = served.fold(routes, Router::merge).layer(axum::middleware::from_fn_with_state(gate, gate::guard));
    absent
        .into_iter()
        .flatten()
        .fold(routes, Router::merge)
        .fallback(|uri: axum::http::Uri| async move {
            Rejection(Fault::NotFound { what: "resource", id: crate::life::clipped(uri.path(), 200) })
        })
        .method_not_allowed_fallback(|| async {
            Rejection(Fault::Invalid {
                what: "method",
                detail: "this resource has no such method".into(),
                hint: "see /api/v1/openapi.json",
            })
        })
        // Blobs have their own limit; other bodies are limited where they are read.
        .layer(DefaultBodyLimit::disable())
}

fn account_routes(accounts: Accounts) -> Router {
    Router::new()
        .route("/api/v1/me", get(accounts::me))
        .route("/api/v1/accounts", get(accounts::list).post(accounts::make))
        .route("/api/v1/accounts/{name}", get(accounts::get).put(accounts::change))
        .route("/api/v1/projects", get(projects::list).post(projects::make))
        .route("/api/v1/projects/{id}", get(projects::get))
        .route("/api/v1/projects/{id}/members/{account}", put(projects::set_member).delete(projects::remove_member))
        .route("/api/v1/projects/{id}/quota", put(projects::set_quota))
        .route("/api/v1/tokens", get(accounts::tokens).post(accounts::make_token))
        .route("/api/v1/tokens/{id}", delete(accounts::revoke_token))
        .route("/api/v1/audit", get(accounts::audit))
        .with_state(accounts)
}

fn enrolling(accounts: Accounts) -> Router {
    Router::new().route("/api/v1/bootstrap-tokens", post(accounts::bootstrap_token)).with_state(accounts)
}

fn platform_routes(service: Service) -> Router {
    let instance = "/api/v1/instances/{id}";
    Router::new()
        .route("/api/v1/nodes", get(nodes::list))
        .route("/api/v1/nodes/{id}/instances", get(nodes::hosted))
        .route("/api/v1/nodes/{id}/hoster", put(nodes::give))
        .route("/api/v1/nodes/{id}/restore", post(nodes::restore))
        .route("/api/v1/nodes/{id}/drain", post(nodes::drain))
        .route("/api/v1/nodes/{id}/undrain", post(nodes::undrain))
        .route("/api/v1/nodes/{id}/maintenance", get(maintenance::get).post(maintenance::begin))
        .route("/api/v1/nodes/{id}/maintenance/end", post(maintenance::end))
        .route("/api/v1/incidents", get(nodes::incidents))
        .route("/api/v1/notices", get(notices::list))
        .route("/api/v1/notices/{id}", get(notices::get))
        .route("/api/v1/webhooks", get(webhooks::list).post(webhooks::make))
        .route("/api/v1/webhooks/{id}", delete(webhooks::remove))
        .route("/api/v1/webhooks/{id}/test", post(webhooks::test))
        .route("/api/v1/webhooks/{id}/deliveries", get(webhooks::deliveries))
        .route("/api/v1/offers", get(offers::list))
        .route("/api/v1/offers/{node}", get(offers::get).put(offers::set).delete(offers::withdraw))
        .route("/api/v1/blobs/{digest}", head(blobs::head).put(blobs::put))
        .route("/api/v1/events", get(watch::all))
        .route("/api/v1/instances", get(instances::list).post(instances::create))
        .route(instance, get(instances::get).delete(instances::delete))
        .route(&format!("{instance}/events"), get(instances::events))
        .route(&format!("{instance}/challenges"), post(instances::challenge))
        .route(&format!("{instance}/keys"), post(instances::release_keys))
        .route(&format!("{instance}/records"), get(instances::records))
        .route(&format!("{instance}/stop"), post(instances::stop))
        .route(&format!("{instance}/receipt"), get(instances::receipt))
        .route(&format!("{instance}/score-card"), get(instances::score_card))
        .with_state(service)
}

fn verifier_routes(appraisals: Appraisals) -> Router {
    let policy = "/api/v1/appraisals/policies/{name}";
    Router::new()
        .route("/api/v1/appraisals", post(appraisals::appraise))
        .route("/api/v1/appraisals/challenges", post(appraisals::challenge))
        .route("/api/v1/appraisals/keys", get(appraisals::keys))
        .route("/.well-known/jwks.json", get(appraisals::keys))
        .route("/api/v1/appraisals/revocations", get(appraisals::revocations).put(appraisals::put_revocations))
        .route(policy, get(appraisals::policy).put(appraisals::put_policy))
        .route(&format!("{policy}/versions"), get(appraisals::policy_versions))
        .route("/metrics", get(appraisals::metrics))
        .with_state(appraisals)
}

fn absent(role: RoleName, paths: &[&str]) -> Router {
    let refuse = move || async move { Rejection(Fault::RoleAbsent(role)) };
    paths.iter().fold(Router::new(), |router, path| router.route(path, any(refuse)))
}

const API_PATHS: [&str; 14] = [
    "/api/v1/events",
    "/api/v1/nodes",
    "/api/v1/nodes/{*rest}",
    "/api/v1/incidents",
    "/api/v1/notices",
    "/api/v1/notices/{*rest}",
    "/api/v1/webhooks",
    "/api/v1/webhooks/{*rest}",
    "/api/v1/offers",
    "/api/v1/offers/{*rest}",
    "/api/v1/bootstrap-tokens",
    "/api/v1/blobs/{*rest}",
    "/api/v1/instances",
    "/api/v1/instances/{*rest}",
];
const VERIFIER_PATHS: [&str; 4] = ["/api/v1/appraisals", "/api/v1/appraisals/{*rest}", "/.well-known/jwks.json", "/metrics"];

/// A fault on its way out: the one conversion to HTTP.
#[derive(Debug)]
pub struct Rejection(pub Fault);

impl From<Fault> for Rejection {
    fn from(fault: Fault) -> Self {
        Self(fault)
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        self.0.log();
        let problem = self.0.problem();
        let status = axum::http::StatusCode::from_u16(problem.status).unwrap_or(axum::http::StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&problem).expect("a problem always serialises");
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        let told: Option<(HeaderName, HeaderValue)> = match &self.0 {
            Fault::Unauthenticated => Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Fault::TooOften { retry_after_s, .. } => Some((header::RETRY_AFTER, HeaderValue::from(*retry_after_s))),
            Fault::UnderWay | Fault::Busy(_) | Fault::NodeUnreachable { .. } | Fault::TooSlow { .. } => {
                Some((header::RETRY_AFTER, HeaderValue::from_static("1")))
            }
            Fault::Store(error) if error.is_unavailable() => Some((header::RETRY_AFTER, HeaderValue::from_static("1"))),
            _ => None,
        };
        response.headers_mut().extend(told);
        response
    }
}
