//! What a verifier keeps: challenges, policies by name, the revocation list in force.

use casemate_verifier::{UnixTime, rego::NamedPolicy};

use super::{
    Result, Store,
    rows::Columns,
    sql::{Row, sql},
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
        let done = sql(
            "store a challenge",
            "INSERT INTO appraisal_challenges (id, nonce, subject, expires_at_ms, used) SELECT $1, $2, $3, $4, 0 \
             WHERE (SELECT COUNT(*) FROM appraisal_challenges WHERE used = 0 AND expires_at_ms > $5) < $6",
        )
        .bind(id)
        .bind(&nonce[..])
        .bind(subject)
        .bind(times.expires_at_ms)
        .bind(times.now_ms)
        .bind(most)
        .run(self.write())
        .await?;
        Ok(done == 1)
    }

    /// Uses a challenge up.
    pub async fn take_challenge(&self, id: &str, subject: &str, now_ms: u64) -> Result<Challenge> {
        const ATTEMPT: &str = "use a challenge";
        let mut tx = self.begin(ATTEMPT).await?;
        let row = sql(ATTEMPT, "SELECT id, nonce, expires_at_ms, used FROM appraisal_challenges WHERE id = $1 AND subject = $2")
            .bind(id)
            .bind(subject)
            .optional(tx.on())
            .await?;
        let Some(row) = row else { return Ok(Challenge::Unknown) };
        let columns = Columns::new(&row, "challenge", "id");
        if columns.uint("used")? != 0 {
            return Ok(Challenge::Used);
        }
        if columns.uint("expires_at_ms")? <= now_ms {
            return Ok(Challenge::Expired);
        }
        let nonce = columns.bytes32("nonce")?;
        // Of two at the same time one finds it unused.
        let take = sql(ATTEMPT, "UPDATE appraisal_challenges SET used = 1 WHERE id = $1 AND used = 0").bind(id);
        let taken = take.run(tx.on()).await? == 1;
        tx.commit().await?;
        Ok(if taken { Challenge::Taken(nonce) } else { Challenge::Used })
    }

    /// How many challenges could still be used.
    pub async fn outstanding_challenges(&self, now_ms: u64) -> Result<u64> {
        let row =
            sql("count challenges", "SELECT COUNT(*) AS count FROM appraisal_challenges WHERE used = 0 AND expires_at_ms > $1")
                .bind(now_ms)
                .optional(self.read())
                .await?;
        count(row)
    }

    /// Forgets challenges whose time was over at `before_ms`.
    pub async fn forget_challenges(&self, before_ms: u64) -> Result<()> {
        sql("forget challenges", "DELETE FROM appraisal_challenges WHERE expires_at_ms <= $1")
            .bind(before_ms)
            .run(self.write())
            .await?;
        Ok(())
    }

    /// All versions of a policy, oldest first.
    pub async fn policy_versions(&self, name: &str) -> Result<Vec<NamedPolicy>> {
        let rows = sql("read a policy", "SELECT * FROM appraisal_policies WHERE name = $1 ORDER BY version")
            .bind(name)
            .all(self.read())
            .await?;
        rows.iter().map(policy).collect()
    }

    /// How many policies there are.
    pub async fn policy_count(&self) -> Result<u64> {
        let row =
            sql("count policies", "SELECT COUNT(DISTINCT name) AS count FROM appraisal_policies").optional(self.read()).await?;
        count(row)
    }

    /// Adds a version; `false` when one with this number is there.
    pub async fn insert_policy(&self, policy: &NamedPolicy) -> Result<bool> {
        let done = sql(
            "store a policy",
            "INSERT INTO appraisal_policies (name, version, digest, created_at, text, previous) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT DO NOTHING",
        )
        .bind(&policy.name)
        .bind(policy.version)
        .bind(&policy.digest)
        .bind(policy.created_at.0)
        .bind(&policy.text)
        .bind(&policy.previous)
        .run(self.write())
        .await?;
        Ok(done == 1)
    }

    /// Replaces the revocation list, unless one with the same or a higher serial is there; `false` then.
    pub async fn replace_revocations(&self, serial: u64, file: &str) -> Result<bool> {
        let done = sql(
            "store a revocation list",
            "INSERT INTO appraisal_revocations (id, serial, file) VALUES (1, $1, $2) \
             ON CONFLICT (id) DO UPDATE SET serial = $1, file = $2 WHERE appraisal_revocations.serial < $1",
        )
        .bind(serial)
        .bind(file)
        .run(self.write())
        .await?;
        Ok(done == 1)
    }

    /// The list in force, if its serial is higher than the one that the caller knows.
    pub async fn revocations_after(&self, known: Option<u64>) -> Result<Option<(u64, String)>> {
        let text =
            "SELECT 'in force' AS name, serial, file FROM appraisal_revocations WHERE id = 1 AND ($1 IS NULL OR serial > $1)";
        let row = sql("look for a newer revocation list", text).bind(known).optional(self.read()).await?;
        let Some(row) = row else { return Ok(None) };
        let columns = Columns::new(&row, "revocation list", "name");
        Ok(Some((columns.uint("serial")?, columns.text("file")?)))
    }

    /// Serial and file of the revocation list in force.
    pub async fn revocations(&self) -> Result<Option<(u64, String)>> {
        let row =
            sql("read the revocation list", "SELECT 'in force' AS name, serial, file FROM appraisal_revocations WHERE id = 1")
                .optional(self.read())
                .await?;
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

fn count(row: Option<Row>) -> Result<u64> {
    row.as_ref().map_or(Ok(0), |row| Columns::new(row, "count", "name").uint("count"))
}

fn policy(row: &Row) -> Result<NamedPolicy> {
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
