//! A node's session: the one task that owns it.
//!
//! The node begins with a whole report, the platform answers with all that should be; from then on both send changes. The
//! task ends with the stream, the node's certificate, a silence, a newer session of the node, or the server's drain.

use std::{collections::HashMap, time::Duration};

use casemate_api::node::{
    Challenge, Deliver, Desired, EvidenceReply, FromNode, ReceiptStored, RecordsStored, ToNode, from_node, to_node,
};
use casemate_lifecycle::{InstanceId, NodeId, Step};
use futures::{Stream, StreamExt as _};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::Service;
use crate::{clock::now_ms, drain::drained, fault::Fault, sessions::Command};

/// Longest wait for the first report.
const FIRST_REPORT: Duration = Duration::from_secs(30);
/// Longest wait for a node to take a message.
const SEND: Duration = Duration::from_secs(30);
/// How often the session looks for instances that wait for an appraisal.
const LOOK: Duration = Duration::from_secs(2);
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
    Fault(#[from] Fault),
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
        tracing::info!(node.id = %node, "session opened");
        let mut session = Session {
            service: self.clone(),
            node,
            outbound,
            pending: HashMap::new(),
            next_challenge: 1,
            appraisals: JoinSet::new(),
        };
        let end = session.run(certificate_ends_ms, inbound, commands).await;
        session.appraisals.shutdown().await;
        if let Err(error) = self.store().node_seen(&session.node, now_ms(), None).await {
            tracing::error!(node.id = %session.node, error.chain = %crate::fault::chain(&error), "the end of a session was not noted");
        }
        tracing::info!(node.id = %session.node, reason = %end, "session closed");
        end
    }
}

struct Session {
    service: Service,
    node: NodeId,
    outbound: mpsc::Sender<ToNode>,
    pending: HashMap<u64, oneshot::Sender<EvidenceReply>>,
    next_challenge: u64,
    appraisals: JoinSet<()>,
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
        let stored = self.service.take_report(&self.node, report).await?;
        let assignments = self.service.desired(&self.node).await?;
        self.send(to_node::Message::Desired(Desired { assignments })).await?;
        for stored in stored {
            self.send(to_node::Message::Stored(stored)).await?;
        }
        for instance in self.service.store().instances_of_node(&self.node).await.map_err(Fault::from)? {
            self.deliver(&instance.id).await?;
        }
        Ok(())
    }

    async fn receive(&mut self, message: FromNode) -> Result<(), SessionEnd> {
        let service = self.service.clone();
        match message.message {
            Some(from_node::Message::Report(report)) => {
                for stored in service.take_report(&self.node, report).await? {
                    self.send(to_node::Message::Stored(stored)).await?;
                }
                self.look().await
            }
            Some(from_node::Message::Instance(report)) => {
                let booted = Step::parse(&report.step) == Some(Step::Booted);
                if let Some(stored) = service.take_instance_report(&self.node, report).await? {
                    self.send(to_node::Message::Stored(stored)).await?;
                }
                if booted { self.look().await } else { Ok(()) }
            }
            Some(from_node::Message::Evidence(reply)) => {
                if let Some(answer) = self.pending.remove(&reply.id) {
                    // Whoever asked may have given up.
                    let _ = answer.send(reply);
                }
                Ok(())
            }
            Some(from_node::Message::Records(records)) => {
                let stored: RecordsStored = service.store_records(&self.node, records).await?;
                self.send(to_node::Message::Stored(stored)).await
            }
            Some(from_node::Message::Receipt(receipt)) => {
                let instance = receipt.instance.clone();
                if service.store_node_receipt(&self.node, receipt).await? {
                    self.send(to_node::Message::ReceiptStored(ReceiptStored { instance })).await?;
                }
                Ok(())
            }
            Some(from_node::Message::Heartbeat(_)) => {
                Ok(service.store().node_seen(&self.node, now_ms(), None).await.map_err(Fault::from)?)
            }
            None => Ok(()),
        }
    }

    async fn obey(&mut self, command: Command) -> Result<(), SessionEnd> {
        match command {
            Command::Changed(id) => {
                let instance = self.service.store().instance(&id).await.map_err(Fault::from)?;
                let Some(instance) = instance.filter(|i| i.node.as_ref() == Some(&self.node) && !i.has_receipt) else {
                    return Ok(());
                };
                let assignment = self.service.assignment(&self.node, &instance);
                self.send(to_node::Message::Assignment(assignment)).await
            }
            Command::Deliver(id) => self.deliver(&id).await,
            Command::Challenge { instance, nonce, answer } => {
                self.pending.retain(|_, waiting| !waiting.is_closed());
                if self.pending.len() >= MAX_CHALLENGES {
                    // Dropping `answer` tells the asker.
                    return Ok(());
                }
                let id = self.next_challenge;
                self.next_challenge += 1;
                self.pending.insert(id, answer);
                let challenge = Challenge { instance: instance.to_string(), id, nonce: nonce.to_vec() };
                self.send(to_node::Message::Challenge(challenge)).await
            }
        }
    }

    async fn deliver(&mut self, id: &InstanceId) -> Result<(), SessionEnd> {
        let instance = self.service.store().instance(id).await.map_err(Fault::from)?;
        let Some(instance) = instance.filter(|i| i.node.as_ref() == Some(&self.node) && i.actual.step == Step::Attested) else {
            return Ok(());
        };
        let Some(sealed) = instance.sealed_release else { return Ok(()) };
        self.send(to_node::Message::Deliver(Deliver { instance: id.to_string(), sealed })).await
    }

    /// Begins the appraisals that are due.
    async fn look(&mut self) -> Result<(), SessionEnd> {
        for id in self.service.due_for_appraisal(&self.node).await? {
            self.appraisals.spawn(self.service.clone().attest(id));
        }
        Ok(())
    }

    async fn send(&mut self, message: to_node::Message) -> Result<(), SessionEnd> {
        let sent = timeout(SEND, self.outbound.send(ToNode { message: Some(message) })).await;
        sent.map_err(|_| SessionEnd::Silent)?.map_err(|_| SessionEnd::Closed)
    }
}
