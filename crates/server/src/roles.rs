//! Which roles a server runs. What each of them means is decided in [`crate::server`] alone: listeners, routers and tasks.

use std::collections::BTreeSet;

/// One role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoleName {
    /// REST for tenants and operators: instances, blobs, nodes.
    Api,
    /// The listener for nodes, their sessions, and what happens to instances by time alone.
    Nodes,
    /// Appraisals for relying parties and attesters.
    Verifier,
}

impl RoleName {
    /// All, in order.
    pub const ALL: [Self; 3] = [Self::Api, Self::Nodes, Self::Verifier];

    /// The name in configuration and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Nodes => "nodes",
            Self::Verifier => "verifier",
        }
    }
}

/// Why a list of roles is not acceptable.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RolesError {
    /// Nothing to do.
    #[error("at least one of \"api\", \"nodes\", \"verifier\"")]
    Empty,
    /// No such role.
    #[error("must be of \"api\", \"nodes\", \"verifier\", got {0:?}")]
    Unknown(String),
    /// A role that cannot be alone.
    #[error("\"api\" and \"nodes\" come together; a server that scales out has both")]
    Apart,
}

/// The roles of this server; not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles(BTreeSet<RoleName>);

impl Roles {
    /// Roles by name.
    pub fn parse<S: AsRef<str>>(names: &[S]) -> Result<Self, RolesError> {
        let role = |name: &S| {
            let found = RoleName::ALL.into_iter().find(|role| role.as_str() == name.as_ref());
            found.ok_or_else(|| RolesError::Unknown(name.as_ref().to_owned()))
        };
        let roles = Self(names.iter().map(role).collect::<Result<_, _>>()?);
        if roles.0.is_empty() {
            return Err(RolesError::Empty);
        }
        if roles.0.contains(&RoleName::Api) != roles.0.contains(&RoleName::Nodes) {
            return Err(RolesError::Apart);
        }
        Ok(roles)
    }

    /// Whether instances and nodes are served.
    pub fn platform(&self) -> bool {
        self.0.contains(&RoleName::Api)
    }

    /// Whether evidence is appraised for others.
    pub fn verifier(&self) -> bool {
        self.0.contains(&RoleName::Verifier)
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|role| role.as_str().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_can_run_and_names_what_cannot() {
        assert_eq!(Roles::parse(&["nodes", "api", "verifier"]).unwrap().names(), ["api", "nodes", "verifier"]);
        let alone = Roles::parse(&["verifier"]).unwrap();
        assert!(alone.verifier() && !alone.platform());
        let platform = Roles::parse(&["api", "nodes"]).unwrap();
        assert!(platform.platform() && !platform.verifier());
        assert_eq!(Roles::parse::<&str>(&[]), Err(RolesError::Empty));
        assert_eq!(Roles::parse(&["verifier", "broker"]), Err(RolesError::Unknown("broker".into())));
        for apart in [&["api"][..], &["nodes"], &["verifier", "nodes"]] {
            assert_eq!(Roles::parse(apart), Err(RolesError::Apart));
        }
    }
}
