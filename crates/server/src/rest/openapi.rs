//! The description of the API, generated from the handlers.

use axum::{http::header, response::IntoResponse};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use super::{appraisals, blobs, instances, nodes};

#[derive(OpenApi)]
#[openapi(
    info(title = "Casemate", description = "Run workloads in measured machines; release keys only to evidence you verified yourself.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")),
    paths(
        nodes::platform, nodes::list, nodes::bootstrap_token, blobs::head, blobs::put, instances::create, instances::list,
        instances::get, instances::events, instances::challenge, instances::release_keys, instances::records, instances::stop,
        instances::delete, instances::receipt, instances::score_card, appraisals::challenge, appraisals::appraise,
        appraisals::keys, appraisals::policy, appraisals::policy_versions, appraisals::put_policy, appraisals::revocations,
        appraisals::put_revocations, appraisals::metrics
    ),
    modifiers(&Token)
)]
struct Api;

struct Token;

impl Modify for Token {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme =
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("A tenant's or operator's token")).build();
        openapi.components.get_or_insert_default().add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

/// The OpenAPI 3.1 document, as checked in under `docs/api/openapi.json`.
pub fn openapi_json() -> String {
    let mut text = Api::openapi().to_pretty_json().expect("the generated document always serialises");
    text.push('\n');
    text
}

/// This API.
pub(super) async fn serve() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], openapi_json())
}
