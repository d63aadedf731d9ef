//! Both engines have the same tables with the same columns.

use std::collections::BTreeSet;

use casemate_server::store::{Store, StoreAccess};
use sqlx::{Row as _, SqlitePool};

use crate::{postgres::cluster, store::access};

/// `table.column`, with whether it must be there.
type Columns = BTreeSet<(String, bool)>;

async fn sqlite(dir: &std::path::Path) -> Columns {
    let path = dir.join("casemate.db");
    Store::open(&StoreAccess::Sqlite(path.clone())).await.unwrap().close().await;
    let pool = SqlitePool::connect(path.to_str().unwrap()).await.unwrap();
    let text = "SELECT m.name || '.' || c.name AS name, c.\"notnull\" != 0 OR c.pk != 0 AS needed \
                FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'";
    let rows = sqlx::query(text).fetch_all(&pool).await.unwrap();
    rows.iter().map(|row| (row.get("name"), row.get::<i64, _>("needed") != 0)).collect()
}

async fn postgres(dir: &std::path::Path) -> Columns {
    Store::open(&access(dir)).await.unwrap().close().await;
    let database = cluster().database(dir);
    let name = database.rsplit('/').next().unwrap();
    let rows = cluster().run(
        name,
        "SELECT table_name || '.' || column_name, is_nullable FROM information_schema.columns \
         WHERE table_schema = 'public' AND table_name != 'schema_versions'",
    );
    rows.lines().map(|line| line.split_once('|').unwrap()).map(|(name, nullable)| (name.to_owned(), nullable == "NO")).collect()
}

#[tokio::test]
async fn both_engines_have_the_same_tables_and_columns() {
    let dir = tempfile::tempdir().unwrap();
    let (sqlite, postgres) = (sqlite(dir.path()).await, postgres(dir.path()).await);
    assert!(sqlite.len() > 80, "{sqlite:?}");
    let differ: Vec<_> = sqlite.symmetric_difference(&postgres).collect();
    assert!(differ.is_empty(), "{differ:?}");
}

#[tokio::test]
async fn a_database_of_a_newer_server_is_refused_unless_it_says_that_this_one_may() {
    let dir = tempfile::tempdir().unwrap();
    Store::open(&access(dir.path())).await.unwrap().close().await;
    let database = cluster().database(dir.path());
    let name = database.rsplit('/').next().unwrap();
    // Expanded: the older server goes on, and starts.
    cluster().run(name, "INSERT INTO schema_versions (version, oldest) VALUES (99, 7)");
    Store::open(&access(dir.path())).await.unwrap().close().await;
    // Contracted: it does not.
    cluster().run(name, "INSERT INTO schema_versions (version, oldest) VALUES (100, 99)");
    let refused = Store::open(&access(dir.path())).await.unwrap_err();
    assert!(std::error::Error::source(&refused).unwrap().to_string().contains("schema version 100"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas_that_start_together_migrate_once() {
    let dir = tempfile::tempdir().unwrap();
    let access = access(dir.path());
    let starts: Vec<_> =
        (0..6).map(|_| access.clone()).map(|access| tokio::spawn(async move { Store::open(&access).await })).collect();
    for start in starts {
        start.await.unwrap().unwrap();
    }
}
