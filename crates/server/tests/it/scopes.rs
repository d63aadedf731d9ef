//! Tokens: what they are limited to, and how they end.

use std::time::Duration;

use casemate_api::rest;
use casemate_server::{service::make_token, store::Role};
use serde_json::{Value, json};

use crate::platform::{Client, Platform};

async fn make(client: &Client, limits: Value) -> rest::MadeToken {
    client.post("/tokens", &limits).await.json(201)
}

#[tokio::test]
async fn a_token_never_makes_one_that_does_more() {
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    operator.post("/accounts", &json!({"name": "ann", "roles": ["tenant", "operator"]})).await.json::<rest::Account>(201);
    let ann = platform.client(make(&operator, json!({"account": "ann"})).await.token);
    assert_eq!(ann.get("/me").await.json::<rest::Me>(200).roles, ["tenant", "operator"]);

    let tenant = platform.client(make(&ann, json!({"roles": ["tenant"]})).await.token);
    assert_eq!(tenant.get("/accounts").await.status, 403);
    assert_eq!(tenant.post("/tokens", &json!({"roles": ["operator"]})).await.status, 403);
    assert_eq!(tenant.post("/tokens", &json!({"account": "ann"})).await.status, 201, "that is itself");
    assert_eq!(tenant.post("/tokens", &json!({"account": "nobody"})).await.status, 403);
    // Without a word about roles it has the maker's, and not the account's.
    let child = platform.client(make(&tenant, json!({})).await.token);
    assert_eq!(child.get("/me").await.json::<rest::Me>(200).roles, ["tenant"]);

    let maker = platform.client(make(&ann, json!({"verbs": ["tokens.write", "me.read"]})).await.token);
    assert_eq!(maker.post("/tokens", &json!({"verbs": ["accounts.write"]})).await.status, 403);
    let child = make(&maker, json!({})).await;
    assert_eq!(child.info.verbs, Some(vec!["me.read".to_owned(), "tokens.write".to_owned()]));
    let reader = platform.client(make(&ann, json!({"read_only": true})).await.token);
    assert_eq!(reader.post("/tokens", &json!({})).await.status, 403);
    let narrow = platform.client(make(&ann, json!({"project": "ann"})).await.token);
    assert_eq!(narrow.post("/tokens", &json!({})).await.status, 403);
    // A limit to a role that the account loses is a limit to nothing.
    operator.put("/accounts/ann", &json!({"roles": ["hoster"]})).await.json::<rest::Account>(200);
    assert!(tenant.get("/me").await.status == 403);
}

#[tokio::test]
async fn limits_that_are_none_are_refused() {
    let platform = Platform::start().await;
    let tenant = platform.token(Role::Tenant).await;
    let other: rest::Me = platform.token(Role::Tenant).await.get("/me").await.json(200);
    let bad = [
        (json!({"ttl_s": 0}), 422),
        (json!({"ttl_s": 31_536_001}), 422),
        (json!({"ttl_s": -1}), 422),
        (json!({"ttl_s": 1e300}), 422),
        (json!({"verbs": []}), 422),
        (json!({"verbs": ["public"]}), 422),
        (json!({"verbs": ["instances.read,accounts.write"]}), 422),
        (json!({"roles": []}), 422),
        (json!({"roles": ["bootstrap"]}), 422),
        (json!({"roles": ["hoster"]}), 403),
        (json!({"name": "a\nb"}), 422),
        (json!({"name": "a".repeat(101)}), 422),
        (json!({"project": "p-none"}), 404),
        (json!({"project": other.account}), 404),
        (json!({"scope": "all"}), 422),
    ];
    for (limits, status) in bad {
        assert_eq!(tenant.post("/tokens", &limits).await.status, status, "{limits}");
    }
    assert_eq!(tenant.get("/tokens").await.json::<rest::Tokens>(200).tokens.len(), 1);
    assert_eq!(tenant.get(&format!("/tokens?account={}", other.account)).await.status, 403);
}

#[tokio::test]
async fn a_token_ends_by_time_and_by_revocation_and_with_it_what_it_made() {
    let platform = Platform::start().await;
    let store = platform.server.store();
    let (gone, _) = make_token(store, Role::Tenant, Some("ann".into()), Some(Duration::ZERO)).await.unwrap();
    assert_eq!(platform.client(gone).get("/me").await.status, 401);
    let (text, _) = make_token(store, Role::Tenant, Some("ann".into()), None).await.unwrap();
    let ann = platform.client(text);
    let child = make(&ann, json!({"name": "child"})).await;
    let grandchild = make(&platform.client(child.token.clone()), json!({"name": "grandchild"})).await;
    let (child_client, last) = (platform.client(child.token), platform.client(grandchild.token));
    assert_eq!(grandchild.info.made_by.as_ref(), Some(&child.info.id));

    let stranger = platform.token(Role::Tenant).await;
    let path = format!("/tokens/{}", child.info.id);
    assert_eq!(stranger.delete(&path).await.problem(), format!("404 not-found: there is no token {:?}", child.info.id));
    assert_eq!(ann.delete(&path).await.status, 204);
    assert_eq!(child_client.get("/me").await.status, 401);
    assert_eq!(last.get("/me").await.status, 200, "what it made goes on");
    assert_eq!(ann.delete(&format!("{path}?made=true")).await.status, 204);
    assert_eq!(last.get("/me").await.status, 401, "until that ends, too");
    assert_eq!(ann.get("/me").await.status, 200);
    let listed: rest::Tokens = ann.get("/tokens").await.json(200);
    assert_eq!(listed.tokens.iter().filter(|token| token.revoked_at_ms.is_some()).count(), 2);
    // Nobody can be found by guessing at the parts that are shown.
    for guess in [child.info.id, "t-".into(), "'; DROP TABLE api_tokens; --".into(), "a".repeat(300)] {
        assert_eq!(platform.client(guess).get("/me").await.status, 401);
    }
}

#[tokio::test]
async fn a_tokens_id_begins_its_hash_and_the_hash_is_all_that_is_kept() {
    use sha2::{Digest as _, Sha256};
    let platform = Platform::start().await;
    let tenant = platform.token(Role::Tenant).await;
    let made = make(&tenant, json!({})).await;
    assert!(made.token.starts_with("casemate-token-") && made.token.len() == 15 + 43, "32 random bytes");
    let hash = Sha256::digest(made.token.as_bytes());
    assert_eq!(made.info.id, format!("t-{}", hex::encode(&hash[..8])));
    let listed = String::from_utf8(tenant.get("/tokens").await.body).unwrap();
    assert!(listed.contains(&made.info.id) && !listed.contains(&made.token) && !listed.contains(&hex::encode(hash)));
}
