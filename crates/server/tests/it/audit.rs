//! The record of changes: whole, without secrets, and only growing.

use casemate_api::rest;
use casemate_server::store::Role;
use serde_json::json;
use sqlx::SqlitePool;

use crate::{
    platform::{Client, Platform},
    postgres::{Engine, cluster},
};

async fn lines(client: &Client, query: &str) -> rest::AuditLines {
    client.get(&format!("/audit{query}")).await.json(200)
}

/// `action target status detail`.
fn short(line: &rest::AuditLine) -> String {
    let status = line.status.map_or("-".to_owned(), |status| status.to_string());
    format!("{} {} {status} {}", line.action, line.target, line.detail.as_deref().unwrap_or("-"))
}

#[tokio::test]
async fn each_change_is_written_down_with_who_and_what_came_of_it() {
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    let begun = lines(&operator, "").await;
    assert_eq!((begun.lines[0].account.as_str(), begun.lines[0].token.as_ref()), ("(command line)", None), "how it began");
    operator.post("/accounts", &json!({"name": "ann", "roles": ["tenant"]})).await.json::<rest::Account>(201);
    let made: rest::MadeToken = operator.post("/tokens", &json!({"account": "ann"})).await.json(201);
    let ann = platform.client(made.token.clone());
    let instance = ann.create().await.id;
    assert_eq!(ann.post("/accounts", &json!({"name": "eve", "roles": ["operator"]})).await.status, 403);
    assert_eq!(ann.delete("/instances/i-none").await.status, 404);
    ann.get("/instances").await;
    assert_eq!(platform.client("guessed".into()).post("/accounts", &json!({})).await.status, 401);

    let seen = lines(&ann, "").await.lines;
    let shown: Vec<String> = seen.iter().rev().map(short).filter(|line| !line.contains("/blobs/")).collect();
    assert_eq!(
        shown,
        [
            format!("instances.run /api/v1/instances 201 {instance}"),
            "accounts.write /api/v1/accounts 403 -".to_owned(),
            "instances.end /api/v1/instances/i-none 404 -".to_owned(),
        ]
    );
    assert!(
        seen.iter().all(|line| line.account == "ann" && line.token.as_ref() == Some(&made.info.id)),
        "her own, and no others'"
    );
    let all = lines(&operator, "?limit=1000").await.lines;
    let expected = format!("tokens.write /api/v1/tokens 201 {} of ann", made.info.id);
    assert!(all.iter().any(|line| short(line) == expected) && all.len() > seen.len());
    let text = serde_json::to_string(&all).unwrap();
    for secret in [&made.token, &operator.token, &ann.token] {
        assert!(!text.contains(secret));
    }
}

#[tokio::test]
async fn the_record_is_read_page_by_page() {
    let platform = Platform::start().await;
    let tenant = platform.token(Role::Tenant).await;
    for number in 0..5 {
        tenant.post("/projects", &json!({"name": number.to_string()})).await.json::<rest::Project>(201);
    }
    let mut numbers = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let page = lines(&tenant, &query).await;
        numbers.extend(page.lines.iter().map(|line| line.seq));
        match page.next {
            Some(before) => query = format!("?limit=2&before={before}"),
            None => break,
        }
    }
    assert_eq!(numbers.len(), 5);
    assert!(numbers.windows(2).all(|pair| pair[0] > pair[1]), "newest first, none twice");
    assert_eq!(tenant.get("/audit?before=x").await.status, 422);
    assert!(lines(&tenant, "?before=18446744073709551615&limit=4294967295").await.lines.len() == 5);
    assert!(lines(&tenant, "?before=0").await.lines.is_empty());
}

#[tokio::test]
async fn the_database_refuses_to_change_or_forget_a_line() {
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    let before = lines(&operator, "").await;
    let attacks = [
        "DELETE FROM audit",
        "UPDATE audit SET account = 'somebody'",
        "DELETE FROM audit_outcomes",
        "UPDATE audit_outcomes SET status = 200",
    ];
    for attack in attacks {
        let refused = match crate::ENGINE {
            Engine::Sqlite => {
                let path = platform.dir.path().join("data/casemate.db");
                let pool = SqlitePool::connect(path.to_str().unwrap()).await.unwrap();
                sqlx::raw_sql(attack).execute(&pool).await.unwrap_err().to_string()
            }
            Engine::Postgres => {
                let database = cluster().database(platform.dir.path());
                cluster().try_run(database.rsplit('/').next().unwrap(), attack).unwrap_err()
            }
        };
        assert!(refused.contains("only grows"), "{attack}: {refused}");
    }
    assert_eq!(lines(&operator, "").await, before);
}
