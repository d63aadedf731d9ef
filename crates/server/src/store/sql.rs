//! One text of SQL for both engines: placeholders are `$1`, results are integers, texts and bytes.
//!
//! Where the engines differ, [`Text`] has both forms. That is the database's own clock; row locks and notifications are in [`Tx`].

use sqlx::{
    Postgres, Row as _, Sqlite, SqlitePool, Transaction,
    postgres::{PgArguments, PgPool, PgRow},
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use super::{
    Result, StoreError,
    engine::Begun,
    wakes::{CHANNEL, Wake, Wakes},
};

/// A statement's text for each engine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    pub(super) sqlite: &'static str,
    pub(super) postgres: &'static str,
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Self {
        Self { sqlite: text, postgres: text }
    }
}

/// The parts with the database's clock, in milliseconds since 1970, between them: replicas need not agree on the time.
macro_rules! timed {
    ($first:literal $(, $part:literal)+) => {
        $crate::store::sql::Text {
            sqlite: concat!($first $(, "CAST(unixepoch('subsec') * 1000 AS INTEGER)", $part)+),
            postgres: concat!($first $(, "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)", $part)+),
        }
    };
}

pub(super) use timed;

/// A value of a placeholder. The engines have no unsigned numbers.
#[derive(Debug)]
pub(super) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

macro_rules! value {
    ($($from:ty => $variant:ident($convert:expr)),+ $(,)?) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Self::$variant(Some($convert(value)))
            }
        }
        impl From<Option<$from>> for Value {
            fn from(value: Option<$from>) -> Self {
                Self::$variant(value.map($convert))
            }
        }
    )+};
}

value! {
    i64 => Int(i64::from),
    u32 => Int(i64::from),
    u64 => Int(int),
    &str => Text(str::to_owned),
    &String => Text(String::clone),
    String => Text(String::from),
    &[u8] => Bytes(<[u8]>::to_vec),
    &[u8; 32] => Bytes(|bytes: &[u8; 32]| bytes.to_vec()),
    &Vec<u8> => Bytes(Vec::clone),
}

/// Times and counters fit 63 bits; anything above is pinned there.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A statement with its values.
#[derive(Debug)]
pub(super) struct Statement {
    attempt: &'static str,
    text: Text,
    values: Vec<Value>,
}

/// `attempt` says in errors what was attempted.
pub(super) fn sql(attempt: &'static str, text: impl Into<Text>) -> Statement {
    Statement { attempt, text: text.into(), values: Vec::new() }
}

/// Where a statement runs.
pub(super) enum On<'a> {
    SqlitePool(&'a SqlitePool),
    PostgresPool(&'a PgPool),
    SqliteTx(&'a mut Transaction<'static, Sqlite>),
    PostgresTx(&'a mut Transaction<'static, Postgres>),
}

/// A transaction; without [`Tx::commit`] nothing of it happened.
pub(super) struct Tx {
    attempt: &'static str,
    begun: Begun,
    wakes: Wakes,
    /// Sent after the commit; PostgreSQL keeps them itself.
    later: Vec<Wake>,
}

impl Tx {
    pub(super) fn new(attempt: &'static str, begun: Begun, wakes: Wakes) -> Self {
        Self { attempt, begun, wakes, later: Vec::new() }
    }

    pub(super) fn on(&mut self) -> On<'_> {
        match &mut self.begun {
            Begun::Sqlite(tx) => On::SqliteTx(tx),
            Begun::Postgres(tx) => On::PostgresTx(tx),
        }
    }

    /// Wakes when the transaction is committed, and not without.
    pub(super) async fn wake(&mut self, wake: Wake) -> Result<()> {
        if matches!(self.begun, Begun::Sqlite(_)) {
            self.later.push(wake);
            return Ok(());
        }
        let notify = sql("tell other replicas", "SELECT pg_notify($1, $2)").bind(CHANNEL).bind(wake.to_text());
        notify.run(self.on()).await.map(drop)
    }

    /// Locks the rows that a statement reads until the end of the transaction. SQLite's one writer has locked everything.
    pub(super) async fn lock(&mut self, statement: Statement) -> Result<()> {
        match self.begun {
            Begun::Sqlite(_) => Ok(()),
            Begun::Postgres(_) => statement.run(self.on()).await.map(drop),
        }
    }

    /// Takes a lock of this name until the end of the transaction. SQLite's one writer has it already.
    pub(super) async fn alone(&mut self, name: i64) -> Result<()> {
        self.lock(sql(self.attempt, "SELECT pg_advisory_xact_lock($1)").bind(name)).await
    }

    pub(super) async fn commit(self) -> Result<()> {
        let Self { attempt, begun, wakes, later } = self;
        let committed = match begun {
            Begun::Sqlite(tx) => tx.commit().await,
            Begun::Postgres(tx) => tx.commit().await,
        };
        committed.map_err(super::failed(attempt))?;
        later.into_iter().for_each(|wake| wakes.send(wake));
        Ok(())
    }
}

