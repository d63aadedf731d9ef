//! What happens by time alone: lost nodes, keys that never come, things to forget.

use std::{collections::BTreeMap, time::Duration};

use casemate_lifecycle::{Intent, Step};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::Service;
use crate::{
    clock::now_ms,
    drain::drained,
    fault::Fault,
    life,
    store::{Instance, NewEvent, Store},
};

/// How often.
const TICK: Duration = Duration::from_millis(500);
/// Time between two rounds of forgetting.
const FORGET_EVERY: Duration = Duration::from_secs(300);
/// How long a challenge is known as used or expired.
const CHALLENGE_MEMORY_MS: u64 = 3_600_000;

impl Service {
    /// Looks after time limits until the server drains.
    pub async fn upkeep(self) {
        let mut draining = self.draining();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = drained(&mut draining) => return,
            }
            if let Err(fault) = self.enforce(now_ms()).await {
                fault.log();
            }
        }
    }

    async fn enforce(&self, now_ms: u64) -> Result<(), Fault> {
        let live = self.store().live_instances().await?;
        if live.is_empty() {
            return Ok(());
        }
        let seen: BTreeMap<_, _> = self.store().nodes().await?.into_iter().map(|node| (node.id, node.last_seen_ms)).collect();
        for instance in live {
            let Some(node) = &instance.node else { continue };
            // After a restart of the server nodes get their time to come back.
            let last = seen.get(node).copied().unwrap_or(0).max(self.0.started_at_ms);
            let silent = (!self.0.sessions.is_connected(node)).then(|| now_ms.saturating_sub(last));
            let times =
                Times { now_ms, silent_ms: silent, node_lost_ms: ms(self.limits().node_lost), keys_ms: ms(self.limits().keys) };
            if overdue(&instance, &times).is_some() {
                self.change(&instance.id, |instance, out| act(instance, &times, out)).await?;
            }
        }
        Ok(())
    }
}

/// Forgets what no role needs any more, until the server drains.
pub async fn forget(store: Store, mut draining: watch::Receiver<bool>) {
    let mut ticks = interval(FORGET_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = drained(&mut draining) => return,
        }
        let now_ms = now_ms();
        let done = async {
            store.forget_expired_nonces(now_ms).await?;
            store.forget_expired_tokens(now_ms).await?;
            store.forget_challenges(now_ms.saturating_sub(CHALLENGE_MEMORY_MS)).await
        };
        if let Err(error) = done.await {
            Fault::Store(error).log();
        }
    }
}

struct Times {
    now_ms: u64,
    /// How long the node has not been heard of, if it is not connected.
    silent_ms: Option<u64>,
    node_lost_ms: u64,
    keys_ms: u64,
}

enum Overdue {
    Node,
    Keys,
    Start,
}

fn overdue(instance: &Instance, times: &Times) -> Option<Overdue> {
    let actual = &instance.actual;
    if actual.failure.is_some() || actual.exit_code.is_some() {
        return None;
    }
    if times.silent_ms.is_some_and(|silent| silent > times.node_lost_ms) {
        return Some(Overdue::Node);
    }
    if instance.intent != Intent::Run {
        return None;
    }
    match actual.step {
        Step::Scheduled if times.now_ms > instance.start_before_ms => Some(Overdue::Start),
        Step::Attested if times.now_ms.saturating_sub(instance.attested_at_ms.unwrap_or(0)) > times.keys_ms => {
            Some(Overdue::Keys)
        }
        _ => None,
    }
}

/// An instance on a lost node may still run: its state is unknown, and it is never started a second time elsewhere.
fn act(instance: &mut Instance, times: &Times, out: &mut Vec<NewEvent>) {
    let step = life::next_step(instance.actual.step);
    match overdue(instance, times) {
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
        None => {}
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
