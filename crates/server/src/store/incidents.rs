//! What the nodes' monitors wrote down, and what came of it.

use casemate_lifecycle::NodeId;

use super::{
    Result, Store,
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
    /// them.
    pub async fn store_monitor_record(
        &self,
        by: (&NodeId, &Fence),
        from: u64,
        (lines, unsealed): (&[RecordLine], bool),
        incidents: &[Incident],
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
        let standing = suspend(&mut tx, node, incidents, limit).await?;
        tx.commit().await?;
        Ok(standing)
    }

    /// Suspends a node for what no line of its record says.
    pub async fn suspend_node(&self, node: &NodeId, why: &str) -> Result<()> {
        let update = sql("suspend a node", "UPDATE nodes SET suspended = COALESCE(suspended, $1) WHERE id = $2");
        update.bind(why).bind(node.as_str()).run(self.write()).await.map(drop)
    }

    /// Gives a suspended node another chance; `false` when it is not suspended, or revoked.
    pub async fn restore_node(&self, node: &NodeId) -> Result<bool> {
        let text = "UPDATE nodes SET suspended = NULL WHERE id = $1 AND suspended IS NOT NULL AND revoked = 0";
        Ok(sql("restore a node", text).bind(node.as_str()).run(self.write()).await? > 0)
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
        let text = "SELECT * FROM incidents WHERE ($1 IS NULL OR node = $1) \
                    AND ($2 IS NULL OR node IN (SELECT id FROM nodes WHERE hoster = $2)) \
                    ORDER BY received_at_ms DESC, node, sequence DESC LIMIT $3";
        let find = sql("read the incidents", text).bind(node.map(NodeId::as_str)).bind(hoster).bind(MAX_INCIDENTS);
        find.all(self.read())
            .await?
            .iter()
            .map(|row| {
                let columns = Columns::new(row, "incident of", "node");
                Ok(Incident {
                    node: columns.parsed("node")?,
                    sequence: columns.uint("sequence")?,
                    kind: columns.text("kind")?,
                    detail: columns.text("detail")?,
                    at_ms: columns.uint("at_ms")?,
                    received_at_ms: columns.uint("received_at_ms")?,
                })
            })
            .collect()
    }
}

async fn suspend(tx: &mut Tx, node: &NodeId, incidents: &[Incident], limit: u32) -> Result<Option<Standing>> {
    const ATTEMPT: &str = "store an incident";
    let Some(first) = incidents.first() else { return Ok(None) };
    let mut new = 0_u64;
    for one in incidents {
        let text = "INSERT INTO incidents (node, sequence, kind, detail, at_ms, received_at_ms) VALUES ($1, $2, $3, $4, $5, $6) \
                    ON CONFLICT DO NOTHING";
        let insert = sql(ATTEMPT, text).bind(node.as_str()).bind(one.sequence).bind(&one.kind).bind(&one.detail);
        new += insert.bind(one.at_ms).bind(one.received_at_ms).run(tx.on()).await?;
    }
    let text = "UPDATE nodes SET suspended = COALESCE(suspended, $1), strikes = strikes + $2, \
                revoked = CASE WHEN strikes + $2 >= $3 THEN 1 ELSE revoked END WHERE id = $4";
    let update = sql(ATTEMPT, text).bind(&first.detail).bind(new).bind(limit).bind(node.as_str());
    update.run(tx.on()).await?;
    let find = sql(ATTEMPT, "SELECT id, strikes, revoked FROM nodes WHERE id = $1").bind(node.as_str());
    let Some(row) = find.optional(tx.on()).await? else { return Ok(None) };
    let columns = Columns::new(&row, "node", "id");
    Ok(Some(Standing { strikes: columns.uint("strikes")?, revoked: columns.uint("revoked")? != 0 }))
}
