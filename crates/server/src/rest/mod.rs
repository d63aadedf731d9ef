//! REST: thin handlers over the services. Paths, limits and errors are settled here and in `router`.

mod appraisals;
mod blobs;
mod extract;
mod instances;
mod nodes;
mod openapi;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::{any, get, head, post},
};

pub use openapi::openapi_json;

use crate::{
    fault::Fault,
    roles::{RoleName, Roles},
    service::{Service, appraisals::Appraisals},
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
}

/// All routes. Those of a role that is not served here say so.
pub fn router(served: Served) -> Router {
    let Served { common, api, verifier } = served;
    let lists = api.clone().filter(|_| verifier.is_none()).map_or_else(Router::new, |service| {
        Router::new().route("/api/v1/appraisals/revocations", get(appraisals::platform_revocations)).with_state(service)
    });
    let always = Router::new()
        .route("/api/v1/platform", get(nodes::platform))
        .route("/api/v1/openapi.json", get(openapi::serve))
        .with_state(common);
    always
        .merge(lists)
        .merge(api.map_or_else(|| absent(RoleName::Api, &API_PATHS), platform_routes))
        .merge(verifier.map_or_else(|| absent(RoleName::Verifier, &VERIFIER_PATHS), verifier_routes))
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

fn platform_routes(service: Service) -> Router {
    let instance = "/api/v1/instances/{id}";
    Router::new()
        .route("/api/v1/nodes", get(nodes::list))
        .route("/api/v1/bootstrap-tokens", post(nodes::bootstrap_token))
        .route("/api/v1/blobs/{digest}", head(blobs::head).put(blobs::put))
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

const API_PATHS: [&str; 5] =
    ["/api/v1/nodes", "/api/v1/bootstrap-tokens", "/api/v1/blobs/{*rest}", "/api/v1/instances", "/api/v1/instances/{*rest}"];
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
        let challenge: Option<(HeaderName, HeaderValue)> = match self.0 {
            Fault::Unauthenticated => Some((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Fault::Busy(_) | Fault::NodeUnreachable { .. } | Fault::TooSlow { .. } => {
                Some((header::RETRY_AFTER, HeaderValue::from_static("1")))
            }
            _ => None,
        };
        response.headers_mut().extend(challenge);
        response
    }
}
