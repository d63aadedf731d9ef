//! Starts, finds and forgets owners; reconciles what the platform wants with what is here.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use casemate_api::node;
use casemate_lifecycle::{self as lifecycle, Action, Actual, Failure, InstanceId, Scope, Step, Wanted, reconcile};
use casemate_sandbox::Driver;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use super::{
    Directory, Handle, MAX_REQUESTS, Request,
    book::Book,
    owner::{Entry, Owner},
    recover::{self, Recovery},
    tombstones::{Gone, Tombstones},
};
use crate::{
    assignment::{self, InUse, Order},
    clock,
    context::Context,
    drivers::Held,
    failure,
    files::{self, FileError, off_thread},
    journal::Journal,
};

/// Orders that wait for the registry.
const MAX_COMMANDS: usize = 16;

/// What the platform has to be told about an order at once, beside what the instances' views say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) id: InstanceId,
    pub(crate) generation: u64,
    pub(crate) step: Step,
    pub(crate) failure: Option<Failure>,
}

/// Where orders are sent.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    commands: mpsc::Sender<Command>,
    pub(crate) directory: watch::Receiver<Directory>,
}

struct Command {
    assignments: Vec<node::Assignment>,
    scope: Scope,
    reply: oneshot::Sender<Vec<Told>>,
}

struct State {
    ctx: Arc<Context>,
    tombstones: Tombstones,
    owners: JoinSet<(InstanceId, PathBuf, Gone)>,
    directory: watch::Sender<Directory>,
}

/// Why the agent cannot take over what it finds.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    /// Its own files.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something was started by a driver that the configuration does not name any more.
    #[error(
        "instance {instance} is the driver {driver}'s, which is not available; hint: put it back into the configuration and run `casemate-agent drain`"
    )]
    NoDriver { instance: String, driver: String },
    /// The driver's.
    #[error("find out which machines exist")]
    Driver(#[source] casemate_sandbox::DriverError),
}

impl Registry {
    /// Takes over what an earlier agent left, and returns the task that its owner has to run.
    pub(crate) async fn recover(ctx: Arc<Context>) -> Result<(Self, impl Future<Output = ()> + Send), RecoverError> {
        let tombstones = Tombstones::load(&ctx.config.state_dir)?;
        let (directory, watch_directory) = watch::channel(Directory::default());
        let mut state = State { ctx, tombstones, owners: JoinSet::new(), directory };
        state.recover().await?;
        let (commands, queue) = mpsc::channel(MAX_COMMANDS);
        Ok((Self { commands, directory: watch_directory }, state.run(queue)))
    }

    /// Follows orders; returns what is to be said about those that are not followed.
    pub(crate) async fn apply(&self, assignments: Vec<node::Assignment>, scope: Scope) -> Vec<Told> {
        let (reply, told) = oneshot::channel();
        if self.commands.send(Command { assignments, scope, reply }).await.is_err() {
            return Vec::new();
        }
        told.await.unwrap_or_default()
    }

    /// Returns once the registry has done what it was asked before: it goes round.
    pub(crate) async fn answers(&self) {
        self.apply(Vec::new(), Scope::Named).await;
    }

    /// Ends every instance and returns when each has its receipt; the number of those that had none.
    pub(crate) async fn drain(&self) -> usize {
        let directory = self.directory.borrow().clone();
        let mut count = 0;
        for handle in directory.values() {
            count += usize::from(handle.view.borrow().receipt.is_none());
            // A closed queue: its owner is done.
            let _ = handle.requests.send(Request::Stop).await;
        }
        for handle in directory.values() {
            let _ = handle.view.clone().wait_for(|view| view.receipt.is_some()).await;
        }
        count
    }

    /// The owner of an instance, if there is one.
    pub(crate) fn find(&self, id: &str) -> Option<Handle> {
        let id: InstanceId = id.parse().ok()?;
        self.directory.borrow().get(&id).cloned()
    }
}

