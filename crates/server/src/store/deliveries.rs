//! Calls that are to be made: queued in the transaction of what they tell of, and tried by who holds the lease of that work.
//!
//! An attempt is begun by a conditional write that also says until when nobody else begins one, so that no two are made at the same time;
//! a server that dies in between costs a repetition.

use uuid::Uuid;

use super::{
    Fence, Notice, Occasion, Result, Store, Webhook,
    notices::{notice_by, occasion_by},
    rows::Columns,
    sql::{Row, Tx, sql},
    webhooks::{self, Scope},
};

/// Most deliveries in one list.
const MAX_LIST: i64 = 100;

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// It is to be tried, or tried again.
    Waiting,
    /// It was answered well.
    Delivered,
    /// It was given up.
    Failed,
}

impl DeliveryState {
    /// The name in the store and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
        }
    }
}

/// A call to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its id.
    pub id: String,
    /// Of what; `test` where nothing happened.
    pub kind: String,
    /// Where it stands.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next.
    pub next_at_ms: u64,
    /// When it was queued.
    pub created_at_ms: u64,
    /// HTTP's status of the last answer.
    pub status: Option<u64>,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempted<'a> {
    /// Where the delivery stands now.
    pub state: DeliveryState,
    /// When it is tried again, where it waits.
    pub next_at_ms: u64,
    /// HTTP's status.
    pub status: Option<u16>,
    /// What went wrong.
    pub error: Option<&'a str>,
}

impl Store {
    /// Queues a call without an occasion; `None` where `most` wait already, or there is no such webhook.
    pub async fn queue_test(&self, webhook: &str, now_ms: u64, most: u64) -> Result<Option<String>> {
        let id = new_id();
        let text = "INSERT INTO deliveries (id, webhook, kind, state, attempts, next_at_ms, created_at_ms) \
                    SELECT $1, w.id, 'test', 'waiting', 0, $2, $2 FROM webhooks w WHERE w.id = $3 AND \
                    (SELECT COUNT(*) FROM deliveries d WHERE d.webhook = w.id AND d.kind = 'test' AND d.state = 'waiting') < $4";
        let insert = sql(WRITE, text).bind(&id).bind(now_ms).bind(webhook).bind(most);
        Ok((insert.run(self.write()).await? > 0).then_some(id))
    }

    /// The newest deliveries of a webhook.
    pub async fn deliveries(&self, webhook: &str) -> Result<Vec<Delivery>> {
        let list = sql(READ, "SELECT * FROM deliveries WHERE webhook = $1 ORDER BY seq DESC LIMIT $2").bind(webhook);
        list.bind(MAX_LIST).all(self.read()).await?.iter().map(from_row).collect()
    }

    /// What is due, the oldest of each webhook.
    pub async fn due_deliveries(&self, now_ms: u64, most: u32) -> Result<Vec<(Webhook, Delivery)>> {
        let text = "SELECT * FROM deliveries d WHERE d.state = 'waiting' AND d.next_at_ms <= $1 AND NOT EXISTS \
                    (SELECT 1 FROM deliveries e WHERE e.webhook = d.webhook AND e.state = 'waiting' AND e.next_at_ms <= $1 \
                    AND e.seq < d.seq) ORDER BY d.next_at_ms, d.seq LIMIT $2";
        let mut due = Vec::new();
        for row in sql(READ, text).bind(now_ms).bind(most).all(self.read()).await? {
            let webhook = Columns::new(&row, "delivery", "id").text("webhook")?;
            // It may be removed meanwhile.
            let Some(webhook) = self.webhook(&webhook).await? else { continue };
            due.push((webhook, from_row(&row)?));
        }
        Ok(due)
    }

    /// What a delivery tells of; a test tells of nothing.
    pub async fn told_by(&self, delivery: &str) -> Result<(Option<Occasion>, Option<Notice>)> {
        let find = sql(READ, "SELECT id, occasion, notice FROM deliveries WHERE id = $1").bind(delivery);
        let Some(row) = find.optional(self.read()).await? else { return Ok((None, None)) };
        let columns = Columns::new(&row, "delivery", "id");
        let occasion = match columns.opt_uint("occasion")? {
            Some(seq) => occasion_by(self, seq).await?,
            None => None,
        };
        let notice = match columns.opt_uint("notice")? {
            Some(seq) => notice_by(self, seq).await?,
            None => None,
        };
        Ok((occasion, notice))
    }

