//! The owner of one instance: launch, serve, wipe, receipt, until the platform has it all.
//!
//! ```text
//! Fresh ---> launch ---> serve ---> finish ---> linger ---> gone
//! Adopt -----------------^          ^           ^
//! Inquire, Finish, Refused ---------/           |
//! Linger ---------------------------------------/
//! ```
//!
//! Requests are answered in every phase. The undo of each step of the launch: fetched and converted layers stay in the
//! content-addressed cache; assets are files in the instance's folder, removed by `finish`; everything that the driver made
//! is removed by its `wipe`, which works from disk state and therefore also after a crash.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use casemate_api::workload::Workload;
use casemate_lifecycle::{Event, Failure, InstanceId, Step};
use casemate_sandbox::{Driver, DriverError, Exit, Started, SystemKind, WipeEvidence};
use tokio::sync::{mpsc, oneshot};

use super::{Request, book::Book, recover, tombstones::Gone};
use crate::{
    blueprint::{self, Blueprint, MachineFiles, MachineMeasured, Parts, SystemFiles},
    clock,
    context::Context,
    evidence::Answer,
    failpoint::Failpoint,
    failure::{self, check},
    files::{self, FileError, off_thread},
    guest_os::GuestOs,
    images::{self, Packing},
    journal::{Ending, Launched},
    monitor::Monitor,
    network, receipts, score,
    vtpm::Measurements,
};

/// How an owner begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// Launch it.
    Fresh,
    /// It was refused before anything was done; only the record of its end is to be made.
    Refused(Failure),
    /// The same, because somebody wanted it to end before it began.
    Unwanted,
    /// Go on after a restart.
    Recovered(recover::Recovery),
}

/// How an instance ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    Exited,
    Stopped,
    Failed(Failure),
}

/// Challenges that wait for the guest.
const MAX_CHALLENGES: usize = 16;
/// First pause after a failed wipe; doubles.
const WIPE_RETRY: Duration = Duration::from_millis(500);
/// Longest pause.
const WIPE_RETRY_MAX: Duration = Duration::from_secs(30);
/// Longest wait for the driver's word on a machine that should be gone.
const INQUIRY: Duration = Duration::from_secs(5);

/// A challenge on its way to the guest.
pub(super) struct Challenge {
    pub(super) nonce: [u8; 32],
    pub(super) reply: oneshot::Sender<Result<Answer, Failure>>,
}

pub(super) struct Owner {
    pub(super) ctx: Arc<Context>,
    /// Who runs it, for its whole life.
    pub(super) driver: Arc<dyn Driver>,
    pub(super) id: InstanceId,
    pub(super) book: Book,
    pub(super) requests: mpsc::Receiver<Request>,
    /// Somebody wants it to end.
    pub(super) stop: bool,
    /// Not sent to the guest yet.
    pub(super) challenges: Vec<Challenge>,
    /// The last sealed keys; sent to the guest again after a broken session, until it has opened them.
    pub(super) release: Option<Vec<u8>>,
    receipt_stored: bool,
}

impl Owner {
    pub(super) fn new(ctx: Arc<Context>, driver: Arc<dyn Driver>, book: Book, requests: mpsc::Receiver<Request>) -> Self {
        let id = book.journal.order.id.clone();
        let stop = book.wants_stop();
        Self { ctx, driver, id, book, requests, stop, challenges: Vec::new(), release: None, receipt_stored: false }
    }

    /// The whole life; returns when nothing is left but the folder.
    pub(super) async fn run(mut self, entry: Entry) -> (InstanceId, PathBuf, Gone) {
        let ended = match entry {
            Entry::Recovered(recover::Recovery::Linger) => None,
            Entry::Recovered(recover::Recovery::Adopt) => {
                tracing::info!(instance.id = %self.id, "adopted a running instance");
                Some(self.adopt().await)
            }
            Entry::Recovered(recover::Recovery::Inquire) => Some(self.inquire().await),
            Entry::Recovered(recover::Recovery::Finish(failure)) => Some(self.as_recorded(failure)),
            Entry::Fresh => Some(self.launch_and_serve().await),
            Entry::Refused(failure) => Some(Ended::Failed(failure)),
            Entry::Unwanted => Some(Ended::Stopped),
        };
        if let Some(ended) = ended {
            let ended = self.explained(ended).await;
            self.finish(ended).await;
        }
        self.linger().await;
        self.book.pass(Failpoint::Forgetting);
        let body = &self.book.journal.order.body;
        (self.id, self.book.folder, Gone::new(body.generation, body.start_before_ms))
    }

    async fn launch_and_serve(&mut self) -> Ended {
        match self.launch().await {
            Ok(()) => self.serve().await,
            Err(ended) => ended,
        }
    }

