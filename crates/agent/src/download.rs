//! A gRPC stream of blob chunks as a blocking reader, with back-pressure.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use casemate_api::node::{BlobChunk, BlobRequest, node_client::NodeClient};
use tokio::sync::mpsc;
use tonic::transport::Channel;

/// Chunks between network and disk.
const MAX_CHUNKS: usize = 8;
/// Longest wait for one chunk.
const CHUNK_WAIT: std::time::Duration = std::time::Duration::from_secs(60);

/// Asks the platform for a blob and hands its bytes, while they come, to `consume` on a blocking thread.
///
/// A stream that breaks is an error of the reader; `consume` decides what that means.
pub(crate) async fn download<T, C>(client: NodeClient<Channel>, digest: String, consume: C) -> T
where
    T: Send + 'static,
    C: FnOnce(ChunkReader) -> T + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(MAX_CHUNKS);
    let reader = ChunkReader { chunks: receiver, current: Bytes::new() };
    let consumer = crate::files::off_thread(move || consume(reader));
    let (value, ()) = tokio::join!(consumer, pump(client, digest, sender));
    value
}

async fn pump(mut client: NodeClient<Channel>, digest: String, sender: mpsc::Sender<io::Result<Bytes>>) {
    let mut stream = match client.fetch_blob(BlobRequest { digest }).await {
        Ok(response) => response.into_inner(),
        Err(status) => return drop(sender.send(Err(broken(&status))).await),
    };
    loop {
        let next = tokio::select! {
            next = tokio::time::timeout(CHUNK_WAIT, stream.message()) => next,
            // The consumer gave up: the digest was wrong, or the disk is full.
            () = sender.closed() => return,
        };
        let item = match next {
            Ok(Ok(Some(BlobChunk { data }))) => Ok(Bytes::from(data)),
            Ok(Ok(None)) => return,
            Ok(Err(status)) => Err(broken(&status)),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the platform sent nothing for 60 s")),
        };
        let failed = item.is_err();
        if sender.send(item).await.is_err() || failed {
            return;
        }
    }
}

fn broken(status: &tonic::Status) -> io::Error {
    let kind = match status.code() {
        tonic::Code::NotFound => io::ErrorKind::NotFound,
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
}
