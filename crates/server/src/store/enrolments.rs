//! Enrolments and renewals under way: the node may finish on another replica than it began on.

use casemate_lifecycle::NodeId;

use super::{
    Result, Store, maintenance,
    rows::{Columns, chain_to_text},
    sql::sql,
};

/// An enrolment that waits for its proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// SHA-256 of the bootstrap token.
    pub token: [u8; 32],
    /// SHA-256 of the secret that only the right TPM can open. The secret itself is in nobody's hands but the node's.
    pub secret_digest: [u8; 32],
    /// What the quote is to answer.
    pub nonce: [u8; 32],
    /// EK certificate chain, DER, leaf first.
    pub ek_chain: Vec<Vec<u8>>,
    /// The node.
    pub node: NodeId,
    /// TPMT_PUBLIC of its attestation key.
    pub ak_public: Vec<u8>,
    /// Its certificate request.
    pub csr: Vec<u8>,
    /// Ed25519 key of its receipts.
    pub receipt_key: [u8; 32],
    /// Version of its agent.
    pub agent_version: String,
    /// Its end.
    pub expires_at_ms: u64,
}

impl Store {
    /// Keeps an enrolment, unless `most` are under way; `false` then.
    pub async fn begin_enrolment(&self, name: &str, new: &Enrolment, now_ms: u64, most: u64) -> Result<bool> {
        let text = "INSERT INTO enrolments (name, token, secret_digest, nonce, ek_chain, node, ak_public, csr, receipt_key, \
                    agent_version, expires_at_ms) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11 \
                    WHERE (SELECT COUNT(*) FROM enrolments WHERE expires_at_ms > $12) < $13";
        let insert = sql("store an enrolment", text)
            .bind(name)
            .bind(&new.token)
            .bind(&new.secret_digest)
            .bind(&new.nonce)
            .bind(chain_to_text(&new.ek_chain))
            .bind(new.node.as_str())
            .bind(&new.ak_public)
            .bind(&new.csr)
            .bind(&new.receipt_key)
            .bind(&new.agent_version)
            .bind(new.expires_at_ms)
            .bind(now_ms)
            .bind(most);
        Ok(insert.run(self.write()).await? == 1)
    }

    /// Takes an enrolment: whatever becomes of it, it is gone.
    pub async fn take_enrolment(&self, name: &str, now_ms: u64) -> Result<Option<Enrolment>> {
        let take = sql("take an enrolment", "DELETE FROM enrolments WHERE name = $1 RETURNING *").bind(name);
        let Some(row) = take.optional(self.write()).await? else { return Ok(None) };
        let columns = Columns::new(&row, "enrolment", "name");
        let enrolment = Enrolment {
            token: columns.bytes32("token")?,
            secret_digest: columns.bytes32("secret_digest")?,
            nonce: columns.bytes32("nonce")?,
            ek_chain: columns.chain("ek_chain")?,
            node: columns.parsed("node")?,
            ak_public: columns.blob("ak_public")?,
            csr: columns.blob("csr")?,
            receipt_key: columns.bytes32("receipt_key")?,
            agent_version: columns.text("agent_version")?,
            expires_at_ms: columns.uint("expires_at_ms")?,
        };
        Ok(Some(enrolment).filter(|enrolment| enrolment.expires_at_ms > now_ms))
    }

    /// Keeps a node's nonce for its renewal; an older one is worth nothing from now on.
    pub async fn begin_renewal(&self, node: &NodeId, nonce: &[u8; 32], expires_at_ms: u64) -> Result<()> {
        let text = "INSERT INTO renewals (node, nonce, expires_at_ms) VALUES ($1, $2, $3) \
                    ON CONFLICT (node) DO UPDATE SET nonce = excluded.nonce, expires_at_ms = excluded.expires_at_ms";
        let mut tx = self.begin("store a renewal").await?;
        sql("store a renewal", text).bind(node.as_str()).bind(nonce).bind(expires_at_ms).run(tx.on()).await?;
        maintenance::drawn(&mut tx, node, nonce).await?;
        tx.commit().await
    }

    /// Takes a node's nonce: it is good for one try.
    pub async fn take_renewal(&self, node: &NodeId, now_ms: u64) -> Result<Option<[u8; 32]>> {
        let take = sql("take a renewal", "DELETE FROM renewals WHERE node = $1 RETURNING *").bind(node.as_str());
        let Some(row) = take.optional(self.write()).await? else { return Ok(None) };
        let columns = Columns::new(&row, "renewal of", "node");
        let nonce = columns.bytes32("nonce")?;
        Ok((columns.uint("expires_at_ms")? > now_ms).then_some(nonce))
    }

    /// Forgets what nobody finished.
    pub async fn forget_enrolments(&self, now_ms: u64) -> Result<()> {
        sql("forget enrolments", "DELETE FROM enrolments WHERE expires_at_ms <= $1").bind(now_ms).run(self.write()).await?;
        sql("forget renewals", "DELETE FROM renewals WHERE expires_at_ms <= $1").bind(now_ms).run(self.write()).await.map(drop)
    }
}
