//! Instances and their events. Each change is one transaction: read, decide by a pure closure, write row and events.

use std::collections::BTreeMap;

use casemate_api::{rest::NetworkUse, score::Observation, workload::Isolation};
use casemate_lifecycle::{Actual, Failure, InstanceId, Intent, NodeId, Step};
use serde::{Deserialize, Serialize};

use super::{
    Fence, Result, Store, Wake,
    rows::Columns,
    sql::{On, Row, Tx, sql},
};

/// Most events in one answer.
const MAX_EVENTS: i64 = 1000;
/// Most instances in one list.
const MAX_INSTANCES: i64 = 10_000;

/// Instances with whether they have a receipt.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT i.*, CASE WHEN r.instance IS NULL THEN CAST(0 AS BIGINT) ELSE 1 END AS has_receipt \
             FROM instances i LEFT JOIN receipts r ON r.instance = i.id ",
            $rest
        )
    };
}
pub(super) use select;

/// An instance as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// The project that it belongs to.
    pub owner: String,
    /// The workload's name.
    pub name: String,
    /// Canonical workload.
    pub workload: String,
    /// Its digest.
    pub workload_digest: [u8; 32],
    /// What it takes of a node.
    pub cpus: u32,
    /// See `cpus`.
    pub memory_mib: u64,
    /// See `cpus`; once placed.
    pub disk_mib: u64,
    /// The offer as it was when it was placed, JSON.
    pub offer: Option<String>,
    /// Where it was placed.
    pub node: Option<NodeId>,
    /// At which level; absent before it was placed, and of instances that are older than the choice.
    pub level: Option<Isolation>,
    /// What should be.
    pub intent: Intent,
    /// What is.
    pub actual: Actual,
    /// Grows with each change of what the node should do.
    pub generation: u64,
    /// Not to be started later.
    pub start_before_ms: u64,
    /// When it was asked for.
    pub created_at_ms: u64,
    /// When the platform's appraisal passed.
    pub attested_at_ms: Option<u64>,
    /// End of its time to live, once the guest has opened its keys.
    pub ends_at_ms: Option<u64>,
    /// The platform's appraisal, JSON.
    pub verdict: Option<String>,
    /// Milliseconds by stage, from the node.
    pub stages_ms: BTreeMap<String, u64>,
    /// What node and guest saw of its protection, once they did.
    pub observed: Option<Observed>,
    /// What went over its link, as the node counted it.
    pub network: Option<NetworkUse>,
    /// Sealed keys on their way to the guest.
    pub sealed_release: Option<Vec<u8>>,
    /// Number of the newest event.
    pub last_event: u64,
    /// Notes of the node so far.
    pub notes: u64,
    /// Number of records stored.
    pub next_record: u64,
    /// Their bytes.
    pub record_bytes: u64,
    /// Whether a receipt is stored.
    pub has_receipt: bool,
}

impl Instance {
    /// The level that it was placed at; the only one that there was before there was a choice.
    pub fn placed_at(&self) -> Isolation {
        self.level.unwrap_or(Isolation::Microvm)
    }
}

/// The little that tells whether an instance is as it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    /// Its id.
    pub id: InstanceId,
    /// The workload's name.
    pub name: String,
    /// Where it was placed.
    pub node: Option<NodeId>,
    /// What should be.
    pub intent: Intent,
    /// What is.
    pub actual: Actual,
    /// Number of the newest event.
    pub last_event: u64,
}

/// Which instances: without anything all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Whose<'a> {
    /// Those of projects that this account is a member of.
    pub member: Option<&'a str>,
    /// Those of this project.
    pub project: Option<&'a str>,
}

/// What was seen of an instance's protection; each list holds only what its observer may say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// When the agent looked.
    pub at_ms: u64,
    /// By the agent.
    pub agent: Vec<Observation>,
    /// By the guest, passed on by the agent.
    pub guest: Vec<Observation>,
}

/// An event to append.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// See `casemate_api::rest::Event`.
    pub kind: &'static str,
    /// A sentence.
    pub text: String,
    /// Further data.
    pub data: Option<serde_json::Value>,
}

