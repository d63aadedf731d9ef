//! The state of one instance that survives the agent: journal, spool, and the view of both.

use std::{path::PathBuf, sync::Arc, time::Duration};

use casemate_api::{
    guest,
    score::{Observation, Observer, believable},
    workload::Workload,
};
use casemate_lifecycle::{Actual, Event, Failure, Hold, Intent, Step, apply, ends_at_ms};
use casemate_sandbox::network::Statistics;
use tokio::sync::watch;

use super::View;
use crate::{
    assignment::{InUse, Order},
    clock,
    failpoint::{Failpoint, Failpoints},
    files::{FileError, off_thread},
    journal::{Ending, Journal, Launched, Machine, SignedReceipt},
    spool::{Appended, Spool, SyncPoint},
};

/// Journal, spool and view of one instance; its owner is the only one who has it.
pub(super) struct Book {
    pub(super) journal: Journal,
    pub(super) folder: PathBuf,
    spool: Spool,
    /// Records below are on disk.
    durable: u64,
    /// Records below are at the platform.
    stored: u64,
    note: String,
    network: Option<Statistics>,
    uses: InUse,
    ttl_s: u64,
    view: watch::Sender<View>,
    failpoints: Failpoints,
}

impl Book {
    /// Opens the book in `folder`, which exists.
    pub(super) fn open(journal: Journal, folder: PathBuf, note: String, failpoints: Failpoints) -> Result<Self, FileError> {
        let spool = Spool::open(&folder)?;
        let kept = spool.kept();
        let (uses, ttl_s) = Workload::from_canonical(journal.order.body.workload.as_bytes())
            .map(|workload| (InUse::default().and(&workload, journal.order.body.level), workload.ttl_s))
            .unwrap_or_default();
        let actual = Actual { step: Step::Scheduled, exit_code: None, failure: None };
        let blank = View {
            generation: 0,
            hold: Hold::Live,
            actual,
            stages_ms: Default::default(),
            observed: Default::default(),
            note: String::new(),
            network: None,
            records: 0..0,
            receipt: None,
            in_use: uses,
        };
        let view = watch::Sender::new(blank);
        let book = Self {
            journal,
            folder,
            spool,
            durable: kept.end,
            stored: kept.start,
            note,
            network: None,
            uses,
            ttl_s,
            view,
            failpoints,
        };
        book.publish();
        Ok(book)
    }

    pub(super) fn watch(&self) -> watch::Receiver<View> {
        self.view.subscribe()
    }

    pub(super) fn pass(&self, point: Failpoint) {
        self.failpoints.pass(point);
    }

    /// Makes the journal durable as it is now.
    pub(super) async fn save(&self) -> Result<(), FileError> {
        let (journal, folder) = (self.journal.clone(), self.folder.clone());
        off_thread(move || journal.save(&folder)).await
    }

    /// The time of a stage, the first time it is passed.
    pub(super) fn stage(&mut self, name: &str) {
        self.stage_was(name, Duration::ZERO);
    }

    /// The time of a stage that was passed a while ago.
    pub(super) fn stage_was(&mut self, name: &str, ago: Duration) {
        let ago_ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
        let elapsed = clock::now_ms().saturating_sub(ago_ms).saturating_sub(self.journal.accepted_at_ms);
        self.journal.stages_ms.entry(name.to_owned()).or_insert(elapsed);
        self.publish();
    }

    /// A stage as the guest's own clock saw it.
    pub(super) fn guest_stage(&mut self, name: &str, ms: u64) {
        self.journal.stages_ms.entry(format!("guest.{name}")).or_insert(ms);
    }

    /// The guest has its keys; `true` the first time, from which on its time to live counts.
    pub(super) fn keyed(&mut self) -> bool {
        let first = self.journal.keyed_at_ms.is_none();
        self.journal.keyed_at_ms.get_or_insert_with(clock::now_ms);
        first
    }

    /// How long its time to live and `patience_ms` still are, if it has begun; never more than all of it, whatever happened to the clock.
    pub(super) fn left_ms(&self, patience_ms: u64) -> Option<u64> {
        let ends_at_ms = ends_at_ms(self.journal.keyed_at_ms?, self.ttl_s).saturating_add(patience_ms);
        let most_ms = self.ttl_s.saturating_mul(1000).saturating_add(patience_ms);
        Some(ends_at_ms.saturating_sub(clock::now_ms()).min(most_ms))
    }

    /// Its time to live is why it ends.
    pub(super) fn expired(&mut self) {
        self.journal.expired = true;
    }

    /// What went over its link so far.
    pub(super) fn counted(&mut self, network: Statistics) {
        self.network = Some(network);
    }

