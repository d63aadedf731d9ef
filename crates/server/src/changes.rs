//! Wakes those who wait for a change of an instance.
//!
//! A wake-up carries nothing: the waiter reads the store again, and does so every second anyway, so that a lost wake-up
//! costs time and never truth. With a store that notifies by itself (PostgreSQL), only this module changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use casemate_lifecycle::InstanceId;
use tokio::{sync::watch, time::Instant};

/// How often a waiter looks even if nobody woke it.
const SAFETY_NET: Duration = Duration::from_secs(1);

/// Waiters by instance.
#[derive(Debug, Clone, Default)]
pub struct Changes(Arc<Mutex<HashMap<InstanceId, watch::Sender<()>>>>);

/// One who waits.
#[derive(Debug)]
pub struct Waiter(watch::Receiver<()>);

impl Changes {
    /// Begins to watch; changes from now on are not missed.
    pub fn watch(&self, id: &InstanceId) -> Waiter {
        let mut senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Waiter(senders.entry(id.clone()).or_insert_with(|| watch::channel(()).0).subscribe())
    }

    /// Wakes all who watch this instance.
    pub fn wake(&self, id: &InstanceId) {
        let mut senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if senders.get(id).is_some_and(|sender| sender.send(()).is_err()) {
            senders.remove(id);
        }
    }
}

impl Waiter {
    /// Waits for a change, a moment, or `until`, whichever is first; `false` when it is `until`.
    pub async fn changed(&mut self, until: Instant) -> bool {
        let look = until.min(Instant::now() + SAFETY_NET);
        tokio::select! {
            _ = self.0.changed() => {}
            () = tokio::time::sleep_until(look) => {}
        }
        Instant::now() < until
    }
}
