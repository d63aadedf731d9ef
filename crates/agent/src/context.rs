//! What every instance needs of the agent.

use std::sync::Arc;

use casemate_lifecycle::NodeId;
use ed25519_dalek::SigningKey;
use tokio::sync::watch;

use crate::{
    assignment::NodeCapacity, config::Config, drivers::Drivers, evidence::Batcher, failpoint::Failpoints, images::Images,
    measure::DigestCache, platform::Platform,
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
}

impl Context {
    pub(crate) fn failpoints(&self) -> Failpoints {
        Failpoints(self.config.failpoint)
    }
}
