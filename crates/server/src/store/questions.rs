//! Questions to nodes whose session is on another replica, and their answers.
//!
//! The asker writes the question, the replica with the session asks the node and writes the answer. A session that breaks meanwhile
//! loses nothing: the node's next one finds the question.

use casemate_lifecycle::{InstanceId, NodeId};

use super::{
    Result, Store, Wake,
    rows::Columns,
    sql::{Row, sql, timed},
};

/// A request for evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its random name.
    pub id: String,
    /// Of which instance.
    pub instance: InstanceId,
    /// For which nonce.
    pub nonce: [u8; 32],
}

/// What the node said. Evidence is opaque here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// What kind of evidence.
    pub media_type: String,
    /// The evidence.
    pub evidence: Vec<u8>,
    /// Or the failed check and what was seen.
    pub failure: Option<(String, String)>,
}

impl Store {
    /// Asks a node; forgotten after `life_ms`.
    pub async fn ask_node(&self, node: &NodeId, question: &Question, life_ms: u64) -> Result<()> {
        let mut tx = self.begin(ASK).await?;
        let text = timed!("INSERT INTO questions (id, node, instance, nonce, expires_at_ms) VALUES ($1, $2, $3, $4, $5 + ", ")");
        sql(ASK, text)
            .bind(&question.id)
            .bind(node.as_str())
            .bind(question.instance.as_str())
            .bind(&question.nonce)
            .bind(life_ms)
            .run(tx.on())
            .await?;
        tx.wake(Wake::Question(node.clone())).await?;
        tx.commit().await
    }

    /// Questions to a node that wait for their answer.
    pub async fn questions(&self, node: &NodeId) -> Result<Vec<Question>> {
        let text = timed!(
            "SELECT id, instance, nonce FROM questions WHERE node = $1 AND media_type IS NULL AND failure_check IS NULL \
             AND expires_at_ms > ",
            " ORDER BY expires_at_ms, id LIMIT 256"
        );
        let rows = sql("read the questions to a node", text).bind(node.as_str()).all(self.read()).await?;
        rows.iter()
            .map(|row| {
                let columns = Columns::new(row, "question", "id");
                Ok(Question { id: columns.text("id")?, instance: columns.parsed("instance")?, nonce: columns.bytes32("nonce")? })
            })
            .collect()
    }

    /// Writes the answer down; the first one counts.
    pub async fn answer_question(&self, id: &str, answer: &Answer) -> Result<()> {
        let mut tx = self.begin(ANSWER).await?;
        let (check, detail) = answer.failure.as_ref().map(|(check, detail)| (check.as_str(), detail.as_str())).unzip();
        let media_type = answer.failure.is_none().then_some(answer.media_type.as_str());
        let text = "UPDATE questions SET media_type = $1, evidence = $2, failure_check = $3, failure_detail = $4 \
                    WHERE id = $5 AND media_type IS NULL AND failure_check IS NULL";
        let update = sql(ANSWER, text).bind(media_type).bind(&answer.evidence).bind(check).bind(detail).bind(id);
        update.run(tx.on()).await?;
        tx.wake(Wake::Answer(id.to_owned())).await?;
        tx.commit().await
    }

    /// The answer, once it is there; the question is forgotten with it.
    pub async fn take_answer(&self, id: &str) -> Result<Option<Answer>> {
        let text = "DELETE FROM questions WHERE id = $1 AND (media_type IS NOT NULL OR failure_check IS NOT NULL) RETURNING *";
        let row = sql("read an answer", text).bind(id).optional(self.write()).await?;
        row.as_ref().map(answer).transpose()
    }

    /// Forgets questions whose time was over at `before_ms`.
    pub async fn forget_questions(&self, before_ms: u64) -> Result<()> {
        sql("forget questions", "DELETE FROM questions WHERE expires_at_ms <= $1")
            .bind(before_ms)
            .run(self.write())
            .await
            .map(drop)
    }
}

const ASK: &str = "store a question to a node";
const ANSWER: &str = "store a node's answer";

fn answer(row: &Row) -> Result<Answer> {
    let columns = Columns::new(row, "answer", "id");
    let failure = match columns.opt_text("failure_check")? {
        Some(check) => Some((check, columns.text("failure_detail")?)),
        None => None,
    };
    Ok(Answer {
        media_type: columns.opt_text("media_type")?.unwrap_or_default(),
        evidence: columns.opt_blob("evidence")?.unwrap_or_default(),
        failure,
    })
}
