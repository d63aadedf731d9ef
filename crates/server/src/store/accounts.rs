//! Accounts: who may have tokens, and in which roles.

use super::{
    Result, Store,
    roles::{Role, RoleSet},
    rows::Columns,
    sql::{On, Row, Tx, sql},
};

/// Name of the lock that orders changes of accounts in PostgreSQL: there is always an operator.
const ACCOUNTS: i64 = 0x6361_7365_0002;

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name; its own project has the same.
    pub name: String,
    /// What it is.
    pub roles: RoleSet,
    /// Since when it is known.
    pub created_at_ms: u64,
    /// Since when its tokens are worth nothing.
    pub disabled_at_ms: Option<u64>,
}

/// What became of a change of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountChange {
    /// It was done.
    Done(Account),
    /// There is no such account.
    Unknown,
    /// Nobody would be left to operate the platform.
    LastOperator,
}

impl Store {
    /// Makes an account and its own project; `false` when there is one, or a project, of this name.
    pub async fn insert_account(&self, name: &str, roles: &RoleSet, now_ms: u64) -> Result<bool> {
        let mut tx = self.begin("make an account").await?;
        let made = insert(&mut tx, name, roles, now_ms).await?;
        if made {
            tx.commit().await?;
        }
        Ok(made)
    }

    /// The account of this name with this role, made or extended if need be; `None` when it is disabled.
    pub async fn ensure_account(&self, name: &str, role: Role, now_ms: u64) -> Result<Option<Account>> {
        const ATTEMPT: &str = "find or make an account";
        let mut tx = self.begin(ATTEMPT).await?;
        tx.alone(ACCOUNTS).await?;
        let Some(mut account) = find(tx.on(), name).await? else {
            let roles = RoleSet::of(&[role]);
            if !insert(&mut tx, name, &roles, now_ms).await? {
                return Ok(None);
            }
            tx.commit().await?;
            return Ok(Some(Account { name: name.to_owned(), roles, created_at_ms: now_ms, disabled_at_ms: None }));
        };
        if account.disabled_at_ms.is_some() {
            return Ok(None);
        }
        if !account.roles.has(role) {
            account.roles = account.roles.with(role);
            write(&mut tx, &account).await?;
        }
        tx.commit().await?;
        Ok(Some(account))
    }

    /// Gives an account these roles, and disables or enables it. The last operator stays one.
    pub async fn change_account(&self, name: &str, roles: &RoleSet, disabled: bool, now_ms: u64) -> Result<AccountChange> {
        let mut tx = self.begin("change an account").await?;
        tx.alone(ACCOUNTS).await?;
        let Some(before) = find(tx.on(), name).await? else { return Ok(AccountChange::Unknown) };
        let disabled_at_ms = disabled.then(|| before.disabled_at_ms.unwrap_or(now_ms));
        let after = Account { roles: roles.clone(), disabled_at_ms, ..before.clone() };
        if operates(&before) && !operates(&after) && !others_operate(&mut tx, name).await? {
            return Ok(AccountChange::LastOperator);
        }
        write(&mut tx, &after).await?;
        tx.commit().await?;
        Ok(AccountChange::Done(after))
    }

    /// The account of this name.
    pub async fn account(&self, name: &str) -> Result<Option<Account>> {
        find(self.read(), name).await
    }

    /// Accounts by name, from the one after `after` on.
    pub async fn accounts(&self, after: &str, limit: u32) -> Result<Vec<Account>> {
        let find = sql("list accounts", "SELECT * FROM accounts WHERE name > $1 ORDER BY name LIMIT $2");
        find.bind(after).bind(limit).all(self.read()).await?.iter().map(from_row).collect()
    }
}

fn operates(account: &Account) -> bool {
    account.disabled_at_ms.is_none() && account.roles.has(Role::Operator)
}

async fn others_operate(tx: &mut Tx, name: &str) -> Result<bool> {
    // No other role's name holds this one.
    let text = "SELECT name FROM accounts WHERE name != $1 AND disabled_at_ms IS NULL AND roles LIKE '%operator%' LIMIT 1";
    Ok(sql("look for another operator", text).bind(name).optional(tx.on()).await?.is_some())
}

async fn insert(tx: &mut Tx, name: &str, roles: &RoleSet, now_ms: u64) -> Result<bool> {
    const ATTEMPT: &str = "make an account";
    let account = sql(ATTEMPT, "INSERT INTO accounts (name, roles, created_at_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING");
    let project = sql(ATTEMPT, "INSERT INTO projects (id, name, created_at_ms) VALUES ($1, $1, $2) ON CONFLICT DO NOTHING");
    let member = sql(ATTEMPT, "INSERT INTO project_members (project, account, role) VALUES ($1, $1, 'owner')").bind(name);
    if account.bind(name).bind(roles.to_string()).bind(now_ms).run(tx.on()).await? == 0 {
        return Ok(false);
    }
    if project.bind(name).bind(now_ms).run(tx.on()).await? == 0 {
        return Ok(false);
    }
    member.run(tx.on()).await?;
    Ok(true)
}

async fn write(tx: &mut Tx, account: &Account) -> Result<()> {
    sql("write an account", "UPDATE accounts SET roles = $1, disabled_at_ms = $2 WHERE name = $3")
        .bind(account.roles.to_string())
        .bind(account.disabled_at_ms)
        .bind(&account.name)
        .run(tx.on())
        .await
        .map(drop)
}

async fn find(on: On<'_>, name: &str) -> Result<Option<Account>> {
    let row = sql("read an account", "SELECT * FROM accounts WHERE name = $1").bind(name).optional(on).await?;
    row.as_ref().map(from_row).transpose()
}

fn from_row(row: &Row) -> Result<Account> {
    let columns = Columns::new(row, "account", "name");
    Ok(Account {
        name: columns.text("name")?,
        roles: columns.parsed("roles")?,
        created_at_ms: columns.uint("created_at_ms")?,
        disabled_at_ms: columns.opt_uint("disabled_at_ms")?,
    })
}
