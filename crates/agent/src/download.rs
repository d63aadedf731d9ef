//! A gRPC stream of blob chunks as a blocking reader, with back-pressure.
//!
//! A server that dies in the middle costs time only: the rest is fetched from the next one. Nothing of that has to be trusted, since
//! whoever reads compares the digest of the whole.

use std::{
    io::{self, Read},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use casemate_api::node::{BlobChunk, BlobRequest};
use futures::{Stream, StreamExt as _};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tonic::{Code, Status};

use crate::platform::{Platform, Server};

/// Chunks between network and disk.
const MAX_CHUNKS: usize = 8;
/// Longest wait for one chunk, or for the answer to the call.
const CHUNK_WAIT: Duration = Duration::from_secs(60);
/// First pause between two tries; doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Asks the platform for a blob and hands its bytes, while they come, to `consume` on a blocking thread.
///
/// A stream that breaks is taken up where it broke, by another server where there is one. What does not pass, or not soon
/// enough, is an error of the reader; `consume` decides what that means.
pub(crate) async fn download<T, C>(platform: &Platform, digest: String, consume: C) -> T
where
    T: Send + 'static,
    C: FnOnce(ChunkReader) -> T + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(MAX_CHUNKS);
    let reader = ChunkReader { chunks: receiver, current: Bytes::new() };
    let consumer = crate::files::off_thread(move || consume(reader));
    let servers = Servers { platform, digest, at: platform.server() };
    let (value, ()) = tokio::join!(consumer, pump(servers, sender));
    value
}

/// Who has the blob.
trait Source {
    type Chunks: Stream<Item = Result<BlobChunk, Status>> + Unpin;

    /// The blob's chunks, without the first `from` bytes if the server can leave them out.
    async fn open(&mut self, from: u64) -> Result<Self::Chunks, Status>;

    /// Another one is to be asked from now on.
    fn fail_over(&mut self);

    /// Longest time without a new byte, over all tries.
    fn patience(&self) -> Duration;
}

struct Servers<'a> {
    platform: &'a Platform,
    digest: String,
    at: Server,
}

impl Source for Servers<'_> {
    type Chunks = tonic::Streaming<BlobChunk>;

    async fn open(&mut self, from: u64) -> Result<Self::Chunks, Status> {
        self.at = self.platform.server();
        let request = BlobRequest { digest: self.digest.clone(), from };
        Ok(self.platform.client_of(self.at).fetch_blob(request).await?.into_inner())
    }

    fn fail_over(&mut self) {
        self.platform.fail_over(self.at);
    }

    fn patience(&self) -> Duration {
        self.platform.patience
    }
}

/// How a try ended.
enum End {
    /// With the blob.
    Whole,
    /// The consumer gave up: the digest was wrong, or the disk is full.
    Unwanted,
    Broken(Status),
}

