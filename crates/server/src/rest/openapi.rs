//! The description of the API, generated from the handlers.

use axum::{http::header, response::IntoResponse};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use super::{accounts, appraisals, blobs, instances, maintenance, nodes, notices, offers, projects, watch, webhooks};

#[derive(OpenApi)]
#[openapi(
    info(title = "Casemate", description = "Run workloads in measured machines; release keys only to evidence you verified yourself.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")),
    paths(
        nodes::platform, accounts::me, accounts::list, accounts::make, accounts::get, accounts::change, projects::list, projects::make,
        projects::get, projects::set_member, projects::remove_member, projects::set_quota, accounts::tokens, accounts::make_token,
        accounts::revoke_token, accounts::audit, nodes::list, nodes::hosted, nodes::give, nodes::restore,
        nodes::drain, nodes::undrain, maintenance::get, maintenance::begin, maintenance::end, nodes::incidents, notices::list, notices::get,
        webhooks::list, webhooks::make, webhooks::remove, webhooks::test, webhooks::deliveries,
        offers::list, offers::get, offers::set, offers::withdraw,
        accounts::bootstrap_token, blobs::head, blobs::put, instances::create, instances::list,
        instances::get, instances::events, instances::challenge, instances::release_keys, instances::records, instances::stop,
        instances::delete, instances::receipt, watch::all, instances::score_card, appraisals::challenge, appraisals::appraise,
        appraisals::keys, appraisals::policy, appraisals::policy_versions, appraisals::put_policy, appraisals::revocations,
        appraisals::put_revocations, appraisals::metrics
    ),
    // The bodies of calls that are made from here; no route has them.
    components(schemas(casemate_api::rest::WebhookEvent)),
    modifiers(&Token)
)]
struct Api;

struct Token;

impl Modify for Token {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("A token of an account; docs/accounts.md tells who may do what"))
            .build();
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
