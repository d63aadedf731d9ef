//! Schema versions, embedded and applied in order; the version is SQLite's `user_version`.

use sqlx::{AssertSqlSafe, SqlitePool};

/// One file per version, in order, never changed once released.
const MIGRATIONS: [&str; 5] = [
    include_str!("../../migrations/sqlite/0001_first.sql"),
    include_str!("../../migrations/sqlite/0002_appraisals.sql"),
    include_str!("../../migrations/sqlite/0003_ima_memory.sql"),
    include_str!("../../migrations/sqlite/0004_levels.sql"),
    include_str!("../../migrations/sqlite/0005_observed.sql"),
];

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

/// Applies what is missing, each version in a transaction of its own.
pub(super) async fn run(pool: &SqlitePool) -> Result<(), MigrateError> {
    for (index, sql) in MIGRATIONS.iter().enumerate() {
        let version = index + 1;
        let apply = |source| MigrateError::Apply { version, source };
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.map_err(apply)?;
        let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *tx).await.map_err(apply)?;
        match usize::try_from(found) {
            Ok(n) if n > MIGRATIONS.len() => return Err(MigrateError::Newer { found, known: MIGRATIONS.len() }),
            Ok(n) if n >= version => continue,
            _ => {}
        }
        sqlx::raw_sql(*sql).execute(&mut *tx).await.map_err(apply)?;
        let mark = AssertSqlSafe(format!("PRAGMA user_version = {version}"));
        sqlx::raw_sql(mark).execute(&mut *tx).await.map_err(apply)?;
        tx.commit().await.map_err(apply)?;
    }
    Ok(())
}
