//! New instances. Placing is exact: the chosen node is locked, what it has given away is counted, and only then decided; of any
//! number of requests at the same time, on any replica, each sees what those before it took.

use std::collections::BTreeMap;

use casemate_lifecycle::NodeId;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    Instance, NewEvent, Quota, Result, Store, Terms, Usage, Wake,
    instances::{append, from_row, select, update},
    offers::terms,
    projects,
    rows::Columns,
    sql::{Row, Text, Tx, sql, timed},
};

/// What makes a new instance.
#[derive(Debug)]
pub struct NewInstance {
    /// The row to write, not placed yet.
    pub instance: Instance,
    /// The client's key for this request.
    pub idempotency_key: Option<String>,
    /// SHA-256 of the request.
    pub request_digest: [u8; 32],
    /// What a project may have that has no limits of its own.
    pub quota: Quota,
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
    /// The project would have more of this than it may.
    OverQuota {
        /// What.
        what: &'static str,
        /// How much it may have.
        limit: u64,
    },
}

/// What became of an attempt to place a new instance.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time, which is taken apart at once")]
pub enum Placing {
    /// It is decided.
    Done(Created),
    /// The node will not do any more, and nothing was written: this is how it is now, if it is there at all.
    Moved(Option<Box<Offer>>),
}

/// A node as the scheduler finds it.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// The node.
    pub id: NodeId,
    /// Whose it is.
    pub hoster: Option<String>,
    /// Whether the trust rests on a simulator root.
    pub simulated: bool,
    /// What its hoster asks for it; nothing while nobody said.
    pub terms: Option<Terms>,
    /// Whether its last appraisal passed.
    pub trusted: bool,
    /// Whether an operator has to look at it first.
    pub suspended: bool,
    /// Whether it is in maintenance.
    pub maintenance: bool,
    /// Whether it gets no new instances.
    pub drains: bool,
    /// Whether a living replica has its session.
    pub connected: bool,
    /// As it reported.
    pub inventory: Value,
    /// How many instances it has.
    pub instances: u32,
    /// Their CPUs.
    pub used_cpus: u64,
    /// Their memory.
    pub used_memory_mib: u64,
    /// Their disk.
    pub used_disk_mib: u64,
}

impl Store {
    /// Writes a new instance; the same request again changes nothing. With a node it goes there if `take`, which is asked once with the
    /// node as it is now, says so; nobody else places there until it is written. Without one `take` has no node to look at.
    pub async fn create_instance(
        &self,
        new: &NewInstance,
        now_ms: u64,
        node: Option<&NodeId>,
        take: impl FnOnce(Option<&Offer>, &mut Instance, &mut Vec<NewEvent>) -> bool,
    ) -> Result<Placing> {
        let mut tx = self.begin(ATTEMPT).await?;
        // Keys and quotas are of a project, so its requests come one after the other; those of others do not wait.
        tx.alone(lock_of_project(&new.instance.owner)).await?;
        if let Some(known) = find_by_key(&mut tx, new).await? {
            return Ok(Placing::Done(known));
        }
        let offer = match node {
            Some(node) => locked_offer(&mut tx, node).await?,
            None => None,
        };
        let (mut instance, mut events) = (new.instance.clone(), Vec::new());
        if !take(offer.as_ref(), &mut instance, &mut events) {
            return Ok(Placing::Moved(offer.map(Box::new)));
        }
        if let Some((what, limit)) = over_quota(&mut tx, &instance, new.quota).await? {
            return Ok(Placing::Done(Created::OverQuota { what, limit }));
        }
        instance.last_event = events.len() as u64;
        insert(&mut tx, &instance, new).await?;
        update(&mut tx, &instance).await?;
        append(&mut tx, &instance, 0, &events, now_ms).await?;
        tx.wake(Wake::Instance(instance.id.clone(), instance.node.clone())).await?;
        tx.commit().await?;
        Ok(Placing::Done(Created::New(instance)))
    }

    /// What a node offers at this moment.
    pub async fn offer(&self, node: &NodeId) -> Result<Option<Offer>> {
        let mut tx = self.begin("read an offer").await?;
        read_offer(&mut tx, node).await
    }

    /// What all nodes offer at this moment.
    pub async fn offers(&self) -> Result<Vec<Offer>> {
        let mut tx = self.begin("read the offers").await?;
        offers(&mut tx).await
    }
}

const ATTEMPT: &str = "store a new instance";

async fn insert(tx: &mut Tx, instance: &Instance, new: &NewInstance) -> Result<()> {
    let text = "INSERT INTO instances (id, owner, idempotency_key, request_digest, name, workload, workload_digest, cpus, memory_mib, \
                intent, step, generation, start_before_ms, created_at_ms, stages, last_event, notes, next_record, record_bytes, \
                disk_mib, offer) \
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'run', 'requested', 0, $10, $11, '{}', 0, 0, 0, 0, $12, $13)";
    sql(ATTEMPT, text)
        .bind(instance.id.as_str())
        .bind(&instance.owner)
        .bind(new.idempotency_key.as_deref())
        .bind(&new.request_digest)
        .bind(&instance.name)
        .bind(&instance.workload)
        .bind(&instance.workload_digest)
        .bind(instance.cpus)
        .bind(instance.memory_mib)
        .bind(instance.start_before_ms)
        .bind(instance.created_at_ms)
        .bind(instance.disk_mib)
        .bind(instance.offer.as_deref())
        .run(tx.on())
        .await
        .map(drop)
}

