//! What the server does, without transport: REST and gRPC call these methods and translate.
//!
//! Every truth is in the store; in memory are only connections and waiters, so that any replica may do any of it. Every change of
//! an instance goes through [`Service::change`].

mod accounts;
mod alive;
pub mod appraisals;
mod attest;
mod blobs;
mod challenges;
mod deliver;
mod desired;
mod drain;
mod enrol;
mod incidents;
mod instances;
mod maintenance;
mod market;
mod nodes;
mod notices;
mod offers;
mod projects;
mod records;
mod renew;
mod reports;
mod rules;
mod score;
mod session;
mod streams;
mod tokens;
mod upkeep;
mod webhooks;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use casemate_lifecycle::InstanceId;
use tokio::sync::{Semaphore, watch};

pub use accounts::Accounts;
pub use alive::keep_alive;
pub use instances::Placed;
pub use nodes::PeerNode;
pub use offers::Wanted as WantedOffers;
pub use rules::{Rules, STRICT_NAME};
pub use session::SessionEnd;
pub use streams::Change;
pub use tokens::{Caller, authenticate, make_token};
pub use upkeep::forget;

use crate::{
    appraiser::{Appraiser, Judgement},
    authority::Authority,
    blobs::Blobs,
    changes::Changes,
    clock::now_ms,
    config::{LastWord, Limits},
    fault::Fault,
    revocations::Keeper,
    sessions::Sessions,
    store::{Fence, Instance, NewEvent, Replica, Store},
    webhooks::Sender,
};

/// Longest wait for rules to be compiled.
const RULES_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);
/// Most long polls at the same time.
const MAX_LONG_POLLS: usize = 512;

/// The server's services; cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

/// What the services work with.
pub struct Parts {
    /// Everything durable.
    pub store: Store,
    /// Who we are among those who use it.
    pub replica: Replica,
    /// Uploaded blobs.
    pub blobs: Blobs,
    /// The platform's keys.
    pub authority: Authority,
    /// The verifier with this platform's anchors and policy.
    pub appraiser: Appraiser,
    /// The revocation list in force.
    pub revocations: Keeper,
    /// The operator's rules.
    pub rules: Rules,
    /// Which of them have the last word.
    pub last_word: LastWord,
    /// Who makes the calls to webhooks.
    pub sender: Sender,
    /// Limits.
    pub limits: Limits,
    /// Becomes `true` when the server drains.
    pub draining: watch::Receiver<bool>,
}

struct Inner {
    parts: Parts,
    changes: Changes<InstanceId>,
    /// Who waits for a node that another replica has.
    answers: Changes<String>,
    sessions: Sessions,
    /// Instances whose appraisal is under way.
    attesting: Mutex<HashSet<InstanceId>>,
    long_polls: Semaphore,
    streams: streams::Streams,
    market: market::View,
}

impl Service {
    /// The services over these parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            changes: Changes::default(),
            answers: Changes::default(),
            sessions: Sessions::default(),
            attesting: Mutex::default(),
            long_polls: Semaphore::new(MAX_LONG_POLLS),
            streams: streams::Streams::default(),
            market: market::View::default(),
        }))
    }

    /// Everything durable.
    pub fn store(&self) -> &Store {
        &self.0.parts.store
    }

    /// The platform's keys.
    pub fn authority(&self) -> &Authority {
        &self.0.parts.authority
    }

    /// The revocation list in force.
    pub fn revocations(&self) -> &Keeper {
        &self.0.parts.revocations
    }

    /// What the verifier judges instances by, as it is now; `policy` names the rules.
    async fn judgement(&self, policy: &str) -> Result<Judgement, Fault> {
        let rules = self.0.parts.rules.named(policy, RULES_LIMIT).await?;
        Ok(Judgement { rules, revocations: self.revocations().in_force().await? })
    }

    fn limits(&self) -> &Limits {
        &self.0.parts.limits
    }

    fn draining(&self) -> watch::Receiver<bool> {
        self.0.parts.draining.clone()
    }

    /// Changes an instance by a pure decision. The store wakes those who wait for it, and its node's session.
    pub async fn change<T>(
        &self,
        id: &InstanceId,
        edit: impl FnOnce(&mut Instance, &mut Vec<NewEvent>) -> T,
    ) -> Result<Option<(Instance, T)>, Fault> {
        Ok(self.store().change_instance(id, now_ms(), None, edit).await?)
    }

    /// The same for one who may have been replaced: only as long as he was not.
    async fn change_as<T>(
        &self,
        fence: &Fence,
        id: &InstanceId,
        edit: impl FnOnce(&mut Instance, &mut Vec<NewEvent>) -> T,
    ) -> Result<Option<(Instance, T)>, Fault> {
        Ok(self.store().change_instance(id, now_ms(), Some(fence), edit).await?)
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}

fn random<const N: usize>() -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Fault::internal("draw randomness")(error.into()))?;
    Ok(bytes)
}