    async fn launch(&mut self) -> Result<(), Ended> {
        self.save(check::PREPARE).await?;
        self.book.pass(Failpoint::Accepted);
        self.book.stage("received");
        let workload = Workload::from_canonical(self.book.journal.order.body.workload.as_bytes())
            .map_err(|error| self.failed(check::WORKLOAD, &error))?;
        let blueprint = self.gather(&workload).await?;
        self.machine(&blueprint).await
    }

    /// Image, assets, guest OS: everything a machine is made of.
    async fn gather(&mut self, workload: &Workload) -> Result<Blueprint, Ended> {
        let ctx = self.ctx.clone();
        let platform = ctx.platform.borrow().clone();
        let folder = self.book.folder.clone();
        // Before anything is looked for in the cache: what it has is only kept for those who have said so.
        let id = self.id.clone();
        self.during(ctx.images.lease(&id, &workload.image)).await?.map_err(Ended::Failed)?;
        let fetch = async {
            tokio::try_join!(
                ctx.images.fetch(&workload.image, &platform),
                ctx.images.fetch_assets(&workload.assets, &folder, &platform),
            )
        };
        let (ready, assets) = self.during(fetch).await?.map_err(Ended::Failed)?;
        self.book.stage("fetched");
        self.book.pass(Failpoint::Fetched);

        let pack = blueprint::needs_pack(workload.image.layers.len(), assets.len(), self.driver.capabilities());
        let packing = if pack { Packing::Packed } else { Packing::Single };
        let layers = self.during(ctx.images.convert(&workload.image, ready, packing)).await?.map_err(Ended::Failed)?;
        self.book.stage("converted");
        self.book.pass(Failpoint::Converted);

        let driver = self.driver.clone();
        let system = self
            .during(measure(&ctx, &driver))
            .await?
            .map_err(|detail| Ended::Failed(failure::at(Step::Prepared, check::PREPARE, detail)))?;
        // To its end, also when somebody wants a stop meanwhile: what is there by then is taken away when the instance is wiped.
        let link = network::attach(ctx.drivers.network(), &self.id, workload).await;
        let network = link.map_err(|detail| Ended::Failed(failure::at(Step::Prepared, check::PREPARE, detail)))?;
        let parts = Parts {
            id: &self.id,
            workload,
            workload_text: &self.book.journal.order.body.workload,
            level: self.book.journal.order.body.level,
            layers: &layers,
            assets: &assets,
            entropy: clock::random(),
            network,
            placement: &ctx.config.placement,
        };
        let drawn = blueprint::draw(parts, system);
        drawn.map_err(|detail| Ended::Failed(failure::at(Step::Prepared, check::PREPARE, detail)))
    }

    /// Prepares and starts the machine, each written ahead.
    async fn machine(&mut self, blueprint: &Blueprint) -> Result<(), Ended> {
        let driver = self.driver.clone();
        self.book.machine_begun(driver.capabilities().name);
        self.save(check::PREPARE).await?;
        self.book.pass(Failpoint::Preparing);
        let measurements = Measurements::of(blueprint);
        let prepared = self.during(driver.prepare(&blueprint.plan, &*measurements)).await?;
        let prepared = prepared.map_err(|error| self.failed(check::PREPARE, &error))?;
        self.book.happened(Event::Reached(Step::Prepared));
        if let Some(ago) = prepared.since_execution {
            self.book.stage_was("executed", ago);
        }
        self.book.stage("prepared");
        self.book.pass(Failpoint::Prepared);

        let started = self.during(driver.start(&blueprint.plan)).await?;
        let started = started.map_err(|error| self.failed(check::START, &error))?;
        if let Some(ago) = started.since_execution {
            self.book.stage_was("executed", ago);
        }
        self.book.stage("started");
        // Before anything of the tenant is known to the machine.
        self.guard().await?;
        self.observe(&started).await;
        self.book.pass(Failpoint::Started);
        let digest = self.book.journal.order.workload_digest();
        let record = blueprint::launch_record(
            blueprint,
            digest,
            driver.capabilities(),
            &started.jail,
            prepared.vtpm_ak_public.unwrap_or_default(),
            self.ctx.monitor.as_ref().map(Monitor::evidence),
        );
        let message = blueprint.message.clone();
        self.book.launched(Launched { started_at_ms: clock::now_ms(), record, message });
        self.save(check::START).await?;
        self.book.pass(Failpoint::Recorded);
        Ok(())
    }

    /// Whether its workload has a network.
    pub(super) fn is_connected(&self) -> bool {
        let text = self.book.journal.order.body.workload.as_bytes();
        Workload::from_canonical(text).is_ok_and(|workload| workload.network.is_some())
    }

    /// Shows what is new, and with it what went over the link so far.
    pub(super) async fn count(&mut self) {
        if self.is_connected()
            && let Some(counted) = network::statistics(self.ctx.drivers.network(), &self.id).await
        {
            self.book.counted(counted);
        }
        self.book.publish();
    }