    /// Begins the next attempt, if it is due and nobody else has begun it; nobody does before `until_ms`.
    pub async fn begin_attempt(&self, fence: &Fence, delivery: &Delivery, now_ms: u64, until_ms: u64) -> Result<bool> {
        let mut tx = self.begin(WRITE).await?;
        fence.hold(&mut tx).await?;
        let text = "UPDATE deliveries SET attempts = attempts + 1, next_at_ms = $1 \
                    WHERE id = $2 AND state = 'waiting' AND attempts = $3 AND next_at_ms <= $4";
        let update = sql(WRITE, text).bind(until_ms).bind(&delivery.id).bind(delivery.attempts).bind(now_ms);
        let begun = update.run(tx.on()).await? > 0;
        tx.commit().await?;
        Ok(begun)
    }

    /// Writes down what came of attempt number `attempt`.
    pub async fn end_attempt(&self, fence: &Fence, id: &str, attempt: u32, came: Attempted<'_>) -> Result<()> {
        let mut tx = self.begin(WRITE).await?;
        fence.hold(&mut tx).await?;
        let text = "UPDATE deliveries SET state = $1, next_at_ms = $2, status = $3, error = $4 \
                    WHERE id = $5 AND state = 'waiting' AND attempts = $6";
        let update = sql(WRITE, text).bind(came.state.as_str()).bind(came.next_at_ms).bind(came.status.map(u32::from));
        update.bind(came.error).bind(id).bind(attempt).run(tx.on()).await?;
        tx.commit().await
    }

    /// Forgets what was delivered or given up before this.
    pub async fn forget_deliveries(&self, before_ms: u64) -> Result<()> {
        let forget = sql("forget deliveries", "DELETE FROM deliveries WHERE state != 'waiting' AND created_at_ms < $1");
        forget.bind(before_ms).run(self.write()).await.map(drop)
    }
}

/// Queues calls of an occasion to all webhooks of this scope that want them.
pub(super) async fn queue(tx: &mut Tx, scope: &Scope, occasion: (&Occasion, u64), notice: Option<u64>) -> Result<()> {
    let (what, seq) = occasion;
    let text = "SELECT w.* FROM webhooks w WHERE w.scope = $1 AND w.owner = $2 AND NOT (w.scope = 'hoster' \
                AND EXISTS (SELECT 1 FROM accounts a WHERE a.name = w.owner AND a.disabled_at_ms IS NOT NULL)) ORDER BY w.id";
    let rows = sql(READ, text).bind(scope.as_str()).bind(scope.owner()).all(tx.on()).await?;
    for row in &rows {
        let webhook = webhooks::from_row(row)?;
        if !webhook.kinds.contains(&what.kind) {
            continue;
        }
        let text = "INSERT INTO deliveries (id, webhook, occasion, notice, kind, state, attempts, next_at_ms, created_at_ms) \
                    VALUES ($1, $2, $3, $4, $5, 'waiting', 0, $6, $6)";
        let insert = sql(WRITE, text).bind(new_id()).bind(&webhook.id).bind(seq).bind(notice);
        insert.bind(what.kind.as_str()).bind(what.at_ms).run(tx.on()).await?;
    }
    Ok(())
}

fn new_id() -> String {
    format!("msg_{}", Uuid::new_v4().simple())
}

fn from_row(row: &Row) -> Result<Delivery> {
    let columns = Columns::new(row, "delivery", "id");
    let state = match columns.text("state")?.as_str() {
        "waiting" => DeliveryState::Waiting,
        "delivered" => DeliveryState::Delivered,
        "failed" => DeliveryState::Failed,
        other => return Err(columns.bad(format!("state {other}"))),
    };
    Ok(Delivery {
        id: columns.text("id")?,
        kind: columns.text("kind")?,
        state,
        attempts: u32::try_from(columns.uint("attempts")?).map_err(|_| columns.bad("attempts"))?,
        next_at_ms: columns.uint("next_at_ms")?,
        created_at_ms: columns.uint("created_at_ms")?,
        status: columns.opt_uint("status")?,
        error: columns.opt_text("error")?,
    })
}

const READ: &str = "read deliveries";
const WRITE: &str = "write a delivery";
