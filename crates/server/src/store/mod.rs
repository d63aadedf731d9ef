//! Everything that must survive a restart, in one SQLite database.
//!
//! One connection writes (`BEGIN IMMEDIATE`, so that read-modify-write is serial), several read. The methods are plain
//! facts about rows; what a change *means* is decided by the services.

mod appraisals;
mod instances;
mod migrate;
mod nodes;
mod nonces;
mod records;
mod rows;
mod tokens;

use std::{path::Path, time::Duration};

use sqlx::{
    Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use appraisals::{Challenge, ChallengeTimes};
pub use instances::{Created, Instance, Load, NewEvent, NewInstance, Observed, intent_as_str};
pub use migrate::MigrateError;
pub use nodes::{Node, Trust};
pub use records::{Appended, StoredReceipt};
pub use tokens::{Role, Token};

/// Connections that read.
const READERS: u32 = 4;
/// Longest wait for the write lock, which another process (`casemate-server token`) may hold for a moment.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database file could not be opened.
    #[error("open database {path}")]
    Open {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// The schema could not be brought up to date.
    #[error("migrate the database")]
    Migrate(#[from] MigrateError),
    /// A statement failed.
    #[error("{attempt}")]
    Statement {
        /// What was attempted.
        attempt: &'static str,
        /// Why it failed.
        #[source]
        source: sqlx::Error,
    },
    /// A row holds something that this version never wrote.
    #[error("the database row of {what} is not readable: {detail}")]
    Row {
        /// Which row.
        what: String,
        /// What was found.
        detail: String,
    },
}

type Result<T> = std::result::Result<T, StoreError>;

/// The database.
#[derive(Debug, Clone)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
}

impl Store {
    /// Opens (and creates) the database at `path` and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self> {
        let open = |source| StoreError::Open { path: path.display().to_string(), source };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A record that was acknowledged to a node is gone there: it must survive a power loss here.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT);
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await.map_err(open)?;
        migrate::run(&writer).await?;
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await.map_err(open)?;
        Ok(Self { writer, readers })
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Whether the database answers.
    pub async fn check(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.readers).await.map_err(failed("ask the database"))?;
        Ok(())
    }

    async fn begin(&self, attempt: &'static str) -> Result<Transaction<'static, Sqlite>> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(failed(attempt))
    }
}

fn failed(attempt: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |source| StoreError::Statement { attempt, source }
}
