//! The two engines: how each is opened, and where statements run.

use std::{path::PathBuf, time::Duration};

use sqlx::{
    Postgres, Sqlite, SqlitePool, Transaction,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{Result, StoreError, migrate, sql::On};

/// Connections that read, of SQLite.
const READERS: u32 = 4;
/// Longest wait for SQLite's write lock, which another process (`casemate-server token`) may hold for a moment.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a connection to PostgreSQL.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait of a statement for somebody else's lock, and longest statement.
const PATIENCE: [(&str, &str); 3] =
    [("lock_timeout", "10s"), ("statement_timeout", "30s"), ("idle_in_transaction_session_timeout", "60s")];

/// Which database, and how to get in.
#[derive(Debug, Clone)]
pub enum StoreAccess {
    /// A file of SQLite.
    Sqlite(PathBuf),
    /// A database of PostgreSQL.
    Postgres(PostgresAccess),
}

/// How to reach PostgreSQL. Its debug form says where, and never with which password.
#[derive(Clone)]
pub struct PostgresAccess {
    /// Address, name, password, TLS.
    pub options: Box<PgConnectOptions>,
    /// Most connections.
    pub connections: u32,
}

impl std::fmt::Display for PostgresAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (options, name) = (&self.options, self.options.get_database().unwrap_or_default());
        match options.get_socket() {
            Some(socket) => write!(f, "{name:?} at socket {}", socket.display()),
            None => write!(f, "{name:?} at {}:{}", options.get_host(), options.get_port()),
        }
    }
}

impl std::fmt::Debug for PostgresAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgresAccess({self})")
    }
}

/// An open database.
#[derive(Debug, Clone)]
pub(super) enum Db {
    /// One connection writes, several read.
    Sqlite {
        writer: SqlitePool,
        readers: SqlitePool,
    },
    Postgres(PgPool),
}

/// A transaction of either.
pub(super) enum Begun {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
}

impl Db {
    pub(super) async fn open(access: &StoreAccess) -> Result<Self> {
        match access {
            StoreAccess::Sqlite(path) => {
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
                migrate::sqlite(&writer).await?;
                let readers = SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await.map_err(open)?;
                Ok(Self::Sqlite { writer, readers })
            }
            StoreAccess::Postgres(access) => {
                let open = |source| StoreError::Open { path: access.to_string(), source };
                let options = PgConnectOptions::clone(&access.options).application_name("casemate-server").options(PATIENCE);
                let pool = PgPoolOptions::new().max_connections(access.connections).acquire_timeout(CONNECT);
                let pool = pool.connect_with(options).await.map_err(open)?;
                migrate::postgres(&pool).await?;
                Ok(Self::Postgres(pool))
            }
        }
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Self::Postgres(pool) => pool.close().await,
        }
    }

    pub(super) fn read(&self) -> On<'_> {
        match self {
            Self::Sqlite { readers, .. } => On::SqlitePool(readers),
            Self::Postgres(pool) => On::PostgresPool(pool),
        }
    }

    pub(super) fn write(&self) -> On<'_> {
        match self {
            Self::Sqlite { writer, .. } => On::SqlitePool(writer),
            Self::Postgres(pool) => On::PostgresPool(pool),
        }
    }

    pub(super) async fn begin(&self) -> sqlx::Result<Begun> {
        match self {
            Self::Sqlite { writer, .. } => writer.begin_with("BEGIN IMMEDIATE").await.map(Begun::Sqlite),
            // Said aloud, since an operator may have another default: with row locks it is enough and never has to be repeated.
            Self::Postgres(pool) => pool.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await.map(Begun::Postgres),
        }
    }
}
