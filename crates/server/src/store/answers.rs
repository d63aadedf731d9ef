//! Answers to requests with an idempotency key. They are sealed by whoever writes them: some hold a secret that is shown once.

use super::{Result, Store, rows::Columns, sql::sql};

/// A request with a key.
#[derive(Debug, Clone, Copy)]
pub struct Keyed<'a> {
    /// Id of the token that asks.
    pub token: &'a str,
    /// SHA-256 of the key.
    pub key: &'a [u8; 32],
    /// SHA-256 of method, path and body.
    pub request: &'a [u8; 32],
    /// Random; names this attempt.
    pub attempt: &'a [u8; 16],
}

/// What is known of a request with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Earlier {
    /// Nothing: it is the caller's to do.
    Nothing,
    /// It was done, with this answer.
    Answered {
        /// HTTP's status.
        status: u16,
        /// The answer.
        sealed: Vec<u8>,
    },
    /// Somebody does it at this moment.
    UnderWay,
    /// The key was used for another request.
    KeyTaken,
}

impl Store {
    /// Takes a request, unless it was taken before. One that was begun before `abandoned_ms` and has no answer is nobody's.
    pub async fn take_request(&self, keyed: Keyed<'_>, now_ms: u64, abandoned_ms: u64) -> Result<Earlier> {
        let text = "INSERT INTO answers (token, key_digest, request_digest, attempt, begun_at_ms) VALUES ($1, $2, $3, $4, $5) \
                    ON CONFLICT (token, key_digest) DO UPDATE SET attempt = excluded.attempt, begun_at_ms = excluded.begun_at_ms \
                    WHERE answers.status IS NULL AND answers.begun_at_ms < $6 AND answers.request_digest = excluded.request_digest";
        let insert = sql(ATTEMPT, text).bind(keyed.token).bind(keyed.key).bind(keyed.request).bind(&keyed.attempt[..]);
        if insert.bind(now_ms).bind(abandoned_ms).run(self.write()).await? > 0 {
            return Ok(Earlier::Nothing);
        }
        // Read where it was written: a connection that reads may not have seen it yet.
        let find = sql(ATTEMPT, "SELECT * FROM answers WHERE token = $1 AND key_digest = $2").bind(keyed.token).bind(keyed.key);
        let Some(row) = find.optional(self.write()).await? else { return Ok(Earlier::UnderWay) };
        let columns = Columns::new(&row, "answer for", "token");
        if columns.bytes32("request_digest")? != *keyed.request {
            return Ok(Earlier::KeyTaken);
        }
        let Some(status) = columns.opt_uint("status")? else { return Ok(Earlier::UnderWay) };
        let status = u16::try_from(status).map_err(|_| columns.bad("status"))?;
        Ok(Earlier::Answered { status, sealed: columns.blob("sealed")? })
    }

    /// Keeps the answer of this attempt, or without one lets the request be made anew.
    pub async fn end_request(&self, keyed: Keyed<'_>, answer: Option<(u16, &[u8])>) -> Result<()> {
        let end = match answer {
            Some((status, sealed)) => {
                let text = "UPDATE answers SET status = $4, sealed = $5 WHERE token = $1 AND key_digest = $2 AND attempt = $3";
                let update = sql(ATTEMPT, text).bind(keyed.token).bind(keyed.key).bind(&keyed.attempt[..]);
                update.bind(u32::from(status)).bind(sealed)
            }
            None => {
                let text = "DELETE FROM answers WHERE token = $1 AND key_digest = $2 AND attempt = $3 AND status IS NULL";
                sql(ATTEMPT, text).bind(keyed.token).bind(keyed.key).bind(&keyed.attempt[..])
            }
        };
        end.run(self.write()).await.map(drop)
    }

    /// Forgets requests that were begun before this.
    pub async fn forget_answers(&self, before_ms: u64) -> Result<()> {
        let forget = sql("forget answers", "DELETE FROM answers WHERE begun_at_ms < $1");
        forget.bind(before_ms).run(self.write()).await.map(drop)
    }
}

const ATTEMPT: &str = "look for an earlier request";