/// What the project would have too much of with this instance. One that found no node takes nothing.
async fn over_quota(tx: &mut Tx, instance: &Instance, default: Quota) -> Result<Option<(&'static str, u64)>> {
    if instance.node.is_none() {
        return Ok(None);
    }
    let quota = projects::quota(tx, &instance.owner).await?.or(default);
    let now = projects::usage(tx.on(), &instance.owner).await?;
    let then = Usage {
        instances: now.instances + 1,
        cpus: now.cpus + u64::from(instance.cpus),
        memory_mib: now.memory_mib.saturating_add(instance.memory_mib),
    };
    Ok(then.exceeds(&quota))
}

async fn find_by_key(tx: &mut Tx, new: &NewInstance) -> Result<Option<Created>> {
    let Some(key) = &new.idempotency_key else { return Ok(None) };
    let find = sql("look for an earlier request", select!("WHERE i.owner = $1 AND i.idempotency_key = $2"));
    let Some(row) = find.bind(&new.instance.owner).bind(key).optional(tx.on()).await? else { return Ok(None) };
    let same = Columns::new(&row, "instance", "id").bytes32("request_digest")? == new.request_digest;
    Ok(Some(if same { Created::Existing(from_row(&row)?) } else { Created::KeyTaken }))
}

macro_rules! load_of {
    ($which:literal) => {
        concat!(
            "SELECT node, COUNT(*) AS instances, CAST(SUM(cpus) AS BIGINT) AS cpus, CAST(SUM(memory_mib) AS BIGINT) AS memory_mib, \
             CAST(SUM(disk_mib) AS BIGINT) AS disk_mib FROM instances ",
            $which,
            " AND step NOT IN ('wiped', 'gone') GROUP BY node"
        )
    };
}

/// A name for a lock that no other project has, but by a chance that costs only time.
fn lock_of_project(project: &str) -> i64 {
    let digest: [u8; 32] = Sha256::new().chain_update("place for project\0").chain_update(project).finalize().into();
    let mut name = [0; 8];
    name.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(name)
}

/// Locks a node and reads what it offers. Whoever takes its trust away, drains it or places there does so before this, which is seen here, or
/// after the new instance is there to be stopped or counted.
async fn locked_offer(tx: &mut Tx, node: &NodeId) -> Result<Option<Offer>> {
    let lock = sql("lock the chosen node", "SELECT id FROM nodes WHERE id = $1 FOR NO KEY UPDATE");
    tx.lock(lock.bind(node.as_str())).await?;
    read_offer(tx, node).await
}

async fn read_offer(tx: &mut Tx, node: &NodeId) -> Result<Option<Offer>> {
    const ATTEMPT: &str = "read an offer";
    let row = sql(ATTEMPT, ONE_OFFER).bind(node.as_str()).optional(tx.on()).await?;
    let Some(row) = row else { return Ok(None) };
    let load = sql(ATTEMPT, load_of!("WHERE node = $1")).bind(node.as_str()).optional(tx.on()).await?;
    let load = load.as_ref().map(load_from_row).transpose()?.map(|(_, load)| load);
    offer(&row, load.unwrap_or_default()).map(Some)
}

async fn offers(tx: &mut Tx) -> Result<Vec<Offer>> {
    let rows = sql("sum up the load of the nodes", load_of!("WHERE node IS NOT NULL")).all(tx.on()).await?;
    let loads: BTreeMap<String, Load> = rows.iter().map(load_from_row).collect::<Result<_>>()?;
    let rows = sql("read the offers", ALL_OFFERS).all(tx.on()).await?;
    rows.iter()
        .map(|row| {
            let id = Columns::new(row, "node", "id").text("id")?;
            offer(row, loads.get(&id).copied().unwrap_or_default())
        })
        .collect()
}

macro_rules! offers {
    ($rest:literal) => {
        timed!(
            "SELECT n.id, n.hoster, n.simulated, n.trust, n.suspended, n.drained_by, n.inventory, m.phase, o.*, \
             CASE WHEN r.id IS NULL THEN CAST(0 AS BIGINT) ELSE 1 END AS connected \
             FROM nodes n LEFT JOIN offers o ON o.node = n.id LEFT JOIN maintenance m ON m.node = n.id AND m.phase IS NOT NULL \
             LEFT JOIN leases l ON l.name = n.id \
             LEFT JOIN replicas r ON r.id = l.replica AND r.expires_at_ms > ",
            $rest
        )
    };
}
const ONE_OFFER: Text = offers!(" WHERE n.id = $1");
const ALL_OFFERS: Text = offers!(" ORDER BY n.id");

fn offer(row: &Row, load: Load) -> Result<Offer> {
    let columns = Columns::new(row, "node", "id");
    Ok(Offer {
        id: columns.parsed("id")?,
        hoster: columns.opt_text("hoster")?,
        simulated: columns.uint("simulated")? != 0,
        terms: terms(&columns)?,
        trusted: columns.text("trust")? == "trusted",
        suspended: columns.opt_text("suspended")?.is_some(),
        maintenance: columns.opt_text("phase")?.is_some(),
        drains: columns.opt_text("drained_by")?.is_some(),
        connected: columns.uint("connected")? != 0,
        inventory: columns.json("inventory")?,
        instances: load.instances,
        used_cpus: load.cpus,
        used_memory_mib: load.memory_mib,
        used_disk_mib: load.disk_mib,
    })
}

/// What the live instances of a node take.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    instances: u32,
    cpus: u64,
    memory_mib: u64,
    disk_mib: u64,
}

fn load_from_row(row: &Row) -> Result<(String, Load)> {
    let columns = Columns::new(row, "load of node", "node");
    let load = Load {
        instances: u32::try_from(columns.uint("instances")?).unwrap_or(u32::MAX),
        cpus: columns.uint("cpus")?,
        memory_mib: columns.uint("memory_mib")?,
        disk_mib: columns.uint("disk_mib")?,
    };
    Ok((columns.text("node")?, load))
}
