//! Projects: what instances belong to, who may see them, and how much they may take.

use super::{
    Result, Store,
    rows::Columns,
    sql::{On, Row, Tx, sql},
};

/// Most projects or members in one list.
const MAX_LIST: i64 = 10_000;

/// A project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// Its id; an account's own project has the account's name.
    pub id: String,
    /// What its owners call it.
    pub name: String,
    /// Since when there is one.
    pub created_at_ms: u64,
    /// What its instances may take together; what is absent is as the configuration says.
    pub quota: Quota,
}

/// Limits of what the live instances of a project take together; what is absent is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quota {
    /// How many.
    pub instances: Option<u64>,
    /// Their virtual CPUs.
    pub cpus: Option<u64>,
    /// Their memory.
    pub memory_mib: Option<u64>,
}

impl Quota {
    /// This one, and where it says nothing the other.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            instances: self.instances.or(other.instances),
            cpus: self.cpus.or(other.cpus),
            memory_mib: self.memory_mib.or(other.memory_mib),
        }
    }
}

/// What the live instances of a project take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// How many.
    pub instances: u64,
    /// Their virtual CPUs.
    pub cpus: u64,
    /// Their memory.
    pub memory_mib: u64,
}

impl Usage {
    /// The first limit that is exceeded: its name, and how much there may be.
    pub fn exceeds(&self, quota: &Quota) -> Option<(&'static str, u64)> {
        let each = [
            ("instances", self.instances, quota.instances),
            ("cpus", self.cpus, quota.cpus),
            ("memory_mib", self.memory_mib, quota.memory_mib),
        ];
        each.into_iter().find_map(|(name, used, limit)| limit.filter(|limit| used > *limit).map(|limit| (name, limit)))
    }
}

/// What a member of a project may do with the project itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberRole {
    /// Change its members.
    Owner,
    /// Nothing; only run instances in it.
    Member,
}

impl MemberRole {
    /// The name in the store and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Member => "member",
        }
    }
}

impl std::str::FromStr for MemberRole {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let all = [Self::Owner, Self::Member];
        all.into_iter().find(|role| role.as_str() == text).ok_or_else(|| format!("must be owner or member, got {text:?}"))
    }
}

/// What became of a change of a project's members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberChange {
    /// It was done, or was so already.
    Done,
    /// There is no such account, or it is no member.
    Unknown,
    /// Nobody would be left who owns the project.
    LastOwner,
}

impl Store {
    /// Makes a project with its first owner.
    pub async fn insert_project(&self, project: &Project, owner: &str) -> Result<()> {
        const ATTEMPT: &str = "make a project";
        let mut tx = self.begin(ATTEMPT).await?;
        let insert = sql(ATTEMPT, "INSERT INTO projects (id, name, created_at_ms) VALUES ($1, $2, $3)");
        insert.bind(&project.id).bind(&project.name).bind(project.created_at_ms).run(tx.on()).await?;
        let member = sql(ATTEMPT, "INSERT INTO project_members (project, account, role) VALUES ($1, $2, 'owner')");
        member.bind(&project.id).bind(owner).run(tx.on()).await?;
        tx.commit().await
    }

    /// The project with this id.
    pub async fn project(&self, id: &str) -> Result<Option<Project>> {
        let row = sql("read a project", "SELECT * FROM projects WHERE id = $1").bind(id).optional(self.read()).await?;
        row.as_ref().map(from_row).transpose()
    }

    /// Projects by id: of one account, or all.
    pub async fn projects(&self, member: Option<&str>) -> Result<Vec<Project>> {
        let text = "SELECT p.* FROM projects p WHERE $1 IS NULL OR EXISTS \
                    (SELECT 1 FROM project_members m WHERE m.project = p.id AND m.account = $1) ORDER BY p.id LIMIT $2";
        sql("list projects", text).bind(member).bind(MAX_LIST).all(self.read()).await?.iter().map(from_row).collect()
    }

    /// What an account is in a project.
    pub async fn membership(&self, project: &str, account: &str) -> Result<Option<MemberRole>> {
        let find = sql("look for a member", "SELECT account, role FROM project_members WHERE project = $1 AND account = $2");
        let row = find.bind(project).bind(account).optional(self.read()).await?;
        row.map(|row| Columns::new(&row, "member", "account").parsed("role")).transpose()
    }

