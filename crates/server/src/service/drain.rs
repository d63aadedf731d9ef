//! Nodes that go out of service: nothing new comes there, and what runs may come to its end.

use super::{Caller, Service};
use crate::{
    fault::Fault,
    store::{Drain, Role},
};

/// Longest deadline of a drain: a year.
const MAX_DEADLINE_S: u64 = 366 * 24 * 3600;

impl Service {
    /// Gives a node no new instances any more; those that it has may come to their end, for `deadline_s` seconds where that is said.
    pub async fn drain_node(&self, caller: &Caller, id: &str, deadline_s: Option<u64>) -> Result<(), Fault> {
        let drain = match deadline_s {
            Some(deadline) => {
                caller.must_operate("end what runs on a node at a deadline; that needs an operator's token")?;
                Drain::ByOperator(Some(self.deadline(deadline).await?))
            }
            None if caller.is(Role::Operator) => Drain::ByOperator(None),
            None => Drain::ByHoster,
        };
        self.set_drain(caller, id, drain).await?;
        tracing::info!(node.id = id, deadline_s, by = caller.account, "a node is drained");
        Ok(())
    }

    /// Gives a drained node work again.
    pub async fn undrain_node(&self, caller: &Caller, id: &str) -> Result<(), Fault> {
        self.set_drain(caller, id, Drain::No).await?;
        tracing::info!(node.id = id, by = caller.account, "a node is not drained any more");
        Ok(())
    }

    async fn set_drain(&self, caller: &Caller, id: &str, drain: Drain) -> Result<(), Fault> {
        let node = self.own_node(caller, id).await?.id;
        let by = if caller.is(Role::Operator) { Role::Operator } else { Role::Hoster };
        if self.store().drain_node(&node, drain, by).await? {
            return Ok(());
        }
        Err(Fault::Conflict { detail: "an operator has drained the node, and only an operator changes that".to_owned() })
    }

    async fn deadline(&self, deadline_s: u64) -> Result<u64, Fault> {
        if deadline_s > MAX_DEADLINE_S {
            let detail = format!("must be at most {MAX_DEADLINE_S}");
            return Err(Fault::Invalid { what: "deadline_s", detail, hint: "leave it out for a drain without a deadline" });
        }
        Ok(self.store().now_ms().await?.saturating_add(deadline_s * 1000))
    }
}
