//! From a download's tasks to the thread that writes.

use std::io::{self, Read};

use bytes::Bytes;
use tokio::sync::mpsc;

pub(super) enum Chunk {
    Data(Bytes),
    End,
}

pub(super) fn pipe() -> (mpsc::Sender<Chunk>, ChunkReader) {
    let (sender, receiver) = mpsc::channel(QUEUED_CHUNKS);
    (sender, ChunkReader { receiver, chunk: Bytes::new(), at: 0, is_complete: false })
}

/// The blocking end of a download. That the sender is gone is not an end: the download may have been given up.
pub(super) struct ChunkReader {
    receiver: mpsc::Receiver<Chunk>,
    chunk: Bytes,
    at: usize,
    is_complete: bool,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() && !self.is_complete {
            match self.receiver.blocking_recv() {
                Some(Chunk::Data(chunk)) => (self.chunk, self.at) = (chunk, 0),
                Some(Chunk::End) => self.is_complete = true,
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download was given up")),
            }
        }
        let n = buffer.len().min(self.chunk.len() - self.at);
        buffer[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

const QUEUED_CHUNKS: usize = 16;