    /// Members of a project by name.
    pub async fn members(&self, project: &str) -> Result<Vec<(String, MemberRole)>> {
        let find = sql("list members", "SELECT account, role FROM project_members WHERE project = $1 ORDER BY account LIMIT $2");
        let rows = find.bind(project).bind(MAX_LIST).all(self.read()).await?;
        rows.iter()
            .map(|row| {
                let columns = Columns::new(row, "member", "account");
                Ok((columns.text("account")?, columns.parsed("role")?))
            })
            .collect()
    }

    /// Makes an account a member, or no member any more with `None`. A project keeps an owner.
    pub async fn set_member(&self, project: &str, account: &str, role: Option<MemberRole>) -> Result<MemberChange> {
        const ATTEMPT: &str = "change a project's members";
        let mut tx = self.begin(ATTEMPT).await?;
        tx.lock(sql(ATTEMPT, "SELECT id FROM projects WHERE id = $1 FOR UPDATE").bind(project)).await?;
        let known = sql(ATTEMPT, "SELECT name FROM accounts WHERE name = $1").bind(account).optional(tx.on()).await?;
        if known.is_none() {
            return Ok(MemberChange::Unknown);
        }
        let changed = match role {
            Some(role) => {
                let text = "INSERT INTO project_members (project, account, role) VALUES ($1, $2, $3) \
                            ON CONFLICT (project, account) DO UPDATE SET role = excluded.role";
                sql(ATTEMPT, text).bind(project).bind(account).bind(role.as_str()).run(tx.on()).await?
            }
            None => {
                let text = "DELETE FROM project_members WHERE project = $1 AND account = $2";
                sql(ATTEMPT, text).bind(project).bind(account).run(tx.on()).await?
            }
        };
        let owner = sql(ATTEMPT, "SELECT account FROM project_members WHERE project = $1 AND role = 'owner' LIMIT 1");
        if owner.bind(project).optional(tx.on()).await?.is_none() {
            return Ok(MemberChange::LastOwner);
        }
        tx.commit().await?;
        Ok(if changed > 0 { MemberChange::Done } else { MemberChange::Unknown })
    }

    /// Limits a project; `false` when there is none with this id.
    pub async fn set_quota(&self, project: &str, quota: &Quota) -> Result<bool> {
        let text = "UPDATE projects SET quota_instances = $1, quota_cpus = $2, quota_memory_mib = $3 WHERE id = $4";
        let update = sql("limit a project", text).bind(quota.instances).bind(quota.cpus).bind(quota.memory_mib).bind(project);
        Ok(update.run(self.write()).await? > 0)
    }

    /// What the live instances of a project take.
    pub async fn usage(&self, project: &str) -> Result<Usage> {
        usage(self.read(), project).await
    }
}

/// The limits of a project, within the transaction that places.
pub(super) async fn quota(tx: &mut Tx, project: &str) -> Result<Quota> {
    let row = sql("read a quota", "SELECT * FROM projects WHERE id = $1").bind(project).optional(tx.on()).await?;
    Ok(row.as_ref().map(from_row).transpose()?.map(|project| project.quota).unwrap_or_default())
}

pub(super) async fn usage(on: On<'_>, project: &str) -> Result<Usage> {
    let text = "SELECT COUNT(*) AS instances, CAST(COALESCE(SUM(cpus), 0) AS BIGINT) AS cpus, \
                CAST(COALESCE(SUM(memory_mib), 0) AS BIGINT) AS memory_mib \
                FROM instances WHERE owner = $1 AND step NOT IN ('wiped', 'gone')";
    let Some(row) = sql("sum up what a project takes", text).bind(project).optional(on).await? else {
        return Ok(Usage::default());
    };
    let columns = Columns::new(&row, "usage", "project");
    Ok(Usage { instances: columns.uint("instances")?, cpus: columns.uint("cpus")?, memory_mib: columns.uint("memory_mib")? })
}

fn from_row(row: &Row) -> Result<Project> {
    let columns = Columns::new(row, "project", "id");
    Ok(Project {
        id: columns.text("id")?,
        name: columns.text("name")?,
        created_at_ms: columns.uint("created_at_ms")?,
        quota: Quota {
            instances: columns.opt_uint("quota_instances")?,
            cpus: columns.opt_uint("quota_cpus")?,
            memory_mib: columns.opt_uint("quota_memory_mib")?,
        },
    })
}
