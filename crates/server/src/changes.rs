//! Wakes those who wait for a change of an instance, or for another thing with a name.
//!
//! A wake-up carries nothing: the waiter reads the store again, and does so every second anyway, so that a lost wake-up
//! costs time and never truth. Wake-ups come from the store alone, so it does not matter which replica made the change.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

/// How often a waiter looks even if nobody woke it.
const SAFETY_NET: Duration = Duration::from_secs(1);

/// Waiters by what they wait for.
#[derive(Debug, Clone)]
pub struct Changes<K>(Arc<Mutex<HashMap<K, watch::Sender<()>>>>);

impl<K> Default for Changes<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// One who waits. The last one for a thing leaves nothing of it here.
#[derive(Debug)]
pub struct Waiter<K: Hash + Eq> {
    news: watch::Receiver<()>,
    changes: Changes<K>,
    id: K,
}

impl<K: Hash + Eq + Clone> Changes<K> {
    /// Begins to watch; changes from now on are not missed.
    pub fn watch(&self, id: &K) -> Waiter<K> {
        let mut senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = senders.entry(id.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        Waiter { news, changes: self.clone(), id: id.clone() }
    }

    /// Wakes all who watch this.
    pub fn wake(&self, id: &K) {
        let senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        senders.get(id).into_iter().for_each(|sender| _ = sender.send(()));
    }

    /// Wakes everybody.
    pub fn wake_all(&self) {
        let senders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        senders.values().for_each(|sender| _ = sender.send(()));
    }
}

impl<K: Hash + Eq> Drop for Waiter<K> {
    fn drop(&mut self) {
        let mut senders = self.changes.0.lock().unwrap_or_else(PoisonError::into_inner);
        if senders.get(&self.id).is_some_and(|sender| sender.receiver_count() <= 1) {
            senders.remove(&self.id);
        }
    }
}

impl<K: Hash + Eq> Waiter<K> {
    /// Waits for a change, a moment, or `until`, whichever is first; `false` when it is `until`.
    pub async fn changed(&mut self, until: Instant) -> bool {
        let look = until.min(Instant::now() + SAFETY_NET);
        tokio::select! {
            _ = self.news.changed() => {}
            () = tokio::time::sleep_until(look) => {}
        }
        Instant::now() < until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wake_up_reaches_all_who_wait_and_the_last_of_them_leaves_nothing() {
        let changes = Changes::<String>::default();
        let name = "a".to_owned();
        let (mut one, two) = (changes.watch(&name), changes.watch(&name));
        changes.wake(&"b".to_owned());
        assert!(!one.news.has_changed().unwrap());
        changes.wake(&name);
        assert!(one.news.has_changed().unwrap() && two.news.has_changed().unwrap());
        assert!(one.changed(Instant::now() + Duration::from_secs(600)).await);
        changes.wake_all();
        assert!(one.news.has_changed().unwrap());
        assert!(!one.changed(Instant::now()).await, "its time is over");
        drop(one);
        assert_eq!(changes.0.lock().unwrap().len(), 1);
        drop(two);
        assert_eq!(changes.0.lock().unwrap().len(), 0);
    }
}
