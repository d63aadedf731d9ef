//! Streams, for clients that rather listen than ask again.
//!
//! A stream is a loop of looks at the store, woken like a long poll. What it has told is known to the client, by number, so that it is
//! taken up at any replica. It lasts only so long: then the client comes back, and what its token may is looked at anew.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use casemate_api::rest;
use casemate_lifecycle::InstanceId;
use futures::{Stream, StreamExt as _, stream};
use tokio::{sync::watch, time::Instant};

use super::{Caller, Service};
use crate::{
    changes::Waiter,
    clock::now_ms,
    drain::drained,
    fault::Fault,
    store::{Awake, Outline, StoreError},
};

/// Most streams of one subject, and of all, on this server.
const EACH: usize = 32;
const ALL: usize = 512;
/// Longest stream.
const LIFE: Duration = Duration::from_secs(600);
/// Between two looks at all instances of a caller, where something happens all the time, and where nothing does.
const LOOK: Duration = Duration::from_millis(250);
const LOOK_ANYWAY: Duration = Duration::from_secs(5);

/// What a watcher of all instances is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// An instance is new, or is not as it was.
    Is(rest::InstanceState),
    /// An instance was forgotten.
    Forgotten(InstanceId),
    /// All that there was at the beginning is told.
    Whole,
}

impl Service {
    /// Events after number `after`, as they come: until the instance is forgotten, the server drains, or the stream's time is over.
    pub async fn watch_instance(
        &self,
        caller: &Caller,
        id: &str,
        after: u64,
    ) -> Result<impl Stream<Item = rest::Event> + Send + 'static, Fault> {
        let id = self.find(caller, id).await?.id;
        let turn = self.0.streams.take(&caller.account)?;
        let waiter = self.0.changes.watch(&id);
        let watch = Watch {
            service: self.clone(),
            draining: self.draining(),
            ends: Instant::now() + LIFE,
            caller: caller.clone(),
            _turn: turn,
        };
        let told = stream::unfold((watch, waiter, id, after), |(watch, mut waiter, id, after)| async move {
            let events = watch.events(&mut waiter, &id, after).await?;
            let after = events.last().map_or(after, |event| event.seq);
            Some((stream::iter(events), (watch, waiter, id, after)))
        });
        Ok(told.flatten())
    }

    /// The state of all instances that the caller may see, and then of each that changes. It begins with all there is, so that nothing
    /// has to be taken up.
    pub fn watch_all(&self, caller: &Caller) -> Result<impl Stream<Item = Change> + Send + 'static, Fault> {
        let turn = self.0.streams.take(&caller.account)?;
        let watch = Watch {
            service: self.clone(),
            draining: self.draining(),
            ends: Instant::now() + LIFE,
            caller: caller.clone(),
            _turn: turn,
        };
        let begun = (watch, self.store().awake(), None::<Known>);
        let told = stream::unfold(begun, |(watch, mut awake, mut known)| async move {
            let changes = watch.changes(&mut awake, &mut known).await?;
            Some((stream::iter(changes), (watch, awake, known)))
        });
        Ok(told.flatten())
    }
}

/// The newest event of each instance that was told.
type Known = BTreeMap<InstanceId, u64>;

struct Watch {
    service: Service,
    draining: watch::Receiver<bool>,
    ends: Instant,
    /// What he may is looked at anew each time that there is something to tell.
    caller: Caller,
    _turn: Turn,
}

impl Watch {
    /// Waits for events; `None` when the stream is over.
    async fn events(&self, waiter: &mut Waiter<InstanceId>, id: &InstanceId, after: u64) -> Option<Vec<rest::Event>> {
        let mut draining = self.draining.clone();
        loop {
            let found = async {
                if !self.may_see(Some(id)).await? {
                    return Ok(None);
                }
                let events = self.service.store().events(id, after).await?;
                let is_over = events.is_empty() && self.service.store().instance(id).await?.is_none();
                Ok(if is_over { None } else { Some(events) })
            };
            match answered(found.await) {
                Answered::Is(None) | Answered::Never => return None,
                Answered::Is(Some(events)) if !events.is_empty() => return Some(events),
                Answered::Is(Some(_)) | Answered::Later => {}
            }
            tokio::select! {
                more = waiter.changed(self.ends) => if !more { return None },
                () = drained(&mut draining) => return None,
            }
        }
    }

    /// Waits for changes; `None` when the stream is over.
    async fn changes(&self, awake: &mut Awake, known: &mut Option<Known>) -> Option<Vec<Change>> {
        let mut draining = self.draining.clone();
        let mut first = known.is_none();
        loop {
            if !first {
                let woken = async {
                    // One look for all that happens in the same moment.
                    drop(tokio::time::timeout(LOOK_ANYWAY, awake.next()).await);
                    tokio::time::sleep(LOOK).await;
                    awake.skip();
                };
                tokio::select! {
                    () = woken => {}
                    () = tokio::time::sleep_until(self.ends) => return None,
                    () = drained(&mut draining) => return None,
                }
            }
            first = false;
            let found = async {
                let may = self.may_see(None).await?;
                Ok(if may { Some(self.service.store().outlines(self.caller.sees()).await?) } else { None })
            };
            match answered(found.await) {
                Answered::Is(None) => return None,
                Answered::Is(Some(outlines)) => match news(known, outlines) {
                    changes if changes.is_empty() => {}
                    changes => return Some(changes),
                },
                Answered::Later => {}
                Answered::Never => return None,
            }
        }
    }
}

