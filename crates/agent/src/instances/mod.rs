//! Instances: one owner task each, and the registry that starts, finds and forgets them.
//!
//! ```text
//! session --orders--> registry --spawns--> owner (journal, spool, machine)
//!    \------------- requests (mpsc) ---------^ |
//!     <------------ view (watch) -------------/
//! ```

mod book;
mod guarded;
mod owner;
mod recover;
mod registry;
mod serve;
mod tombstones;

#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use casemate_lifecycle::{Actual, Failure, Hold, InstanceId};
use casemate_sandbox::network::Statistics;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use registry::{Registry, Told};

use crate::{
    assignment::{InUse, Order},
    evidence::Answer,
    journal::{Observed, SignedReceipt},
};

/// Requests that wait for an owner.
pub(crate) const MAX_REQUESTS: usize = 64;

/// What is asked of an owner.
#[derive(Debug)]
pub(crate) enum Request {
    /// A newer order; it may say stop.
    Order(Box<Order>),
    /// Nobody wants the instance any more.
    Stop,
    /// Evidence for a nonce.
    Challenge { nonce: [u8; 32], reply: oneshot::Sender<Result<Answer, Failure>> },
    /// Sealed keys for the guest.
    Deliver(Vec<u8>),
    /// The platform has all records below this number.
    Stored(u64),
    /// The platform has the receipt.
    ReceiptStored,
    /// Records from a number on, as many as fit a message.
    Read { from: u64, reply: oneshot::Sender<(u64, Vec<Vec<u8>>)> },
}

/// What an owner shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) generation: u64,
    pub(crate) hold: Hold,
    pub(crate) actual: Actual,
    pub(crate) stages_ms: BTreeMap<String, u64>,
    pub(crate) observed: Observed,
    pub(crate) note: String,
    pub(crate) network: Option<Statistics>,
    /// Durable records that the platform does not have yet.
    pub(crate) records: Range<u64>,
    pub(crate) receipt: Option<Arc<SignedReceipt>>,
    pub(crate) in_use: InUse,
}

/// How others reach an owner.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) view: watch::Receiver<View>,
}

/// All owners.
pub(crate) type Directory = Arc<BTreeMap<InstanceId, Handle>>;
