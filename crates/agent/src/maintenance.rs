//! Maintenance of this node, as the platform wants it: its monitor is unsealed, later sealed again, and then the node attests itself.
//!
//! Level-triggered like everything of a session: the platform says what it wants whenever that changes and when a session begins, and
//! repeats nothing else. What cannot be done yet is tried again until something else is wanted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use casemate_api::node::{FromNode, MaintenanceReport, from_node, maintenance::Wanted, maintenance_report::Word};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::sleep,
};

use crate::{
    files::off_thread,
    instances::Directory,
    monitor::{self, Monitor, MonitorError},
};

/// Until what was refused is tried again.
const PAUSE: Duration = Duration::from_secs(2);
/// How long instances have to be wiped in order before a forced maintenance has the monitor end them.
const FORCE_AFTER: Duration = Duration::from_secs(120);
/// Between two attestations, if nothing came of the first.
const ATTEST_AGAIN: Duration = Duration::from_secs(30);

/// What a maintenance needs of the agent.
pub(crate) struct Maintainer {
    pub(crate) monitor: Option<Monitor>,
    /// What is here.
    pub(crate) directory: watch::Receiver<Directory>,
    /// Up to which number the platform has the monitor's record.
    pub(crate) stored: watch::Receiver<u64>,
    /// Asks for a fresh appraisal.
    pub(crate) attest: Arc<Notify>,
    pub(crate) out: mpsc::Sender<FromNode>,
}

/// What the platform asked, by which the answer is known.
struct Question {
    number: u64,
    attempt: u64,
}

impl Maintainer {
    /// Does what is wanted, until it is done or the caller gives up.
    pub(crate) async fn obey(self, order: casemate_api::node::Maintenance) {
        let question = Question { number: order.number, attempt: order.attempt };
        match order.wanted() {
            Wanted::Open => self.open(&question, order.forced).await,
            Wanted::Sealed => self.seal(&question).await,
            Wanted::Attested => self.attest().await,
            Wanted::Unspecified => tracing::warn!("the platform wants something of a maintenance that is of no known kind"),
        }
    }

    async fn open(mut self, question: &Question, forced: bool) {
        let begun = Instant::now();
        loop {
            let left = self.directory.borrow_and_update().len();
            let by_force = forced && begun.elapsed() > FORCE_AFTER;
            let refused = if left > 0 && !by_force {
                format!("{left} instances are still here")
            } else {
                match self.unseal(by_force).await {
                    Ok(()) => break,
                    Err(MonitorError::Refused(why)) => why,
                    // The agent ends over it.
                    Err(_) => return,
                }
            };
            self.say(question, Word::Refused, MaintenanceReport { why: refused, ..Default::default() }).await;
            tokio::select! {
                _ = self.directory.changed() => {}
                () = sleep(PAUSE) => {}
            }
        }
        let until_reboot = match &self.monitor {
            Some(monitor) => {
                let record = monitor.state().borrow().record.clone();
                off_thread(move || monitor::until_reboot(&record)).await.unwrap_or_else(|error| vec![format!("unknown: {error}")])
            }
            None => Vec::new(),
        };
        tracing::warn!(monitored = self.monitor.is_some(), ?until_reboot, "this node is open for maintenance");
        self.say(question, Word::Opened, MaintenanceReport { until_reboot, ..Default::default() }).await;
    }

    async fn unseal(&self, by_force: bool) -> Result<(), MonitorError> {
        match &self.monitor {
            Some(monitor) if monitor.is_sealed() => monitor.unseal(by_force).await,
            _ => Ok(()),
        }
    }

    async fn seal(mut self, question: &Question) {
        if let Some(monitor) = self.monitor.clone() {
            match if monitor.is_sealed() { Ok(()) } else { monitor.seal().await } {
                Ok(()) => {}
                Err(MonitorError::Refused(why)) => {
                    tracing::warn!(why, "the monitor does not seal this node");
                    return self.say(question, Word::Refused, MaintenanceReport { why, ..Default::default() }).await;
                }
                Err(_) => return,
            }
            // The platform judges by the record whether this is so: it gets that first.
            let lines = monitor.state().borrow().records;
            if self.stored.wait_for(|stored| *stored >= lines).await.is_err() {
                return;
            }
        }
        tracing::info!(monitored = self.monitor.is_some(), "the maintenance of this node is over, if its appraisal passes");
        self.say(question, Word::Sealed, MaintenanceReport::default()).await;
    }

    /// Ends when the platform wants something else, or the session is another one.
    async fn attest(self) {
        loop {
            self.attest.notify_one();
            sleep(ATTEST_AGAIN).await;
        }
    }

    async fn say(&self, question: &Question, word: Word, report: MaintenanceReport) {
        let inventory = self.monitor.as_ref().map(Monitor::inventory);
        let monitored = inventory.is_some();
        let (class, without) = inventory.map(|monitor| (monitor.class, monitor.without)).unwrap_or_default();
        let Question { number, attempt } = *question;
        let report = MaintenanceReport { number, attempt, word: word.into(), monitored, class, without, ..report };
        // The session may have ended.
        let _ = self.out.send(FromNode { message: Some(from_node::Message::Maintenance(report)) }).await;
    }
}
