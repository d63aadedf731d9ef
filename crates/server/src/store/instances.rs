//! Instances and their events. Each change is one transaction: read, decide by a pure closure, write row and events.

use std::collections::BTreeMap;

use casemate_api::{score::Observation, workload::Isolation};
use casemate_lifecycle::{Actual, Failure, InstanceId, Intent, NodeId, Step};
use serde::{Deserialize, Serialize};
use sqlx::{Sqlite, SqliteConnection, Transaction, sqlite::SqliteRow};

use super::{
    Result, Store, failed,
    rows::{Columns, int},
};

/// Most events in one answer.
const MAX_EVENTS: i64 = 1000;
/// Most instances in one list.
const MAX_INSTANCES: i64 = 10_000;

/// An instance as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Subject of the token that made it.
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
    /// The platform's appraisal, JSON.
    pub verdict: Option<String>,
    /// Milliseconds by stage, from the node.
    pub stages_ms: BTreeMap<String, u64>,
    /// What node and guest saw of its protection, once they did.
    pub observed: Option<Observed>,
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

/// What makes a new instance.
#[derive(Debug)]
pub struct NewInstance {
    /// The row to write, not placed yet.
    pub instance: Instance,
    /// The client's key for this request.
    pub idempotency_key: Option<String>,
    /// SHA-256 of the request.
    pub request_digest: [u8; 32],
}

/// What became of a request for a new instance.
#[derive(Debug)]
pub enum Created {
    /// Made now.
    New(Instance),
    /// The same request made it before.
    Existing(Instance),
    /// The key was used for another request.
    KeyTaken,
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

/// What live instances take of a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// How many.
    pub instances: u32,
    /// Their CPUs.
    pub cpus: u64,
    /// Their memory.
    pub memory_mib: u64,
}

impl Store {
    /// Writes a new instance, placed by `place` from the load of all nodes; the same request again changes nothing.
    pub async fn create_instance(
        &self,
        new: NewInstance,
        now_ms: u64,
        place: impl FnOnce(&BTreeMap<String, Load>, &mut Instance, &mut Vec<NewEvent>),
    ) -> Result<Created> {
        const ATTEMPT: &str = "store a new instance";
        let mut tx = self.begin(ATTEMPT).await?;
        if let Some(known) = find_by_key(&mut tx, &new).await? {
            return Ok(known);
        }
        let loads = loads(&mut tx).await?;
        let (mut instance, mut events) = (new.instance, Vec::new());
        place(&loads, &mut instance, &mut events);
        instance.last_event = events.len() as u64;
        sqlx::query(
            "INSERT INTO instances (id, owner, idempotency_key, request_digest, name, workload, workload_digest, cpus, memory_mib, \
             intent, step, generation, start_before_ms, created_at_ms, stages, last_event, notes, next_record, record_bytes) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'run', 'requested', 0, ?, ?, '{}', 0, 0, 0, 0)",
        )
        .bind(instance.id.as_str())
        .bind(&instance.owner)
        .bind(new.idempotency_key)
        .bind(&new.request_digest[..])
        .bind(&instance.name)
        .bind(&instance.workload)
        .bind(&instance.workload_digest[..])
        .bind(i64::from(instance.cpus))
        .bind(int(instance.memory_mib))
        .bind(int(instance.start_before_ms))
        .bind(int(instance.created_at_ms))
        .execute(&mut *tx)
        .await
        .map_err(failed(ATTEMPT))?;
        update(&mut tx, &instance).await?;
        append(&mut tx, &instance, 0, &events, now_ms).await?;
        tx.commit().await.map_err(failed(ATTEMPT))?;
        Ok(Created::New(instance))
    }

    /// Changes an instance by `edit`, a pure decision; `None` when there is no such instance.
    pub async fn change_instance<T>(
        &self,
        id: &InstanceId,
        now_ms: u64,
        edit: impl FnOnce(&mut Instance, &mut Vec<NewEvent>) -> T,
    ) -> Result<Option<(Instance, T)>> {
        let mut tx = self.begin("change an instance").await?;
        let changed = change(&mut tx, id, now_ms, edit).await?;
        tx.commit().await.map_err(failed("change an instance"))?;
        Ok(changed)
    }

    /// The instance with this id.
    pub async fn instance(&self, id: &InstanceId) -> Result<Option<Instance>> {
        let mut connection = self.readers.acquire().await.map_err(failed("read an instance"))?;
        find(&mut connection, id).await
    }

