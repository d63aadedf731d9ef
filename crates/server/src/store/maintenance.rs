//! Maintenance of nodes, and what happened to nodes. Each step and the event that tells of it are one transaction.

use casemate_lifecycle::{
    NodeId,
    maintenance::{Phase, Word},
};

use super::{
    Fence, Result, Role, Store, Wake,
    rows::Columns,
    sql::{Row, Tx, sql},
};

/// A node's maintenance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    /// Of which node.
    pub node: NodeId,
    /// Counts a node's.
    pub number: u64,
    /// Where it stands; `None` once it is over.
    pub phase: Option<Phase>,
    /// Counts what the node is asked.
    pub attempt: u64,
    /// The account that began it.
    pub begun_by: String,
    /// As what.
    pub begun_as: Role,
    /// By the platform's clock.
    pub begun_at_ms: u64,
    /// For people.
    pub reason: String,
    /// Whether instances were ended for it.
    pub forced: bool,
    /// What the node said is open, JSON.
    pub opened: Option<String>,
    /// Why the last attempt did not succeed.
    pub failed: Option<String>,
    /// When it was over.
    pub ended_at_ms: Option<u64>,
}

/// Something that happened to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEvent {
    /// Its number; grows.
    pub seq: u64,
    /// By the platform's clock.
    pub at_ms: u64,
    /// What.
    pub kind: String,
    /// The account that caused it; absent for the node and the platform.
    pub caused_by: Option<String>,
    /// For people.
    pub text: String,
}

/// Who wants something of a maintenance.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    /// The account.
    pub account: &'a str,
    /// As what.
    pub role: Role,
    /// When.
    pub now_ms: u64,
}

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wished {
    /// It is done.
    Done,
    /// Instances run there.
    InstancesRun(u64),
    /// It is in this phase already.
    UnderWay(Phase),
    /// There is none.
    NoneUnderWay,
    /// An operator began it.
    AnOperators,
    /// The node is revoked.
    Revoked,
}

/// What a node says of its maintenance.
#[derive(Debug, Clone, Copy)]
pub struct Saying<'a> {
    /// Of which maintenance.
    pub number: u64,
    /// Of which question.
    pub attempt: u64,
    /// What.
    pub word: Word,
    /// What is open, JSON; or why it was refused.
    pub detail: &'a str,
}

const READ: &str = "read the maintenance of nodes";
const WRITE: &str = "write the maintenance of a node";

impl Store {
    /// Begins a maintenance, or opens one again whose appraisal failed. A placement at the same moment comes before this, and is seen
    /// here, or after this, and passes the node over.
    pub async fn begin_maintenance(&self, node: &NodeId, by: By<'_>, reason: &str, forced: bool) -> Result<Wished> {
        let mut tx = self.begin(WRITE).await?;
        lock(&mut tx, node).await?;
        if revoked(&mut tx, node).await? {
            return Ok(Wished::Revoked);
        }
        let live = live(&mut tx, node).await?;
        if live > 0 && !forced {
            return Ok(Wished::InstancesRun(live));
        }
        let said = format!("{}{reason}", if forced { "forced: " } else { "" });
        if let Some(known) = under_way(&mut tx, node).await? {
            let (Some(now), false) = (known.phase, theirs(&known, by)) else { return Ok(Wished::AnOperators) };
            let Some(next) = now.begun_again() else { return Ok(Wished::UnderWay(now)) };
            ask(&mut tx, &known, next).await?;
        } else {
            let text = "INSERT INTO maintenance (node, number, phase, attempt, begun_by, begun_as, begun_at_ms, reason, forced) \
                        SELECT $1, COALESCE(MAX(number), 0) + 1, 'opening', 1, $2, $3, $4, $5, $6 FROM maintenance WHERE node = $1";
            let insert = sql(WRITE, text).bind(node.as_str()).bind(by.account).bind(by.role.as_str()).bind(by.now_ms);
            insert.bind(reason).bind(i64::from(forced)).run(tx.on()).await?;
        }
        let event = Event { kind: "maintenance-begun", caused_by: Some(by.account), text: &said, at_ms: by.now_ms };
        tell(&mut tx, node, event).await?;
        finish(tx, node).await
    }

    /// Asks the node to be sealed and to show what it is.
    pub async fn end_maintenance(&self, node: &NodeId, by: By<'_>) -> Result<Wished> {
        let mut tx = self.begin(WRITE).await?;
        lock(&mut tx, node).await?;
        let Some(known) = under_way(&mut tx, node).await? else { return Ok(Wished::NoneUnderWay) };
        if theirs(&known, by) {
            return Ok(Wished::AnOperators);
        }
        ask(&mut tx, &known, Phase::Sealing).await?;
        let text = "the node is to be sealed and appraised";
        let event = Event { kind: "maintenance-ending", caused_by: Some(by.account), text, at_ms: by.now_ms };
        tell(&mut tx, node, event).await?;
        finish(tx, node).await
    }

