//! The checked-in description is the generated one.

use crate::platform::Platform;

const CHECKED_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api/openapi.json");

#[test]
fn the_checked_in_description_is_up_to_date() {
    let generated = casemate_server::rest::openapi_json();
    let file = std::fs::read_to_string(CHECKED_IN).unwrap_or_default();
    assert!(file == generated, "renew it: cargo run -p casemate-server -- openapi > docs/api/openapi.json");
}

#[tokio::test]
async fn serves_its_description_and_status_without_a_token() {
    let platform = Platform::start().await;
    let anybody = platform.client(String::new());
    let served = anybody.get("/openapi.json").await;
    assert_eq!(served.body, casemate_server::rest::openapi_json().into_bytes());
    let status: casemate_api::rest::Platform = anybody.get("/platform").await.json(200);
    assert_eq!(status.status, "ok");
}