impl Watch {
    /// Whether the token is still good, and the instance, if there is one, one that its holder may see.
    async fn may_see(&self, id: Option<&InstanceId>) -> Result<bool, StoreError> {
        let store = self.service.store();
        if !store.is_good(&self.caller.token.id, now_ms()).await? {
            return Ok(false);
        }
        let (Some(id), Some(member)) = (id, self.caller.sees().member) else { return Ok(true) };
        match store.instance(id).await? {
            Some(instance) => Ok(store.membership(&instance.owner, member).await?.is_some()),
            None => Ok(true),
        }
    }
}

/// What the client does not know; afterwards it does.
fn news(known: &mut Option<Known>, outlines: Vec<Outline>) -> Vec<Change> {
    let is_first = known.is_none();
    let known = known.get_or_insert_default();
    let there: BTreeSet<InstanceId> = outlines.iter().map(|outline| outline.id.clone()).collect();
    let gone: Vec<InstanceId> = known.keys().filter(|id| !there.contains(*id)).cloned().collect();
    known.retain(|id, _| there.contains(id));
    let mut changes: Vec<Change> = gone.into_iter().map(Change::Forgotten).collect();
    for outline in outlines {
        if known.insert(outline.id.clone(), outline.last_event) != Some(outline.last_event) {
            changes.push(Change::Is(state(outline)));
        }
    }
    changes.extend(is_first.then_some(Change::Whole));
    changes
}

fn state(outline: Outline) -> rest::InstanceState {
    let failure = outline.actual.failure;
    rest::InstanceState {
        id: outline.id.to_string(),
        name: outline.name,
        node: outline.node.map(|node| node.to_string()),
        intent: crate::store::intent_as_str(outline.intent).to_owned(),
        step: outline.actual.step.to_string(),
        exit_code: outline.actual.exit_code,
        failure: failure.map(|f| rest::Failure { step: f.step.to_string(), check: f.check, detail: f.detail }),
        last_event: outline.last_event,
    }
}

/// What a stream makes of the store's answer: a database that is away is waited for.
enum Answered<T> {
    Is(T),
    Later,
    Never,
}

fn answered<T>(result: Result<T, StoreError>) -> Answered<T> {
    match result {
        Ok(answer) => Answered::Is(answer),
        Err(error) => {
            let later = error.is_unavailable();
            Fault::Store(error).log();
            if later { Answered::Later } else { Answered::Never }
        }
    }
}

/// The open streams, by subject.
#[derive(Debug, Clone, Default)]
pub(super) struct Streams(Arc<Mutex<HashMap<String, usize>>>);

/// The right to one of them.
#[derive(Debug)]
struct Turn {
    streams: Streams,
    subject: String,
}

impl Streams {
    fn take(&self, subject: &str) -> Result<Turn, Fault> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.get(subject).copied().unwrap_or(0);
        if own >= EACH || open.values().sum::<usize>() >= ALL {
            return Err(Fault::Busy("streams"));
        }
        open.insert(subject.to_owned(), own + 1);
        Ok(Turn { streams: self.clone(), subject: subject.to_owned() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut open = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.subject) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(open.remove(&self.subject)),
        }
    }
}

#[cfg(test)]
mod tests {
    use casemate_lifecycle::{Actual, Intent};

    use super::*;

    fn outline(id: &str, last_event: u64) -> Outline {
        Outline {
            id: id.parse().unwrap(),
            name: String::new(),
            node: None,
            intent: Intent::Run,
            actual: Actual::new(),
            last_event,
        }
    }

    fn told(changes: &[Change]) -> Vec<String> {
        let text = |change: &Change| match change {
            Change::Is(state) => format!("{} {}", state.id, state.last_event),
            Change::Forgotten(id) => format!("-{id}"),
            Change::Whole => "whole".to_owned(),
        };
        changes.iter().map(text).collect()
    }

    #[test]
    fn tells_all_there_is_first_and_then_only_what_is_new() {
        let mut known = None;
        assert_eq!(told(&news(&mut known, vec![outline("i-1", 1), outline("i-2", 5)])), ["i-1 1", "i-2 5", "whole"]);
        assert_eq!(told(&news(&mut known, vec![outline("i-1", 1), outline("i-2", 5)])), [""; 0]);
        assert_eq!(told(&news(&mut known, vec![outline("i-2", 6), outline("i-3", 1)])), ["-i-1", "i-2 6", "i-3 1"]);
        assert_eq!(told(&news(&mut None, Vec::new())), ["whole"], "nothing is an answer, too");
    }

    #[test]
    fn nobody_takes_all_streams_and_ended_ones_count_no_more() {
        let streams = Streams::default();
        let mut turns: Vec<Turn> = (0..EACH).map(|_| streams.take("a").unwrap()).collect();
        assert!(matches!(streams.take("a"), Err(Fault::Busy("streams"))));
        let other = streams.take("b").unwrap();
        turns.pop();
        turns.push(streams.take("a").unwrap());
        drop((turns, other));
        assert!(streams.0.lock().unwrap().is_empty());
        let all: Vec<Turn> = (0..ALL).map(|n| streams.take(&(n / EACH).to_string()).unwrap()).collect();
        assert!(streams.take("one more").is_err());
        drop(all);
    }
}
