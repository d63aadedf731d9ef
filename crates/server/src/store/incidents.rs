//! What the nodes' monitors wrote down, and what came of it.

use casemate_api::rest::NoticeEvidence;
use casemate_lifecycle::NodeId;

use super::{
    Occasion, OccasionKind, Result, Store,
    notices::{Line, tell},
    replicas::Fence,
    rows::Columns,
    sql::{Tx, sql},
};

/// Lines that are kept of a node: of older ones only the chain's head matters.
const KEPT_LINES: u64 = 20_000;
/// Most incidents in one answer.
const MAX_INCIDENTS: i64 = 1000;

/// Where the record of a node's monitor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHead {
    /// How many lines are stored, forgotten ones included.
    pub lines: u64,
    /// SHA-256 of the last one; zeros before the first.
    pub digest: [u8; 32],
    /// Whether it says that the node is unsealed.
    pub unsealed: bool,
}

/// A line of a monitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordLine {
    /// As it was written.
    pub line: Vec<u8>,
    /// Its SHA-256.
    pub digest: [u8; 32],
}

/// Something after which a node gets no work until an operator has looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// Where.
    pub node: NodeId,
    /// Number of the line that says it.
    pub sequence: u64,
    /// Kind of the record.
    pub kind: String,
    /// For people.
    pub detail: String,
    /// By the node's clock.
    pub at_ms: u64,
    /// By the platform's.
    pub received_at_ms: u64,
}

/// An incident that is taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewIncident {
    /// As it is listed.
    pub incident: Incident,
    /// SHA-256 of its line.
    pub line: [u8; 32],
    /// What is shown of the record.
    pub evidence: NoticeEvidence,
}

/// What happened to a node's standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Incidents so far.
    pub strikes: u64,
    /// Whether there were too many.
    pub revoked: bool,
}

impl Store {
    /// Where the record of the node's monitor stands here.
    pub async fn record_head(&self, node: &NodeId) -> Result<RecordHead> {
        let find = sql(
            "read the head of a monitor's record",
            "SELECT r.node, r.sequence, r.digest, n.unsealed FROM monitor_records r JOIN nodes n ON n.id = r.node \
             WHERE r.node = $1 ORDER BY r.sequence DESC LIMIT 1",
        );
        let Some(row) = find.bind(node.as_str()).optional(self.read()).await? else {
            return Ok(RecordHead { lines: 0, digest: [0; 32], unsealed: false });
        };
        let columns = Columns::new(&row, "monitor's record of", "node");
        let unsealed = columns.uint("unsealed")? != 0;
        Ok(RecordHead { lines: columns.uint("sequence")? + 1, digest: columns.bytes32("digest")?, unsealed })
    }

    /// Stores the lines after `from`, and what they say. With incidents the node is suspended, and revoked once it has `limit` of
    /// them; those whose instances were there are told.
    pub async fn store_monitor_record(
        &self,
        by: (&NodeId, &Fence),
        from: u64,
        (lines, unsealed): (&[RecordLine], bool),
        incidents: &[NewIncident],
        limit: u32,
    ) -> Result<Option<Standing>> {
        const ATTEMPT: &str = "store a monitor's record";
        let (node, fence) = by;
        let mut tx = self.begin(ATTEMPT).await?;
        fence.hold(&mut tx).await?;
        for (sequence, line) in (from..).zip(lines) {
            let text = "INSERT INTO monitor_records (node, sequence, line, digest) VALUES ($1, $2, $3, $4)";
            let insert = sql(ATTEMPT, text).bind(node.as_str()).bind(sequence).bind(&line.line).bind(&line.digest);
            insert.run(tx.on()).await?;
        }
        let oldest = (from + lines.len() as u64).saturating_sub(KEPT_LINES);
        let forget = sql(ATTEMPT, "DELETE FROM monitor_records WHERE node = $1 AND sequence < $2");
        forget.bind(node.as_str()).bind(oldest).run(tx.on()).await?;
        let seal = sql(ATTEMPT, "UPDATE nodes SET unsealed = $1 WHERE id = $2 AND unsealed != $1");
        seal.bind(i64::from(unsealed)).bind(node.as_str()).run(tx.on()).await?;
        let standing = take_in(&mut tx, node, incidents, limit).await?;
        tx.commit().await?;
        Ok(standing)
    }

    /// Suspends a node for what no line of its record says.
    pub async fn suspend_node(&self, node: &NodeId, why: &str, now_ms: u64) -> Result<()> {
        let mut tx = self.begin(SUSPEND).await?;
        suspend(&mut tx, node, why, now_ms).await?;
        tx.commit().await
    }

