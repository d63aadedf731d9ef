//! What happened to nodes, and who is told: each project once of each occasion, in the transaction that the occasion is in.

use std::collections::BTreeMap;

use casemate_api::rest::NoticeEvidence;
use casemate_lifecycle::{InstanceId, NodeId};
use uuid::Uuid;

use super::{
    NewEvent, Result, Store, Whose,
    deliveries::queue,
    instances::change,
    rows::Columns,
    sql::{Row, Tx, sql},
    webhooks::Scope,
};

/// How long the end of an instance may be before what a node's clock says of an incident: clocks differ.
const CLOCKS_MS: u64 = 5 * 60_000;
/// How far back a node's clock is believed.
const MEMORY_MS: u64 = 7 * 24 * 3_600_000;
/// Most instances that one occasion is told of.
const MAX_INSTANCES: i64 = 10_000;

/// Kinds of what happens to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OccasionKind {
    /// Its monitor wrote down something after which it gets no work.
    Incident,
    /// It gets no work.
    Suspended,
    /// Its certificate is worth nothing any more.
    Revoked,
    /// It gets work again.
    Restored,
}

impl OccasionKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Incident, Self::Suspended, Self::Revoked, Self::Restored];

    /// The name in the store and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Incident => "incident",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
            Self::Restored => "restored",
        }
    }

    /// What it means, for a person.
    pub fn words(self) -> &'static str {
        match self {
            Self::Incident => "the monitor of the node wrote down that somebody broke in, or tried to",
            Self::Suspended => "the node gets no work until an operator has looked; its instances are ended",
            Self::Revoked => "the node's certificate is worth nothing any more; its instances are ended",
            Self::Restored => "an operator has looked and gives the node work again",
        }
    }
}

impl std::str::FromStr for OccasionKind {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| format!("must be incident, suspended, revoked or restored, got {text:?}"))
    }
}

/// Something that happened to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occasion {
    /// To which.
    pub node: NodeId,
    /// What.
    pub kind: OccasionKind,
    /// In the words of the monitor or of the platform.
    pub detail: String,
    /// By the platform's clock.
    pub at_ms: u64,
    /// By the node's.
    pub node_at_ms: Option<u64>,
    /// What the record says.
    pub evidence: Option<NoticeEvidence>,
}

/// The line of a record that an incident is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) sequence: u64,
    pub(super) digest: &'a [u8; 32],
    pub(super) kind: &'a str,
}

/// What a project was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Its number; later ones are higher.
    pub seq: u64,
    /// Its id.
    pub id: String,
    /// Who was told.
    pub project: String,
    /// Of what; in lists without the evidence.
    pub occasion: Occasion,
    /// The instances of the project that it concerns, as far as they were known then.
    pub instances: Vec<InstanceId>,
}

impl Store {
    /// Notices before number `before`, newest first, without evidence.
    pub async fn notices(&self, whose: Whose<'_>, instance: Option<&InstanceId>, before: u64, limit: u32) -> Result<Vec<Notice>> {
        let text = "SELECT n.seq, n.id, n.project, o.node, o.kind, o.detail, o.at_ms, o.node_at_ms, NULL AS evidence \
                    FROM notices n JOIN occasions o ON o.seq = n.occasion WHERE n.seq < $1 \
                    AND ($2 IS NULL OR EXISTS (SELECT 1 FROM project_members m WHERE m.project = n.project AND m.account = $2)) \
                    AND ($3 IS NULL OR n.project = $3) \
                    AND ($4 IS NULL OR EXISTS (SELECT 1 FROM notice_instances i WHERE i.notice = n.seq AND i.instance = $4)) \
                    ORDER BY n.seq DESC LIMIT $5";
        let list = sql(READ, text).bind(before).bind(whose.member).bind(whose.project);
        let rows = list.bind(instance.map(InstanceId::as_str)).bind(limit).all(self.read()).await?;
        let mut notices = Vec::with_capacity(rows.len());
        for row in &rows {
            notices.push(self.with_instances(row).await?);
        }
        Ok(notices)
    }

    /// The notice with this id, if it is theirs.
    pub async fn notice(&self, whose: Whose<'_>, id: &str) -> Result<Option<Notice>> {
        let text = "SELECT n.seq, n.id, n.project, o.node, o.kind, o.detail, o.at_ms, o.node_at_ms, o.evidence \
                    FROM notices n JOIN occasions o ON o.seq = n.occasion WHERE n.id = $1 \
                    AND ($2 IS NULL OR EXISTS (SELECT 1 FROM project_members m WHERE m.project = n.project AND m.account = $2)) \
                    AND ($3 IS NULL OR n.project = $3)";
        let row = sql(READ, text).bind(id).bind(whose.member).bind(whose.project).optional(self.read()).await?;
        match row {
            Some(row) => self.with_instances(&row).await.map(Some),
            None => Ok(None),
        }
    }