    /// Instances, newest first: of one owner, or all.
    pub async fn instances(&self, owner: Option<&str>) -> Result<Vec<Instance>> {
        let rows = sqlx::query(
            "SELECT i.*, r.instance IS NOT NULL AS has_receipt FROM instances i LEFT JOIN receipts r ON r.instance = i.id \
             WHERE ?1 IS NULL OR i.owner = ?1 ORDER BY i.id DESC LIMIT ?2",
        )
        .bind(owner)
        .bind(MAX_INSTANCES)
        .fetch_all(&self.readers)
        .await;
        rows.map_err(failed("list instances"))?.iter().map(from_row).collect()
    }

    /// Instances that a node has or should have: everything placed there of which no receipt is stored.
    pub async fn instances_of_node(&self, node: &NodeId) -> Result<Vec<Instance>> {
        let rows = sqlx::query(
            "SELECT i.*, 0 AS has_receipt FROM instances i WHERE i.node = ? AND i.step != 'gone' \
             AND NOT EXISTS (SELECT 1 FROM receipts r WHERE r.instance = i.id) ORDER BY i.id",
        )
        .bind(node.as_str())
        .fetch_all(&self.readers)
        .await;
        rows.map_err(failed("list the instances of a node"))?.iter().map(from_row).collect()
    }

    /// Instances that may still exist on a node.
    pub async fn live_instances(&self) -> Result<Vec<Instance>> {
        let rows = sqlx::query(
            "SELECT i.*, 0 AS has_receipt FROM instances i WHERE i.node IS NOT NULL AND i.step NOT IN ('wiped', 'gone') ORDER BY i.id",
        )
        .fetch_all(&self.readers)
        .await;
        rows.map_err(failed("list live instances"))?.iter().map(from_row).collect()
    }

    /// Forgets an instance with its events, records and receipt.
    pub async fn delete_instance(&self, id: &InstanceId) -> Result<()> {
        sqlx::query("DELETE FROM instances WHERE id = ?")
            .bind(id.as_str())
            .execute(&self.writer)
            .await
            .map_err(failed("forget an instance"))?;
        Ok(())
    }