    /// Looks at what holds the machine, for the score card.
    async fn observe(&mut self, started: &Started) {
        let mut seen = off_thread(|| score::node(Path::new("/"))).await;
        seen.push(Monitor::observed(self.ctx.monitor.as_ref()));
        seen.extend(self.ctx.dedicated.observed());
        seen.extend(score::jail(&started.jail));
        seen.extend(score::vmm(&started.vmm));
        self.book.observed(seen);
    }

    /// After a restart: the machine was started and is gone.
    async fn inquire(&mut self) -> Ended {
        let driver = self.driver.clone();
        let exit: Result<Exit, String> = match tokio::time::timeout(INQUIRY, driver.wait(&self.id)).await {
            Ok(Ok(exit)) => Ok(exit),
            Ok(Err(DriverError::NoSuchInstance(_))) => Err("nothing of the machine was left".into()),
            Ok(Err(error)) => Err(failure::chain(&error)),
            Err(_) => Err("the driver did not say why".into()),
        };
        match exit {
            Ok(exit) => self.after_exit(exit),
            Err(detail) => {
                let detail = format!("the machine ended while the agent was down: {detail}");
                Ended::Failed(failure::at(self.book.attempting(), check::VMM, detail))
            }
        }
    }

    fn as_recorded(&self, failure: Option<Failure>) -> Ended {
        let journal = &self.book.journal;
        match failure.or_else(|| journal.actual.failure.clone()) {
            Some(failure) => Ended::Failed(failure),
            None => match journal.ending.unwrap_or_else(|| recover::ending(journal)) {
                Ending::Exited => Ended::Exited,
                Ending::Stopped | Ending::Failed => Ended::Stopped,
            },
        }
    }

    /// Ends the machine if it still runs, wipes, and makes the receipt.
    async fn finish(&mut self, ended: Ended) {
        let (ending, failure) = match ended {
            Ended::Exited => (Ending::Exited, None),
            Ended::Stopped => (Ending::Stopped, None),
            Ended::Failed(failure) => (Ending::Failed, Some(failure)),
        };
        self.say_end(ending, failure.as_ref());
        self.book.end(ending, failure);
        self.refuse_challenges();
        self.save_whatever_it_takes().await;
        self.count().await;
        self.book.pass(Failpoint::Wiping);
        let mut wipe = self.wipe().await;
        self.book.pass(Failpoint::Wiped);
        receipts::doubt(&mut wipe, &self.book.journal);
        receipts::complete(&mut wipe, self.driver.capabilities().system);
        if let Some(monitor) = &self.ctx.monitor {
            monitor.unwatch(self.id.as_str()).await;
        }
        self.remove_assets().await;
        network::release(self.ctx.drivers.network(), &self.id).await;
        let body = receipts::body(&self.book.journal, &self.ctx.node, &wipe, clock::now_ms());
        self.book.stage("wiped");
        self.book.receipted(receipts::sign(&body, &self.ctx.receipt_key));
        self.save_whatever_it_takes().await;
        self.book.pass(Failpoint::Receipted);
        // The evidence is in the receipt now. What cannot be removed is removed by the next agent.
        if let Err(error) = self.driver.forget(&self.id).await {
            tracing::error!(instance.id = %self.id, error = failure::chain(&error), "could not remove the list of what was wiped");
        }
        self.book.publish();
        tracing::info!(instance.id = %self.id, reason = body.reason, "wiped");
        self.ctx.images.release(&self.id).await;
    }

    async fn wipe(&mut self) -> WipeEvidence {
        let driver = self.driver.clone();
        let id = self.id.clone();
        let mut pause = WIPE_RETRY;
        loop {
            match self.attend(driver.wipe(&id)).await {
                Ok(evidence) => return evidence,
                Err(DriverError::NoSuchInstance(_)) => return WipeEvidence::default(),
                Err(error) => {
                    tracing::error!(instance.id = %id, error = failure::chain(&error), "wipe failed, will be tried again")
                }
            }
            self.attend(tokio::time::sleep(pause)).await;
            pause = (pause * 2).min(WIPE_RETRY_MAX);
        }
    }

