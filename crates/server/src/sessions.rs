//! Which nodes are connected to this replica, and how to reach the one task that owns each connection. Who is connected to the
//! platform is in the store.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use casemate_lifecycle::{InstanceId, NodeId};
use tokio::sync::{mpsc, oneshot};

use crate::store::Answer;

/// Commands that may wait for one session.
const QUEUE: usize = 256;

/// What a session is asked to do.
#[derive(Debug)]
pub enum Command {
    /// What the node should do for an instance may have changed.
    Look(InstanceId),
    /// Anything may have changed.
    LookAtAll,
    /// The node is asked something in the store.
    Questions,
    /// Somebody may have taken the session over.
    Check,
    /// Ask for evidence.
    Challenge {
        /// Of which instance.
        instance: InstanceId,
        /// For which nonce.
        nonce: [u8; 32],
        /// Where the answer goes; dropped when the session ends.
        answer: oneshot::Sender<Answer>,
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

    /// Sends a command to every session.
    pub fn send_to_all(&self, command: fn() -> Command) {
        self.locked().retain(|_, session| session.commands.try_send(command()).is_ok());
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
