//! What a verifier keeps: challenges, policies by name, the revocation list in force.

use casemate_verifier::{UnixTime, rego::NamedPolicy};
use sqlx::{Row as _, sqlite::SqliteRow};

use super::{
    Result, Store, failed,
    rows::{Columns, int},
};

/// What became of a challenge that somebody wants to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// It was unused and in time; now it is used.
    Taken([u8; 32]),
    /// There is none with this id for this caller, or it was forgotten after its end.
    Unknown,
    /// It was used before.
    Used,
    /// Its time is over.
    Expired,
}

impl Store {
    /// Keeps a challenge, unless `most` are outstanding; `false` then.
    pub async fn insert_challenge(
        &self,
        id: &str,
        nonce: &[u8; 32],
        subject: &str,
        times: ChallengeTimes,
        most: u64,
    ) -> Result<bool> {
        let done = sqlx::query(
            "INSERT INTO appraisal_challenges (id, nonce, subject, expires_at_ms, used) SELECT ?, ?, ?, ?, 0 \
             WHERE (SELECT COUNT(*) FROM appraisal_challenges WHERE used = 0 AND expires_at_ms > ?) < ?",
        )
        .bind(id)
        .bind(&nonce[..])
        .bind(subject)
        .bind(int(times.expires_at_ms))
        .bind(int(times.now_ms))
        .bind(int(most))
        .execute(&self.writer)
        .await
        .map_err(failed("store a challenge"))?;
        Ok(done.rows_affected() == 1)
    }

    /// Uses a challenge up.
    pub async fn take_challenge(&self, id: &str, subject: &str, now_ms: u64) -> Result<Challenge> {
        const ATTEMPT: &str = "use a challenge";
        let mut tx = self.begin(ATTEMPT).await?;
        let row = sqlx::query("SELECT id, nonce, expires_at_ms, used FROM appraisal_challenges WHERE id = ? AND subject = ?")
            .bind(id)
            .bind(subject)
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed(ATTEMPT))?;
        let Some(row) = row else { return Ok(Challenge::Unknown) };
        let columns = Columns::new(&row, "challenge", "id");
        if columns.uint("used")? != 0 {
            return Ok(Challenge::Used);
        }
        if columns.uint("expires_at_ms")? <= now_ms {
            return Ok(Challenge::Expired);
        }
        let nonce = columns.bytes32("nonce")?;
        sqlx::query("UPDATE appraisal_challenges SET used = 1 WHERE id = ?")
            .bind(id)
            .execute(&mut *tx)
            .await
            .map_err(failed(ATTEMPT))?;
        tx.commit().await.map_err(failed(ATTEMPT))?;
        Ok(Challenge::Taken(nonce))
    }

    /// How many challenges could still be used.
    pub async fn outstanding_challenges(&self, now_ms: u64) -> Result<u64> {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM appraisal_challenges WHERE used = 0 AND expires_at_ms > ?")
            .bind(int(now_ms))
            .fetch_one(&self.readers)
            .await
            .map_err(failed("count challenges"))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Forgets challenges whose time was over at `before_ms`.
    pub async fn forget_challenges(&self, before_ms: u64) -> Result<()> {
        sqlx::query("DELETE FROM appraisal_challenges WHERE expires_at_ms <= ?")
            .bind(int(before_ms))
            .execute(&self.writer)
            .await
            .map_err(failed("forget challenges"))?;
        Ok(())
    }

    /// All versions of a policy, oldest first.
    pub async fn policy_versions(&self, name: &str) -> Result<Vec<NamedPolicy>> {
        let rows = sqlx::query("SELECT * FROM appraisal_policies WHERE name = ? ORDER BY version")
            .bind(name)
            .fetch_all(&self.readers)
            .await
            .map_err(failed("read a policy"))?;
        rows.iter().map(policy).collect()
    }

    /// How many policies there are.
    pub async fn policy_count(&self) -> Result<u64> {
        let row = sqlx::query("SELECT COUNT(DISTINCT name) AS count FROM appraisal_policies")
            .fetch_one(&self.readers)
            .await
            .map_err(failed("count policies"))?;
        Ok(row.try_get::<i64, _>("count").ok().and_then(|count| u64::try_from(count).ok()).unwrap_or(0))
    }

    /// Adds a version; `false` when one with this number is there.
    pub async fn insert_policy(&self, policy: &NamedPolicy) -> Result<bool> {
        let done = sqlx::query(
            "INSERT INTO appraisal_policies (name, version, digest, created_at, text, previous) VALUES (?, ?, ?, ?, ?, ?) \
             ON CONFLICT DO NOTHING",
        )
        .bind(&policy.name)
        .bind(int(policy.version))
        .bind(&policy.digest)
        .bind(int(policy.created_at.0))
        .bind(&policy.text)
        .bind(&policy.previous)
        .execute(&self.writer)
        .await
        .map_err(failed("store a policy"))?;
        Ok(done.rows_affected() == 1)
    }

    /// Replaces the revocation list, unless one with the same or a higher serial is there; `false` then.
    pub async fn replace_revocations(&self, serial: u64, file: &str) -> Result<bool> {
        let done = sqlx::query(
            "INSERT INTO appraisal_revocations (id, serial, file) VALUES (1, ?1, ?2) \
             ON CONFLICT (id) DO UPDATE SET serial = ?1, file = ?2 WHERE serial < ?1",
        )
        .bind(int(serial))
        .bind(file)
        .execute(&self.writer)
        .await
        .map_err(failed("store a revocation list"))?;
        Ok(done.rows_affected() == 1)
    }

    /// Serial and file of the revocation list in force.
    pub async fn revocations(&self) -> Result<Option<(u64, String)>> {
        let row = sqlx::query("SELECT 'in force' AS name, serial, file FROM appraisal_revocations WHERE id = 1")
            .fetch_optional(&self.readers)
            .await
            .map_err(failed("read the revocation list"))?;
        let Some(row) = row else { return Ok(None) };
        let columns = Columns::new(&row, "revocation list", "name");
        Ok(Some((columns.uint("serial")?, columns.text("file")?)))
    }
}

/// When a challenge is made, and until when it can be used.
#[derive(Debug, Clone, Copy)]
pub struct ChallengeTimes {
    /// Now.
    pub now_ms: u64,
    /// Its end.
    pub expires_at_ms: u64,
}

fn policy(row: &SqliteRow) -> Result<NamedPolicy> {
    let columns = Columns::new(row, "policy", "name");
    Ok(NamedPolicy {
        name: columns.text("name")?,
        version: columns.uint("version")?,
        digest: columns.text("digest")?,
        created_at: UnixTime(columns.uint("created_at")?),
        text: columns.text("text")?,
        previous: columns.text("previous")?,
    })
}
