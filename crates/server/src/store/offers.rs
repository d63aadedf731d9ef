//! What hosters ask for their nodes.

use std::collections::BTreeMap;

use casemate_lifecycle::NodeId;
use serde::{Deserialize, Serialize};

use super::{Result, Store, rows::Columns, sql::sql};

/// A hoster's offer of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Grows with each change.
    pub version: u64,
    /// The account that set it.
    pub set_by: String,
    /// When.
    pub set_at_ms: u64,
    /// CPUs of the node that are for instances; all of them when absent.
    pub cpus: Option<u64>,
    /// Memory that is.
    pub memory_mib: Option<u64>,
    /// Disk that is.
    pub disk_mib: Option<u64>,
    /// Of an hour of a virtual CPU, in the smallest unit of money.
    pub cpu_price: u64,
    /// Of an hour of a GiB of memory.
    pub memory_price: u64,
    /// Of an hour of a GiB of disk.
    pub disk_price: u64,
    /// Of an hour of a GPU.
    pub gpu_price: u64,
    /// Where the node stands.
    pub place: String,
    /// What its owner says of it.
    pub labels: Labels,
    /// The isolation levels that are for instances; all of the node's when absent.
    pub levels: Option<Vec<String>>,
    /// Until when it takes new work.
    pub ends_at_ms: Option<u64>,
    /// Since when it takes none.
    pub withdrawn_at_ms: Option<u64>,
}

/// Names and values.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Labels(pub BTreeMap<String, String>);

impl Store {
    /// Sets what is asked for a node, with the version after the one before; `None` when the one before is not `known`, or
    /// there is no such node. Instances that run keep what they were placed on.
    pub async fn set_offer(&self, node: &NodeId, known: Option<u64>, terms: &Terms) -> Result<Option<u64>> {
        const ATTEMPT: &str = "set an offer";
        let mut tx = self.begin(ATTEMPT).await?;
        // The lock of whoever places there: a placement is by the old offer or by the new one.
        tx.lock(sql(ATTEMPT, "SELECT id FROM nodes WHERE id = $1 FOR NO KEY UPDATE").bind(node.as_str())).await?;
        let text =
            "SELECT n.id, COALESCE(o.version, 0) AS version FROM nodes n LEFT JOIN offers o ON o.node = n.id WHERE n.id = $1";
        let Some(row) = sql(ATTEMPT, text).bind(node.as_str()).optional(tx.on()).await? else { return Ok(None) };
        let before = Columns::new(&row, "offer of", "id").uint("version")?;
        if known.is_some_and(|known| known != before) {
            return Ok(None);
        }
        let text = "INSERT INTO offers (node, version, set_by, set_at_ms, cpus, memory_mib, disk_mib, cpu_price, memory_price, \
                    disk_price, gpu_price, place, labels, levels, ends_at_ms, withdrawn_at_ms) \
                    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) \
                    ON CONFLICT (node) DO UPDATE SET version = excluded.version, set_by = excluded.set_by, \
                    set_at_ms = excluded.set_at_ms, cpus = excluded.cpus, memory_mib = excluded.memory_mib, \
                    disk_mib = excluded.disk_mib, cpu_price = excluded.cpu_price, memory_price = excluded.memory_price, \
                    disk_price = excluded.disk_price, gpu_price = excluded.gpu_price, place = excluded.place, \
                    labels = excluded.labels, levels = excluded.levels, ends_at_ms = excluded.ends_at_ms, \
                    withdrawn_at_ms = excluded.withdrawn_at_ms";
        let write = sql(ATTEMPT, text).bind(node.as_str()).bind(before + 1).bind(&terms.set_by).bind(terms.set_at_ms);
        let write = write.bind(terms.cpus).bind(terms.memory_mib).bind(terms.disk_mib);
        let write = write.bind(terms.cpu_price).bind(terms.memory_price).bind(terms.disk_price).bind(terms.gpu_price);
        let write =
            write.bind(&terms.place).bind(serde_json::to_string(&terms.labels).expect("a map of texts always serialises"));
        let levels = terms.levels.as_ref().map(|levels| serde_json::to_string(levels).expect("texts always serialise"));
        let write = write.bind(levels).bind(terms.ends_at_ms).bind(terms.withdrawn_at_ms);
        write.run(tx.on()).await?;
        tx.commit().await?;
        Ok(Some(before + 1))
    }

    /// Takes an offer back: no new work goes to the node. `false` when there is none, or it was taken back before.
    pub async fn withdraw_offer(&self, node: &NodeId, now_ms: u64) -> Result<bool> {
        const ATTEMPT: &str = "withdraw an offer";
        let mut tx = self.begin(ATTEMPT).await?;
        tx.lock(sql(ATTEMPT, "SELECT id FROM nodes WHERE id = $1 FOR NO KEY UPDATE").bind(node.as_str())).await?;
        let text = "UPDATE offers SET withdrawn_at_ms = $1, version = version + 1 WHERE node = $2 AND withdrawn_at_ms IS NULL";
        let changed = sql(ATTEMPT, text).bind(now_ms).bind(node.as_str()).run(tx.on()).await?;
        tx.commit().await?;
        Ok(changed > 0)
    }
}

/// The offer in a row of nodes with their offers.
pub(super) fn terms(columns: &Columns<'_>) -> Result<Option<Terms>> {
    let Some(version) = columns.opt_uint("version")? else { return Ok(None) };
    Ok(Some(Terms {
        version,
        set_by: columns.text("set_by")?,
        set_at_ms: columns.uint("set_at_ms")?,
        cpus: columns.opt_uint("cpus")?,
        memory_mib: columns.opt_uint("memory_mib")?,
        disk_mib: columns.opt_uint("disk_mib")?,
        cpu_price: columns.uint("cpu_price")?,
        memory_price: columns.uint("memory_price")?,
        disk_price: columns.uint("disk_price")?,
        gpu_price: columns.uint("gpu_price")?,
        place: columns.text("place")?,
        labels: columns.json("labels")?,
        levels: match columns.opt_text("levels")? {
            Some(_) => Some(columns.json("levels")?),
            None => None,
        },
        ends_at_ms: columns.opt_uint("ends_at_ms")?,
        withdrawn_at_ms: columns.opt_uint("withdrawn_at_ms")?,
    }))
}