/// A row of either engine.
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Statement {
    pub(super) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Runs it and says how many rows it changed.
    pub(super) async fn run(self, on: On<'_>) -> Result<u64> {
        let (attempt, text) = (self.attempt, self.text);
        let done = match on {
            On::SqlitePool(pool) => sqlite(text, self.values()?).execute(pool).await.map(|done| done.rows_affected()),
            On::SqliteTx(tx) => sqlite(text, self.values()?).execute(&mut **tx).await.map(|done| done.rows_affected()),
            On::PostgresPool(pool) => postgres(text, self.values()?).execute(pool).await.map(|done| done.rows_affected()),
            On::PostgresTx(tx) => postgres(text, self.values()?).execute(&mut **tx).await.map(|done| done.rows_affected()),
        };
        done.map_err(super::failed(attempt))
    }

    /// The first row, if there is one.
    pub(super) async fn optional(self, on: On<'_>) -> Result<Option<Row>> {
        let (attempt, text) = (self.attempt, self.text);
        let row = match on {
            On::SqlitePool(pool) => sqlite(text, self.values()?).fetch_optional(pool).await.map(|row| row.map(Row::Sqlite)),
            On::SqliteTx(tx) => sqlite(text, self.values()?).fetch_optional(&mut **tx).await.map(|row| row.map(Row::Sqlite)),
            On::PostgresPool(pool) => postgres(text, self.values()?).fetch_optional(pool).await.map(|row| row.map(Row::Postgres)),
            On::PostgresTx(tx) => {
                postgres(text, self.values()?).fetch_optional(&mut **tx).await.map(|row| row.map(Row::Postgres))
            }
        };
        row.map_err(super::failed(attempt))
    }

    /// All rows.
    pub(super) async fn all(self, on: On<'_>) -> Result<Vec<Row>> {
        let (attempt, text) = (self.attempt, self.text);
        fn sqlite_rows(rows: Vec<SqliteRow>) -> Vec<Row> {
            rows.into_iter().map(Row::Sqlite).collect()
        }
        fn postgres_rows(rows: Vec<PgRow>) -> Vec<Row> {
            rows.into_iter().map(Row::Postgres).collect()
        }
        let rows = match on {
            On::SqlitePool(pool) => sqlite(text, self.values()?).fetch_all(pool).await.map(sqlite_rows),
            On::SqliteTx(tx) => sqlite(text, self.values()?).fetch_all(&mut **tx).await.map(sqlite_rows),
            On::PostgresPool(pool) => postgres(text, self.values()?).fetch_all(pool).await.map(postgres_rows),
            On::PostgresTx(tx) => postgres(text, self.values()?).fetch_all(&mut **tx).await.map(postgres_rows),
        };
        rows.map_err(super::failed(attempt))
    }

    /// PostgreSQL has no texts with a NUL character: refused on both engines, so that they behave alike.
    fn values(self) -> Result<Vec<Value>> {
        let has_nul = |value: &Value| matches!(value, Value::Text(Some(text)) if text.contains('\0'));
        if self.values.iter().any(has_nul) {
            return Err(StoreError::Nul { attempt: self.attempt });
        }
        Ok(self.values)
    }
}

fn sqlite(text: Text, values: Vec<Value>) -> Query<'static, Sqlite, SqliteArguments> {
    values.into_iter().fold(sqlx::query(text.sqlite), |query, value| match value {
        Value::Int(value) => query.bind(value),
        Value::Text(value) => query.bind(value),
        Value::Bytes(value) => query.bind(value),
    })
}

fn postgres(text: Text, values: Vec<Value>) -> Query<'static, Postgres, PgArguments> {
    values.into_iter().fold(sqlx::query(text.postgres), |query, value| match value {
        Value::Int(value) => query.bind(value),
        Value::Text(value) => query.bind(value),
        Value::Bytes(value) => query.bind(value),
    })
}

impl Row {
    pub(super) fn int(&self, column: &str) -> sqlx::Result<Option<i64>> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }

    pub(super) fn text(&self, column: &str) -> sqlx::Result<Option<String>> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }

    pub(super) fn bytes(&self, column: &str) -> sqlx::Result<Option<Vec<u8>>> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }
}
