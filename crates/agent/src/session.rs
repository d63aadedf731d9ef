//! The node's stream to the platform: says all there is, hears all there should be, and reconnects for ever.
//!
//! Level-triggered: nothing that is lost with a broken session is needed again, because every session begins with the whole
//! picture. One pump per instance sends what its view shows, in an order that the platform can rely on: report, records,
//! receipt.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use casemate_api::{
    node::{self, FromNode, ToNode, from_node, node_client::NodeClient, to_node},
    score::Observation,
};
use casemate_lifecycle::{Failure, InstanceId, Scope, Step};
use casemate_sandbox::network::Statistics;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::{
    clock,
    dedicated::Dedication,
    evidence::Answer,
    failure,
    files::{self, off_thread},
    instances::{Directory, Handle, Registry, Request, Told, View},
    maintenance::Maintainer,
    monitor::{self, Monitor},
    platform::Platform,
};

/// Messages on their way to the platform.
const MAX_OUTGOING: usize = 64;
/// Between two signs of life.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Longest wait for the answer to the call, and then for the first message.
const OPEN_WAIT: Duration = Duration::from_secs(30);
/// Longest wait for a guest's evidence.
const EVIDENCE_WAIT: Duration = Duration::from_secs(60);
/// Challenges of a session that are being answered.
const MAX_CHALLENGES: usize = 256;
/// First pause between sessions; doubles.
const RETRY: Duration = Duration::from_millis(250);
/// Longest pause.
const RETRY_MAX: Duration = Duration::from_secs(15);
/// A session that was open for this long had a platform that works: what follows is a new trouble.
const SETTLED: Duration = Duration::from_secs(1);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("open the session: the platform answered {:?}: {}", .0.code(), .0.message())]
    Open(Box<tonic::Status>),
    #[error("the platform did not {0} within 30 s")]
    Timeout(&'static str),
    #[error("the session broke: {:?}: {}", .0.code(), .0.message())]
    Broken(Box<tonic::Status>),
    #[error("the platform closed the session")]
    Closed,
    #[error("the platform began the session with something else than the whole picture")]
    NoPicture,
    #[error("write {}", .0)]
    RunFile(String),
}

/// What a session needs.
pub(crate) struct Sessions {
    pub(crate) registry: Registry,
    pub(crate) platform: watch::Receiver<Arc<Platform>>,
    pub(crate) inventory: node::Inventory,
    pub(crate) node: casemate_lifecycle::NodeId,
    pub(crate) run_dir: std::path::PathBuf,
    pub(crate) monitor: Option<Monitor>,
    pub(crate) dedicated: Dedication,
    /// Asks for a fresh appraisal of this node.
    pub(crate) attest: Arc<Notify>,
}

