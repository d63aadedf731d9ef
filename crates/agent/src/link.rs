//! Keeps the guest channel of one instance connected for as long as its owner wants it.

use std::{sync::Arc, time::Duration};

use casemate_api::guest::{Record, from_guest, to_guest};
use casemate_lifecycle::InstanceId;
use casemate_sandbox::Driver;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    channel::{self, ChannelError, Wires},
    clock, failure,
};

/// Pause before the next attempt to connect.
const RETRY: Duration = Duration::from_millis(100);
/// Control messages between link and owner.
const MAX_CONTROL: usize = 32;
/// Records between link and owner, each at most a frame.
const MAX_RECORDS: usize = 8;

/// What the owner hears.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// A session began; what is sent here reaches the guest of this session or nobody.
    Up(mpsc::Sender<to_guest::Message>),
    /// The guest said something.
    Control(from_guest::Message),
    /// The session ended.
    Down,
}

/// The owner's end. Dropping it closes the channel.
pub(crate) struct Link {
    pub(crate) events: mpsc::Receiver<LinkEvent>,
    pub(crate) records: mpsc::Receiver<Record>,
    task: JoinHandle<()>,
}

impl Link {
    /// Starts connecting. `launch` begins each session; `durable` says how many records need no repetition.
    pub(crate) fn start(driver: Arc<dyn Driver>, id: InstanceId, launch: Vec<u8>, durable: watch::Receiver<u64>) -> Self {
        let (events_out, events) = mpsc::channel(MAX_CONTROL);
        let (records_out, records) = mpsc::channel(MAX_RECORDS);
        let task = tokio::spawn(async move {
            loop {
                let ended = once(&*driver, &id, &launch, &events_out, &records_out, &durable).await;
                if let Err(error) = ended {
                    tracing::debug!(instance.id = %id, error = failure::chain(&*error), "guest channel is down");
                }
                if events_out.is_closed() {
                    return;
                }
                tokio::time::sleep(RETRY).await;
            }
        });
        Self { events, records, task }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn once(
    driver: &dyn Driver,
    id: &InstanceId,
    launch: &[u8],
    events: &mpsc::Sender<LinkEvent>,
    records: &mpsc::Sender<Record>,
    durable: &watch::Receiver<u64>,
) -> Result<(), Error> {
    let io = driver.connect(id).await?;
    let (to_guest, outgoing) = mpsc::channel(MAX_CONTROL);
    let (control, mut said) = mpsc::channel(MAX_CONTROL);
    let wires = Wires { outgoing, control, records: records.clone(), durable: durable.clone() };
    let session = channel::session(io, clock::random(), launch, wires);
    // Ends with the session, which then drops its sender.
    let relay = async {
        let mut to_guest = Some(to_guest);
        let mut up = false;
        while let Some(message) = said.recv().await {
            if let Some(to_guest) = to_guest.take() {
                up = events.send(LinkEvent::Up(to_guest)).await.is_ok();
            }
            // A failure shows at the top of the loop in `start`.
            let _ = events.send(LinkEvent::Control(message)).await;
        }
        up
    };
    let (ended, up): (Result<(), ChannelError>, bool) = tokio::join!(session, relay);
    if up {
        let _ = events.send(LinkEvent::Down).await;
    }
    Ok(ended?)
}
