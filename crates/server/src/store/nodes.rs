//! Nodes: TPM identity, certificate, inventory, trust.

use casemate_lifecycle::NodeId;
use casemate_verifier::ImaMemory;
use sqlx::sqlite::SqliteRow;

use super::{
    Result, Store, failed,
    rows::{Columns, chain_to_text, int},
};

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
}

impl Store {
    /// Inserts a node, or replaces what changes with a new appraisal.
    pub async fn upsert_node(&self, node: &Node) -> Result<()> {
        sqlx::query(
            "INSERT INTO nodes (id, ek_digest, ek_chain, node_chain, ak_public, ak_name, receipt_key, certificate_ends_ms, \
             inventory, trust, trust_detail, simulated, agent_version, enrolled_at_ms, last_seen_ms, ima_memory) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
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
        .bind(int(node.certificate_ends_ms))
        .bind(node.inventory.to_string())
        .bind(node.trust.as_str())
        .bind(&node.trust_detail)
        .bind(i64::from(node.simulated))
        .bind(&node.agent_version)
        .bind(int(node.enrolled_at_ms))
        .bind(int(node.last_seen_ms))
        .bind(node.ima.as_ref().map(|memory| serde_json::to_string(memory).expect("a memory is plain data")))
        .execute(&self.writer)
        .await
        .map_err(failed("store a node"))?;
        Ok(())
    }

    /// The node with this id.
    pub async fn node(&self, id: &NodeId) -> Result<Option<Node>> {
        let row = sqlx::query("SELECT * FROM nodes WHERE id = ?")
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await
            .map_err(failed("read a node"))?;
        row.as_ref().map(from_row).transpose()
    }

    /// All nodes, by id.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        let rows = sqlx::query("SELECT * FROM nodes ORDER BY id").fetch_all(&self.readers).await;
        rows.map_err(failed("read the nodes"))?.iter().map(from_row).collect()
    }

    /// Notes the node's last message, and its inventory where it came along.
    pub async fn node_seen(&self, id: &NodeId, now_ms: u64, inventory: Option<&serde_json::Value>) -> Result<()> {
        sqlx::query("UPDATE nodes SET last_seen_ms = ?, inventory = COALESCE(?, inventory) WHERE id = ?")
            .bind(int(now_ms))
            .bind(inventory.map(serde_json::Value::to_string))
            .bind(id.as_str())
            .execute(&self.writer)
            .await
            .map_err(failed("note a node's message"))?;
        Ok(())
    }

    /// Takes the trust from a node.
    pub async fn distrust_node(&self, id: &NodeId, detail: &str) -> Result<()> {
        sqlx::query("UPDATE nodes SET trust = 'untrusted', trust_detail = ? WHERE id = ?")
            .bind(detail)
            .bind(id.as_str())
            .execute(&self.writer)
            .await
            .map_err(failed("take the trust from a node"))?;
        Ok(())
    }
}

fn from_row(row: &SqliteRow) -> Result<Node> {
    let columns = Columns::new(row, "node", "id");
    let trust = match columns.text("trust")?.as_str() {
        "trusted" => Trust::Trusted,
        _ => Trust::Untrusted,
    };
    Ok(Node {
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
