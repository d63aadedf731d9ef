//! A database of the time before accounts: what was there stays what it was, and no token becomes more.

use casemate_server::{
    service::authenticate,
    store::{MemberRole, Role, Store},
};
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, SqlitePool};

use crate::{
    postgres::{Engine, cluster},
    store::access,
};

const SQLITE: [&str; 8] = [
    include_str!("../../migrations/sqlite/0001_first.sql"),
    include_str!("../../migrations/sqlite/0002_appraisals.sql"),
    include_str!("../../migrations/sqlite/0003_ima_memory.sql"),
    include_str!("../../migrations/sqlite/0004_levels.sql"),
    include_str!("../../migrations/sqlite/0005_observed.sql"),
    include_str!("../../migrations/sqlite/0006_network.sql"),
    include_str!("../../migrations/sqlite/0007_replicas.sql"),
    include_str!("../../migrations/sqlite/0008_monitor.sql"),
];
const POSTGRES: [&str; 2] =
    [include_str!("../../migrations/postgres/0007_first.sql"), include_str!("../../migrations/postgres/0008_monitor.sql")];
const VERSIONS: &str = "CREATE TABLE schema_versions (version BIGINT PRIMARY KEY, oldest BIGINT NOT NULL);
    INSERT INTO schema_versions VALUES (7, 7), (8, 8);";

/// Brings a new database to version 8, and runs this there.
async fn old_database(dir: &std::path::Path, sql: &str) {
    match crate::ENGINE {
        Engine::Sqlite => {
            let path = format!("sqlite://{}?mode=rwc", dir.join("casemate.db").display());
            let pool = SqlitePool::connect(&path).await.unwrap();
            for text in SQLITE.into_iter().chain(["PRAGMA user_version = 8", sql]) {
                sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(&pool).await.unwrap();
            }
            pool.close().await;
        }
        Engine::Postgres => {
            let database = cluster().database(dir);
            for text in POSTGRES.into_iter().chain([VERSIONS, sql]) {
                cluster().run(database.rsplit('/').next().unwrap(), text);
            }
        }
    }
}

fn token(text: &str, role: &str, subject: &str) -> String {
    let hash = hex::encode(Sha256::digest(text));
    let hash = match crate::ENGINE {
        Engine::Sqlite => format!("x'{hash}'"),
        Engine::Postgres => format!("'\\x{hash}'"),
    };
    format!(
        "INSERT INTO tokens (hash, role, subject, created_at_ms, expires_at_ms) \
         VALUES ({hash}, '{role}', '{subject}', 1, 9000000000000000);"
    )
}

#[tokio::test]
async fn holders_become_accounts_and_their_tokens_stay_what_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let empty = if crate::ENGINE == Engine::Sqlite { "x''" } else { "''" };
    let digest = if crate::ENGINE == Engine::Sqlite { "zeroblob(32)".to_owned() } else { format!("'\\x{}'", "00".repeat(32)) };
    let instance = format!(
        "INSERT INTO instances (id, owner, request_digest, name, workload, workload_digest, cpus, memory_mib, intent, step, generation, \
         start_before_ms, created_at_ms, stages, last_event, notes, next_record, record_bytes) VALUES ('i-1', 'Old One', {empty}, \
         'n', 'w', {digest}, 1, 1, 'run', 'gone', 1, 0, 0, '{{}}', 0, 0, 0, 0);"
    );
    let rows = [
        token("as-tenant", "tenant", "both"),
        token("as-operator", "operator", "both"),
        token("only-operator", "operator", "root"),
        token("a-node", "bootstrap", "node"),
        instance,
    ];
    old_database(dir.path(), &rows.concat()).await;
    let store = Store::open(&access(dir.path())).await.unwrap();
    for (text, account, role, others) in [
        ("as-tenant", "both", Role::Tenant, Role::Operator),
        ("as-operator", "both", Role::Operator, Role::Tenant),
        ("only-operator", "root", Role::Operator, Role::Tenant),
    ] {
        let caller = authenticate(&store, text).await.unwrap();
        assert_eq!((caller.account.as_str(), caller.is(role), caller.is(others)), (account, true, false), "{text}");
    }
    assert_eq!(store.account("both").await.unwrap().unwrap().roles.to_string(), "tenant,operator");
    assert_eq!(store.account("root").await.unwrap().unwrap().roles.to_string(), "operator");
    // Who had instances has them still.
    assert_eq!(store.membership("Old One", "Old One").await.unwrap(), Some(MemberRole::Owner));
    assert_eq!(store.instances(casemate_server::store::Whose { member: Some("Old One"), project: None }).await.unwrap().len(), 1);
    assert!(store.account("node").await.unwrap().is_none());
    let node: [u8; 32] = Sha256::digest("a-node").into();
    assert!(store.bootstrap_token(&node, 1).await.unwrap().is_some());
    assert!(authenticate(&store, "a-node").await.is_err());
}
