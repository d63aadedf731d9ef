//! A node's session: the one task that owns it.
//!
//! The node begins with a whole report, the platform answers with all that should be; from then on both send changes. The
//! task ends with the stream, the node's certificate, a silence, a newer session of the node, or the server's drain.
//!
//! A node has one session, on whichever replica. The store knows it by its epoch, and takes what a session says only as long as no
//! newer one was opened. What is to be sent is found in the store: a wake-up only makes the look earlier.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use casemate_api::node::{
    self, Challenge, Deliver, Desired, EvidenceReply, FromNode, ReceiptStored, RecordsStored, ToNode, from_node, to_node,
};
use casemate_lifecycle::{InstanceId, NodeId, Step};
use futures::{Stream, StreamExt as _};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{Service, attest::is_due};
use crate::{
    clock::now_ms,
    drain::drained,
    fault::Fault,
    life::clipped,
    sessions::Command,
    store::{Answer, Fence, Instance, StoreError},
};

/// Longest wait for the first report.
const FIRST_REPORT: Duration = Duration::from_secs(30);
/// Longest wait for a node to take a message.
const SEND: Duration = Duration::from_secs(30);
/// How often the session looks for what waits for it even if nobody woke it.
const LOOK: Duration = Duration::from_secs(2);
/// A wake-up about maintenance that was lost costs so many looks.
const MAINTENANCE_LOOKS: u32 = 5;
/// Most challenges under way in one session.
const MAX_CHALLENGES: usize = 256;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The node closed it.
    #[error("the node closed the session")]
    Closed,
    /// The first message was not a report, or did not come.
    #[error("the session did not begin with a report")]
    NoReport,
    /// Nothing was heard for too long, or nothing was taken.
    #[error("the node went silent")]
    Silent,
    /// The node's certificate ended.
    #[error("the node's certificate ended; renew it")]
    Certificate,
    /// The node opened a newer session.
    #[error("a newer session of this node took over")]
    Superseded,
    /// The server drains.
    #[error("the platform is shutting down")]
    Draining,
    /// A call inside failed.
    #[error("the platform failed")]
    Fault(#[source] Fault),
}

impl From<Fault> for SessionEnd {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Store(StoreError::Fenced(_)) => Self::Superseded,
            other => Self::Fault(other),
        }
    }
}

/// A node and the session in which it speaks.
#[derive(Debug)]
pub(super) struct Speaker {
    pub(super) node: NodeId,
    pub(super) fence: Fence,
}

impl Service {
    /// Runs a session to its end.
    pub async fn run_session<S>(
        &self,
        node: NodeId,
        certificate_ends_ms: u64,
        inbound: S,
        outbound: mpsc::Sender<ToNode>,
    ) -> SessionEnd
    where
        S: Stream<Item = FromNode> + Unpin,
    {
        let (_registration, commands) = self.0.sessions.register(&node);
        let fence = match self.store().open_session(&node, &self.0.parts.replica).await {
            Ok(fence) => fence,
            Err(error) => return SessionEnd::Fault(error.into()),
        };
        tracing::info!(node.id = %node, "session opened");
        let mut session = Session {
            service: self.clone(),
            speaker: Speaker { node, fence },
            outbound,
            sent: BTreeMap::new(),
            delivered: BTreeMap::new(),
            pending: HashMap::new(),
            asked: HashSet::new(),
            maintenance: None,
            looks: 0,
            next_challenge: 1,
            appraisals: JoinSet::new(),
        };
        let end = session.run(certificate_ends_ms, inbound, commands).await;
        session.appraisals.shutdown().await;
        let Speaker { node, fence } = &session.speaker;
        let noted = async {
            self.heard_of(&session.speaker, None).await?;
            Ok::<_, Fault>(self.store().give_up(fence).await?)
        };
        match noted.await {
            Ok(()) | Err(Fault::Store(StoreError::Fenced(_))) => {}
            Err(fault) => {
                tracing::error!(node.id = %node, error.chain = %crate::fault::chain(&fault), "the end of a session was not noted");
            }
        }
        tracing::info!(node.id = %node, reason = %end, "session closed");
        end
    }

    /// Notes a sign of life.
    pub(super) async fn heard_of(&self, by: &Speaker, inventory: Option<&serde_json::Value>) -> Result<(), Fault> {
        Ok(self.store().node_seen(&by.node, &by.fence, inventory).await?)
    }
}

struct Session {
    service: Service,
    speaker: Speaker,
    outbound: mpsc::Sender<ToNode>,
    /// The generation of each instance that the node was told.
    sent: BTreeMap<InstanceId, u64>,
    /// The sealed keys that went to the node in this session.
    delivered: BTreeMap<InstanceId, Vec<u8>>,
    /// Who waits for the answer to a challenge.
    pending: HashMap<u64, Asker>,
    /// Questions of other replicas that went to the node in this session.
    asked: HashSet<String>,
    /// What the node was told of its maintenance.
    maintenance: Option<node::Maintenance>,
    /// Looks since somebody last looked for that.
    looks: u32,
    next_challenge: u64,
    appraisals: JoinSet<()>,
}