    /// Events after `after`, in order.
    pub async fn events(&self, id: &InstanceId, after: u64) -> Result<Vec<casemate_api::rest::Event>> {
        let rows = sqlx::query("SELECT * FROM events WHERE instance = ? AND seq > ? ORDER BY seq LIMIT ?")
            .bind(id.as_str())
            .bind(int(after))
            .bind(MAX_EVENTS)
            .fetch_all(&self.readers)
            .await
            .map_err(failed("read events"))?;
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

/// Reads, decides, and writes what differs, within the caller's transaction.
pub(super) async fn change<T>(
    connection: &mut SqliteConnection,
    id: &InstanceId,
    now_ms: u64,
    edit: impl FnOnce(&mut Instance, &mut Vec<NewEvent>) -> T,
) -> Result<Option<(Instance, T)>> {
    let Some(before) = find(connection, id).await? else { return Ok(None) };
    let (mut after, mut events) = (before.clone(), Vec::new());
    let answer = edit(&mut after, &mut events);
    after.last_event = before.last_event + events.len() as u64;
    if after != before {
        update(connection, &after).await?;
        append(connection, &after, before.last_event, &events, now_ms).await?;
    }
    Ok(Some((after, answer)))
}

async fn find_by_key(tx: &mut Transaction<'static, Sqlite>, new: &NewInstance) -> Result<Option<Created>> {
    let Some(key) = &new.idempotency_key else { return Ok(None) };
    let row = sqlx::query(
        "SELECT i.*, r.instance IS NOT NULL AS has_receipt FROM instances i LEFT JOIN receipts r ON r.instance = i.id \
         WHERE i.owner = ? AND i.idempotency_key = ?",
    )
    .bind(&new.instance.owner)
    .bind(key)
    .fetch_optional(&mut **tx)
    .await
    .map_err(failed("look for an earlier request"))?;
    let Some(row) = row else { return Ok(None) };
    let same = Columns::new(&row, "instance", "id").bytes32("request_digest")? == new.request_digest;
    Ok(Some(if same { Created::Existing(from_row(&row)?) } else { Created::KeyTaken }))
}

async fn find(connection: &mut SqliteConnection, id: &InstanceId) -> Result<Option<Instance>> {
    let row = sqlx::query(
        "SELECT i.*, r.instance IS NOT NULL AS has_receipt FROM instances i LEFT JOIN receipts r ON r.instance = i.id WHERE i.id = ?",
    )
    .bind(id.as_str())
    .fetch_optional(connection)
    .await
    .map_err(failed("read an instance"))?;
    row.as_ref().map(from_row).transpose()
}

async fn loads(connection: &mut SqliteConnection) -> Result<BTreeMap<String, Load>> {
    let rows = sqlx::query(
        "SELECT node, COUNT(*) AS instances, SUM(cpus) AS cpus, SUM(memory_mib) AS memory_mib FROM instances \
         WHERE node IS NOT NULL AND step NOT IN ('wiped', 'gone') GROUP BY node",
    )
    .fetch_all(connection)
    .await
    .map_err(failed("sum up the load of the nodes"))?;
    rows.iter()
        .map(|row| {
            let columns = Columns::new(row, "load of node", "node");
            let instances = u32::try_from(columns.uint("instances")?).unwrap_or(u32::MAX);
            let load = Load { instances, cpus: columns.uint("cpus")?, memory_mib: columns.uint("memory_mib")? };
            Ok((columns.text("node")?, load))
        })
        .collect()
}

async fn update(connection: &mut SqliteConnection, instance: &Instance) -> Result<()> {
    let failure = instance.actual.failure.as_ref();
    sqlx::query(
        "UPDATE instances SET node = ?, level = ?, memory_mib = ?, intent = ?, step = ?, exit_code = ?, failure_step = ?, failure_check = ?, \
         failure_detail = ?, generation = ?, attested_at_ms = ?, verdict = ?, stages = ?, observed = ?, sealed_release = ?, last_event = ?, \
         notes = ?, next_record = ?, record_bytes = ? WHERE id = ?",
    )
    .bind(instance.node.as_ref().map(NodeId::as_str))
    .bind(instance.level.map(Isolation::as_str))
    .bind(int(instance.memory_mib))
    .bind(intent_as_str(instance.intent))
    .bind(instance.actual.step.as_str())
    .bind(instance.actual.exit_code.map(i64::from))
    .bind(failure.map(|f| f.step.as_str()))
    .bind(failure.map(|f| f.check.as_str()))
    .bind(failure.map(|f| f.detail.as_str()))
    .bind(int(instance.generation))
    .bind(instance.attested_at_ms.map(int))
    .bind(instance.verdict.as_deref())
    .bind(serde_json::to_string(&instance.stages_ms).expect("a map of numbers always serialises"))
    .bind(instance.observed.as_ref().map(|observed| serde_json::to_string(observed).expect("plain data always serialises")))
    .bind(instance.sealed_release.as_deref())
    .bind(int(instance.last_event))
    .bind(int(instance.notes))
    .bind(int(instance.next_record))
    .bind(int(instance.record_bytes))
    .bind(instance.id.as_str())
    .execute(connection)
    .await
    .map_err(failed("write an instance"))?;
    Ok(())
}

async fn append(
    connection: &mut SqliteConnection,
    instance: &Instance,
    from: u64,
    events: &[NewEvent],
    now_ms: u64,
) -> Result<()> {
    for (seq, event) in (from + 1..).zip(events) {
        sqlx::query("INSERT INTO events (instance, seq, at_ms, kind, text, data) VALUES (?, ?, ?, ?, ?, ?)")
            .bind(instance.id.as_str())
            .bind(int(seq))
            .bind(int(now_ms))
            .bind(event.kind)
            .bind(&event.text)
            .bind(event.data.as_ref().map(serde_json::Value::to_string))
            .execute(&mut *connection)
            .await
            .map_err(failed("append an event"))?;
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

pub(super) fn from_row(row: &SqliteRow) -> Result<Instance> {
    let columns = Columns::new(row, "instance", "id");
    let intent = match columns.text("intent")?.as_str() {
        "run" => Intent::Run,
        "stop" => Intent::Stop,
        "delete" => Intent::Delete,
        other => return Err(columns.bad(format!("intent {other}"))),
    };
    Ok(Instance {
        id: columns.parsed("id")?,
        owner: columns.text("owner")?,
        name: columns.text("name")?,
        workload: columns.text("workload")?,
        workload_digest: columns.bytes32("workload_digest")?,
        cpus: u32::try_from(columns.uint("cpus")?).map_err(|_| columns.bad("cpus"))?,
        memory_mib: columns.uint("memory_mib")?,
        node: columns.opt_text("node")?.map(|id| id.parse().map_err(|_| columns.bad("node"))).transpose()?,
        level: columns.opt_text("level")?.map(|level| level.parse().map_err(|_| columns.bad("level"))).transpose()?,
        intent,
        actual: actual(&columns)?,
        generation: columns.uint("generation")?,
        start_before_ms: columns.uint("start_before_ms")?,
        created_at_ms: columns.uint("created_at_ms")?,
        attested_at_ms: columns.opt_uint("attested_at_ms")?,
        verdict: columns.opt_text("verdict")?,
        stages_ms: columns.json("stages")?,
        observed: match columns.opt_text("observed")? {
            Some(_) => Some(columns.json("observed")?),
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
