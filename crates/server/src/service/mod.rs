//! What the server does, without transport: REST and gRPC call these methods and translate.
//!
//! Everything durable is in the store; in memory are only connections, waiters, and enrolments under way. Every change
//! of an instance goes through [`Service::change`].

pub mod appraisals;
mod attest;
mod blobs;
mod challenges;
mod desired;
mod enrol;
mod instances;
mod nodes;
mod records;
mod renew;
mod reports;
mod rules;
mod score;
mod session;
mod tokens;
mod upkeep;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use casemate_lifecycle::InstanceId;
use tokio::sync::{Semaphore, watch};

pub use instances::Placed;
pub use nodes::PeerNode;
pub use rules::{Rules, STRICT_NAME};
pub use session::SessionEnd;
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
    sessions::{Command, Sessions},
    store::{Instance, NewEvent, Store},
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
    /// Limits.
    pub limits: Limits,
    /// Becomes `true` when the server drains.
    pub draining: watch::Receiver<bool>,
}

struct Inner {
    parts: Parts,
    changes: Changes,
    sessions: Sessions,
    enrolments: enrol::Pending,
    renewals: renew::Pending,
    /// Instances whose appraisal is under way.
    attesting: Mutex<HashSet<InstanceId>>,
    long_polls: Semaphore,
    started_at_ms: u64,
}

impl Service {
    /// The services over these parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            changes: Changes::default(),
            sessions: Sessions::default(),
            enrolments: enrol::Pending::default(),
            renewals: renew::Pending::default(),
            attesting: Mutex::default(),
            long_polls: Semaphore::new(MAX_LONG_POLLS),
            started_at_ms: now_ms(),
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
        Ok(Judgement { rules, revocations: self.revocations().held() })
    }

    fn limits(&self) -> &Limits {
        &self.0.parts.limits
    }

    fn draining(&self) -> watch::Receiver<bool> {
        self.0.parts.draining.clone()
    }

    /// Changes an instance by a pure decision, wakes those who wait for it, and tells its node if the node has to act.
    pub async fn change<T>(
        &self,
        id: &InstanceId,
        edit: impl FnOnce(&mut Instance, &mut Vec<NewEvent>) -> T,
    ) -> Result<Option<(Instance, T)>, Fault> {
        let mut must_act = false;
        let changed = self
            .store()
            .change_instance(id, now_ms(), |instance, out| {
                let before = instance.generation;
                let answer = edit(instance, out);
                must_act = instance.generation != before;
                answer
            })
            .await?;
        if let Some((instance, _)) = &changed {
            self.0.changes.wake(id);
            if let (true, Some(node)) = (must_act, &instance.node) {
                self.0.sessions.send(node, Command::Changed(id.clone()));
            }
        }
        Ok(changed)
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
