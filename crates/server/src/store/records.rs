//! Sealed records and receipts.

use casemate_lifecycle::InstanceId;

use super::{
    Fence, Instance, NewEvent, Result, Store, Wake,
    instances::{change, lock},
    rows::{Columns, chain_to_text},
    sql::sql,
};

/// Records that are read at once.
const PAGE: u64 = 32;

/// A receipt that was found to be authentic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReceipt {
    /// The body as signed.
    pub body: String,
    /// Ed25519.
    pub signature: Vec<u8>,
    /// The node's chain at that time.
    pub node_chain: Vec<Vec<u8>>,
}

/// What became of records that a node sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Everything below this number is stored.
    Next(u64),
    /// The instance has more bytes of records than it may.
    TooMany,
}

impl Store {
    /// Appends records that begin at number `seq`; what is there already is skipped, what would leave a gap is not stored.
    pub async fn append_records(
        &self,
        id: &InstanceId,
        (seq, sealed): (u64, &[Vec<u8>]),
        max_bytes: u64,
        fence: &Fence,
    ) -> Result<Option<Appended>> {
        const ATTEMPT: &str = "store records";
        let mut tx = self.begin(ATTEMPT).await?;
        fence.hold(&mut tx).await?;
        lock(&mut tx, id).await?;
        let find = sql(ATTEMPT, "SELECT id, node, next_record, record_bytes FROM instances WHERE id = $1").bind(id.as_str());
        let Some(row) = find.optional(tx.on()).await? else { return Ok(None) };
        let columns = Columns::new(&row, "instance", "id");
        let (mut next, mut bytes) = (columns.uint("next_record")?, columns.uint("record_bytes")?);
        for (number, record) in (seq..).zip(sealed) {
            if number != next {
                continue;
            }
            bytes += record.len() as u64;
            if bytes > max_bytes {
                return Ok(Some(Appended::TooMany));
            }
            let insert = sql(ATTEMPT, "INSERT INTO records (instance, seq, sealed) VALUES ($1, $2, $3)");
            insert.bind(id.as_str()).bind(number).bind(record).run(tx.on()).await?;
            next += 1;
        }
        let update = sql(ATTEMPT, "UPDATE instances SET next_record = $1, record_bytes = $2 WHERE id = $3");
        update.bind(next).bind(bytes).bind(id.as_str()).run(tx.on()).await?;
        tx.wake(Wake::Instance(id.clone(), None)).await?;
        tx.commit().await?;
        Ok(Some(Appended::Next(next)))
    }

    /// Records from number `from` on, at most `max_bytes` in all but at least one.
    pub async fn records(&self, id: &InstanceId, from: u64, max_bytes: usize) -> Result<Vec<Vec<u8>>> {
        let (mut out, mut bytes, mut next) = (Vec::new(), 0, from);
        loop {
            let page = sql(
                "read records",
                "SELECT instance, sealed FROM records WHERE instance = $1 AND seq >= $2 ORDER BY seq LIMIT $3",
            );
            let rows = page.bind(id.as_str()).bind(next).bind(PAGE).all(self.read()).await?;
            for row in &rows {
                let sealed = Columns::new(row, "record of", "instance").blob("sealed")?;
                bytes += sealed.len();
                if bytes > max_bytes && !out.is_empty() {
                    return Ok(out);
                }
                out.push(sealed);
                next = next.saturating_add(1);
            }
            if (rows.len() as u64) < PAGE {
                return Ok(out);
            }
        }
    }

    /// Stores a receipt together with what it means for the instance; a second one changes nothing.
    pub async fn store_receipt(
        &self,
        id: &InstanceId,
        receipt: &StoredReceipt,
        now_ms: u64,
        fence: &Fence,
        edit: impl FnOnce(&mut Instance, &mut Vec<NewEvent>),
    ) -> Result<()> {
        const ATTEMPT: &str = "store a receipt";
        let mut tx = self.begin(ATTEMPT).await?;
        fence.hold(&mut tx).await?;
        // Before the receipt refers to it, so that two at the same time do not wait for each other.
        lock(&mut tx, id).await?;
        let insert =
            "INSERT INTO receipts (instance, body, signature, node_chain) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
        sql(ATTEMPT, insert)
            .bind(id.as_str())
            .bind(&receipt.body)
            .bind(&receipt.signature)
            .bind(chain_to_text(&receipt.node_chain))
            .run(tx.on())
            .await?;
        change(&mut tx, id, now_ms, edit).await?;
        tx.commit().await
    }

    /// The receipt of an instance.
    pub async fn receipt(&self, id: &InstanceId) -> Result<Option<StoredReceipt>> {
        let row =
            sql("read a receipt", "SELECT * FROM receipts WHERE instance = $1").bind(id.as_str()).optional(self.read()).await?;
        let Some(row) = row else { return Ok(None) };
        let columns = Columns::new(&row, "receipt of", "instance");
        Ok(Some(StoredReceipt {
            body: columns.text("body")?,
            signature: columns.blob("signature")?,
            node_chain: columns.chain("node_chain")?,
        }))
    }
}
