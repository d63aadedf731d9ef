//! The image on its way to disk: cut into chunks that each make one block of hashes, written and hashed by a few threads while
//! the next chunk is being filled.
//!
//! ```text
//! tar stream --fill--> chunk --round robin--> worker: pwrite to layer.img, hash, pwrite to the leaves --spare--> chunk
//! ```
//!
//! Memory: at most [`WORKERS`] times two chunks and one.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread::Scope,
};

use super::{BLOCK, verity};
use crate::LayerError;

/// The image being written, strictly from its start to its end.
pub(super) struct Chunks {
    files: Arc<Files>,
    chunk: Vec<u8>,
    filled: usize,
    /// Of the chunk being filled.
    number: u64,
    workers: Vec<SyncSender<(u64, Vec<u8>)>>,
    spare: Receiver<io::Result<Vec<u8>>>,
    allocated: usize,
}

/// A complete image, and the hashes of its blocks.
pub(super) struct Written(Arc<Files>);

struct Files {
    image: File,
    /// What becomes the lowest level of the verity tree; its place is known when the image's length is.
    leaves: File,
}

impl Chunks {
    /// Makes both files, which must not exist, and starts the workers.
    pub(super) fn create<'s>(scope: &'s Scope<'s, '_>, image: &Path, leaves: &Path) -> Result<Self, LayerError> {
        let create = |path| File::options().read(true).write(true).create_new(true).open(path);
        let image = create(image).map_err(LayerError::io("create the layer image"))?;
        let leaves = create(leaves).map_err(LayerError::io("create the spool of hashes"))?;
        Ok(Self::start(scope, Arc::new(Files { image, leaves })))
    }

    fn start<'s>(scope: &'s Scope<'s, '_>, files: Arc<Files>) -> Self {
        let (returned, spare) = channel();
        let workers = (0..worker_count()).map(|_| {
            let (sender, chunks) = sync_channel(1);
            let (files, returned) = (files.clone(), returned.clone());
            scope.spawn(move || work(&files, &chunks, &returned));
            sender
        });
        let workers = workers.collect();
        Self { files, chunk: vec![0; CHUNK], filled: 0, number: 0, workers, spare, allocated: 1 }
    }

    /// Appends exactly `count` bytes of `content`.
    pub(super) fn write_from(&mut self, content: &mut impl Read, count: u64) -> Result<(), LayerError> {
        let mut left = count;
        while left > 0 {
            let free = CHUNK - self.filled;
            let most = free.min(usize::try_from(left).unwrap_or(free));
            let room = &mut self.chunk[self.filled..self.filled + most];
            let n = content.read(room).map_err(|e| LayerError::read(READ, e))?;
            if n == 0 {
                return Err(LayerError::io(READ)(io::ErrorKind::UnexpectedEof.into()));
            }
            left -= n as u64;
            self.advance(n)?;
        }
        Ok(())
    }

    /// Appends bytes.
    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), LayerError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.filled));
            self.chunk[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.advance(now.len())?;
            bytes = later;
        }
        Ok(())
    }

    /// Waits until all is written. What was appended must be whole blocks.
    pub(super) fn finish(mut self) -> Result<Written, LayerError> {
        debug_assert_eq!(self.filled % BLOCK, 0);
        if self.filled > 0 {
            let mut last = std::mem::take(&mut self.chunk);
            last.truncate(self.filled);
            self.send(last)?;
        }
        // Without senders the workers end, and without workers the channel of spare chunks does.
        self.workers.clear();
        self.spare.iter().try_for_each(|chunk| chunk.map(drop)).map_err(LayerError::io(WRITE))?;
        Ok(Written(self.files))
    }

    fn advance(&mut self, count: usize) -> Result<(), LayerError> {
        self.filled += count;
        if self.filled < CHUNK {
            return Ok(());
        }
        let next = self.empty_chunk()?;
        let full = std::mem::replace(&mut self.chunk, next);
        self.filled = 0;
        self.send(full)
    }

    fn empty_chunk(&mut self) -> Result<Vec<u8>, LayerError> {
        if self.allocated <= 2 * self.workers.len() {
            self.allocated += 1;
            return Ok(vec![0; CHUNK]);
        }
        let lost = || io::Error::other("the threads that write have ended");
        self.spare.recv().map_err(|_| lost()).flatten().map_err(LayerError::io(WRITE))
    }

    fn send(&mut self, chunk: Vec<u8>) -> Result<(), LayerError> {
        let worker = &self.workers[(self.number % self.workers.len() as u64) as usize];
        let sent = worker.send((self.number, chunk));
        self.number += 1;
        sent.map_err(|_| LayerError::io(WRITE)(io::Error::other("a thread that writes has ended")))
    }
}