/// Who asked.
enum Asker {
    /// Somebody on this replica.
    Here(oneshot::Sender<Answer>),
    /// A question in the store.
    Elsewhere(String),
}

impl Session {
    async fn run<S>(&mut self, certificate_ends_ms: u64, mut inbound: S, mut commands: mpsc::Receiver<Command>) -> SessionEnd
    where
        S: Stream<Item = FromNode> + Unpin,
    {
        if let Err(end) = self.begin(&mut inbound).await {
            return end;
        }
        let silence = self.service.limits().node_lost;
        let expiry = Instant::now() + Duration::from_millis(certificate_ends_ms.saturating_sub(now_ms()));
        let mut heard = Instant::now();
        let mut draining = self.service.draining();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                message = inbound.next() => match message {
                    Some(message) => {
                        heard = Instant::now();
                        self.receive(message).await
                    }
                    None => Err(SessionEnd::Closed),
                },
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => Err(SessionEnd::Superseded),
                },
                Some(_) = self.appraisals.join_next() => Ok(()),
                _ = look.tick() => self.look().await,
                () = tokio::time::sleep_until(heard + silence) => Err(SessionEnd::Silent),
                () = tokio::time::sleep_until(expiry) => Err(SessionEnd::Certificate),
                () = drained(&mut draining) => Err(SessionEnd::Draining),
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    /// The node's report first, then all that should be, then keys that were on their way when a session broke.
    async fn begin<S>(&mut self, inbound: &mut S) -> Result<(), SessionEnd>
    where
        S: Stream<Item = FromNode> + Unpin,
    {
        let first = timeout(FIRST_REPORT, inbound.next()).await.map_err(|_| SessionEnd::NoReport)?.ok_or(SessionEnd::Closed)?;
        let Some(from_node::Message::Report(report)) = first.message else { return Err(SessionEnd::NoReport) };
        let monitored = report.inventory.as_ref().is_some_and(|inventory| inventory.monitor.is_some());
        let stored = self.service.take_report(&self.speaker, report).await?;
        let instances = self.instances().await?;
        let assignments = instances.iter().map(|instance| self.service.assignment(&self.speaker.node, instance)).collect();
        self.sent = instances.iter().map(|instance| (instance.id.clone(), instance.generation)).collect();
        self.send(to_node::Message::Desired(Desired { assignments })).await?;
        for stored in stored {
            self.send(to_node::Message::Stored(stored)).await?;
        }
        if monitored {
            let stored = self.service.monitor_stored(&self.speaker.node).await?;
            self.send(to_node::Message::MonitorStored(stored)).await?;
        }
        for instance in instances {
            self.attend(instance).await?;
        }
        self.maintain().await
    }

    async fn receive(&mut self, message: FromNode) -> Result<(), SessionEnd> {
        let service = self.service.clone();
        match message.message {
            Some(from_node::Message::Report(report)) => {
                for stored in service.take_report(&self.speaker, report).await? {
                    self.send(to_node::Message::Stored(stored)).await?;
                }
                self.look().await
            }
            Some(from_node::Message::Instance(report)) => {
                let booted = Step::parse(&report.step) == Some(Step::Booted);
                if let Some(stored) = service.take_instance_report(&self.speaker, report).await? {
                    self.send(to_node::Message::Stored(stored)).await?;
                }
                if booted { self.look().await } else { Ok(()) }
            }
            Some(from_node::Message::Evidence(reply)) => self.answered(reply).await,
            Some(from_node::Message::Records(records)) => {
                let stored: RecordsStored = service.store_records(&self.speaker, records).await?;
                self.send(to_node::Message::Stored(stored)).await
            }
            Some(from_node::Message::Receipt(receipt)) => {
                let instance = receipt.instance.clone();
                if service.store_node_receipt(&self.speaker, receipt).await? {
                    self.send(to_node::Message::ReceiptStored(ReceiptStored { instance })).await?;
                }
                Ok(())
            }
            Some(from_node::Message::Monitor(records)) => {
                let stored = service.store_monitor_records(&self.speaker, records).await?;
                self.send(to_node::Message::MonitorStored(stored)).await
            }
            Some(from_node::Message::Maintenance(report)) => {
                service.heard_of_maintenance(&self.speaker, report).await?;
                self.maintain().await
            }
            Some(from_node::Message::Heartbeat(_)) => Ok(service.heard_of(&self.speaker, None).await?),
            None => Ok(()),
        }
    }

    async fn obey(&mut self, command: Command) -> Result<(), SessionEnd> {
        match command {
            Command::Look(id) => match self.service.store().instance(&id).await.map_err(Fault::from)? {
                Some(instance) => self.attend(instance).await,
                None => Ok(()),
            },
            Command::LookAtAll => self.look().await,
            Command::Questions => {
                self.questions().await?;
                self.maintain().await
            }
            Command::Check => Ok(self.service.heard_of(&self.speaker, None).await?),
            Command::Challenge { instance, nonce, answer } => self.challenge(&instance, &nonce, Asker::Here(answer)).await,
        }
    }

