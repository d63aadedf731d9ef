//! Which nodes are connected, and how to reach the one task that owns each connection.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use casemate_api::node::EvidenceReply;
use casemate_lifecycle::{InstanceId, NodeId};
use tokio::sync::{mpsc, oneshot};

/// Commands that may wait for one session.
const QUEUE: usize = 256;

/// What a session is asked to do.
#[derive(Debug)]
pub enum Command {
    /// The instance's desired state changed: send it.
    Changed(InstanceId),
    /// Sealed keys wait in the store: send them.
    Deliver(InstanceId),
    /// Ask for evidence.
    Challenge {
        /// Of which instance.
        instance: InstanceId,
        /// For which nonce.
        nonce: [u8; 32],
        /// Where the answer goes; dropped when the session ends.
        answer: oneshot::Sender<EvidenceReply>,
    },
}

/// Connected nodes.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    open: Arc<Mutex<HashMap<NodeId, Open>>>,
    numbers: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    commands: mpsc::Sender<Command>,
}

/// A node's registration; ends with it, unless a newer session of the node took its place.
#[derive(Debug)]
pub struct Registration {
    sessions: Sessions,
    node: NodeId,
    number: u64,
}

impl Sessions {
    /// Registers a session. An older one of the same node loses its command queue, which ends it.
    pub fn register(&self, node: &NodeId) -> (Registration, mpsc::Receiver<Command>) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (commands, receiver) = mpsc::channel(QUEUE);
        self.locked().insert(node.clone(), Open { number, commands });
        (Registration { sessions: self.clone(), node: node.clone(), number }, receiver)
    }

    /// Whether a node is connected.
    pub fn is_connected(&self, node: &NodeId) -> bool {
        self.locked().contains_key(node)
    }

    /// Sends a command; `false` when the node is not connected. A session that does not keep up with its queue is ended;
    /// nothing is lost by that: desired state is in the store and is sent whole at the start of the next session.
    pub fn send(&self, node: &NodeId, command: Command) -> bool {
        let mut open = self.locked();
        let sent = open.get(node).is_some_and(|session| session.commands.try_send(command).is_ok());
        if !sent {
            open.remove(node);
        }
        sent
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut open = self.sessions.locked();
        if open.get(&self.node).is_some_and(|current| current.number == self.number) {
            open.remove(&self.node);
        }
    }
}
