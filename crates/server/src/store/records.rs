//! Sealed records and receipts.

use casemate_lifecycle::InstanceId;

use super::{
    Instance, NewEvent, Result, Store, failed,
    instances::change,
    rows::{Columns, chain_to_text, int},
};

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
        seq: u64,
        sealed: &[Vec<u8>],
        max_bytes: u64,
    ) -> Result<Option<Appended>> {
        const ATTEMPT: &str = "store records";
        let mut tx = self.begin(ATTEMPT).await?;
        let row = sqlx::query("SELECT id, next_record, record_bytes FROM instances WHERE id = ?")
            .bind(id.as_str())
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed(ATTEMPT))?;
        let Some(row) = row else { return Ok(None) };
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
            sqlx::query("INSERT INTO records (instance, seq, sealed) VALUES (?, ?, ?)")
                .bind(id.as_str())
                .bind(int(number))
                .bind(record)
                .execute(&mut *tx)
                .await
                .map_err(failed(ATTEMPT))?;
            next += 1;
        }
        sqlx::query("UPDATE instances SET next_record = ?, record_bytes = ? WHERE id = ?")
            .bind(int(next))
            .bind(int(bytes))
            .bind(id.as_str())
            .execute(&mut *tx)
            .await
            .map_err(failed(ATTEMPT))?;
        tx.commit().await.map_err(failed(ATTEMPT))?;
        Ok(Some(Appended::Next(next)))
    }

    /// Records from number `from` on, at most `max_bytes` in all but at least one.
    pub async fn records(&self, id: &InstanceId, from: u64, max_bytes: usize) -> Result<Vec<Vec<u8>>> {
        use futures::TryStreamExt as _;
        let mut rows = sqlx::query("SELECT instance, sealed FROM records WHERE instance = ? AND seq >= ? ORDER BY seq")
            .bind(id.as_str())
            .bind(int(from))
            .fetch(&self.readers);
        let (mut out, mut bytes) = (Vec::new(), 0);
        while let Some(row) = rows.try_next().await.map_err(failed("read records"))? {
            let sealed = Columns::new(&row, "record of", "instance").blob("sealed")?;
            bytes += sealed.len();
            if bytes > max_bytes && !out.is_empty() {
                break;
            }
            out.push(sealed);
        }
        Ok(out)
    }

    /// Stores a receipt together with what it means for the instance; a second one changes nothing.
    pub async fn store_receipt(
        &self,
        id: &InstanceId,
        receipt: &StoredReceipt,
        now_ms: u64,
        edit: impl FnOnce(&mut Instance, &mut Vec<NewEvent>),
    ) -> Result<()> {
        const ATTEMPT: &str = "store a receipt";
        let mut tx = self.begin(ATTEMPT).await?;
        sqlx::query("INSERT INTO receipts (instance, body, signature, node_chain) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(id.as_str())
            .bind(&receipt.body)
            .bind(&receipt.signature)
            .bind(chain_to_text(&receipt.node_chain))
            .execute(&mut *tx)
            .await
            .map_err(failed(ATTEMPT))?;
        change(&mut tx, id, now_ms, edit).await?;
        tx.commit().await.map_err(failed(ATTEMPT))
    }

    /// The receipt of an instance.
    pub async fn receipt(&self, id: &InstanceId) -> Result<Option<StoredReceipt>> {
        let row = sqlx::query("SELECT * FROM receipts WHERE instance = ?")
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await
            .map_err(failed("read a receipt"))?;
        let Some(row) = row else { return Ok(None) };
        let columns = Columns::new(&row, "receipt of", "instance");
        Ok(Some(StoredReceipt {
            body: columns.text("body")?,
            signature: columns.blob("signature")?,
            node_chain: columns.chain("node_chain")?,
        }))
    }
}