impl Written {
    /// Writes over bytes of the first chunk.
    pub(super) fn amend(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let Files { image, leaves } = &*self.0;
        image.write_all_at(bytes, offset)?;
        let len = image.metadata()?.len().min(CHUNK as u64);
        let mut first = vec![0; len as usize];
        image.read_exact_at(&mut first, 0)?;
        leaves.write_all_at(&verity::leaf(&first, &verity::hasher()), 0)
    }

    pub(super) fn image(&self) -> &File {
        &self.0.image
    }

    pub(super) fn leaves(&self) -> &File {
        &self.0.leaves
    }
}

/// Writes and hashes until there is no more, also after a failure: a full channel would stop who fills it.
fn work(files: &Files, chunks: &Receiver<(u64, Vec<u8>)>, returned: &Sender<io::Result<Vec<u8>>>) {
    let hasher = verity::hasher();
    for (number, chunk) in chunks {
        let written = files
            .image
            .write_all_at(&chunk, number * CHUNK as u64)
            .and_then(|()| files.leaves.write_all_at(&verity::leaf(&chunk, &hasher), number * BLOCK as u64));
        // Nobody takes chunks back any more where the conversion was given up.
        let _ = returned.send(written.map(|()| chunk));
    }
}

fn worker_count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(WORKERS)
}

/// Makes one block of hashes.
const CHUNK: usize = verity::PER_BLOCK as usize * BLOCK;
/// More are not kept busy by one reader.
const WORKERS: usize = 4;
const READ: &str = "read an entry's content";
const WRITE: &str = "write the layer image";

#[cfg(test)]
mod tests {
    use super::*;

    fn written(len: u64) -> (tempfile::TempDir, Written) {
        let dir = tempfile::tempdir().unwrap();
        let written = std::thread::scope(|scope| {
            let mut chunks = Chunks::create(scope, &dir.path().join("image"), &dir.path().join("leaves")).unwrap();
            chunks.write_from(&mut io::repeat(5), len - BLOCK as u64).unwrap();
            chunks.write_all(&[6; BLOCK]).unwrap();
            chunks.finish().unwrap()
        });
        (dir, written)
    }

    #[test]
    fn hashes_every_block_whatever_the_number_of_chunks() {
        for blocks in [1, 127, 128, 129, 128 * 20 + 1] {
            let (dir, written) = written(blocks * BLOCK as u64);
            written.amend(b"head", 100).unwrap();
            let image = std::fs::read(dir.path().join("image")).unwrap();
            assert_eq!((image.len() as u64, &image[100..104]), (blocks * BLOCK as u64, &b"head"[..]));
            let leaves: Vec<u8> = image.chunks(CHUNK).flat_map(|chunk| verity::leaf(chunk, &verity::hasher())).collect();
            assert!(std::fs::read(dir.path().join("leaves")).unwrap() == leaves, "{blocks}");
        }
    }

    #[test]
    fn a_failed_write_ends_the_work_and_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        File::create(&path).unwrap();
        for len in [BLOCK as u64, 100 * CHUNK as u64] {
            let outcome = std::thread::scope(|scope| {
                // Open for reading only.
                let files = Files { image: File::open(&path).unwrap(), leaves: File::open(&path).unwrap() };
                let mut chunks = Chunks::start(scope, Arc::new(files));
                chunks.write_from(&mut io::repeat(0), len)?;
                chunks.finish().map(drop)
            });
            assert!(matches!(outcome, Err(LayerError::Io { action: WRITE, .. })), "{outcome:?}");
        }
    }
}