impl Sessions {
    /// One session after the other.
    pub(crate) async fn run(mut self) {
        let mut pause = RETRY;
        loop {
            let mut opened = None;
            let platform = self.platform.borrow_and_update().clone();
            let server = platform.server();
            match self.once(platform.client_of(server), &mut opened).await {
                Ok(()) => {
                    tracing::info!("opening a new session with the renewed certificate");
                    pause = RETRY;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(error = failure::chain(&error), "session with the platform ended");
                    platform.fail_over(server);
                }
            }
            if opened.is_some_and(|at| at.elapsed() > SETTLED) {
                pause = RETRY;
            }
            let spread = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            tokio::time::sleep(pause + Duration::from_millis(clock::jitter(spread))).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// `Ok` when a renewed certificate asks for another session. `opened` becomes the moment when the session was.
    async fn once(&mut self, mut client: NodeClient<Channel>, opened: &mut Option<Instant>) -> Result<(), SessionError> {
        let mut directory = self.registry.directory.clone();
        let mut dedicated = self.dedicated.changes();
        let (out, outgoing) = mpsc::channel(MAX_OUTGOING);
        let report = from_node::Message::Report(self.report(&directory.borrow_and_update().clone()));
        out.send(wrap(report)).await.map_err(|_| SessionError::Closed)?;
        let response = timeout(OPEN_WAIT, client.session(ReceiverStream::new(outgoing))).await;
        let response = response.map_err(|_| SessionError::Timeout("answer the call"))?;
        let mut incoming = response.map_err(|status| SessionError::Open(Box::new(status)))?.into_inner();
        let first = timeout(OPEN_WAIT, incoming.message()).await.map_err(|_| SessionError::Timeout("say what should be"))?;
        let Some(ToNode { message: Some(to_node::Message::Desired(desired)) }) = first.map_err(broken)? else {
            return Err(SessionError::NoPicture);
        };
        let mut session = Session {
            registry: self.registry.clone(),
            out,
            pumps: JoinSet::new(),
            pumped: BTreeSet::new(),
            challenges: JoinSet::new(),
            monitor_stored: None,
            stored: watch::channel(0).0,
            monitor: self.monitor.clone(),
            attest: self.attest.clone(),
            maintenance: JoinSet::new(),
        };
        if let Some(monitor) = self.monitor.clone() {
            let (stored, numbers) = mpsc::channel(1);
            session.challenges.spawn(monitor::report(monitor, numbers, session.out.clone()));
            session.monitor_stored = Some(stored);
        }
        session.apply(desired.assignments, Scope::Whole).await;
        self.write_run_file().await?;
        *opened = Some(Instant::now());
        tracing::info!("session with the platform is open");
        session.pump(&directory.borrow_and_update().clone());
        let mut heartbeat = interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = incoming.message() => match message.map_err(broken)? {
                    Some(message) => session.heard(message).await,
                    None => return Err(SessionError::Closed),
                },
                Ok(()) = directory.changed() => session.pump(&directory.borrow_and_update().clone()),
                Some(ended) = session.pumps.join_next() => session.pump_ended(ended),
                Some(_) = session.challenges.join_next() => {}
                Some(_) = session.maintenance.join_next() => {}
                Ok(()) = self.platform.changed() => return Ok(()),
                () = dedicated.changed() => {
                    let report = self.report(&directory.borrow().clone());
                    session.out.send(wrap(from_node::Message::Report(report))).await.map_err(|_| SessionError::Closed)?;
                }
                _ = heartbeat.tick() => session.beat(),
            }
        }
    }

    fn report(&self, directory: &Directory) -> node::Report {
        let instances = directory.iter().map(|(id, handle)| instance_report(id, &handle.view.borrow())).collect();
        let inventory = node::Inventory { dedicated: self.dedicated.inventory(), ..self.inventory.clone() };
        node::Report { inventory: Some(inventory), instances }
    }

    /// Tells whoever started the agent that it is open for work.
    async fn write_run_file(&self) -> Result<(), SessionError> {
        let path = self.run_dir.join("agent.json");
        let bytes = serde_json::json!({ "pid": std::process::id(), "node": self.node.as_str() }).to_string();
        let written = off_thread(move || files::replace(&path, bytes.as_bytes())).await;
        written.map_err(|error| SessionError::RunFile(failure::chain(&error)))
    }
}

/// An open session. Its tasks end with it.
struct Session {
    registry: Registry,
    out: mpsc::Sender<FromNode>,
    pumps: JoinSet<InstanceId>,
    pumped: BTreeSet<InstanceId>,
    /// Challenges that are being answered, and what reports for the monitor.
    challenges: JoinSet<()>,
    /// Who waits for the number up to which the platform has the monitor's record.
    monitor_stored: Option<mpsc::Sender<u64>>,
    /// That number.
    stored: watch::Sender<u64>,
    monitor: Option<Monitor>,
    attest: Arc<Notify>,
    /// What is being done for a maintenance; one thing at a time.
    maintenance: JoinSet<()>,
}