impl State {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        loop {
            tokio::select! {
                command = queue.recv() => match command {
                    Some(command) => {
                        let told = self.apply(&command.assignments, command.scope).await;
                        // The session may have ended meanwhile; the next one begins with everything.
                        let _ = command.reply.send(told);
                    }
                    None => return,
                },
                Some(gone) = self.owners.join_next() => match gone {
                    Ok((id, folder, gone)) => self.forget(&id, &folder, gone).await,
                    // A bug in one owner: the next agent recovers from disk, which is the well-tested way.
                    Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                    Err(_) => return,
                },
            }
        }
    }

    async fn apply(&mut self, assignments: &[node::Assignment], scope: Scope) -> Vec<Told> {
        let mut told = Vec::new();
        let mut orders = BTreeMap::new();
        for signed in assignments {
            let platform = self.ctx.platform.borrow().key;
            match assignment::authenticate(signed, &self.ctx.node, &platform) {
                Ok(order) => drop(orders.insert(order.id.clone(), order)),
                Err(refusal) => told.extend(self.refused(refusal)),
            }
        }
        // A forged order must not make the instance that it names look unwanted.
        let scope = if orders.len() == assignments.len() { scope } else { Scope::Named };
        let held = self.held();
        let wanted: BTreeMap<InstanceId, Wanted> = orders.iter().map(|(id, order)| (id.clone(), order.wanted())).collect();
        for action in reconcile(&held, &wanted, scope) {
            told.extend(self.act(action, &mut orders).await);
        }
        told
    }

    fn refused(&self, refusal: assignment::Refusal) -> Option<Told> {
        let failure = refusal.failure;
        tracing::warn!(check = failure.check, detail = failure.detail, instance.id = ?refusal.about, "assignment refused");
        let (id, generation) = refusal.about?;
        // It says nothing about an instance that is here by a good order.
        let known = self.directory.borrow().contains_key(&id) || self.tombstones.contains(&id);
        (!known).then_some(Told { id, generation, step: Step::Accepted, failure: Some(failure) })
    }

    async fn act(&mut self, action: Action, orders: &mut BTreeMap<InstanceId, Order>) -> Option<Told> {
        match action {
            Action::Start(id) => {
                let order = orders.remove(&id)?;
                let capacity =
                    self.ctx.drivers.of_level(order.body.level).map(|driver| self.ctx.capacity.of(driver.capabilities()));
                let admitted = assignment::admit(&order, clock::now_ms(), capacity.as_ref(), self.in_use());
                let entry = match (admitted, self.ctx.refusal()) {
                    (Ok(_), None) => Entry::Fresh,
                    (Err(failure), _) | (_, Some(failure)) => Entry::Refused(failure),
                };
                self.begin(order, entry)
            }
            Action::RecordEnd(id) => {
                let order = orders.remove(&id)?;
                self.begin(order, Entry::Unwanted)
            }
            Action::Note(id) | Action::Stop(id) => {
                let order = orders.remove(&id)?;
                self.ask(&id, Request::Order(Box::new(order))).await
            }
            Action::StopUnwanted(id) => {
                tracing::warn!(instance.id = %id, "the platform does not want this instance any more");
                self.ask(&id, Request::Stop).await
            }
            Action::TellGone(id) => {
                let generation = orders.get(&id)?.body.generation;
                Some(Told { id, generation, step: Step::Gone, failure: None })
            }
        }
    }

    async fn ask(&self, id: &InstanceId, request: Request) -> Option<Told> {
        let handle = self.directory.borrow().get(id).cloned();
        if let Some(handle) = handle {
            // A closed queue: the owner has just ended, and the next picture from the platform finds it gone.
            let _ = handle.requests.send(request).await;
        }
        None
    }

    /// Makes the folder and the owner of a new instance.
    fn begin(&mut self, order: Order, entry: Entry) -> Option<Told> {
        let (id, generation) = (order.id.clone(), order.body.generation);
        let folder = self.ctx.config.instances_dir().join(id.as_str());
        // One that is refused has no driver, and nothing that a driver could have.
        let driver = self.ctx.drivers.of_level(order.body.level).unwrap_or_else(|| self.ctx.drivers.first()).clone();
        let mut journal = Journal::new(order, clock::now_ms());
        if entry != Entry::Fresh {
            journal.actual = Actual { step: Step::Scheduled, exit_code: None, failure: None };
        }
        let opened = files::make_dir(&folder)
            .and_then(|()| files::sync_parent(&folder))
            .and_then(|()| self.open(journal, &driver, folder));
        match opened {
            Ok(book) => {
                tracing::info!(instance.id = %id, entry = ?entry, "assignment taken");
                self.spawn(book, driver, entry);
                None
            }
            Err(error) => {
                let failure = failure::at(Step::Accepted, failure::check::PREPARE, failure::chain(&error));
                Some(Told { id, generation, step: Step::Accepted, failure: Some(failure) })
            }
        }
    }

    fn open(&self, journal: Journal, driver: &Arc<dyn Driver>, folder: PathBuf) -> Result<Book, FileError> {
        let capabilities = driver.capabilities();
        let note = format!("{}: {}", capabilities.accel, capabilities.accel_reason);
        Book::open(journal, folder, note, self.ctx.failpoints())
    }

    fn spawn(&mut self, book: Book, driver: Arc<dyn Driver>, entry: Entry) {
        let (requests, queue) = mpsc::channel(MAX_REQUESTS);
        let id = book.journal.order.id.clone();
        let handle = Handle { requests, view: book.watch() };
        self.owners.spawn(Owner::new(self.ctx.clone(), driver, book, queue).run(entry));
        self.directory.send_modify(|directory| drop(Arc::make_mut(directory).insert(id, handle)));
    }

    /// The platform has everything: first the memory that it was here, then its folder, then its owner's name.
    async fn forget(&mut self, id: &InstanceId, folder: &Path, gone: Gone) {
        let folder = folder.to_owned();
        let removed = match self.tombstones.add(id, gone) {
            Ok(()) => off_thread(move || files::remove_dir(&folder)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            // The folder stays and is tried again by the next agent, which sends the receipt once more.
            tracing::error!(instance.id = %id, error = failure::chain(&error), "could not forget the instance");
        }
        self.directory.send_modify(|directory| drop(Arc::make_mut(directory).remove(id)));
        tracing::info!(instance.id = %id, "gone");
    }

    fn held(&self) -> BTreeMap<InstanceId, lifecycle::Held> {
        let mut held: BTreeMap<_, _> = self.tombstones.held().collect();
        for (id, handle) in self.directory.borrow().iter() {
            let view = handle.view.borrow();
            held.insert(id.clone(), lifecycle::Held { generation: view.generation, hold: view.hold });
        }
        held
    }

    fn in_use(&self) -> InUse {
        let directory = self.directory.borrow();
        directory.values().map(|handle| handle.view.borrow().in_use).fold(InUse::default(), |sum, one| InUse {
            memory_mib: sum.memory_mib.saturating_add(one.memory_mib),
            cpus: sum.cpus.saturating_add(one.cpus),
            disk_mib: sum.disk_mib.saturating_add(one.disk_mib),
            instances: sum.instances + one.instances,
        })
    }

    async fn recover(&mut self) -> Result<(), RecoverError> {
        let folder = self.ctx.config.instances_dir();
        files::make_dir(&folder)?;
        let mut machines: BTreeMap<InstanceId, Vec<Held>> = BTreeMap::new();
        for (id, held) in self.ctx.drivers.list().await.map_err(RecoverError::Driver)? {
            machines.entry(id).or_default().push(held);
        }
        for (id, folder) in folders(&folder)? {
            let held = machines.remove(&id).unwrap_or_default();
            match Journal::load(&folder) {
                Ok(Some(journal)) => self.take_over(journal, folder, held).await?,
                Ok(None) => {
                    self.wipe_orphans(&id, held).await;
                    files::remove_dir(&folder)?;
                }
                Err(error) => self.bury(&id, &folder, held, &error).await?,
            }
        }
        for (id, held) in machines {
            self.wipe_orphans(&id, held).await;
        }
        self.release_layers().await;
        Ok(())
    }

    /// Layers that an earlier agent kept for instances which are wiped by now.
    async fn release_layers(&self) {
        let needs_layers = |handle: &Handle| handle.view.borrow().receipt.is_none();
        let known: Vec<InstanceId> = {
            let directory = self.directory.borrow();
            directory.iter().filter(|(_, handle)| needs_layers(handle)).map(|(id, _)| id.clone()).collect()
        };
        let images = self.ctx.images.clone();
        if let Err(error) = off_thread(move || images.release_all_but(&known)).await {
            tracing::error!(error = failure::chain(&error), "could not end the leases of earlier instances");
        }
    }

    async fn take_over(&mut self, journal: Journal, folder: PathBuf, mut held: Vec<Held>) -> Result<(), RecoverError> {
        let id = journal.order.id.clone();
        let driver = self.driver_of(&journal)?;
        // What another driver has of it was never this instance's.
        let own = held.iter().position(|held| held.driver.capabilities().name == driver.capabilities().name);
        let presence = own.map(|own| held.swap_remove(own).presence);
        self.wipe_orphans(&id, held).await;
        let recovery = recover::plan(&journal, presence);
        tracing::info!(instance.id = %id, recovery = ?recovery, machine = ?presence, "found an instance of an earlier agent");
        if recovery == Recovery::Linger {
            self.wipe_orphan(&id, presence.map(|presence| Held { presence, driver: driver.clone() })).await;
        }
        if self.tombstones.contains(&id) {
            // The last agent ended between tombstone and folder.
            return Ok(files::remove_dir(&folder)?);
        }
        let book = self.open(journal, &driver, folder)?;
        self.spawn(book, driver, Entry::Recovered(recovery));
        Ok(())
    }

    /// Who has, or had, the instance. A driver that is gone would leave something behind that nobody ends.
    fn driver_of(&self, journal: &Journal) -> Result<Arc<dyn Driver>, RecoverError> {
        let drivers = &self.ctx.drivers;
        let driver = match journal.driver.as_str() {
            "" => Some(drivers.of_level(journal.order.body.level).unwrap_or_else(|| drivers.first())),
            name => drivers.named(name),
        };
        let missing = || RecoverError::NoDriver { instance: journal.order.id.to_string(), driver: journal.driver.clone() };
        driver.cloned().ok_or_else(missing)
    }

    async fn wipe_orphans(&self, id: &InstanceId, all: Vec<Held>) {
        for held in all {
            self.wipe_orphan(id, Some(held)).await;
        }
    }

    /// Something of a machine that no journal knows.
    async fn wipe_orphan(&self, id: &InstanceId, held: Option<Held>) {
        let Some(Held { presence, driver }) = held else { return };
        tracing::warn!(instance.id = %id, machine = ?presence, "wiping an orphan");
        let wiped = match driver.wipe(id).await {
            Ok(_) => driver.forget(id).await,
            Err(error) => Err(error),
        };
        if let Err(error) = wiped {
            tracing::error!(instance.id = %id, error = failure::chain(&error), "could not wipe an orphan");
        }
    }

    /// A journal that cannot be read: the machine is wiped, the file is kept for a person, and no order starts it again.
    async fn bury(
        &mut self,
        id: &InstanceId,
        folder: &Path,
        held: Vec<Held>,
        error: &dyn std::error::Error,
    ) -> Result<(), FileError> {
        tracing::error!(instance.id = %id, error = failure::chain(error), "the journal is not readable, the instance is given up");
        self.wipe_orphans(id, held).await;
        self.tombstones.add(id, Gone { generation: u64::MAX, until_ms: u64::MAX })?;
        let lost = self.ctx.config.state_dir.join("lost");
        files::make_dir(&lost)?;
        let target = lost.join(format!("{id}-{}", clock::now_ms()));
        std::fs::rename(folder, &target).map_err(FileError::at("move away", folder))
    }
}

/// Instance folders by name; other names are not ours and left alone.
fn folders(parent: &Path) -> Result<Vec<(InstanceId, PathBuf)>, FileError> {
    let entries = std::fs::read_dir(parent).map_err(FileError::at("list", parent))?;
    Ok(entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, entry.path()))
        })
        .collect())
}
