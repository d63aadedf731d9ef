//! The host's channel: sessions over one virtio-serial port, or one socket.
//!
//! A session begins with a preamble (see `guest.proto`) and then carries yamux with two streams: control (the host's
//! first) and records. When the host is gone the guest waits for the next session; everything that matters (phase, keys,
//! records that were not acknowledged) lives elsewhere and survives.
//!
//! **Where a session ends.** A read of 0 bytes or a hang-up event says that the host is gone. A host that comes back very
//! quickly may be missed in both, and then its preamble follows the old session's bytes. The preamble cannot be searched
//! for inside a session, because data may contain it; but at a yamux frame's *start* its first byte is no valid version
//! ([`frames::Boundary`]), and a session that stops in the middle of a frame is given up after a while. The bytes from
//! there on are kept for the next preamble.

mod frames;
mod framing;
pub(crate) mod port;
mod preamble;
mod session;

use std::{io, rc::Rc, time::Duration};

use casemate_api::guest::{FromGuest, Status, ToGuest, from_guest};
use tokio::{sync::mpsc, time::sleep};

use crate::{phase::say, workload::spool::Spool};
use port::Port;

/// The ends of the channel that the rest of the guest holds.
pub(crate) struct Ends {
    pub(crate) inbox: mpsc::Receiver<ToGuest>,
    pub(crate) outbox: mpsc::Sender<FromGuest>,
}

/// Owner of the port.
pub(crate) struct Channel {
    port: Port,
    to_life: mpsc::Sender<ToGuest>,
    from_life: mpsc::Receiver<FromGuest>,
    spool: Rc<Spool>,
    // Repeated at the start of each session.
    last_status: Option<Status>,
}

impl Channel {
    /// Over an open port.
    pub(crate) fn new(port: Port, spool: Rc<Spool>) -> (Self, Ends) {
        let (to_life, inbox) = mpsc::channel(QUEUE);
        let (outbox, from_life) = mpsc::channel(QUEUE);
        let channel = Self { port, to_life, from_life, spool, last_status: None };
        (channel, Ends { inbox, outbox })
    }

    /// Serves one session after another, for as long as the machine lives.
    pub(crate) async fn serve(&mut self) -> io::Error {
        loop {
            let preamble = tokio::select! {
                preamble = self.port.next_preamble() => preamble,
                Some(message) = self.from_life.recv() => {
                    self.note(&message);
                    continue;
                }
            };
            let served = match preamble {
                Ok(preamble) => self.session(&preamble).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                say(&format!("casemate-guest: channel session ended: {error}"));
                sleep(BETWEEN_SESSIONS).await;
            }
        }
    }

    /// Nobody listens: only the newest status is worth keeping.
    fn note(&mut self, message: &FromGuest) {
        if let Some(from_guest::Message::Status(status)) = &message.message {
            self.last_status = Some(status.clone());
        }
    }

    async fn session(&mut self, preamble: &preamble::Preamble) -> io::Result<()> {
        let io = self.port.begin(preamble).await?;
        let outgoing = session::Outgoing { messages: &mut self.from_life, last_status: &mut self.last_status };
        session::run(io, &self.to_life, outgoing, &self.spool).await
    }
}

const QUEUE: usize = 64;
/// Keeps a host that talks nonsense from filling the console.
const BETWEEN_SESSIONS: Duration = Duration::from_millis(20);