impl Session {
    async fn heard(&mut self, message: ToNode) {
        match message.message {
            Some(to_node::Message::Desired(desired)) => self.apply(desired.assignments, Scope::Whole).await,
            Some(to_node::Message::Assignment(assignment)) => self.apply(vec![assignment], Scope::Named).await,
            Some(to_node::Message::Challenge(challenge)) => self.challenged(challenge),
            Some(to_node::Message::Deliver(deliver)) => self.ask(&deliver.instance, Request::Deliver(deliver.sealed)).await,
            Some(to_node::Message::Stored(stored)) => self.ask(&stored.instance, Request::Stored(stored.next)).await,
            Some(to_node::Message::Maintenance(order)) => self.maintain(order),
            Some(to_node::Message::MonitorStored(stored)) => {
                self.stored.send_replace(stored.next);
                if let Some(waiting) = &self.monitor_stored {
                    // One answer to each message: there is room, unless the platform says more than it was asked.
                    let _ = waiting.try_send(stored.next);
                }
            }
            Some(to_node::Message::ReceiptStored(stored)) => self.ask(&stored.instance, Request::ReceiptStored).await,
            None => tracing::warn!("the platform sent a message of no known kind"),
        }
    }

    /// What was wanted before is not wanted any more.
    fn maintain(&mut self, order: node::Maintenance) {
        self.maintenance.abort_all();
        let maintainer = Maintainer {
            monitor: self.monitor.clone(),
            directory: self.registry.directory.clone(),
            stored: self.stored.subscribe(),
            attest: self.attest.clone(),
            out: self.out.clone(),
        };
        self.maintenance.spawn(maintainer.obey(order));
    }

    async fn apply(&mut self, assignments: Vec<node::Assignment>, scope: Scope) {
        for told in self.registry.apply(assignments, scope).await {
            // A full or closed queue ends the session anyway; the next picture brings the same answer.
            let _ = self.out.send(wrap(from_node::Message::Instance(told_report(&told)))).await;
        }
    }

    async fn ask(&self, id: &str, request: Request) {
        match self.registry.find(id) {
            // A closed queue: the instance has just gone.
            Some(handle) => drop(handle.requests.send(request).await),
            None => tracing::debug!(instance.id = id, "a request for an instance that is not here"),
        }
    }

    fn challenged(&mut self, challenge: node::Challenge) {
        let handle = self.registry.find(&challenge.instance);
        let out = self.out.clone();
        let crowded = self.challenges.len() >= MAX_CHALLENGES;
        self.challenges.spawn(async move {
            let result = match (handle, crowded) {
                (_, true) => Err(no_evidence("too many challenges wait on this node")),
                (None, _) => Err(no_evidence("there is no such instance on this node")),
                (Some(handle), _) => collect(&handle, &challenge.nonce).await,
            };
            let mut reply = node::EvidenceReply { instance: challenge.instance, id: challenge.id, ..Default::default() };
            match result {
                Ok(evidence) => {
                    reply.media_type = evidence.media_type.into();
                    reply.evidence = evidence.bytes;
                }
                Err(failure) => reply.failure = Some(wire_failure(&failure)),
            }
            // The session may have ended.
            let _ = out.send(wrap(from_node::Message::Evidence(reply))).await;
        });
    }

    fn pump(&mut self, directory: &Directory) {
        for (id, handle) in directory.iter() {
            if self.pumped.insert(id.clone()) {
                self.pumps.spawn(pump(id.clone(), handle.clone(), self.out.clone()));
            }
        }
    }

    fn pump_ended(&mut self, ended: Result<InstanceId, tokio::task::JoinError>) {
        if let Ok(id) = ended {
            self.pumped.remove(&id);
        }
    }

    fn beat(&self) {
        // A full queue is a sign of life by itself.
        let _ = self.out.try_send(wrap(from_node::Message::Heartbeat(node::Heartbeat {})));
    }
}

/// Sends what one instance shows, until its owner or the session ends.
async fn pump(id: InstanceId, handle: Handle, out: mpsc::Sender<FromNode>) -> InstanceId {
    let mut view = handle.view.clone();
    let mut reported = None;
    let mut next = 0;
    let mut receipt_sent = false;
    loop {
        let now = view.borrow_and_update().clone();
        let report = instance_report(&id, &now);
        // Progress of records is no news by itself: the records are.
        let news = node::InstanceReport { next_record: 0, ..report.clone() };
        if reported.as_ref() != Some(&news) {
            if out.send(wrap(from_node::Message::Instance(report))).await.is_err() {
                return id;
            }
            reported = Some(news);
        }
        let Some(sent) = send_records(&id, &handle, &now, next, &out).await else { return id };
        next = sent;
        if let Some(receipt) = now.receipt.as_ref().filter(|_| !receipt_sent) {
            let (body, signature) = (receipt.body.clone(), receipt.signature.clone());
            let receipt = node::Receipt { instance: id.to_string(), body, signature };
            if out.send(wrap(from_node::Message::Receipt(receipt))).await.is_err() {
                return id;
            }
            receipt_sent = true;
        }
        if view.changed().await.is_err() {
            return id;
        }
    }
}

