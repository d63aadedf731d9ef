//! Nonces that were used: each is accepted once.

use super::{Result, Store, sql::sql};

impl Store {
    /// Uses a nonce up; `false` when it was used before.
    pub async fn use_nonce(&self, nonce: &[u8; 32], expires_at_ms: u64) -> Result<bool> {
        let done = sql("use a nonce", "INSERT INTO nonces (nonce, expires_at_ms) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(&nonce[..])
            .bind(expires_at_ms)
            .run(self.write())
            .await?;
        Ok(done == 1)
    }

    /// Forgets nonces whose time is over.
    pub async fn forget_expired_nonces(&self, now_ms: u64) -> Result<()> {
        sql("forget expired nonces", "DELETE FROM nonces WHERE expires_at_ms <= $1").bind(now_ms).run(self.write()).await?;
        Ok(())
    }
}
