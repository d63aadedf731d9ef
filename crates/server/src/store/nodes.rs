//! Nodes: TPM identity, certificate, inventory, trust.

use super::{
    Fence, Result, Role, Store,
    rows::{Columns, chain_to_text},
    sql::{Row, sql, timed},
};
use casemate_lifecycle::NodeId;
use casemate_verifier::ImaMemory;

/// Whether a node's last appraisal passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It did.
    Trusted,
    /// It did not.
    Untrusted,
}

impl Trust {
    /// The name in the store and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Untrusted => "untrusted",
        }
    }
}

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its id, derived from its endorsement key.
    pub id: NodeId,
    /// SHA-256 of its EK certificate.
    pub ek_digest: [u8; 32],
    /// EK certificate chain, DER, leaf first.
    pub ek_chain: Vec<Vec<u8>>,
    /// Its current certificate and what is above, DER, leaf first.
    pub node_chain: Vec<Vec<u8>>,
    /// TPMT_PUBLIC of its attestation key.
    pub ak_public: Vec<u8>,
    /// TPM name of its attestation key.
    pub ak_name: Vec<u8>,
    /// Ed25519 key of its receipts.
    pub receipt_key: [u8; 32],
    /// End of the current certificate.
    pub certificate_ends_ms: u64,
    /// As it reported.
    pub inventory: serde_json::Value,
    /// The result of the last appraisal.
    pub trust: Trust,
    /// Why.
    pub trust_detail: String,
    /// Whether the trust rests on a simulator root.
    pub simulated: bool,
    /// How far its list of files was appraised, where it was.
    pub ima: Option<ImaMemory>,
    /// Version of its agent.
    pub agent_version: String,
    /// Since when it has its keys.
    pub enrolled_at_ms: u64,
    /// Last message.
    pub last_seen_ms: u64,
    /// Why no work goes there, whatever the last appraisal said. Not written with the rest.
    pub suspended: Option<String>,
    /// Whether its certificate is worth nothing any more. Not written with the rest.
    pub revoked: bool,
    /// The account that it belongs to; the platform's own without one. Not written with the rest.
    pub hoster: Option<String>,
    /// Whether it gets no new instances. Not written with the rest.
    pub drain: Drain,
}

/// Whether a node is on its way out of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// It gets work.
    No,
    /// Its hoster wants no new work there; what it has may come to its end.
    ByHoster,
    /// An operator wants that, and ends what still runs at this time.
    ByOperator(Option<u64>),
}

impl Drain {
    /// When what still runs is ended.
    pub fn until_ms(self) -> Option<u64> {
        match self {
            Self::No | Self::ByHoster => None,
            Self::ByOperator(until_ms) => until_ms,
        }
    }

    fn by(self) -> Option<&'static str> {
        match self {
            Self::No => None,
            Self::ByHoster => Some("hoster"),
            Self::ByOperator(_) => Some("operator"),
        }
    }
}

impl Store {
    /// Inserts a node, or replaces what changes with a new appraisal.
    pub async fn upsert_node(&self, node: &Node) -> Result<()> {
        sql(
            "store a node",
            "INSERT INTO nodes (id, ek_digest, ek_chain, node_chain, ak_public, ak_name, receipt_key, certificate_ends_ms, \
             inventory, trust, trust_detail, simulated, agent_version, enrolled_at_ms, last_seen_ms, ima_memory) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) \
             ON CONFLICT (id) DO UPDATE SET ek_digest = excluded.ek_digest, ek_chain = excluded.ek_chain, \
             node_chain = excluded.node_chain, ak_public = excluded.ak_public, ak_name = excluded.ak_name, \
             receipt_key = excluded.receipt_key, certificate_ends_ms = excluded.certificate_ends_ms, \
             inventory = excluded.inventory, trust = excluded.trust, trust_detail = excluded.trust_detail, \
             simulated = excluded.simulated, agent_version = excluded.agent_version, enrolled_at_ms = excluded.enrolled_at_ms, \
             last_seen_ms = excluded.last_seen_ms, ima_memory = excluded.ima_memory",
        )
        .bind(node.id.as_str())
        .bind(&node.ek_digest[..])
        .bind(chain_to_text(&node.ek_chain))
        .bind(chain_to_text(&node.node_chain))
        .bind(&node.ak_public)
        .bind(&node.ak_name)
        .bind(&node.receipt_key[..])
        .bind(node.certificate_ends_ms)
        .bind(node.inventory.to_string())
        .bind(node.trust.as_str())
        .bind(&node.trust_detail)
        .bind(i64::from(node.simulated))
        .bind(&node.agent_version)
        .bind(node.enrolled_at_ms)
        .bind(node.last_seen_ms)
        .bind(node.ima.as_ref().map(|memory| serde_json::to_string(memory).expect("a memory is plain data")))
        .run(self.write())
        .await?;
        Ok(())
    }

