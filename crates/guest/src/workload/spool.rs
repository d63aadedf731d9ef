//! Sealed records on their way to the tenant: kept until the host says that it stored them.

use std::{cell::RefCell, collections::VecDeque};

use casemate_seal::{Record, RecordSealer};
use tokio::sync::watch;

use crate::fatal::{Check, Fatal, OrFatal};

/// The host asked for something impossible.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SpoolError {
    #[error("the host wants records from {next} on, but those below {first} are forgotten")]
    Forgotten { next: u64, first: u64 },
    #[error("the host acknowledges records below {next}, but there are only {made}")]
    NotMade { next: u64, made: u64 },
}

/// The queue, shared by those who fill it and the session that empties it; they run on one thread, and nobody holds the
/// cell across an await.
pub(crate) struct Spool {
    queue: RefCell<Queue>,
    changed: watch::Sender<()>,
}

impl Spool {
    pub(crate) fn new() -> Self {
        Self { queue: RefCell::default(), changed: watch::Sender::new(()) }
    }

    /// Seals a record and queues it. Callers waited for [`room`](Self::room).
    pub(crate) fn push(&self, sealer: &mut RecordSealer, record: &Record) -> Result<(), Fatal> {
        let sealed = sealer.seal(record).or_fatal(Check::WorkloadStart, "seal a record")?;
        self.queue.borrow_mut().push(sealed);
        self.changed.send_replace(());
        Ok(())
    }

    /// Waits until another record may be made: back pressure on the workload.
    pub(crate) async fn room(&self) {
        self.until(|queue| (queue.bytes < MAX_UNACKNOWLEDGED).then_some(())).await;
    }

    /// Waits until the host stored everything.
    pub(crate) async fn all_acknowledged(&self) {
        self.until(|queue| queue.records.is_empty().then_some(())).await;
    }

    /// Waits for record `seq`, or the first later one that is still here.
    pub(crate) async fn record(&self, seq: u64) -> (u64, Vec<u8>) {
        self.until(|queue| queue.at_or_after(seq)).await
    }

    /// Forgets what is below `next`.
    pub(crate) fn acknowledge(&self, next: u64) -> Result<(), SpoolError> {
        self.queue.borrow_mut().acknowledge(next)?;
        self.changed.send_replace(());
        Ok(())
    }

    /// First record number not made yet.
    pub(crate) fn next(&self) -> u64 {
        self.queue.borrow().next()
    }

    async fn until<T>(&self, mut look: impl FnMut(&Queue) -> Option<T>) -> T {
        // Subscribed before the first look, so no change is missed.
        let mut changes = self.changed.subscribe();
        loop {
            if let Some(found) = look(&self.queue.borrow()) {
                return found;
            }
            changes.changed().await.expect("the sender lives in self");
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    first: u64,
    records: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Queue {
    fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    fn push(&mut self, sealed: Vec<u8>) {
        self.bytes += sealed.len();
        self.records.push_back(sealed);
    }

    fn acknowledge(&mut self, next: u64) -> Result<(), SpoolError> {
        if next < self.first {
            return Err(SpoolError::Forgotten { next, first: self.first });
        }
        if next > self.next() {
            return Err(SpoolError::NotMade { next, made: self.next() });
        }
        while self.first < next {
            let stored = self.records.pop_front().expect("next is not beyond the end");
            self.bytes -= stored.len();
            self.first += 1;
        }
        Ok(())
    }

    fn at_or_after(&self, seq: u64) -> Option<(u64, Vec<u8>)> {
        let seq = seq.max(self.first);
        let index = usize::try_from(seq - self.first).ok()?;
        self.records.get(index).map(|sealed| (seq, sealed.clone()))
    }
}

/// Unacknowledged sealed bytes after which the workload's output is no longer read.
const MAX_UNACKNOWLEDGED: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(records: &[&[u8]]) -> Queue {
        let mut queue = Queue::default();
        records.iter().for_each(|record| queue.push(record.to_vec()));
        queue
    }

    #[test]
    fn a_record_is_kept_until_it_is_acknowledged() {
        let mut queue = queue(&[b"zero", b"one", b"two"]);
        assert_eq!(queue.at_or_after(1), Some((1, b"one".to_vec())));
        queue.acknowledge(1).unwrap();
        assert_eq!(queue.at_or_after(0), Some((1, b"one".to_vec())));
        assert_eq!((queue.bytes, queue.next()), (6, 3));
        queue.acknowledge(3).unwrap();
        assert_eq!(queue.at_or_after(3), None);
        assert_eq!((queue.bytes, queue.next()), (0, 3));
    }

    #[test]
    fn refuses_impossible_acknowledgements() {
        let mut queue = queue(&[b"zero", b"one"]);
        assert_eq!(queue.acknowledge(3), Err(SpoolError::NotMade { next: 3, made: 2 }));
        queue.acknowledge(2).unwrap();
        assert_eq!(queue.acknowledge(1), Err(SpoolError::Forgotten { next: 1, first: 2 }));
        queue.acknowledge(2).unwrap();
    }

    #[test]
    fn a_waiting_reader_sees_a_later_record() {
        let spool = Spool::new();
        let mut reader = Box::pin(spool.record(0));
        let waker = futures::task::noop_waker();
        let mut cx = std::task::Context::from_waker(&waker);
        assert!(reader.as_mut().poll(&mut cx).is_pending());
        spool.queue.borrow_mut().push(b"zero".to_vec());
        spool.changed.send_replace(());
        assert!(matches!(reader.as_mut().poll(&mut cx), std::task::Poll::Ready((0, _))));
    }
}