    async fn instances(&self) -> Result<Vec<Instance>, SessionEnd> {
        Ok(self.service.store().instances_of_node(&self.speaker.node).await.map_err(Fault::from)?)
    }

    /// Sends what the node has not been told of an instance, and keys that wait for it.
    async fn attend(&mut self, instance: Instance) -> Result<(), SessionEnd> {
        let id = instance.id.clone();
        if instance.node.as_ref() != Some(&self.speaker.node) || instance.has_receipt {
            self.sent.remove(&id);
            self.delivered.remove(&id);
            return Ok(());
        }
        if self.sent.insert(id.clone(), instance.generation) != Some(instance.generation) {
            let assignment = self.service.assignment(&self.speaker.node, &instance);
            self.send(to_node::Message::Assignment(assignment)).await?;
        }
        match instance.sealed_release {
            Some(sealed) if instance.actual.step == Step::Attested && self.delivered.get(&id) != Some(&sealed) => {
                self.delivered.insert(id.clone(), sealed.clone());
                self.send(to_node::Message::Deliver(Deliver { instance: id.to_string(), sealed })).await
            }
            _ => Ok(()),
        }
    }

    /// Looks after everything that waits: a lost wake-up costs time only.
    async fn look(&mut self) -> Result<(), SessionEnd> {
        let instances = self.instances().await?;
        let lives = |id: &InstanceId| instances.iter().any(|instance| instance.id == *id);
        self.sent.retain(|id, _| lives(id));
        self.delivered.retain(|id, _| lives(id));
        self.appraise(&instances);
        for instance in instances {
            self.attend(instance).await?;
        }
        self.looks += 1;
        if self.looks.is_multiple_of(MAINTENANCE_LOOKS) {
            self.maintain().await?;
        }
        self.questions().await
    }

    /// Tells the node what is wanted of its maintenance, if that is something else than before.
    async fn maintain(&mut self) -> Result<(), SessionEnd> {
        let wanted = self.service.maintenance_for(&self.speaker).await?;
        if wanted != self.maintenance {
            self.maintenance = wanted;
            if let Some(wanted) = wanted {
                self.send(to_node::Message::Maintenance(wanted)).await?;
            }
        }
        Ok(())
    }

    /// Begins the appraisals that are due.
    fn appraise(&mut self, instances: &[Instance]) {
        for instance in instances.iter().filter(|instance| is_due(instance)) {
            self.appraisals.spawn(self.service.clone().attest(instance.id.clone()));
        }
    }

    /// Asks the node what other replicas want to know.
    async fn questions(&mut self) -> Result<(), SessionEnd> {
        let open = self.service.store().questions(&self.speaker.node).await.map_err(Fault::from)?;
        self.asked.retain(|id| open.iter().any(|question| question.id == *id));
        for question in open {
            if self.asked.insert(question.id.clone()) {
                self.challenge(&question.instance, &question.nonce, Asker::Elsewhere(question.id)).await?;
            }
        }
        Ok(())
    }

    async fn challenge(&mut self, instance: &InstanceId, nonce: &[u8; 32], asker: Asker) -> Result<(), SessionEnd> {
        let asked = &self.asked;
        self.pending.retain(|_, waiting| match waiting {
            Asker::Here(answer) => !answer.is_closed(),
            Asker::Elsewhere(id) => asked.contains(id),
        });
        if self.pending.len() >= MAX_CHALLENGES {
            // Dropping a sender tells the asker; a question stays in the store until its time is over.
            return Ok(());
        }
        let id = self.next_challenge;
        self.next_challenge += 1;
        self.pending.insert(id, asker);
        let challenge = Challenge { instance: instance.to_string(), id, nonce: nonce.to_vec() };
        self.send(to_node::Message::Challenge(challenge)).await
    }

    async fn answered(&mut self, reply: EvidenceReply) -> Result<(), SessionEnd> {
        let Some(asker) = self.pending.remove(&reply.id) else { return Ok(()) };
        let answer = Answer {
            media_type: clipped(&reply.media_type, 200),
            evidence: reply.evidence,
            failure: reply.failure.map(|failure| (clipped(&failure.check, 100), clipped(&failure.detail, 1000))),
        };
        match asker {
            // Whoever asked may have given up.
            Asker::Here(waiting) => drop(waiting.send(answer)),
            Asker::Elsewhere(id) => self.service.store().answer_question(&id, &answer).await.map_err(Fault::from)?,
        }
        Ok(())
    }

    async fn send(&mut self, message: to_node::Message) -> Result<(), SessionEnd> {
        let sent = timeout(SEND, self.outbound.send(ToNode { message: Some(message) })).await;
        sent.map_err(|_| SessionEnd::Silent)?.map_err(|_| SessionEnd::Closed)
    }
}