    /// The node with this id.
    pub async fn node(&self, id: &NodeId) -> Result<Option<Node>> {
        let row = sql("read a node", "SELECT * FROM nodes WHERE id = $1").bind(id.as_str()).optional(self.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// All nodes, by id.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        let rows = sql("read the nodes", "SELECT * FROM nodes ORDER BY id").all(self.read()).await;
        rows?.iter().map(from_row).collect()
    }

    /// Notes the node's last message by the database's clock, and its inventory where it came along, in a session that nobody took
    /// over.
    pub async fn node_seen(&self, id: &NodeId, fence: &Fence, inventory: Option<&serde_json::Value>) -> Result<()> {
        let text = timed!("UPDATE nodes SET last_seen_ms = ", ", inventory = COALESCE($1, inventory) WHERE id = $2");
        let mut tx = self.begin("note a node's message").await?;
        fence.hold(&mut tx).await?;
        let update = sql("note a node's message", text).bind(inventory.map(serde_json::Value::to_string)).bind(id.as_str());
        update.run(tx.on()).await?;
        tx.commit().await
    }

    /// Makes a node a hoster's; `false` when it is another one's.
    pub async fn claim_node(&self, id: &NodeId, hoster: &str) -> Result<bool> {
        let text = "UPDATE nodes SET hoster = $1 WHERE id = $2 AND (hoster IS NULL OR hoster = $1)";
        Ok(sql("make a node a hoster's", text).bind(hoster).bind(id.as_str()).run(self.write()).await? > 0)
    }

    /// Gives a node to a hoster, or to the platform, whoever had it; `false` when there is no such node.
    pub async fn give_node(&self, id: &NodeId, hoster: Option<&str>) -> Result<bool> {
        let update = sql("give a node to a hoster", "UPDATE nodes SET hoster = $1 WHERE id = $2");
        Ok(update.bind(hoster).bind(id.as_str()).run(self.write()).await? > 0)
    }

    /// Begins, changes or ends the drain of a node; `false` when an operator has drained it and `drain` is not one's.
    pub async fn drain_node(&self, id: &NodeId, drain: Drain, by: Role) -> Result<bool> {
        let text = "UPDATE nodes SET drained_by = $1, drain_until_ms = $2 \
                    WHERE id = $3 AND (drained_by IS NULL OR drained_by = 'hoster' OR $4 = 'operator')";
        let update = sql("drain a node", text).bind(drain.by()).bind(drain.until_ms()).bind(id.as_str());
        Ok(update.bind(by.as_str()).run(self.write()).await? > 0)
    }

    /// Takes the trust from a node.
    pub async fn distrust_node(&self, id: &NodeId, detail: &str) -> Result<()> {
        sql("take the trust from a node", "UPDATE nodes SET trust = 'untrusted', trust_detail = $1 WHERE id = $2")
            .bind(detail)
            .bind(id.as_str())
            .run(self.write())
            .await?;
        Ok(())
    }
}

fn from_row(row: &Row) -> Result<Node> {
    let columns = Columns::new(row, "node", "id");
    let trust = match columns.text("trust")?.as_str() {
        "trusted" => Trust::Trusted,
        _ => Trust::Untrusted,
    };
    Ok(Node {
        suspended: columns.opt_text("suspended")?,
        revoked: columns.uint("revoked")? != 0,
        hoster: columns.opt_text("hoster")?,
        drain: match columns.opt_text("drained_by")?.as_deref() {
            None => Drain::No,
            Some("hoster") => Drain::ByHoster,
            Some(_) => Drain::ByOperator(columns.opt_uint("drain_until_ms")?),
        },
        id: columns.parsed("id")?,
        ek_digest: columns.bytes32("ek_digest")?,
        ek_chain: columns.chain("ek_chain")?,
        node_chain: columns.chain("node_chain")?,
        ak_public: columns.blob("ak_public")?,
        ak_name: columns.blob("ak_name")?,
        receipt_key: columns.bytes32("receipt_key")?,
        certificate_ends_ms: columns.uint("certificate_ends_ms")?,
        inventory: columns.json("inventory")?,
        trust,
        trust_detail: columns.text("trust_detail")?,
        simulated: columns.uint("simulated")? != 0,
        ima: match columns.opt_text("ima_memory")? {
            Some(_) => Some(columns.json("ima_memory")?),
            None => None,
        },
        agent_version: columns.text("agent_version")?,
        enrolled_at_ms: columns.uint("enrolled_at_ms")?,
        last_seen_ms: columns.uint("last_seen_ms")?,
    })
}
