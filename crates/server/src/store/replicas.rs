//! Which replicas live, and which of them does what: one row per piece of work, a node's session or a periodic task.
//!
//! A replica lives for as long as it renews its row; the database's clock decides. The epoch of a lease grows with every new holder
//! and never goes back, so it fences: a transaction that names an epoch holds the row, and fails once there is a newer one.

use casemate_lifecycle::NodeId;

use super::{
    Result, Store, StoreError, Wake,
    rows::Columns,
    sql::{Tx, sql, timed},
};

/// One server process from its start to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica(String);

impl Replica {
    /// A name that nobody had before.
    pub fn new() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Replica {
    fn default() -> Self {
        Self::new()
    }
}

/// The right to do one piece of work, until somebody else takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    name: String,
    epoch: u64,
    /// Since when the present holder has it.
    pub since_ms: u64,
}

impl Fence {
    /// Keeps the work from being taken over until the end of the transaction; fails if it was.
    pub(super) async fn hold(&self, tx: &mut Tx) -> Result<()> {
        const ATTEMPT: &str = "look whether this was taken over";
        tx.lock(sql(ATTEMPT, "SELECT name FROM leases WHERE name = $1 FOR SHARE").bind(&self.name)).await?;
        let find = sql(ATTEMPT, "SELECT name FROM leases WHERE name = $1 AND epoch = $2 AND replica IS NOT NULL");
        let held = find.bind(&self.name).bind(self.epoch).optional(tx.on()).await?.is_some();
        if held { Ok(()) } else { Err(StoreError::Fenced(self.name.clone())) }
    }
}

impl Store {
    /// Milliseconds since 1970 by the database's clock.
    pub async fn now_ms(&self) -> Result<u64> {
        const ATTEMPT: &str = "ask for the time";
        let row = sql(ATTEMPT, timed!("SELECT ", " AS now_ms")).optional(self.read()).await?;
        row.as_ref().map_or(Ok(0), |row| Columns::new(row, "time", "now_ms").uint("now_ms"))
    }

    /// Lets the replica live for `life_ms` from now on.
    pub async fn renew_replica(&self, replica: &Replica, life_ms: u64) -> Result<()> {
        let text = timed!(
            "INSERT INTO replicas (id, expires_at_ms) VALUES ($1, $2 + ",
            ") ON CONFLICT (id) DO UPDATE SET expires_at_ms = excluded.expires_at_ms"
        );
        sql("renew this replica", text).bind(replica.as_str()).bind(life_ms).run(self.write()).await.map(drop)
    }

    /// Ends a replica: what it did is anybody's at once.
    pub async fn end_replica(&self, replica: &Replica) -> Result<()> {
        sql("end this replica", "DELETE FROM replicas WHERE id = $1").bind(replica.as_str()).run(self.write()).await.map(drop)
    }

    /// Ends all others: for whoever holds the lock of a database that only one server can have.
    pub async fn end_other_replicas(&self, replica: &Replica) -> Result<()> {
        sql("end other replicas", "DELETE FROM replicas WHERE id != $1").bind(replica.as_str()).run(self.write()).await.map(drop)
    }

    /// Forgets replicas that have been dead since `before_ms`.
    pub async fn forget_replicas(&self, before_ms: u64) -> Result<()> {
        sql("forget dead replicas", "DELETE FROM replicas WHERE expires_at_ms <= $1")
            .bind(before_ms)
            .run(self.write())
            .await
            .map(drop)
    }

    /// Takes a piece of work that nobody living has, or says again that this replica has it; `None` when another one does it.
    pub async fn claim(&self, work: &str, replica: &Replica) -> Result<Option<Fence>> {
        const ATTEMPT: &str = "claim a piece of work";
        // Usually somebody has it, which costs only a look.
        let text = timed!(
            "SELECT l.name, l.epoch, l.since_ms, l.replica FROM leases l JOIN replicas r ON r.id = l.replica AND r.expires_at_ms > ",
            " WHERE l.name = $1"
        );
        if let Some(row) = sql(ATTEMPT, text).bind(work).optional(self.read()).await? {
            let ours = Columns::new(&row, "lease", "name").text("replica")? == replica.as_str();
            return if ours { fence(&row).map(Some) } else { Ok(None) };
        }
        let mut tx = self.begin(ATTEMPT).await?;
        let text = timed!(
            "INSERT INTO leases (name, epoch, replica, since_ms) VALUES ($1, 1, $2, ",
            ") ON CONFLICT (name) DO UPDATE SET epoch = leases.epoch + 1, replica = excluded.replica, since_ms = excluded.since_ms \
             WHERE leases.replica IS NULL OR NOT EXISTS \
             (SELECT 1 FROM replicas r WHERE r.id = leases.replica AND r.expires_at_ms > ",
            ")"
        );
        sql(ATTEMPT, text).bind(work).bind(replica.as_str()).run(tx.on()).await?;
        let fence = held(&mut tx, work, replica).await?;
        tx.commit().await?;
        Ok(fence)
    }

