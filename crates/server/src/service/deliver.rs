//! Makes the calls that are due. Of several replicas one does it; a webhook has one call at a time.

use std::{collections::HashSet, time::Duration};

use casemate_api::rest;
use tokio::{
    task::{Id, JoinSet},
    time::{MissedTickBehavior, interval},
};

use super::{Service, random};
use crate::{
    drain::drained,
    fault::Fault,
    store::{Attempted, Delivery, DeliveryState, Fence, Notice, Occasion, StoreError, Webhook},
    webhooks::{ATTEMPTS, Call, pause_ms},
};

/// How often it is looked for calls that are due.
const TICK: Duration = Duration::from_millis(500);
/// Most calls at the same time.
const MAX_CALLS: usize = 32;
/// For how long nobody else begins an attempt that was begun: longer than a call may take.
const UNDER_WAY_MS: u64 = 30_000;
/// How long what was delivered or given up is kept.
pub(super) const MEMORY_MS: u64 = 7 * 24 * 3_600_000;

impl Service {
    /// Makes calls until the server drains; what is under way then is made again.
    pub async fn deliver(self) {
        let mut draining = self.draining();
        let mut calls = Calls { tasks: JoinSet::new(), webhooks: Vec::new() };
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Some(ended) = calls.tasks.join_next_with_id() => {
                    let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                    calls.webhooks.retain(|(task, _)| *task != id);
                    continue;
                }
                () = drained(&mut draining) => return,
            }
            if let Err(fault) = self.begin_calls(&mut calls).await {
                fault.log();
            }
        }
    }

    async fn begin_calls(&self, calls: &mut Calls) -> Result<(), Fault> {
        let room = MAX_CALLS.saturating_sub(calls.webhooks.len());
        if room == 0 {
            return Ok(());
        }
        let Some(fence) = self.store().claim("webhooks", &self.0.parts.replica).await? else { return Ok(()) };
        let now_ms = self.store().now_ms().await?;
        let most = u32::try_from(MAX_CALLS * 2).unwrap_or(u32::MAX);
        let busy: HashSet<String> = calls.webhooks.iter().map(|(_, webhook)| webhook.clone()).collect();
        let due = self.store().due_deliveries(now_ms, most).await?.into_iter();
        for (webhook, delivery) in due.filter(|(webhook, _)| !busy.contains(&webhook.id)).take(room) {
            let id = webhook.id.clone();
            let (service, fence) = (self.clone(), fence.clone());
            let task = calls.tasks.spawn(async move {
                match service.attempt(&fence, &webhook, delivery, now_ms).await {
                    // Another replica took over; it sees to the rest.
                    Ok(()) | Err(Fault::Store(StoreError::Fenced(_))) => {}
                    Err(fault) => fault.log(),
                }
            });
            calls.webhooks.push((task.id(), id));
        }
        Ok(())
    }

    async fn attempt(&self, fence: &Fence, webhook: &Webhook, delivery: Delivery, now_ms: u64) -> Result<(), Fault> {
        if !self.store().begin_attempt(fence, &delivery, now_ms, now_ms.saturating_add(UNDER_WAY_MS)).await? {
            return Ok(());
        }
        let attempt = delivery.attempts.saturating_add(1);
        // The last one may have been begun by a server that died.
        let came =
            if attempt > ATTEMPTS { Err("it was tried often enough".to_owned()) } else { self.call(webhook, &delivery).await? };
        let pause = pause_ms(attempt, random::<1>()?[0]);
        let (state, status, error) = judged(came, pause);
        let next_at_ms = self.store().now_ms().await?.saturating_add(pause.unwrap_or(0));
        tracing::info!(webhook.id = webhook.id, delivery.id = delivery.id, attempt, status, error, "a webhook was called");
        let came = Attempted { state, next_at_ms, status, error: error.as_deref() };
        Ok(self.store().end_attempt(fence, &delivery.id, attempt, came).await?)
    }

    /// HTTP's status, or why there is none.
    async fn call(&self, webhook: &Webhook, delivery: &Delivery) -> Result<Result<u16, String>, Fault> {
        let (occasion, notice) = self.store().told_by(&delivery.id).await?;
        let event = event(delivery, occasion, notice);
        let body = serde_json::to_vec(&event).map_err(|error| Fault::internal("write a webhook's body")(error.into()))?;
        let at_s = self.store().now_ms().await? / 1000;
        let call = Call { url: &webhook.url, secret: &webhook.secret, id: &delivery.id, at_s, body };
        Ok(self.0.parts.sender.call(call).await.map_err(|error| error.to_string()))
    }
}

/// Calls under way, and to which webhooks.
struct Calls {
    tasks: JoinSet<()>,
    webhooks: Vec<(Id, String)>,
}

/// Where a delivery stands after an attempt, HTTP's status, and what went wrong; without a further pause it is given up.
fn judged(came: Result<u16, String>, pause: Option<u64>) -> (DeliveryState, Option<u16>, Option<String>) {
    let otherwise = if pause.is_some() { DeliveryState::Waiting } else { DeliveryState::Failed };
    match came {
        Ok(status @ 200..=299) => (DeliveryState::Delivered, Some(status), None),
        Ok(status) => (otherwise, Some(status), Some(format!("the answer was {status}"))),
        Err(why) => (otherwise, None, Some(why)),
    }
}

fn event(delivery: &Delivery, occasion: Option<Occasion>, notice: Option<Notice>) -> rest::WebhookEvent {
    let text = occasion.as_ref().map_or("a test: nothing happened", |occasion| occasion.kind.words()).to_owned();
    let (notice, project, instances) = match notice {
        Some(notice) => (Some(notice.id), Some(notice.project), notice.instances.iter().map(ToString::to_string).collect()),
        None => (None, None, Vec::new()),
    };
    rest::WebhookEvent {
        id: delivery.id.clone(),
        kind: delivery.kind.clone(),
        at_ms: delivery.created_at_ms,
        text,
        node: occasion.as_ref().map(|one| one.node.to_string()),
        detail: occasion.as_ref().map(|one| one.detail.clone()),
        node_at_ms: occasion.as_ref().and_then(|one| one.node_at_ms),
        notice,
        project,
        instances,
        evidence: occasion.and_then(|one| one.evidence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_answer_delivers_and_what_was_tried_often_enough_is_given_up() {
        for status in [200, 204, 299] {
            assert_eq!(judged(Ok(status), None), (DeliveryState::Delivered, Some(status), None));
        }
        for status in [100, 199, 300, 302, 404, 410, 500] {
            let why = Some(format!("the answer was {status}"));
            assert_eq!(judged(Ok(status), pause_ms(1, 0)), (DeliveryState::Waiting, Some(status), why.clone()));
            assert_eq!(judged(Ok(status), pause_ms(ATTEMPTS, 0)), (DeliveryState::Failed, Some(status), why));
        }
        assert_eq!(judged(Err("x".into()), pause_ms(ATTEMPTS - 1, 0)).0, DeliveryState::Waiting);
        assert_eq!(judged(Err("x".into()), pause_ms(ATTEMPTS, 0)).0, DeliveryState::Failed);
    }
}
