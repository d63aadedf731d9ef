//! What a node should do, signed.

use casemate_api::{assignment, canonical, node::Assignment};
use casemate_lifecycle::{Intent, NodeId};

use super::Service;
use crate::{clock::now_ms, store::Instance};

/// Time between SIGTERM and SIGKILL when an instance is stopped.
const GRACE_MS: u32 = 10_000;

impl Service {
    /// The assignment of one instance, signed now.
    pub(super) fn assignment(&self, node: &NodeId, instance: &Instance) -> Assignment {
        let intent = match instance.intent {
            Intent::Run => assignment::Intent::Run,
            Intent::Stop | Intent::Delete => assignment::Intent::Stop,
        };
        let body = canonical::to_vec(&assignment::Body {
            version: 1,
            instance: instance.id.to_string(),
            node: node.to_string(),
            generation: instance.generation,
            intent,
            level: instance.placed_at(),
            workload: instance.workload.clone(),
            issued_at_ms: now_ms(),
            start_before_ms: instance.start_before_ms,
            grace_ms: GRACE_MS,
        });
        let signature = self.authority().sign_assignment(&body).to_vec();
        Assignment { body, signature }
    }
}
