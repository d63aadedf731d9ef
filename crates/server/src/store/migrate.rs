//! Schema versions, embedded and applied in order.
//!
//! Both engines have the same tables and columns at the same version (a test compares them). PostgreSQL begins with version 7 as a
//! whole. With replicas, servers of two versions run at the same time: a migration first only adds what the older server does not need
//! (expand), and takes away (contract) what no server uses any more in a later release. `docs/store.md` has the rule.

use sqlx::{AssertSqlSafe, PgPool, SqlitePool};

/// SQLite: one file per version, in order, never changed once released; the version is `user_version`.
const SQLITE: [(i64, &str); 13] = [
    (1, include_str!("../../migrations/sqlite/0001_first.sql")),
    (2, include_str!("../../migrations/sqlite/0002_appraisals.sql")),
    (3, include_str!("../../migrations/sqlite/0003_ima_memory.sql")),
    (4, include_str!("../../migrations/sqlite/0004_levels.sql")),
    (5, include_str!("../../migrations/sqlite/0005_observed.sql")),
    (6, include_str!("../../migrations/sqlite/0006_network.sql")),
    (7, include_str!("../../migrations/sqlite/0007_replicas.sql")),
    (8, include_str!("../../migrations/sqlite/0008_monitor.sql")),
    (9, include_str!("../../migrations/sqlite/0009_accounts.sql")),
    (10, include_str!("../../migrations/sqlite/0010_ends.sql")),
    (11, include_str!("../../migrations/sqlite/0011_maintenance.sql")),
    (30, include_str!("../../migrations/sqlite/0030_offers.sql")),
    (32, include_str!("../../migrations/sqlite/0032_notices.sql")),
];

/// PostgreSQL: each version with the oldest server (by the version that it knows) that works with a database of this version.
const POSTGRES: [Migration; 7] = [
    Migration { version: 7, oldest: 7, sql: include_str!("../../migrations/postgres/0007_first.sql") },
    // An older server would place work on suspended nodes.
    Migration { version: 8, oldest: 8, sql: include_str!("../../migrations/postgres/0008_monitor.sql") },
    // An older server would know neither roles nor quotas, and finds no tokens where it looks.
    Migration { version: 9, oldest: 9, sql: include_str!("../../migrations/postgres/0009_accounts.sql") },
    // An older server goes on placing work on nodes that drain, for as long as it is there.
    Migration { version: 10, oldest: 9, sql: include_str!("../../migrations/postgres/0010_ends.sql") },
    // An older server would place work on nodes in maintenance.
    Migration { version: 11, oldest: 11, sql: include_str!("../../migrations/postgres/0011_maintenance.sql") },
    // An older server counts what a node has without the lock that places now, and does not know what is withdrawn.
    Migration { version: 30, oldest: 30, sql: include_str!("../../migrations/postgres/0030_offers.sql") },
    // An older server would tell nobody of what it takes in.
    Migration { version: 32, oldest: 32, sql: include_str!("../../migrations/postgres/0032_notices.sql") },
];

/// Name of the lock that orders migrations in PostgreSQL.
const MIGRATING: i64 = 0x6361_7365_0000;

struct Migration {
    version: i64,
    oldest: i64,
    sql: &'static str,
}

/// Why the schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database was written by a newer server.
    #[error("the database has schema version {found}, this server knows up to {known}; use a newer server")]
    Newer {
        /// In the database.
        found: i64,
        /// Known here.
        known: usize,
    },
    /// A migration failed; it had no effect.
    #[error("apply migration {version}")]
    Apply {
        /// Which.
        version: usize,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
}

impl MigrateError {
    pub(super) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Apply { source, .. } if super::is_unavailable(source))
    }
}

/// Applies what is missing, each version in a transaction of its own.
pub(super) async fn sqlite(pool: &SqlitePool) -> Result<(), MigrateError> {
    let newest = SQLITE[SQLITE.len() - 1].0;
    for (version, sql) in SQLITE {
        let apply = |source| MigrateError::Apply { version: usize::try_from(version).unwrap_or(usize::MAX), source };
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.map_err(apply)?;
        let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *tx).await.map_err(apply)?;
        if found > newest {
            return Err(MigrateError::Newer { found, known: usize::try_from(newest).unwrap_or(usize::MAX) });
        }
        if found >= version {
            continue;
        }
        sqlx::raw_sql(sql).execute(&mut *tx).await.map_err(apply)?;
        let mark = AssertSqlSafe(format!("PRAGMA user_version = {version}"));
        sqlx::raw_sql(mark).execute(&mut *tx).await.map_err(apply)?;
        tx.commit().await.map_err(apply)?;
    }
    Ok(())
}

/// The same; of replicas that start together one does it.
pub(super) async fn postgres(pool: &PgPool) -> Result<(), MigrateError> {
    for Migration { version, oldest, sql } in POSTGRES {
        let known = usize::try_from(version).unwrap_or(usize::MAX);
        let apply = |source| MigrateError::Apply { version: known, source };
        let mut tx = pool.begin().await.map_err(apply)?;
        // Building an index may take longer than any statement of a server may.
        for begin in ["SET LOCAL lock_timeout = 0", "SET LOCAL statement_timeout = 0"] {
            sqlx::raw_sql(begin).execute(&mut *tx).await.map_err(apply)?;
        }
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MIGRATING).execute(&mut *tx).await.map_err(apply)?;
        sqlx::raw_sql("CREATE TABLE IF NOT EXISTS schema_versions (version BIGINT PRIMARY KEY, oldest BIGINT NOT NULL)")
            .execute(&mut *tx)
            .await
            .map_err(apply)?;
        let found: Option<(i64, i64)> =
            sqlx::query_as("SELECT version, oldest FROM schema_versions ORDER BY version DESC LIMIT 1")
                .fetch_optional(&mut *tx)
                .await
                .map_err(apply)?;
        let newest = POSTGRES[POSTGRES.len() - 1].version;
        match found {
            Some((found, oldest)) if oldest > newest => {
                return Err(MigrateError::Newer { found, known: usize::try_from(newest).unwrap_or(usize::MAX) });
            }
            Some((found, _)) if found >= version => continue,
            _ => {}
        }
        sqlx::raw_sql(sql).execute(&mut *tx).await.map_err(apply)?;
        let mark = sqlx::query("INSERT INTO schema_versions (version, oldest) VALUES ($1, $2)").bind(version).bind(oldest);
        mark.execute(&mut *tx).await.map_err(apply)?;
        tx.commit().await.map_err(apply)?;
    }
    Ok(())
}
