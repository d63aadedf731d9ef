//! Roles of accounts, and sets of them as they are stored.

use std::collections::BTreeSet;

/// What an account or a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Runs instances in projects.
    Tenant,
    /// Has nodes.
    Hoster,
    /// Operates the platform.
    Operator,
    /// Enrols one node; no account has it.
    Bootstrap,
}

impl Role {
    /// What accounts can be.
    pub const OF_ACCOUNTS: [Self; 3] = [Self::Tenant, Self::Hoster, Self::Operator];

    /// The name in the store, in answers and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Hoster => "hoster",
            Self::Operator => "operator",
            Self::Bootstrap => "bootstrap",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Tenant, Self::Hoster, Self::Operator, Self::Bootstrap]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("role must be tenant, hoster, operator or bootstrap, got {text:?}"))
    }
}

/// Roles of an account or of a token; never the bootstrap one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoleSet(BTreeSet<Role>);

impl RoleSet {
    /// These roles.
    pub fn of(roles: &[Role]) -> Self {
        Self(roles.iter().copied().filter(|role| *role != Role::Bootstrap).collect())
    }

    /// Whether this role is among them.
    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }

    /// Whether it has one of these.
    pub fn has_any(&self, roles: &[Role]) -> bool {
        roles.iter().any(|role| self.has(*role))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With one more.
    #[must_use]
    pub fn with(&self, role: Role) -> Self {
        Self(self.0.iter().copied().chain([role]).collect())
    }

    /// Those that are in both.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// Whether all of them are among the other's.
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|role| role.as_str().to_owned()).collect()
    }
}

impl std::fmt::Display for RoleSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.names().join(","))
    }
}

impl std::str::FromStr for RoleSet {
    type Err = String;

    /// Names with commas between them; none is a set, too.
    fn from_str(text: &str) -> Result<Self, String> {
        let roles: Result<BTreeSet<Role>, String> = text.split(',').filter(|name| !name.is_empty()).map(str::parse).collect();
        let roles = roles?;
        if roles.contains(&Role::Bootstrap) {
            return Err("no account has the role bootstrap".to_owned());
        }
        Ok(Self(roles))
    }
}