    /// Takes a node's session, whoever has it: the newest connection of a node is the one that counts.
    pub async fn open_session(&self, node: &NodeId, replica: &Replica) -> Result<Fence> {
        const ATTEMPT: &str = "open a session";
        let mut tx = self.begin(ATTEMPT).await?;
        let text = timed!(
            "INSERT INTO leases (name, epoch, replica, since_ms) VALUES ($1, 1, $2, ",
            ") ON CONFLICT (name) DO UPDATE SET epoch = leases.epoch + 1, replica = excluded.replica, since_ms = excluded.since_ms"
        );
        sql(ATTEMPT, text).bind(node.as_str()).bind(replica.as_str()).run(tx.on()).await?;
        let fence = held(&mut tx, node.as_str(), replica).await?;
        tx.wake(Wake::Session(node.clone())).await?;
        tx.commit().await?;
        fence.ok_or_else(|| StoreError::Fenced(node.to_string()))
    }

    /// Gives a piece of work up, if it is still the caller's. The row stays, since its epoch must not begin anew.
    pub async fn give_up(&self, fence: &Fence) -> Result<()> {
        let text = "UPDATE leases SET replica = NULL WHERE name = $1 AND epoch = $2";
        sql("give a piece of work up", text).bind(&fence.name).bind(fence.epoch).run(self.write()).await.map(drop)
    }

    /// The nodes whose session a living replica has.
    pub async fn connected_nodes(&self) -> Result<std::collections::BTreeSet<NodeId>> {
        let text = timed!(
            "SELECT n.id FROM nodes n JOIN leases l ON l.name = n.id JOIN replicas r ON r.id = l.replica AND r.expires_at_ms > ",
            ""
        );
        let rows = sql("read which nodes are connected", text).all(self.read()).await?;
        rows.iter().map(|row| Columns::new(row, "node", "id").parsed("id")).collect()
    }

    /// Whether a living replica has the node's session.
    pub async fn is_connected(&self, node: &NodeId) -> Result<bool> {
        let text = timed!(
            "SELECT l.name FROM leases l JOIN replicas r ON r.id = l.replica AND r.expires_at_ms > ",
            " WHERE l.name = $1"
        );
        Ok(sql("read whether a node is connected", text).bind(node.as_str()).optional(self.read()).await?.is_some())
    }

    /// Notes that the platform's key of this name is this one; `false` when it was another one before.
    pub async fn same_key(&self, name: &str, digest: &[u8; 32]) -> Result<bool> {
        const ATTEMPT: &str = "compare a key of the platform";
        let insert = sql(ATTEMPT, "INSERT INTO platform_keys (name, digest) VALUES ($1, $2) ON CONFLICT DO NOTHING");
        insert.bind(name).bind(digest).run(self.write()).await?;
        let find = sql(ATTEMPT, "SELECT name FROM platform_keys WHERE name = $1 AND digest = $2").bind(name).bind(digest);
        Ok(find.optional(self.write()).await?.is_some())
    }
}

async fn held(tx: &mut Tx, work: &str, replica: &Replica) -> Result<Option<Fence>> {
    let find = sql("look who does a piece of work", "SELECT name, epoch, since_ms FROM leases WHERE name = $1 AND replica = $2");
    let row = find.bind(work).bind(replica.as_str()).optional(tx.on()).await?;
    row.as_ref().map(fence).transpose()
}

fn fence(row: &super::sql::Row) -> Result<Fence> {
    let columns = Columns::new(row, "lease", "name");
    Ok(Fence { name: columns.text("name")?, epoch: columns.uint("epoch")?, since_ms: columns.uint("since_ms")? })
}
