//! What happens by time alone: lost nodes, keys that never come, things to forget.

use std::{collections::BTreeMap, time::Duration};

use casemate_lifecycle::{Dates, Overdue, Step, Times, overdue};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::{Service, deliver, maintenance};
use crate::{
    clock::now_ms,
    drain::drained,
    fault::Fault,
    life,
    store::{Fence, Instance, NewEvent, Replica, Store, StoreError},
};

/// How often.
const TICK: Duration = Duration::from_millis(500);
/// Time between two rounds of forgetting.
const FORGET_EVERY: Duration = Duration::from_secs(300);
/// How long an expired token is listed.
const TOKEN_MEMORY_MS: u64 = 30 * 24 * 3_600_000;
/// How long the answer to a request with an idempotency key is kept.
const ANSWER_MEMORY_MS: u64 = 24 * 3_600_000;
/// How long a dead replica is known.
const REPLICA_MEMORY_MS: u64 = 3_600_000;
/// How long a challenge is known as used or expired.
const CHALLENGE_MEMORY_MS: u64 = 3_600_000;

impl Service {
    /// Looks after time limits until the server drains.
    pub async fn upkeep(self) {
        let mut draining = self.draining();
        let mut quiet = None;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = drained(&mut draining) => return,
            }
            match self.enforce_if_ours(quiet).await {
                Ok(now_ms) => quiet = quiet.or(Some(now_ms)),
                Err(fault) => {
                    quiet = None;
                    fault.log();
                }
            }
        }
    }

    /// Of several replicas one does it. `quiet` is since when the store has answered; the answer is the time by its clock.
    async fn enforce_if_ours(&self, quiet: Option<u64>) -> Result<u64, Fault> {
        let now_ms = self.store().now_ms().await?;
        if let Some(fence) = self.store().claim("upkeep", &self.0.parts.replica).await? {
            self.enforce(now_ms, quiet.unwrap_or(now_ms), &fence).await?;
        }
        Ok(now_ms)
    }

    async fn enforce(&self, now_ms: u64, quiet_ms: u64, fence: &Fence) -> Result<(), Fault> {
        let live = self.store().live_instances().await?;
        if live.is_empty() {
            return Ok(());
        }
        let nodes = self.store().nodes().await?.into_iter();
        let nodes: BTreeMap<_, _> = nodes.map(|node| (node.id, (node.last_seen_ms, node.drain.until_ms()))).collect();
        let connected = self.store().connected_nodes().await?;
        let maintenances = self.store().maintenances().await?;
        for instance in live {
            let Some(node) = &instance.node else { continue };
            // After a time in which nobody could hear of them, or write it down, nodes get theirs to come back.
            let (seen, drained_at_ms) = nodes.get(node).copied().unwrap_or_default();
            let ending = Ending { drained_at_ms, maintenance: maintenances.iter().any(|one| one.node == *node) };
            let last = seen.max(fence.since_ms).max(quiet_ms);
            let silent = (!connected.contains(node)).then(|| now_ms.saturating_sub(last));
            let times =
                Times { now_ms, silent_ms: silent, node_lost_ms: ms(self.limits().node_lost), keys_ms: ms(self.limits().keys) };
            if due(&instance, ending, &times).is_some() {
                match self.change_as(fence, &instance.id, |instance, out| act(instance, ending, &times, out)).await {
                    // Another replica took over; it sees to the rest.
                    Err(Fault::Store(StoreError::Fenced(_))) => return Ok(()),
                    changed => drop(changed?),
                }
            }
        }
        Ok(())
    }
}

/// Forgets what no role needs any more, until the server drains.
pub async fn forget(store: Store, replica: Replica, mut draining: watch::Receiver<bool>) {
    let mut ticks = interval(FORGET_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = drained(&mut draining) => return,
        }
        let now_ms = now_ms();
        let done = async {
            if store.claim("forget", &replica).await?.is_none() {
                return Ok(());
            }
            store.forget_enrolments(now_ms).await?;
            store.forget_questions(store.now_ms().await?).await?;
            store.forget_replicas(store.now_ms().await?.saturating_sub(REPLICA_MEMORY_MS)).await?;
            store.forget_expired_nonces(now_ms).await?;
            store.forget_expired_tokens(now_ms).await?;
            store.forget_api_tokens(now_ms.saturating_sub(TOKEN_MEMORY_MS)).await?;
            store.forget_answers(now_ms.saturating_sub(ANSWER_MEMORY_MS)).await?;
            store.forget_deliveries(now_ms.saturating_sub(deliver::MEMORY_MS)).await?;
            store.forget_challenges(now_ms.saturating_sub(CHALLENGE_MEMORY_MS)).await
        };
        if let Err(error) = done.await {
            Fault::Store(error).log();
        }
    }
}

/// What ends everything on a node.
#[derive(Debug, Clone, Copy)]
struct Ending {
    drained_at_ms: Option<u64>,
    maintenance: bool,
}

fn due(instance: &Instance, ending: Ending, times: &Times) -> Option<Overdue> {
    let dates = Dates {
        start_before_ms: instance.start_before_ms,
        attested_at_ms: instance.attested_at_ms,
        ends_at_ms: instance.ends_at_ms,
        drained_at_ms: ending.drained_at_ms,
        maintenance: ending.maintenance,
    };
    overdue(&instance.actual, instance.intent, &dates, times)
}

/// An instance on a lost node may still run: its state is unknown, and it is never started a second time elsewhere.
fn act(instance: &mut Instance, ending: Ending, times: &Times, out: &mut Vec<NewEvent>) {
    let step = life::next_step(instance.actual.step);
    match due(instance, ending, times) {
        Some(Overdue::Node) => {
            let text = format!(
                "the node has not been heard of for {} ms; the instance's state is unknown",
                times.silent_ms.unwrap_or(0)
            );
            out.push(NewEvent { kind: "node-lost", text: text.clone(), data: None });
            life::fail(instance, step, "node.lost", text, out);
        }
        Some(Overdue::Keys) => {
            let text = format!("no keys came within {} ms after the platform's verdict", times.keys_ms);
            life::fail(instance, Step::Keyed, "keys.timeout", text, out);
        }
        Some(Overdue::Start) => {
            life::fail(instance, step, "assignment.stale", "the node did not take the assignment in time", out);
        }
        Some(Overdue::Life) => {
            life::fail(instance, step, "expired", "its time to live is over, and its node has not ended it", out);
        }
        Some(Overdue::Maintenance) => life::fail(instance, step, maintenance::CHECK, maintenance::ENDED, out),
        Some(Overdue::Drain) => {
            life::fail(
                instance,
                step,
                "node.drained",
                "its node goes out of service, and the time to come to an end is over",
                out,
            );
        }
        None => {}
    }
}

pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
