//! REST: thin handlers over the services. Paths, limits and errors are settled here and in `router`.

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
    routing::{get, head, post},
};

pub use openapi::openapi_json;

use crate::{fault::Fault, service::Service};

/// Largest JSON body, in bytes.
const MAX_JSON: usize = 1 << 20;

/// All routes.
pub fn router(service: Service) -> Router {
    let instance = "/api/v1/instances/{id}";
    Router::new()
        .route("/api/v1/platform", get(nodes::platform))
        .route("/api/v1/openapi.json", get(openapi::serve))
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
        // Blobs have their own limit; JSON bodies are limited where they are read.
        .layer(DefaultBodyLimit::disable())
        .with_state(service)
}

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
            Fault::Busy(_) | Fault::NodeUnreachable { .. } => Some((header::RETRY_AFTER, HeaderValue::from_static("1"))),
            _ => None,
        };
        response.headers_mut().extend(challenge);
        response
    }
}