    /// Gives a suspended node another chance; `false` when it is not suspended, or revoked.
    pub async fn restore_node(&self, node: &NodeId, now_ms: u64) -> Result<bool> {
        const ATTEMPT: &str = "restore a node";
        let mut tx = self.begin(ATTEMPT).await?;
        let text = "UPDATE nodes SET suspended = NULL WHERE id = $1 AND suspended IS NOT NULL AND revoked = 0";
        if sql(ATTEMPT, text).bind(node.as_str()).run(tx.on()).await? == 0 {
            return Ok(false);
        }
        tell(&mut tx, &changed(node, OccasionKind::Restored, "restored by an operator", now_ms), None, false).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// A node that enrols anew begins anew: its monitor's record does. What happened stays known.
    pub async fn forget_monitor_record(&self, node: &NodeId) -> Result<()> {
        const ATTEMPT: &str = "forget a monitor's record";
        let mut tx = self.begin(ATTEMPT).await?;
        sql(ATTEMPT, "DELETE FROM monitor_records WHERE node = $1").bind(node.as_str()).run(tx.on()).await?;
        sql(ATTEMPT, "UPDATE nodes SET unsealed = 0 WHERE id = $1").bind(node.as_str()).run(tx.on()).await?;
        tx.commit().await
    }

    /// The newest incidents: of one node or of all, of a hoster's or of all.
    pub async fn incidents(&self, node: Option<&NodeId>, hoster: Option<&str>) -> Result<Vec<Incident>> {
        let text = "SELECT * FROM occasions WHERE kind = 'incident' AND ($1 IS NULL OR node = $1) \
                    AND ($2 IS NULL OR node IN (SELECT id FROM nodes WHERE hoster = $2)) ORDER BY seq DESC LIMIT $3";
        let find = sql("read the incidents", text).bind(node.map(NodeId::as_str)).bind(hoster).bind(MAX_INCIDENTS);
        find.all(self.read())
            .await?
            .iter()
            .map(|row| {
                let columns = Columns::new(row, "incident of", "node");
                Ok(Incident {
                    node: columns.parsed("node")?,
                    sequence: columns.uint("sequence")?,
                    kind: columns.text("record_kind")?,
                    detail: columns.text("detail")?,
                    at_ms: columns.uint("node_at_ms")?,
                    received_at_ms: columns.uint("at_ms")?,
                })
            })
            .collect()
    }
}

/// Of a revoked node nobody is told any more: it may say what it likes.
async fn take_in(tx: &mut Tx, node: &NodeId, incidents: &[NewIncident], limit: u32) -> Result<Option<Standing>> {
    const ATTEMPT: &str = "store an incident";
    let Some(first) = incidents.first() else { return Ok(None) };
    tx.lock(sql(ATTEMPT, "SELECT id FROM nodes WHERE id = $1 FOR NO KEY UPDATE").bind(node.as_str())).await?;
    let find = sql(ATTEMPT, "SELECT id, strikes, revoked FROM nodes WHERE id = $1").bind(node.as_str());
    let Some(row) = find.optional(tx.on()).await? else { return Ok(None) };
    let columns = Columns::new(&row, "node", "id");
    let (mut strikes, was_revoked) = (columns.uint("strikes")?, columns.uint("revoked")? != 0);
    for NewIncident { incident, line, evidence } in incidents {
        let occasion = Occasion {
            node: node.clone(),
            kind: OccasionKind::Incident,
            detail: incident.detail.clone(),
            at_ms: incident.received_at_ms,
            node_at_ms: Some(incident.at_ms),
            evidence: (!was_revoked).then(|| evidence.clone()),
        };
        let line = Line { sequence: incident.sequence, digest: line, kind: &incident.kind };
        strikes += u64::from(tell(tx, &occasion, Some(line), was_revoked).await?);
    }
    let (detail, now_ms) = (&first.incident.detail, first.incident.received_at_ms);
    suspend(tx, node, detail, now_ms).await?;
    let revoked = was_revoked || strikes >= u64::from(limit);
    let update = sql(ATTEMPT, "UPDATE nodes SET strikes = $1, revoked = $2 WHERE id = $3").bind(strikes);
    update.bind(i64::from(revoked)).bind(node.as_str()).run(tx.on()).await?;
    if revoked && !was_revoked {
        let why = format!("{strikes} incidents, the last: {detail}");
        tell(tx, &changed(node, OccasionKind::Revoked, &why, now_ms), None, false).await?;
    }
    Ok(Some(Standing { strikes, revoked }))
}

/// What suspended a node first stays the reason.
async fn suspend(tx: &mut Tx, node: &NodeId, why: &str, now_ms: u64) -> Result<()> {
    let update = sql(SUSPEND, "UPDATE nodes SET suspended = $1 WHERE id = $2 AND suspended IS NULL").bind(why);
    if update.bind(node.as_str()).run(tx.on()).await? > 0 {
        tell(tx, &changed(node, OccasionKind::Suspended, why, now_ms), None, false).await?;
    }
    Ok(())
}

fn changed(node: &NodeId, kind: OccasionKind, detail: &str, at_ms: u64) -> Occasion {
    Occasion { node: node.clone(), kind, detail: detail.to_owned(), at_ms, node_at_ms: None, evidence: None }
}

const SUSPEND: &str = "suspend a node";