/// Sends durable records that this session did not send yet; the number after the last one, `None` when owner or session
/// ended.
async fn send_records(id: &InstanceId, handle: &Handle, view: &View, next: u64, out: &mpsc::Sender<FromNode>) -> Option<u64> {
    let mut next = next.max(view.records.start);
    while next < view.records.end {
        let (reply, answer) = oneshot::channel();
        handle.requests.send(Request::Read { from: next, reply }).await.ok()?;
        let (seq, sealed) = answer.await.ok()?;
        if sealed.is_empty() {
            break;
        }
        next = seq + sealed.len() as u64;
        let records = node::Records { instance: id.to_string(), seq, sealed };
        out.send(wrap(from_node::Message::Records(records))).await.ok()?;
    }
    Some(next)
}

async fn collect(handle: &Handle, nonce: &[u8]) -> Result<Answer, Failure> {
    let nonce = nonce.try_into().map_err(|_| no_evidence("the nonce is not 32 bytes long"))?;
    let (reply, answer) = oneshot::channel();
    let gone = || no_evidence("the instance is gone");
    handle.requests.send(Request::Challenge { nonce, reply }).await.map_err(|_| gone())?;
    match timeout(EVIDENCE_WAIT, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(gone()),
        Err(_) => Err(no_evidence("the guest gave no evidence within 60 s")),
    }
}

fn no_evidence(detail: &str) -> Failure {
    failure::at(Step::Attested, failure::check::EVIDENCE, detail)
}

fn instance_report(id: &InstanceId, view: &View) -> node::InstanceReport {
    node::InstanceReport {
        instance: id.to_string(),
        generation: view.generation,
        step: view.actual.step.as_str().into(),
        exit_code: view.actual.exit_code,
        failure: view.actual.failure.as_ref().map(wire_failure),
        next_record: view.records.start,
        stages_ms: view.stages_ms.clone().into_iter().collect(),
        note: view.note.clone(),
        observed: observations(&view.observed.agent),
        guest_observed: observations(&view.observed.guest),
        observed_at_ms: view.observed.at_ms,
        network: view.network.map(network_use),
    }
}

fn network_use(counted: Statistics) -> node::NetworkUse {
    node::NetworkUse {
        sent_bytes: counted.sent.bytes,
        sent_packets: counted.sent.packets,
        sent_dropped: counted.send_dropped.packets,
        received_bytes: counted.received.bytes,
        received_packets: counted.received.packets,
        received_dropped: counted.receive_dropped.packets,
        names_asked: counted.names.asked,
        names_refused: counted.names.refused,
        names_failed: counted.names.failed,
    }
}

fn observations(seen: &[Observation]) -> Vec<node::Observation> {
    let wire = |seen: &Observation| node::Observation { item: seen.item.clone(), held: seen.held, seen: seen.seen.clone() };
    seen.iter().map(wire).collect()
}

fn told_report(told: &Told) -> node::InstanceReport {
    node::InstanceReport {
        instance: told.id.to_string(),
        generation: told.generation,
        step: told.step.as_str().into(),
        failure: told.failure.as_ref().map(wire_failure),
        ..Default::default()
    }
}

fn wire_failure(failure: &Failure) -> node::Failure {
    node::Failure { step: failure.step.as_str().into(), check: failure.check.clone(), detail: failure.detail.clone() }
}

fn wrap(message: from_node::Message) -> FromNode {
    FromNode { message: Some(message) }
}

fn broken(status: tonic::Status) -> SessionError {
    SessionError::Broken(Box::new(status))
}
