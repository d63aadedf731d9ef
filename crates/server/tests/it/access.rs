//! Who may come in where: every route with every role, and other people's objects.

use std::collections::BTreeSet;

use casemate_api::rest;
use casemate_server::{
    access::{RULES, Rule, Who, Within},
    store::Role,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::platform::{Client, Platform};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/accounts.md");

/// The path with something in it that is not there.
fn nowhere(path: &str) -> String {
    let path = path.replace("{digest}", &format!("sha256:{}", "0".repeat(64)));
    path.replace("{id}", "i-none").replace("{name}", "nobody").replace("{account}", "nobody")
}

async fn ask(client: &Client, rule: &Rule, path: &str) -> u16 {
    let request = match path.strip_prefix("/api/v1") {
        Some(path) => client.request(rule.method.clone(), path),
        None => client.outside(path).bearer_auth(&client.token),
    };
    let request = if rule.reads() { request } else { request.json(&json!({})) };
    // The body of a stream has no end.
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn each_route_lets_in_whom_its_line_names_and_nobody_else() {
    let platform = Platform::start().await;
    let guest = platform.client("casemate-tenant-guessed".into());
    let mut clients = Vec::new();
    for role in Role::OF_ACCOUNTS {
        clients.push((role, platform.token(role).await));
    }
    for rule in &RULES {
        let (path, what) = (nowhere(rule.path), format!("{} {}", rule.method, rule.path));
        let Who::Roles(roles, _) = rule.who else {
            assert_eq!(ask(&guest, rule, &path).await, 200, "{what} is for everybody");
            continue;
        };
        assert_eq!(ask(&guest, rule, &path).await, 401, "{what} without a token");
        for (role, client) in &clients {
            let status = ask(client, rule, &path).await;
            if roles.contains(role) {
                assert!(!matches!(status, 401 | 403 | 405) && status < 500, "{what} as {role:?}: {status}");
            } else {
                assert_eq!(status, 403, "{what} as {role:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_limited_token_is_let_in_where_its_limits_allow() {
    let platform = Platform::start().await;
    let tenant = platform.token(Role::Tenant).await;
    let me: rest::Me = tenant.get("/me").await.json(200);
    let limited = async |limits: Value| {
        let made: rest::MadeToken = tenant.post("/tokens", &limits).await.json(201);
        platform.client(made.token)
    };
    let reader = limited(json!({"read_only": true})).await;
    let narrow = limited(json!({"project": me.account})).await;
    let lister = limited(json!({"verbs": ["nodes.read"]})).await;
    for rule in &RULES {
        let Who::Roles(roles, within) = rule.who else { continue };
        if !roles.contains(&Role::Tenant) {
            continue;
        }
        let (path, what) = (nowhere(rule.path), format!("{} {}", rule.method, rule.path));
        assert_eq!(ask(&reader, rule, &path).await == 403, !rule.reads(), "{what}, reading only");
        assert_eq!(ask(&narrow, rule, &path).await == 403, within == Within::ThePlatform, "{what}, within a project");
        assert_eq!(ask(&lister, rule, &path).await == 403, rule.verb != "nodes.read", "{what}, listing nodes only");
    }
}

#[test]
fn the_description_the_table_and_the_document_tell_the_same() {
    let api: Value = serde_json::from_str(&casemate_server::rest::openapi_json()).unwrap();
    let described: BTreeSet<(String, String)> = api["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
        })
        .collect();
    let listed: BTreeSet<(String, String)> = RULES.iter().map(|rule| (rule.method.to_string(), rule.path.to_owned())).collect();
    assert_eq!(listed.len(), RULES.len(), "one line for each route");
    let undescribed: Vec<_> = listed.difference(&described).map(|(_, path)| path.as_str()).collect();
    assert_eq!(undescribed, ["/.well-known/jwks.json", "/api/v1/openapi.json"]);
    assert_eq!(described.difference(&listed).count(), 0, "a route that is described has a line");
    for rule in RULES.iter().filter(|rule| !undescribed.contains(&rule.path)) {
        let secured = api["paths"][rule.path][rule.method.as_str().to_lowercase()]["security"].is_array();
        assert_eq!(secured, !matches!(rule.who, Who::Anybody), "{} {}", rule.method, rule.path);
    }

    let mut table =
        String::from("| route | verb | tenant | hoster | operator | token of one project |\n|---|---|---|---|---|---|\n");
    for rule in &RULES {
        let mark = |yes: bool| if yes { "yes" } else { "–" };
        let line = match rule.who {
            Who::Anybody => "| – | everybody | | | |".to_owned(),
            Who::Roles(roles, within) => {
                let each = Role::OF_ACCOUNTS.map(|role| mark(roles.contains(&role)));
                format!("| `{}` | {} | {} |", rule.verb, each.join(" | "), mark(within == Within::AProject))
            }
        };
        table += &format!("| {} {} {line}\n", rule.method, rule.path);
    }
    let document = std::fs::read_to_string(DOCUMENT).unwrap_or_default();
    assert!(document.contains(&table), "put this into docs/accounts.md:\n{table}");
}

/// The routes below `prefix` that take this role, with `id` in them.
fn routes(prefix: &str, role: Role, id: &str) -> Vec<(&'static Rule, String)> {
    let of = |rule: &&Rule| matches!(rule.who, Who::Roles(roles, _) if roles.contains(&role)) && rule.path.starts_with(prefix);
    RULES.iter().filter(of).map(|rule| (rule, nowhere(&rule.path.replace("{id}", id)))).collect()
}

#[tokio::test]
async fn what_is_anothers_is_as_if_it_were_not_there() {
    let platform = Platform::start().await;
    let (tenant, stranger) = (platform.token(Role::Tenant).await, platform.token(Role::Tenant).await);
    let instance = tenant.create().await.id;
    let project = tenant.post("/projects", &json!({"name": "ours"})).await.json::<rest::Project>(201).id;
    let token = tenant.post("/tokens", &json!({})).await.json::<rest::MadeToken>(201).info.id;
    let hook: rest::MadeWebhook = tenant.post("/webhooks", &json!({"url": "https://hooks.example/"})).await.json(201);
    let mut asked = 0;
    for (prefix, id) in [
        ("/api/v1/instances/{id}", instance),
        ("/api/v1/projects/{id}", project),
        ("/api/v1/tokens/{id}", token),
        ("/api/v1/webhooks/{id}", hook.webhook.id),
    ] {
        for (rule, path) in routes(prefix, Role::Tenant, &id) {
            let body = match rule.path {
                path if path.ends_with("/keys") => json!({"sealed": ""}),
                path if path.ends_with("/challenges") => json!({"nonce": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}),
                path if path.ends_with("/members/{account}") => json!({"role": "owner"}),
                _ => json!({}),
            };
            let send = async |path: &str| {
                let request = stranger.request(rule.method.clone(), path.strip_prefix("/api/v1").unwrap());
                stranger.send(request.json(&body)).await
            };
            let (theirs, none) = (send(&path).await, send(&path.replace(&id, "i-none")).await);
            assert_eq!(theirs.status, 404, "{} {path}", rule.method);
            assert_eq!(theirs.problem().replace(&id, "i-none"), none.problem(), "{} {path}", rule.method);
            asked += 1;
        }
    }
    assert!(asked >= 15, "{asked} routes were tried");
    assert!(stranger.get("/instances").await.json::<rest::Instances>(200).instances.is_empty());
    assert!(tenant.get("/projects").await.json::<rest::Projects>(200).projects.len() == 2);
    // A project that is another's is no place for an instance.
    let mut request = crate::platform::new_instance(&crate::platform::workload());
    let theirs: rest::Me = tenant.get("/me").await.json(200);
    request.project = Some(theirs.account);
    assert!(stranger.post("/instances", &request).await.problem().starts_with("404 not-found: there is no project"));
}

#[tokio::test]
async fn methods_that_nobody_listed_are_refused_for_everybody() {
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
        let answer = operator.send(operator.request(method.clone(), "/nodes")).await;
        assert!(answer.problem().starts_with("422 invalid: method"), "{method}");
    }
    assert_eq!(operator.send(operator.request(Method::HEAD, "/nodes")).await.status, 200, "as GET");
    let guest = platform.client("guessed".into());
    assert_eq!(guest.send(guest.request(Method::HEAD, "/nodes")).await.status, 401);
}