impl Store {
    /// Changes an instance by `edit`, a pure decision; `None` when there is no such instance. With a fence only as long as nobody
    /// else has taken over what the caller does.
    pub async fn change_instance<T>(
        &self,
        id: &InstanceId,
        now_ms: u64,
        fence: Option<&Fence>,
        edit: impl FnOnce(&mut Instance, &mut Vec<NewEvent>) -> T,
    ) -> Result<Option<(Instance, T)>> {
        let mut tx = self.begin("change an instance").await?;
        if let Some(fence) = fence {
            fence.hold(&mut tx).await?;
        }
        let changed = change(&mut tx, id, now_ms, edit).await?;
        tx.commit().await?;
        Ok(changed)
    }

    /// The instance with this id.
    pub async fn instance(&self, id: &InstanceId) -> Result<Option<Instance>> {
        find(self.read(), id).await
    }

    /// Instances, newest first.
    pub async fn instances(&self, whose: Whose<'_>) -> Result<Vec<Instance>> {
        let text = select!(
            "WHERE ($1 IS NULL OR EXISTS (SELECT 1 FROM project_members m WHERE m.project = i.owner AND m.account = $1)) \
             AND ($2 IS NULL OR i.owner = $2) ORDER BY i.id DESC LIMIT $3"
        );
        let list = sql("list instances", text).bind(whose.member).bind(whose.project).bind(MAX_INSTANCES);
        let rows = list.all(self.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// Outlines of instances, newest first.
    pub async fn outlines(&self, whose: Whose<'_>) -> Result<Vec<Outline>> {
        let text = "SELECT i.id, i.name, i.node, i.intent, i.step, i.exit_code, i.failure_step, i.failure_check, i.failure_detail, \
                    i.last_event FROM instances i \
                    WHERE ($1 IS NULL OR EXISTS (SELECT 1 FROM project_members m WHERE m.project = i.owner AND m.account = $1)) \
                    AND ($2 IS NULL OR i.owner = $2) ORDER BY i.id DESC LIMIT $3";
        let list = sql("list outlines of instances", text).bind(whose.member).bind(whose.project).bind(MAX_INSTANCES);
        let rows = list.all(self.read()).await?;
        rows.iter().map(outline).collect()
    }

    /// Instances that a node has or should have: everything placed there of which no receipt is stored.
    pub async fn instances_of_node(&self, node: &NodeId) -> Result<Vec<Instance>> {
        let text = select!("WHERE i.node = $1 AND i.step != 'gone' AND r.instance IS NULL ORDER BY i.id");
        let rows = sql("list the instances of a node", text).bind(node.as_str()).all(self.read()).await?;
        rows.iter().map(from_row).collect()
    }

    /// Instances that may still exist on a node.
    pub async fn live_instances(&self) -> Result<Vec<Instance>> {
        let text = select!("WHERE i.node IS NOT NULL AND i.step NOT IN ('wiped', 'gone') ORDER BY i.id");
        sql("list live instances", text).all(self.read()).await?.iter().map(from_row).collect()
    }

    /// Forgets an instance with its events, records and receipt.
    pub async fn delete_instance(&self, id: &InstanceId) -> Result<()> {
        const ATTEMPT: &str = "forget an instance";
        let mut tx = self.begin(ATTEMPT).await?;
        sql(ATTEMPT, "DELETE FROM instances WHERE id = $1").bind(id.as_str()).run(tx.on()).await?;
        tx.wake(Wake::Instance(id.clone(), None)).await?;
        tx.commit().await
    }

    /// Events after `after`, in order.
    pub async fn events(&self, id: &InstanceId, after: u64) -> Result<Vec<casemate_api::rest::Event>> {
        let rows = sql("read events", "SELECT * FROM events WHERE instance = $1 AND seq > $2 ORDER BY seq LIMIT $3")
            .bind(id.as_str())
            .bind(after)
            .bind(MAX_EVENTS)
            .all(self.read())
            .await?;
        rows.iter()
            .map(|row| {
                let columns = Columns::new(row, "event of", "instance");
                let data = columns.opt_text("data")?.map(|text| serde_json::from_str(&text)).transpose();
                Ok(casemate_api::rest::Event {
                    seq: columns.uint("seq")?,
                    at_ms: columns.uint("at_ms")?,
                    kind: columns.text("kind")?,
                    text: columns.text("text")?,
                    data: data.map_err(|e| columns.bad(format!("data: {e}")))?,
                })
            })
            .collect()
    }
}

/// Keeps others from changing an instance until the end of the transaction. What is read after this is what will be changed: a
/// row that was read together with the lock may come with older rows of other tables.
pub(super) async fn lock(tx: &mut Tx, id: &InstanceId) -> Result<()> {
    tx.lock(sql("lock an instance", "SELECT id FROM instances WHERE id = $1 FOR UPDATE").bind(id.as_str())).await
}

/// Reads, decides, and writes what differs, within the caller's transaction.
pub(super) async fn change<T>(
    tx: &mut Tx,
    id: &InstanceId,
    now_ms: u64,
    edit: impl FnOnce(&mut Instance, &mut Vec<NewEvent>) -> T,
) -> Result<Option<(Instance, T)>> {
    lock(tx, id).await?;
    let Some(before) = find(tx.on(), id).await? else { return Ok(None) };
    let (mut after, mut events) = (before.clone(), Vec::new());
    let answer = edit(&mut after, &mut events);
    after.last_event = before.last_event + events.len() as u64;
    if after != before {
        update(tx, &after).await?;
        append(tx, &after, before.last_event, &events, now_ms).await?;
        // The node's session is woken only where it has something to send.
        let acts = after.generation != before.generation || after.sealed_release.is_some();
        let node = after.node.clone().filter(|_| acts);
        tx.wake(Wake::Instance(id.clone(), node)).await?;
    }
    Ok(Some((after, answer)))
}

async fn find(on: On<'_>, id: &InstanceId) -> Result<Option<Instance>> {
    let row = sql("read an instance", select!("WHERE i.id = $1")).bind(id.as_str()).optional(on).await?;
    row.as_ref().map(from_row).transpose()
}

pub(super) async fn update(tx: &mut Tx, instance: &Instance) -> Result<()> {
    let failure = instance.actual.failure.as_ref();
    sql("write an instance", "UPDATE instances SET node = $1, level = $2, memory_mib = $3, intent = $4, step = $5, exit_code = $6, failure_step = $7, failure_check = $8, \
         failure_detail = $9, generation = $10, attested_at_ms = $11, verdict = $12, stages = $13, observed = $14, network = $15, sealed_release = $16, last_event = $17, \
         notes = $18, next_record = $19, record_bytes = $20, ends_at_ms = $21 WHERE id = $22")
    .bind(instance.node.as_ref().map(NodeId::as_str))
    .bind(instance.level.map(Isolation::as_str))
    .bind(instance.memory_mib)
    .bind(intent_as_str(instance.intent))
    .bind(instance.actual.step.as_str())
    .bind(instance.actual.exit_code.map(i64::from))
    .bind(failure.map(|f| f.step.as_str()))
    .bind(failure.map(|f| f.check.as_str()))
    .bind(failure.map(|f| f.detail.as_str()))
    .bind(instance.generation)
    .bind(instance.attested_at_ms)
    .bind(instance.verdict.as_deref())
    .bind(serde_json::to_string(&instance.stages_ms).expect("a map of numbers always serialises"))
    .bind(instance.observed.as_ref().map(|observed| serde_json::to_string(observed).expect("plain data always serialises")))
    .bind(instance.network.as_ref().map(|network| serde_json::to_string(network).expect("plain data always serialises")))
    .bind(instance.sealed_release.as_deref())
    .bind(instance.last_event)
    .bind(instance.notes)
    .bind(instance.next_record)
    .bind(instance.record_bytes)
    .bind(instance.ends_at_ms)
    .bind(instance.id.as_str()).run(tx.on()).await?;
    Ok(())
}

pub(super) async fn append(tx: &mut Tx, instance: &Instance, from: u64, events: &[NewEvent], now_ms: u64) -> Result<()> {
    for (seq, event) in (from + 1..).zip(events) {
        sql("append an event", "INSERT INTO events (instance, seq, at_ms, kind, text, data) VALUES ($1, $2, $3, $4, $5, $6)")
            .bind(instance.id.as_str())
            .bind(seq)
            .bind(now_ms)
            .bind(event.kind)
            .bind(&event.text)
            .bind(event.data.as_ref().map(serde_json::Value::to_string))
            .run(tx.on())
            .await?;
    }
    Ok(())
}

/// The name of an intent in the store and in answers.
pub fn intent_as_str(intent: Intent) -> &'static str {
    match intent {
        Intent::Run => "run",
        Intent::Stop => "stop",
        Intent::Delete => "delete",
    }
}

pub(super) fn from_row(row: &Row) -> Result<Instance> {
    let columns = Columns::new(row, "instance", "id");
    Ok(Instance {
        id: columns.parsed("id")?,
        owner: columns.text("owner")?,
        name: columns.text("name")?,
        workload: columns.text("workload")?,
        workload_digest: columns.bytes32("workload_digest")?,
        cpus: u32::try_from(columns.uint("cpus")?).map_err(|_| columns.bad("cpus"))?,
        memory_mib: columns.uint("memory_mib")?,
        disk_mib: columns.uint("disk_mib")?,
        offer: columns.opt_text("offer")?,
        node: node(&columns)?,
        level: columns.opt_text("level")?.map(|level| level.parse().map_err(|_| columns.bad("level"))).transpose()?,
        intent: intent(&columns)?,
        actual: actual(&columns)?,
        generation: columns.uint("generation")?,
        start_before_ms: columns.uint("start_before_ms")?,
        created_at_ms: columns.uint("created_at_ms")?,
        attested_at_ms: columns.opt_uint("attested_at_ms")?,
        ends_at_ms: columns.opt_uint("ends_at_ms")?,
        verdict: columns.opt_text("verdict")?,
        stages_ms: columns.json("stages")?,
        observed: match columns.opt_text("observed")? {
            Some(_) => Some(columns.json("observed")?),
            None => None,
        },
        network: match columns.opt_text("network")? {
            Some(_) => Some(columns.json("network")?),
            None => None,
        },
        sealed_release: columns.opt_blob("sealed_release")?,
        last_event: columns.uint("last_event")?,
        notes: columns.uint("notes")?,
        next_record: columns.uint("next_record")?,
        record_bytes: columns.uint("record_bytes")?,
        has_receipt: columns.uint("has_receipt")? != 0,
    })
}

fn outline(row: &Row) -> Result<Outline> {
    let columns = Columns::new(row, "instance", "id");
    Ok(Outline {
        id: columns.parsed("id")?,
        name: columns.text("name")?,
        node: node(&columns)?,
        intent: intent(&columns)?,
        actual: actual(&columns)?,
        last_event: columns.uint("last_event")?,
    })
}

fn node(columns: &Columns<'_>) -> Result<Option<NodeId>> {
    columns.opt_text("node")?.map(|id| id.parse().map_err(|_| columns.bad("node"))).transpose()
}

fn intent(columns: &Columns<'_>) -> Result<Intent> {
    match columns.text("intent")?.as_str() {
        "run" => Ok(Intent::Run),
        "stop" => Ok(Intent::Stop),
        "delete" => Ok(Intent::Delete),
        other => Err(columns.bad(format!("intent {other}"))),
    }
}

fn actual(columns: &Columns<'_>) -> Result<Actual> {
    let step = |text: String| Step::parse(&text).ok_or_else(|| columns.bad(format!("step {text}")));
    let failure = match columns.opt_text("failure_check")? {
        None => None,
        Some(check) => {
            Some(Failure { step: step(columns.text("failure_step")?)?, check, detail: columns.text("failure_detail")? })
        }
    };
    Ok(Actual { step: step(columns.text("step")?)?, exit_code: columns.opt_i32("exit_code")?, failure })
}
