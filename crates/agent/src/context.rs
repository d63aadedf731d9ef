//! What every instance needs of the agent.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use casemate_lifecycle::{Failure, NodeId, Step};
use ed25519_dalek::SigningKey;
use tokio::sync::watch;

use crate::{
    assignment::NodeCapacity, config::Config, dedicated::Dedication, drivers::Drivers, evidence::Batcher, failpoint::Failpoints,
    failure, images::Images, measure::DigestCache, monitor::Monitor, platform::Platform,
};

/// Shared by all tasks; changes only behind its `platform`.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) node: NodeId,
    pub(crate) drivers: Drivers,
    pub(crate) images: Images,
    pub(crate) digests: Arc<DigestCache>,
    pub(crate) evidence: Batcher,
    pub(crate) receipt_key: SigningKey,
    pub(crate) capacity: NodeCapacity,
    /// Follows the node certificate.
    pub(crate) platform: watch::Receiver<Arc<Platform>>,
    /// Guards the instances, where there is one.
    pub(crate) monitor: Option<Monitor>,
    /// What was found on this host that its owner does not want there.
    pub(crate) dedicated: Dedication,
    /// The agent is about to end: it takes no new instances.
    pub(crate) leaving: AtomicBool,
}

impl Context {
    /// Why no new instance may start here now.
    pub(crate) fn refusal(&self) -> Option<Failure> {
        let leaving = || failure::at(Step::Accepted, failure::check::LEAVING, "the node's agent is about to end");
        let is_leaving = self.leaving.load(Ordering::Relaxed);
        if is_leaving { Some(leaving()) } else { self.dedicated.refusal() }
    }

    pub(crate) fn failpoints(&self) -> Failpoints {
        Failpoints(self.config.failpoint)
    }
}