    /// What the agent saw of the instance's protection.
    pub(super) fn observed(&mut self, agent: Vec<Observation>) {
        self.journal.observed.at_ms = clock::now_ms();
        self.journal.observed.agent = agent;
    }

    /// What the guest says of itself; of other lines it has nothing to say.
    pub(super) fn guest_observed(&mut self, said: Vec<guest::Observation>) {
        let said = said.into_iter().map(|guest::Observation { item, held, seen }| Observation { item, held, seen });
        let believed = believable(Observer::Guest, said);
        if !believed.is_empty() {
            self.journal.observed.guest = believed;
            self.publish();
        }
    }

    pub(super) fn happened(&mut self, event: Event) {
        self.apply(event);
        self.publish();
    }

    /// The step after the one that was reached: what is being attempted.
    pub(super) fn attempting(&self) -> Step {
        let next = Step::ALL.into_iter().find(|step| *step > self.journal.actual.step);
        next.unwrap_or(Step::Gone)
    }

    pub(super) fn machine_begun(&mut self, driver: &str) {
        self.journal.driver = driver.to_owned();
        self.journal.machine = Machine::Begun;
    }

    pub(super) fn launched(&mut self, launched: Launched) {
        self.journal.machine = Machine::Started(launched);
    }

    pub(super) fn take_order(&mut self, order: Order) {
        if order.body.generation > self.journal.order.body.generation {
            self.journal.order = order;
            self.publish();
        }
    }

    pub(super) fn wants_stop(&self) -> bool {
        self.journal.order.wanted().intent != Intent::Run
    }

    /// Not shown before [`Book::publish`]: what the platform hears of an end must survive the agent.
    pub(super) fn end(&mut self, ending: Ending, failure: Option<Failure>) {
        if let Some(failure) = failure {
            self.apply(Event::Failed(failure));
        }
        if self.journal.ending.is_none() {
            self.journal.ending = Some(ending);
        }
        self.apply(Event::Reached(Step::Stopping));
    }

    /// Not shown before [`Book::publish`]: there must never be two receipts.
    pub(super) fn receipted(&mut self, receipt: SignedReceipt) {
        self.journal.receipt = Some(receipt);
        self.apply(Event::Reached(Step::Wiped));
    }

    fn apply(&mut self, event: Event) {
        self.journal.actual = apply(self.journal.actual.clone(), event);
    }

    pub(super) fn has_room(&self) -> bool {
        self.spool.has_room()
    }

    pub(super) fn append(&mut self, seq: u64, sealed: &[u8]) -> Result<Appended, FileError> {
        self.spool.append(seq, sealed)
    }

    /// What has to be synced, if anything.
    pub(super) fn unsynced(&self) -> Option<SyncPoint> {
        (self.spool.kept().end > self.durable).then(|| self.spool.sync_point())
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    pub(super) fn synced(&mut self, next: u64) {
        self.durable = self.durable.max(next);
        self.publish();
    }

    /// The platform has everything below `next`; a number that was never made is the platform's mistake and cut down.
    pub(super) fn stored(&mut self, next: u64) {
        self.stored = self.stored.max(next.min(self.durable));
        if let Err(error) = self.spool.release(self.stored) {
            tracing::warn!(instance.id = %self.journal.order.id, error = crate::failure::chain(&error), "could not free the spool");
        }
        self.publish();
    }

    /// Durable records from `from` on; none where they cannot be read.
    pub(super) fn read(&self, from: u64) -> (u64, Vec<Vec<u8>>) {
        self.spool.read(from, self.durable).unwrap_or_else(|error| {
            tracing::error!(instance.id = %self.journal.order.id, error = crate::failure::chain(&error), "could not read the spool");
            (from, Vec::new())
        })
    }

    /// Shows the present state.
    pub(super) fn publish(&self) {
        let journal = &self.journal;
        let ended = journal.receipt.is_some();
        let hold = if journal.ending.is_some() { Hold::Ending } else { Hold::Live };
        self.view.send_if_modified(|view| {
            let receipt = match &view.receipt {
                Some(receipt) => Some(receipt.clone()),
                None => journal.receipt.clone().map(Arc::new),
            };
            let now = View {
                generation: journal.order.body.generation,
                hold,
                actual: journal.actual.clone(),
                stages_ms: journal.stages_ms.clone(),
                observed: journal.observed.clone(),
                note: self.note.clone(),
                network: self.network,
                records: self.stored..self.durable,
                receipt,
                in_use: if ended { InUse::default() } else { self.uses },
            };
            let changed = *view != now;
            *view = now;
            changed
        });
    }
}
