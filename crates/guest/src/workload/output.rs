//! What the workload produces, made into sealed records.

use std::{cell::RefCell, future::pending, io, path::Path, time::Duration};

use casemate_seal::{Record, RecordSealer};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    time::{Instant, sleep_until},
};

use super::{process::Streams, spool::Spool, tar::Archive};
use crate::fatal::Fatal;

/// Seals records in the order in which they are made. The cell is never held across an await.
pub(crate) struct Recorder<'a> {
    spool: &'a Spool,
    sealer: &'a RefCell<RecordSealer>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(spool: &'a Spool, sealer: &'a RefCell<RecordSealer>) -> Self {
        Self { spool, sealer }
    }

    /// Waits for room, then seals.
    pub(crate) async fn record(&self, record: Record) -> Result<(), Fatal> {
        self.spool.room().await;
        self.spool.push(&mut self.sealer.borrow_mut(), &record)?;
        // Sealing takes long enough: a workload that always has more to say must not keep the channel from its turn.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Copies both streams until they are closed.
    pub(crate) async fn copy(&self, streams: Streams) -> Result<(), Fatal> {
        let out = self.copy_stream(streams.stdout, Record::Stdout);
        let err = self.copy_stream(streams.stderr, Record::Stderr);
        futures::try_join!(out, err).map(drop)
    }

    async fn copy_stream(&self, mut stream: Receiver, make: fn(Vec<u8>) -> Record) -> Result<(), Fatal> {
        let mut chunk = Vec::with_capacity(CHUNK);
        // When the chunk is sent even if it is not full: what comes after a silence at once, what follows it together.
        let (mut flush_at, mut quiet_from) = (None, Instant::now());
        loop {
            let flush = async {
                match flush_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = flush => {}
                read = stream.read_buf(&mut chunk) => match read {
                    // A pipe that cannot be read any more has ended.
                    Ok(0) | Err(_) => {
                        return if chunk.is_empty() { Ok(()) } else { self.record(make(chunk)).await };
                    }
                    Ok(_) if chunk.len() < chunk.capacity() => {
                        flush_at.get_or_insert(quiet_from);
                        continue;
                    }
                    Ok(_) => {}
                },
            }
            self.record(make(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK)))).await?;
            (flush_at, quiet_from) = (None, Instant::now() + FLUSH);
        }
    }

    /// Sends the output directory as a tar archive. `Err` in the inner result: it could not be collected.
    pub(crate) async fn archive(&self, dir: &Path) -> Result<io::Result<()>, Fatal> {
        let archive = match Archive::of(dir) {
            Ok(archive) => archive,
            Err(error) => return Ok(Err(error)),
        };
        for chunk in archive {
            match chunk {
                Ok(bytes) => self.record(Record::Output(bytes)).await?,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }
}

const CHUNK: usize = 64 << 10;
/// Least time between two records of one stream that are not full.
const FLUSH: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use casemate_seal::{HpkeSecret, RecordOpener};
    use tokio::net::unix::pipe;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_output_is_sent_at_once_and_what_follows_it_together() {
        let (guest, tenant) = (HpkeSecret::from_seed([1; 32]), HpkeSecret::from_seed([2; 32]));
        let sealer = RecordSealer::new(&guest, &tenant.public(), "i", &[3; 32], &mut crate::entropy::rng()).unwrap();
        let (spool, sealer) = (Spool::new(), RefCell::new(sealer));
        let recorder = Recorder::new(&spool, &sealer);
        let (mut out, stdout) = pipe::pipe().unwrap();
        let (_err, stderr) = pipe::pipe().unwrap();
        let copied = recorder.copy(Streams { stdout, stderr });
        tokio::pin!(copied);
        let mut opener = RecordOpener::new(&tenant, &guest.public(), "i", &[3; 32]);
        let begin = Instant::now();
        for ((text, after), seq) in [("a", Duration::ZERO), ("bc", FLUSH)].into_iter().zip(0..) {
            for byte in text.bytes() {
                tokio::io::AsyncWriteExt::write_all(&mut out, &[byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            let sealed = tokio::select! {
                (_, sealed) = spool.record(seq) => sealed,
                _ = &mut copied => panic!("the streams are open"),
            };
            assert_eq!(opener.open(&sealed).unwrap(), Record::Stdout(text.into()));
            assert!(begin.elapsed() >= after && begin.elapsed() < after + FLUSH, "{text} after {:?}", begin.elapsed());
        }
    }

    #[test]
    fn streams_become_records_that_the_tenant_opens_in_order() {
        let (guest, tenant) = (HpkeSecret::from_seed([1; 32]), HpkeSecret::from_seed([2; 32]));
        let sealer = RecordSealer::new(&guest, &tenant.public(), "i", &[3; 32], &mut crate::entropy::rng()).unwrap();
        let (spool, sealer) = (Spool::new(), RefCell::new(sealer));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let recorder = Recorder::new(&spool, &sealer);
            let (mut out, stdout) = pipe::pipe().unwrap();
            let (err, stderr) = pipe::pipe().unwrap();
            drop(err);
            let write = async {
                tokio::io::AsyncWriteExt::write_all(&mut out, &[7; CHUNK + 5]).await.unwrap();
                drop(out);
            };
            let (copied, ()) = tokio::join!(recorder.copy(Streams { stdout, stderr }), write);
            copied.unwrap();
            recorder.record(Record::Exit { code: 3 }).await.unwrap();
            let mut opener = RecordOpener::new(&tenant, &guest.public(), "i", &[3; 32]);
            let (mut total, mut seq) = (0, 0);
            while !opener.is_complete() {
                match opener.open(&spool.record(seq).await.1).unwrap() {
                    Record::Stdout(bytes) => total += bytes.len(),
                    other => assert_eq!(other, Record::Exit { code: 3 }),
                }
                seq += 1;
            }
            assert_eq!(total, CHUNK + 5);
        });
    }
}
