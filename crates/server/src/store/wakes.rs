//! Who is woken by a committed change.
//!
//! A wake-up carries no truth: whoever gets one reads the store, and looks from time to time anyway. With SQLite it goes from the
//! transaction to this process; with PostgreSQL through NOTIFY to every replica, this one included.

use std::time::Duration;

use casemate_lifecycle::{InstanceId, NodeId};
use sqlx::postgres::PgListener;
use tokio::sync::{broadcast, watch};

use super::{Store, engine::Db};
use crate::drain::drained;

/// The channel of notifications; a database is one platform's.
pub(super) const CHANNEL: &str = "casemate";
/// Wake-ups that may wait for one who listens; who is slower is told to look at everything.
const QUEUE: usize = 4096;
/// Pause before listening again.
const PAUSE: Duration = Duration::from_millis(250);

/// What to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wake {
    /// An instance changed, its records or what its node should do for it.
    Instance(InstanceId, Option<NodeId>),
    /// A node has a new session, or lost one.
    Session(NodeId),
    /// A node is asked something.
    Question(NodeId),
    /// A question has its answer.
    Answer(String),
    /// Something may have been missed.
    Everything,
}

impl Wake {
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Instance(id, Some(node)) => format!("instance {id} {node}"),
            Self::Instance(id, None) => format!("instance {id}"),
            Self::Session(node) => format!("session {node}"),
            Self::Question(node) => format!("question {node}"),
            Self::Answer(id) => format!("answer {id}"),
            Self::Everything => "everything".to_owned(),
        }
    }

    /// A text that is not understood, as of a newer replica, means that anything may have changed.
    fn parse(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let known = match words[..] {
            ["instance", id] => id.parse().ok().map(|id| Self::Instance(id, None)),
            ["instance", id, node] => id.parse().ok().zip(node.parse().ok()).map(|(id, node)| Self::Instance(id, Some(node))),
            ["session", node] => node.parse().ok().map(Self::Session),
            ["question", node] => node.parse().ok().map(Self::Question),
            ["answer", id] => Some(Self::Answer(id.to_owned())),
            _ => None,
        };
        known.unwrap_or(Self::Everything)
    }
}

/// Where wake-ups go.
#[derive(Debug, Clone)]
pub struct Wakes(broadcast::Sender<Wake>);

impl Default for Wakes {
    fn default() -> Self {
        Self(broadcast::channel(QUEUE).0)
    }
}

/// One who listens.
#[derive(Debug)]
pub struct Awake(broadcast::Receiver<Wake>);

impl Wakes {
    pub(super) fn send(&self, wake: Wake) {
        // Nobody may be listening.
        let _ = self.0.send(wake);
    }
}

impl Awake {
    /// The next one; `None` when the store is gone.
    pub async fn next(&mut self) -> Option<Wake> {
        match self.0.recv().await {
            Ok(wake) => Some(wake),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Wake::Everything),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Awake {
    /// Passes over what is there already.
    pub fn skip(&mut self) {
        while !matches!(self.0.try_recv(), Err(broadcast::error::TryRecvError::Empty | broadcast::error::TryRecvError::Closed)) {}
    }
}

impl Store {
    /// Wake-ups from now on.
    pub fn awake(&self) -> Awake {
        Awake(self.wakes.0.subscribe())
    }

    /// Passes on what other replicas did, until the server drains. With SQLite there are none.
    pub async fn hear_replicas(self, mut draining: watch::Receiver<bool>) {
        let Db::Postgres(pool) = &self.db else { return };
        loop {
            let heard = async {
                let mut listener = PgListener::connect_with(pool).await?;
                listener.ignore_pool_close_event(true);
                listener.listen(CHANNEL).await?;
                // Nobody listened until now.
                self.wakes.send(Wake::Everything);
                while let Some(notification) = listener.try_recv().await? {
                    self.wakes.send(Wake::parse(notification.payload()));
                }
                Ok::<_, sqlx::Error>(())
            };
            tokio::select! {
                ended = heard => if let Err(error) = ended {
                    tracing::warn!(error = %error, "notifications of the database are not heard at the moment");
                },
                () = drained(&mut draining) => return,
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wake_up_is_read_as_it_was_written_and_what_is_strange_wakes_everybody() {
        let (id, node): (InstanceId, NodeId) = ("i-1".parse().unwrap(), "n-1".parse().unwrap());
        for wake in [
            Wake::Instance(id.clone(), Some(node.clone())),
            Wake::Instance(id, None),
            Wake::Session(node.clone()),
            Wake::Question(node),
            Wake::Answer("0a".into()),
        ] {
            assert_eq!(Wake::parse(&wake.to_text()), wake);
        }
        for strange in ["", "instance", "instance ../x", "session a b", "quorum n-1"] {
            assert_eq!(Wake::parse(strange), Wake::Everything, "{strange}");
        }
    }
}