    /// Takes a node's word; `false` when nobody waits for it.
    pub async fn heard_of_maintenance(&self, by: (&NodeId, &Fence), saying: Saying<'_>, now_ms: u64) -> Result<bool> {
        let (node, fence) = by;
        let mut tx = self.begin(WRITE).await?;
        fence.hold(&mut tx).await?;
        lock(&mut tx, node).await?;
        let Some(known) = under_way(&mut tx, node).await? else { return Ok(false) };
        if (known.number, known.attempt) != (saying.number, saying.attempt) {
            return Ok(false);
        }
        let lies = saying.word == Word::Sealed && unsealed(&mut tx, node).await?;
        let (word, detail) = match lies {
            true => (Word::Refused, "the record of its monitor says that it is unsealed"),
            false => (saying.word, saying.detail),
        };
        let Some(next) = known.phase.and_then(|phase| phase.heard(word)) else { return Ok(false) };
        let (opened, failed) = match word {
            Word::Opened => (Some(detail), None),
            Word::Sealed => (known.opened.as_deref(), None),
            Word::Refused => (known.opened.as_deref(), Some(detail)),
        };
        if word == Word::Refused && known.failed.as_deref() == failed && known.phase == Some(next) {
            // The same once more, while it goes on trying.
            return Ok(true);
        }
        let text =
            "UPDATE maintenance SET phase = $1, opened = $2, failed = $3, challenge = NULL WHERE node = $4 AND number = $5";
        let update = sql(WRITE, text).bind(next.as_str()).bind(opened).bind(failed).bind(node.as_str()).bind(known.number);
        update.run(tx.on()).await?;
        let kind = match word {
            Word::Opened => "maintenance-opened",
            Word::Sealed => "maintenance-sealed",
            Word::Refused => "maintenance-refused",
        };
        tell(&mut tx, node, Event { kind, caused_by: None, text: detail, at_ms: now_ms }).await?;
        finish(tx, node).await.map(|_| true)
    }

    /// Takes the outcome of an appraisal over `nonce`: of one that was drawn after the seal it is the end, or why there is none.
    pub async fn judge_maintenance(
        &self,
        node: &NodeId,
        nonce: &[u8; 32],
        outcome: std::result::Result<(), &str>,
        now_ms: u64,
    ) -> Result<()> {
        let mut tx = self.begin(WRITE).await?;
        lock(&mut tx, node).await?;
        let Some(known) = under_way(&mut tx, node).await? else { return Ok(()) };
        let drawn = sql(READ, "SELECT node FROM maintenance WHERE node = $1 AND number = $2 AND challenge = $3");
        let drawn = drawn.bind(node.as_str()).bind(known.number).bind(nonce).optional(tx.on()).await?.is_some();
        let Some(next) = known.phase.filter(|_| drawn).and_then(|phase| phase.judged(outcome.is_ok())) else { return Ok(()) };
        let text =
            "UPDATE maintenance SET phase = $1, failed = $2, challenge = NULL, ended_at_ms = $3 WHERE node = $4 AND number = $5";
        let ended = next.is_none().then_some(now_ms);
        let update = sql(WRITE, text).bind(next.map(Phase::as_str)).bind(outcome.err()).bind(ended);
        update.bind(node.as_str()).bind(known.number).run(tx.on()).await?;
        let (kind, text) = match outcome {
            Ok(()) => ("maintenance-ended", "the appraisal passed"),
            Err(why) => ("maintenance-failed", why),
        };
        tell(&mut tx, node, Event { kind, caused_by: None, text, at_ms: now_ms }).await?;
        finish(tx, node).await.map(drop)
    }

