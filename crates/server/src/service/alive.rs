//! What a replica does to be one of several: says that it lives, and looks at what others tell it.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

use super::Service;
use crate::{
    drain::drained,
    fault::Fault,
    sessions::Command,
    store::{Awake, Replica, Store, Wake},
};

/// Renewals of a replica within its life.
const RENEWALS: u32 = 5;

/// Renews the replica until the server drains. Whoever cannot reach the store is dead for the others, and notices that by its fences.
pub async fn keep_alive(store: Store, replica: Replica, life: Duration, mut draining: watch::Receiver<bool>) {
    let mut ticks = interval(life / RENEWALS);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = drained(&mut draining) => return,
        }
        if let Err(error) = store.renew_replica(&replica, u64::try_from(life.as_millis()).unwrap_or(u64::MAX)).await {
            Fault::Store(error).log();
        }
    }
}

impl Service {
    /// Passes wake-ups of the store on to those who wait here, until the server drains.
    pub async fn pass_on(self, mut awake: Awake) {
        let mut draining = self.draining();
        loop {
            let wake = tokio::select! {
                wake = awake.next() => wake,
                () = drained(&mut draining) => return,
            };
            let Some(wake) = wake else { return };
            let sessions = &self.0.sessions;
            match wake {
                Wake::Instance(id, node) => {
                    self.0.changes.wake(&id);
                    if let Some(node) = node {
                        sessions.send(&node, Command::Look(id));
                    }
                }
                Wake::Session(node) => drop(sessions.send(&node, Command::Check)),
                Wake::Question(node) => drop(sessions.send(&node, Command::Questions)),
                Wake::Answer(id) => self.0.answers.wake(&id),
                Wake::Everything => {
                    self.0.changes.wake_all();
                    self.0.answers.wake_all();
                    sessions.send_to_all(|| Command::LookAtAll);
                }
            }
        }
    }
}