    async fn with_instances(&self, row: &Row) -> Result<Notice> {
        let columns = Columns::new(row, "notice", "id");
        let seq = columns.uint("seq")?;
        let text = "SELECT instance FROM notice_instances WHERE notice = $1 ORDER BY instance LIMIT $2";
        let instances = sql(READ, text).bind(seq).bind(MAX_INSTANCES).all(self.read()).await?;
        let instances = instances.iter().map(|row| Columns::new(row, "instance of notice", "instance").parsed("instance"));
        Ok(Notice {
            seq,
            id: columns.text("id")?,
            project: columns.text("project")?,
            occasion: occasion(&columns)?,
            instances: instances.collect::<Result<_>>()?,
        })
    }
}

/// Writes an occasion down, tells whom it concerns and queues the calls, but `quietly` nobody; `false` when that was done before. The caller has locked
/// the node's row: what is placed there comes before this and is seen, or after it.
pub(super) async fn tell(tx: &mut Tx, occasion: &Occasion, line: Option<Line<'_>>, quietly: bool) -> Result<bool> {
    let Some(seq) = write(tx, occasion, line).await? else { return Ok(false) };
    if quietly {
        return Ok(true);
    }
    for (project, instances) in concerned(tx, occasion, seq).await? {
        let id = format!("nt-{}", Uuid::new_v4().simple());
        let text = "INSERT INTO notices (id, occasion, project) VALUES ($1, $2, $3) RETURNING seq";
        let row = sql(WRITE, text).bind(&id).bind(seq).bind(&project).optional(tx.on()).await?;
        let notice = number(row.as_ref())?;
        for instance in &instances {
            let text = "INSERT INTO notice_instances (notice, instance) VALUES ($1, $2)";
            sql(WRITE, text).bind(notice).bind(instance.as_str()).run(tx.on()).await?;
            let text = format!("{}; `casemate notices show {id}` has what is known of it", occasion.kind.words());
            let data = serde_json::json!({ "notice": id, "kind": occasion.kind.as_str() });
            let event = NewEvent { kind: "notice", text, data: Some(data) };
            change(tx, instance, occasion.at_ms, |_, out| out.push(event)).await?;
        }
        queue(tx, &Scope::Project(project), (occasion, seq), Some(notice)).await?;
    }
    let find = sql(READ, "SELECT id, hoster FROM nodes WHERE id = $1").bind(occasion.node.as_str());
    let hoster = match find.optional(tx.on()).await? {
        Some(row) => Columns::new(&row, "node", "id").opt_text("hoster")?,
        None => None,
    };
    for scope in hoster.map(Scope::Hoster).into_iter().chain([Scope::Platform]) {
        queue(tx, &scope, (occasion, seq), None).await?;
    }
    Ok(true)
}

/// An occasion by its number.
pub(super) async fn occasion_by(store: &Store, seq: u64) -> Result<Option<Occasion>> {
    let row = sql(READ, "SELECT * FROM occasions WHERE seq = $1").bind(seq).optional(store.read()).await?;
    row.as_ref().map(|row| occasion(&Columns::new(row, "occasion of", "node"))).transpose()
}

/// A notice by its number.
pub(super) async fn notice_by(store: &Store, seq: u64) -> Result<Option<Notice>> {
    let find = sql(READ, "SELECT id FROM notices WHERE seq = $1").bind(seq);
    let Some(row) = find.optional(store.read()).await? else { return Ok(None) };
    store.notice(Whose::default(), &Columns::new(&row, "notice", "id").text("id")?).await
}

