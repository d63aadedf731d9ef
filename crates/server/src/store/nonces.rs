//! Nonces that were used: each is accepted once.

use super::{Result, Store, failed, rows::int};

impl Store {
    /// Uses a nonce up; `false` when it was used before.
    pub async fn use_nonce(&self, nonce: &[u8; 32], expires_at_ms: u64) -> Result<bool> {
        let done = sqlx::query("INSERT INTO nonces (nonce, expires_at_ms) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(&nonce[..])
            .bind(int(expires_at_ms))
            .execute(&self.writer)
            .await
            .map_err(failed("use a nonce"))?;
        Ok(done.rows_affected() == 1)
    }

    /// Forgets nonces whose time is over.
    pub async fn forget_expired_nonces(&self, now_ms: u64) -> Result<()> {
        sqlx::query("DELETE FROM nonces WHERE expires_at_ms <= ?")
            .bind(int(now_ms))
            .execute(&self.writer)
            .await
            .map_err(failed("forget expired nonces"))?;
        Ok(())
    }
}
