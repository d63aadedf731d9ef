//! Everything that must survive a restart, in one database: SQLite for one server, PostgreSQL for any number of replicas.
//!
//! The methods are plain facts about rows; what a change *means* is decided by the services, which do not know the engine. A
//! read-modify-write is serial on both: SQLite has one writer (`BEGIN IMMEDIATE`), in PostgreSQL the first statement locks the row
//! that is decided about. Decisions run once, so nothing relies on repeating a transaction.
//!
//! A committed change wakes those who wait for it ([`Wake`]), on whichever replica they are.

mod accounts;
mod answers;
mod api_tokens;
mod appraisals;
mod audit;
mod deliveries;
mod engine;
mod enrolments;
mod incidents;
mod instances;
mod maintenance;
mod migrate;
mod nodes;
mod nonces;
mod notices;
mod offers;
mod placing;
mod projects;
mod questions;
mod records;
mod replicas;
mod roles;
mod rows;
mod sql;
mod tokens;
mod wakes;
mod webhooks;

pub use accounts::{Account, AccountChange};
pub use answers::{Earlier, Keyed};
pub use api_tokens::{ApiToken, Holder, TokenScope};
pub use appraisals::{Challenge, ChallengeTimes};
pub use audit::{AuditLine, Begun};
pub use deliveries::{Attempted, Delivery, DeliveryState};
pub use engine::{PostgresAccess, StoreAccess};
pub use enrolments::Enrolment;
pub use incidents::{Incident, NewIncident, RecordHead, RecordLine, Standing};
pub use instances::{Instance, NewEvent, Observed, Outline, Whose, intent_as_str};
pub use maintenance::{By, Maintenance, NodeEvent, Saying, Wished};
pub use migrate::MigrateError;
pub use nodes::{Drain, Node, Trust};
pub use notices::{Notice, Occasion, OccasionKind};
pub use offers::{Labels, Terms};
pub use placing::{Created, NewInstance, Offer, Placing};
pub use projects::{MemberChange, MemberRole, Project, Quota, Usage};
pub use questions::{Answer, Question};
pub use records::{Appended, StoredReceipt};
pub use replicas::{Fence, Replica};
pub use roles::{Role, RoleSet};
pub use tokens::BootstrapToken;
pub use wakes::{Awake, Wake, Wakes};
pub use webhooks::{Scope, Webhook, WebhooksOf};

use engine::Db;
use sql::{On, Tx};

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database could not be opened.
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
    /// A text holds what no column takes.
    #[error("{attempt}: a text has a NUL character")]
    Nul {
        /// What was attempted.
        attempt: &'static str,
    },
    /// Somebody else has taken over what the caller was doing.
    #[error("{0} was taken over by another session or replica")]
    Fenced(String),
    /// A row holds something that this version never wrote.
    #[error("the database row of {what} is not readable: {detail}")]
    Row {
        /// Which row.
        what: String,
        /// What was found.
        detail: String,
    },
}

impl StoreError {
    /// Whether the same may succeed in a moment: the database is away, starting, or was busy with somebody else's transaction.
    pub fn is_unavailable(&self) -> bool {
        let source = match self {
            Self::Open { source, .. } | Self::Statement { source, .. } => source,
            Self::Migrate(error) => return error.is_unavailable(),
            Self::Nul { .. } | Self::Fenced(_) | Self::Row { .. } => return false,
        };
        is_unavailable(source)
    }
}

fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => true,
        // Connection exceptions; serialisation failures and deadlocks; no resources; locks; an operator's stop.
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| ["08", "40", "53", "55", "57"].iter().any(|class| code.starts_with(class)))
        }
        _ => false,
    }
}

type Result<T> = std::result::Result<T, StoreError>;

/// The database; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    db: Db,
    wakes: Wakes,
}

impl Store {
    /// Opens the database (SQLite's is created) and brings its schema up to date.
    pub async fn open(access: &StoreAccess) -> Result<Self> {
        let db = Db::open(access).await?;
        Ok(Self { db, wakes: Wakes::default() })
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.db.close().await;
    }

    /// Whether the database answers.
    pub async fn check(&self) -> Result<()> {
        sql::sql("ask the database", "SELECT 1").run(self.read()).await.map(drop)
    }

    fn read(&self) -> On<'_> {
        self.db.read()
    }

    fn write(&self) -> On<'_> {
        self.db.write()
    }

    async fn begin(&self, attempt: &'static str) -> Result<Tx> {
        let inner = self.db.begin().await.map_err(failed(attempt))?;
        Ok(Tx::new(attempt, inner, self.wakes.clone()))
    }
}

fn failed(attempt: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |source| StoreError::Statement { attempt, source }
}