    /// The maintenance that a node is in.
    pub async fn maintenance(&self, node: &NodeId) -> Result<Option<Maintenance>> {
        let row = sql(READ, UNDER_WAY).bind(node.as_str()).optional(self.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// The last one of a node, under way or over.
    pub async fn last_maintenance(&self, node: &NodeId) -> Result<Option<Maintenance>> {
        let find = sql(READ, "SELECT * FROM maintenance WHERE node = $1 ORDER BY number DESC LIMIT 1");
        find.bind(node.as_str()).optional(self.read()).await?.as_ref().map(from_row).transpose()
    }

    /// All that are under way.
    pub async fn maintenances(&self) -> Result<Vec<Maintenance>> {
        let rows = sql(READ, "SELECT * FROM maintenance WHERE phase IS NOT NULL").all(self.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// What happened to a node, newest first.
    pub async fn node_events(&self, node: &NodeId, limit: u32) -> Result<Vec<NodeEvent>> {
        let find = sql("read the events of a node", "SELECT * FROM node_events WHERE node = $1 ORDER BY seq DESC LIMIT $2");
        let rows = find.bind(node.as_str()).bind(limit).all(self.read()).await?;
        rows.iter()
            .map(|row| {
                let columns = Columns::new(row, "event of node", "node");
                Ok(NodeEvent {
                    seq: columns.uint("seq")?,
                    at_ms: columns.uint("at_ms")?,
                    kind: columns.text("kind")?,
                    caused_by: columns.opt_text("caused_by")?,
                    text: columns.text("text")?,
                })
            })
            .collect()
    }
}

const UNDER_WAY: &str = "SELECT * FROM maintenance WHERE node = $1 AND phase IS NOT NULL";

/// Whether it is not for this one to change.
fn theirs(known: &Maintenance, by: By<'_>) -> bool {
    known.begun_as == Role::Operator && by.role != Role::Operator
}

/// The challenge of a renewal that begins now; only one that is drawn after the seal leads out.
pub(super) async fn drawn(tx: &mut Tx, node: &NodeId, nonce: &[u8; 32]) -> Result<()> {
    let update = sql(WRITE, "UPDATE maintenance SET challenge = $1 WHERE node = $2 AND phase = 'appraising'");
    update.bind(nonce).bind(node.as_str()).run(tx.on()).await.map(drop)
}

/// Placements hold the same row.
async fn lock(tx: &mut Tx, node: &NodeId) -> Result<()> {
    tx.lock(sql(WRITE, "SELECT id FROM nodes WHERE id = $1 FOR UPDATE").bind(node.as_str())).await
}

async fn under_way(tx: &mut Tx, node: &NodeId) -> Result<Option<Maintenance>> {
    let row = sql(READ, UNDER_WAY).bind(node.as_str()).optional(tx.on()).await?;
    row.as_ref().map(from_row).transpose()
}

async fn live(tx: &mut Tx, node: &NodeId) -> Result<u64> {
    let text = "SELECT COUNT(*) AS instances FROM instances WHERE node = $1 AND step NOT IN ('wiped', 'gone')";
    let row = sql(READ, text).bind(node.as_str()).optional(tx.on()).await?;
    row.as_ref().map_or(Ok(0), |row| Columns::new(row, "load of node", "instances").uint("instances"))
}

async fn revoked(tx: &mut Tx, node: &NodeId) -> Result<bool> {
    flag(tx, "SELECT id FROM nodes WHERE id = $1 AND revoked != 0", node).await
}

async fn unsealed(tx: &mut Tx, node: &NodeId) -> Result<bool> {
    flag(tx, "SELECT id FROM nodes WHERE id = $1 AND unsealed != 0", node).await
}

async fn flag(tx: &mut Tx, text: &'static str, node: &NodeId) -> Result<bool> {
    Ok(sql(READ, text).bind(node.as_str()).optional(tx.on()).await?.is_some())
}

/// The node is asked for something else.
async fn ask(tx: &mut Tx, known: &Maintenance, next: Phase) -> Result<()> {
    let text = "UPDATE maintenance SET phase = $1, attempt = attempt + 1, failed = NULL, challenge = NULL WHERE node = $2 AND number = $3";
    let update = sql(WRITE, text).bind(next.as_str()).bind(known.node.as_str()).bind(known.number);
    update.run(tx.on()).await.map(drop)
}

struct Event<'a> {
    kind: &'static str,
    caused_by: Option<&'a str>,
    text: &'a str,
    at_ms: u64,
}

async fn tell(tx: &mut Tx, node: &NodeId, event: Event<'_>) -> Result<()> {
    let text = "INSERT INTO node_events (node, at_ms, kind, caused_by, text) VALUES ($1, $2, $3, $4, $5)";
    let insert = sql("write an event of a node", text).bind(node.as_str()).bind(event.at_ms).bind(event.kind);
    insert.bind(event.caused_by).bind(event.text).run(tx.on()).await.map(drop)
}

async fn finish(mut tx: Tx, node: &NodeId) -> Result<Wished> {
    tx.wake(Wake::Question(node.clone())).await?;
    tx.commit().await?;
    Ok(Wished::Done)
}

fn from_row(row: &Row) -> Result<Maintenance> {
    let columns = Columns::new(row, "maintenance of", "node");
    let phase = match columns.opt_text("phase")? {
        Some(text) => Some(Phase::parse(&text).ok_or_else(|| columns.bad("the phase is unknown"))?),
        None => None,
    };
    Ok(Maintenance {
        node: columns.parsed("node")?,
        number: columns.uint("number")?,
        phase,
        attempt: columns.uint("attempt")?,
        begun_by: columns.text("begun_by")?,
        begun_as: if columns.text("begun_as")? == "operator" { Role::Operator } else { Role::Hoster },
        begun_at_ms: columns.uint("begun_at_ms")?,
        reason: columns.text("reason")?,
        forced: columns.uint("forced")? != 0,
        opened: columns.opt_text("opened")?,
        failed: columns.opt_text("failed")?,
        ended_at_ms: columns.opt_uint("ended_at_ms")?,
    })
}