    async fn remove_assets(&mut self) {
        let folder = self.book.folder.clone();
        let removed = off_thread(move || -> Result<(), FileError> {
            for path in images::asset_files(&folder, casemate_api::workload::MAX_ASSETS) {
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(FileError::at("remove", &path)(error));
                    }
                    _ => {}
                }
            }
            files::sync_parent(&folder.join("x"))
        });
        if let Err(error) = removed.await {
            tracing::error!(instance.id = %self.id, error = failure::chain(&error), "could not remove the assets' ciphertext");
        }
    }

    /// Answers until the platform has receipt and records.
    async fn linger(&mut self) {
        while !self.receipt_stored {
            let Some(request) = self.requests.recv().await else { return std::future::pending().await };
            self.take(request);
            self.refuse_challenges();
        }
    }

    /// Does `work`, taking requests meanwhile; ends early when somebody wants the instance to stop.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Ended> {
        tokio::pin!(work);
        while !self.stop {
            tokio::select! {
                done = &mut work => return Ok(done),
                request = self.requests.recv() => self.take_or_sleep(request).await,
            }
        }
        Err(Ended::Stopped)
    }

    /// Does `work` to its end, taking requests meanwhile.
    async fn attend<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                request = self.requests.recv() => self.take_or_sleep(request).await,
            }
            self.refuse_challenges();
        }
    }

    /// Without a registry the agent is going down: nothing more is begun, and what runs is left to the next agent.
    pub(super) async fn take_or_sleep(&mut self, request: Option<Request>) {
        match request {
            Some(request) => self.take(request),
            None => std::future::pending().await,
        }
    }

    pub(super) fn take(&mut self, request: Request) {
        match request {
            Request::Order(order) => {
                self.book.take_order(*order);
                self.stop |= self.book.wants_stop();
            }
            Request::Stop => self.stop = true,
            Request::Challenge { nonce, reply } if self.challenges.len() < MAX_CHALLENGES => {
                self.challenges.push(Challenge { nonce, reply });
            }
            Request::Challenge { reply, .. } => {
                let busy = failure::at(Step::Attested, check::EVIDENCE, "too many challenges wait for this guest");
                let _ = reply.send(Err(busy));
            }
            Request::Deliver(sealed) => self.release = Some(sealed),
            Request::Stored(next) => self.book.stored(next),
            Request::ReceiptStored => self.receipt_stored = self.book.journal.receipt.is_some(),
            Request::Read { from, reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.book.read(from));
            }
        }
    }

    /// Once an instance is ending there is no guest to ask.
    fn refuse_challenges(&mut self) {
        if self.book.journal.ending.is_some() {
            for challenge in self.challenges.drain(..) {
                // The reason of the end is the truth about why there is no evidence.
                let known = self.book.journal.actual.failure.clone();
                let ended =
                    known.unwrap_or_else(|| failure::at(Step::Attested, check::EVIDENCE, "the instance is ending or has ended"));
                let _ = challenge.reply.send(Err(ended));
            }
        }
    }

    pub(super) fn failed(&self, check: &str, error: &dyn std::error::Error) -> Ended {
        Ended::Failed(failure::at(self.book.attempting(), check, failure::chain(error)))
    }

    async fn save(&mut self, check: &str) -> Result<(), Ended> {
        self.book.save().await.map_err(|error| self.failed(check, &error))
    }

    /// The end of an instance has to be on disk before it is acted upon; a full disk is waited for.
    pub(super) async fn save_whatever_it_takes(&mut self) {
        while let Err(error) = self.book.save().await {
            tracing::error!(instance.id = %self.id, error = failure::chain(&error), "could not write the journal, will try again");
            self.attend(tokio::time::sleep(WIPE_RETRY_MAX)).await;
        }
    }

    fn say_end(&self, ending: Ending, failure: Option<&Failure>) {
        match failure {
            Some(f) => {
                tracing::warn!(instance.id = %self.id, check = f.check, step = %f.step, detail = f.detail, "instance failed")
            }
            None => tracing::info!(instance.id = %self.id, ending = ?ending, "instance ends"),
        }
    }
}

/// The guest OS as it is on this node now, as far as `driver` needs it.
async fn measure(ctx: &Arc<Context>, driver: &Arc<dyn Driver>) -> Result<SystemFiles, String> {
    let (ctx, driver) = (ctx.clone(), driver.clone());
    off_thread(move || {
        let guest_os = GuestOs::load(&ctx.config.guest_os).map_err(|error| failure::chain(&error))?;
        let capabilities = driver.capabilities();
        let digest = |path| ctx.digests.sha256(path).map_err(|error| failure::chain(&error));
        match capabilities.system {
            SystemKind::Machine => {
                let (command_line, root_hash) = guest_os.command_line(capabilities.accel, capabilities.tsc_khz)?;
                let measured =
                    MachineMeasured { kernel: digest(&guest_os.kernel)?, initrd: digest(&guest_os.initrd)?, root_hash };
                Ok(SystemFiles::Machine(MachineFiles { guest_os, command_line, measured }))
            }
            SystemKind::Container => {
                let missing = "the guest OS has no program for containers; hint: build it anew";
                let program = guest_os.guest.ok_or(missing)?;
                let measured = digest(&program)?;
                Ok(SystemFiles::Container { program, measured })
            }
        }
    })
    .await
}