/// The new occasion's number; `None` when its line is known.
async fn write(tx: &mut Tx, occasion: &Occasion, line: Option<Line<'_>>) -> Result<Option<u64>> {
    let evidence = occasion.evidence.as_ref().map(|one| serde_json::to_string(one).expect("plain data always serialises"));
    let text = "INSERT INTO occasions (node, kind, sequence, line, record_kind, detail, at_ms, node_at_ms, evidence) \
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (node, line) DO NOTHING RETURNING seq";
    let insert = sql(WRITE, text).bind(occasion.node.as_str()).bind(occasion.kind.as_str());
    let insert = insert.bind(line.as_ref().map(|line| line.sequence)).bind(line.as_ref().map(|line| line.digest));
    let insert = insert.bind(line.as_ref().map(|line| line.kind)).bind(&occasion.detail);
    let row = insert.bind(occasion.at_ms).bind(occasion.node_at_ms).bind(evidence).optional(tx.on()).await?;
    row.as_ref().map(|row| number(Some(row))).transpose()
}

fn number(row: Option<&Row>) -> Result<u64> {
    let absent = || super::StoreError::Row { what: "notice".to_owned(), detail: "the new row has no number".to_owned() };
    Columns::new(row.ok_or_else(absent)?, "notice", "seq").uint("seq")
}

/// The instances that it concerns, by project: what is there, and of an incident also what was there when it happened. Of its restoration
/// is told who was told anything since the last one.
async fn concerned(tx: &mut Tx, occasion: &Occasion, seq: u64) -> Result<BTreeMap<String, Vec<InstanceId>>> {
    let node = occasion.node.as_str();
    let find = match occasion.kind {
        OccasionKind::Restored => {
            let text = "SELECT DISTINCT i.instance AS id, n.project AS owner FROM notices n \
                        JOIN occasions o ON o.seq = n.occasion JOIN notice_instances i ON i.notice = n.seq \
                        WHERE o.node = $1 AND o.seq < $2 AND o.seq > COALESCE((SELECT MAX(seq) FROM occasions \
                        WHERE node = $1 AND kind = 'restored' AND seq < $2), 0) ORDER BY 1 LIMIT $3";
            sql(READ, text).bind(node).bind(seq)
        }
        OccasionKind::Incident | OccasionKind::Suspended | OccasionKind::Revoked => {
            let text = "SELECT i.id, i.owner FROM instances i WHERE i.node = $1 AND (i.step NOT IN ('wiped', 'gone') \
                        OR EXISTS (SELECT 1 FROM events e WHERE e.instance = i.id AND e.kind = 'step' \
                        AND e.text IN ('wiped', 'gone') AND e.at_ms >= $2)) ORDER BY i.id LIMIT $3";
            sql(READ, text).bind(node).bind(since_ms(occasion))
        }
    };
    let mut projects = BTreeMap::<String, Vec<InstanceId>>::new();
    for row in find.bind(MAX_INSTANCES).all(tx.on()).await? {
        let columns = Columns::new(&row, "instance", "id");
        projects.entry(columns.text("owner")?).or_default().push(columns.parsed("id")?);
    }
    Ok(projects)
}

/// Instances that ended before this are not concerned. A node's clock is believed within limits.
fn since_ms(occasion: &Occasion) -> u64 {
    let Some(at_ms) = occasion.node_at_ms else { return u64::MAX };
    at_ms.clamp(occasion.at_ms.saturating_sub(MEMORY_MS), occasion.at_ms).saturating_sub(CLOCKS_MS)
}

fn occasion(columns: &Columns<'_>) -> Result<Occasion> {
    let evidence = match columns.opt_text("evidence")? {
        Some(_) => Some(columns.json("evidence")?),
        None => None,
    };
    Ok(Occasion {
        node: columns.parsed("node")?,
        kind: columns.parsed("kind")?,
        detail: columns.text("detail")?,
        at_ms: columns.uint("at_ms")?,
        node_at_ms: columns.opt_uint("node_at_ms")?,
        evidence,
    })
}

const READ: &str = "read notices";
const WRITE: &str = "write a notice";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nodes_clock_reaches_back_so_far_and_not_into_the_future() {
        let now_ms = 100 * MEMORY_MS;
        let since = |node_at_ms| {
            let node = "n-1".parse().unwrap();
            let kind = OccasionKind::Incident;
            since_ms(&Occasion { node, kind, detail: String::new(), at_ms: now_ms, node_at_ms, evidence: None })
        };
        assert_eq!(since(Some(now_ms - 1000)), now_ms - 1000 - CLOCKS_MS);
        assert_eq!(since(Some(u64::MAX)), now_ms - CLOCKS_MS);
        assert_eq!(since(Some(0)), now_ms - MEMORY_MS - CLOCKS_MS);
        assert_eq!(since(None), u64::MAX, "what the platform does concerns who is there");
    }

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in OccasionKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
        }
        assert!("attack".parse::<OccasionKind>().is_err());
    }
}