async fn pump(mut source: impl Source, sender: mpsc::Sender<io::Result<Bytes>>) {
    let (mut have, mut since, mut pause) = (0, Instant::now(), PAUSE);
    loop {
        let before = have;
        let status = match fetch(&mut source, &mut have, &sender).await {
            End::Whole | End::Unwanted => return,
            End::Broken(status) => status,
        };
        if have > before {
            (since, pause) = (Instant::now(), PAUSE);
        }
        if !may_pass(status.code()) || since.elapsed() + pause > source.patience() {
            // The consumer may be gone.
            return drop(sender.send(Err(broken(&status))).await);
        }
        tracing::warn!(status = ?status.code(), reason = status.message(), bytes = have, "a download broke; it is taken up again");
        source.fail_over();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = sender.closed() => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One try; `have` is how much was handed on, over all of them.
async fn fetch<S: Source>(source: &mut S, have: &mut u64, sender: &mpsc::Sender<io::Result<Bytes>>) -> End {
    let silent = |_| Status::deadline_exceeded("the platform sent nothing for 60 s");
    let mut chunks = match timeout(CHUNK_WAIT, source.open(*have)).await.map_err(silent).flatten() {
        Ok(chunks) => chunks,
        Err(status) => return End::Broken(status),
    };
    let mut at = None;
    loop {
        let next = tokio::select! {
            next = timeout(CHUNK_WAIT, chunks.next()) => next,
            () = sender.closed() => return End::Unwanted,
        };
        let chunk = match next.map_err(silent) {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(None) => return End::Whole,
            Ok(Some(Err(status))) | Err(status) => return End::Broken(status),
        };
        // A server that knows nothing of beginnings began at the beginning.
        let start = at.unwrap_or(chunk.from.unwrap_or(0));
        if start > *have {
            return End::Broken(Status::data_loss(format!("{} bytes are there, and the platform goes on at {start}", *have)));
        }
        let end = start + chunk.data.len() as u64;
        at = Some(end);
        if end <= *have {
            continue;
        }
        let known = usize::try_from(*have - start).expect("less than the chunk's length");
        if sender.send(Ok(Bytes::from(chunk.data).slice(known..))).await.is_err() {
            return End::Unwanted;
        }
        *have = end;
    }
}

/// Whether another server, or the same one in a moment, may do better.
fn may_pass(code: Code) -> bool {
    match code {
        Code::Unavailable
        | Code::Unknown
        | Code::Internal
        | Code::Cancelled
        | Code::Aborted
        | Code::DeadlineExceeded
        | Code::ResourceExhausted => true,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

fn broken(status: &Status) -> io::Error {
    let kind = match status.code() {
        Code::NotFound => io::ErrorKind::NotFound,
        _ => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, format!("the platform answered {:?}: {}", status.code(), status.message()))
}

/// The blocking end; see [`download`].
#[derive(Debug)]
pub(crate) struct ChunkReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    #[test]
    fn reads_chunks_as_one_stream_and_passes_errors_on() {
        let (sender, chunks) = mpsc::channel(4);
        for item in [Ok(Bytes::from_static(b"ab")), Ok(Bytes::new()), Ok(Bytes::from_static(b"c")), Err(io::Error::other("x"))] {
            sender.blocking_send(item).unwrap();
        }
        let mut reader = ChunkReader { chunks, current: Bytes::new() };
        let mut text = [0; 3];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"abc");
        assert!(reader.read(&mut text).is_err());
    }

    const PATIENCE: Duration = Duration::from_secs(150);

    type Try = Result<Vec<Result<BlobChunk, Status>>, Status>;

    /// Plays its tries, one per call, the last one for ever; notes what was asked for.
    #[derive(Default)]
    struct Played {
        tries: Vec<Try>,
        asked: Vec<u64>,
        failed_over: usize,
    }

    impl Source for &mut Played {
        type Chunks = stream::Iter<std::vec::IntoIter<Result<BlobChunk, Status>>>;

        async fn open(&mut self, from: u64) -> Result<Self::Chunks, Status> {
            let now = self.asked.len().min(self.tries.len() - 1);
            self.asked.push(from);
            self.tries[now].clone().map(stream::iter)
        }

        fn fail_over(&mut self) {
            self.failed_over += 1;
        }

        fn patience(&self) -> Duration {
            PATIENCE
        }
    }

    fn chunk(from: Option<u64>, data: &str) -> Result<BlobChunk, Status> {
        Ok(BlobChunk { data: data.as_bytes().to_vec(), from })
    }

    fn away() -> Status {
        Status::unavailable("the connection broke")
    }

    /// What the consumer gets, and the source afterwards.
    async fn play(tries: Vec<Try>) -> (Result<String, io::ErrorKind>, Played) {
        let mut played = Played { tries, ..Played::default() };
        let (sender, mut chunks) = mpsc::channel::<io::Result<Bytes>>(MAX_CHUNKS);
        let consume = async {
            let mut text = String::new();
            while let Some(chunk) = chunks.recv().await {
                match chunk {
                    Ok(bytes) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
                    Err(error) => return Err(error.kind()),
                }
            }
            Ok(text)
        };
        let (got, ()) = tokio::join!(consume, pump(&mut played, sender));
        (got, played)
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_download_goes_on_where_it_broke_at_another_server() {
        let tries = vec![
            Ok(vec![chunk(Some(0), "abc"), chunk(None, "de"), Err(away())]),
            Err(away()),
            Ok(vec![chunk(Some(5), "f"), Err(Status::unknown("h2"))]),
            Ok(vec![chunk(Some(6), "g")]),
        ];
        let (got, played) = play(tries).await;
        assert_eq!(got.unwrap(), "abcdefg");
        assert_eq!((played.asked, played.failed_over), (vec![0, 5, 5, 6], 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_always_begins_at_the_beginning_will_do_and_one_that_leaves_something_out_will_not() {
        let first = Ok(vec![chunk(None, "abc"), Err(away())]);
        let (got, _) = play(vec![first.clone(), Ok(vec![chunk(None, "a"), chunk(None, "bcd"), chunk(None, "e")])]).await;
        assert_eq!(got.unwrap(), "abcde");
        let (got, played) = play(vec![first, Ok(vec![chunk(Some(4), "e")])]).await;
        assert_eq!((got.unwrap_err(), played.asked.len()), (io::ErrorKind::ConnectionAborted, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_pass_is_not_tried_again_and_patience_ends() {
        for (status, kind) in [
            (Status::not_found("x"), io::ErrorKind::NotFound),
            (Status::permission_denied("x"), io::ErrorKind::ConnectionAborted),
            (Status::unauthenticated("x"), io::ErrorKind::ConnectionAborted),
        ] {
            let (got, played) = play(vec![Err(status)]).await;
            assert_eq!((got.unwrap_err(), played.asked.len(), played.failed_over), (kind, 1, 0));
        }
        let begun = Instant::now();
        let (got, played) = play(vec![Err(away())]).await;
        assert_eq!(got.unwrap_err(), io::ErrorKind::ConnectionAborted);
        assert!(begun.elapsed() <= PATIENCE && begun.elapsed() > PATIENCE / 2 && played.failed_over > 20);
    }
}
