//! A reader that is read ahead on a thread of its own, so that decompression and what becomes of its bytes run side by side.

use std::{
    io::{self, Read},
    sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
};

/// The reading end.
pub(super) struct Ahead {
    filled: Receiver<io::Result<Vec<u8>>>,
    spare: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
    is_ended: bool,
}

/// The other end, for the thread that reads ahead.
pub(super) struct Feeder {
    filled: SyncSender<io::Result<Vec<u8>>>,
    spare: Receiver<Vec<u8>>,
}

pub(super) fn pair() -> (Feeder, Ahead) {
    let (to_reader, filled) = sync_channel(QUEUED);
    let (to_feeder, spare) = channel();
    let ahead = Ahead { filled, spare: to_feeder, current: Vec::new(), at: 0, is_ended: false };
    (Feeder { filled: to_reader, spare }, ahead)
}

impl Feeder {
    /// Reads `from` to its end, its first error, or until nobody wants more.
    pub(super) fn feed(self, mut from: impl Read) {
        loop {
            let mut buffer = self.spare.try_recv().unwrap_or_default();
            buffer.resize(BUFFER, 0);
            let (filled, ended) = fill(&mut from, &mut buffer);
            buffer.truncate(filled);
            if filled > 0 && self.filled.send(Ok(buffer)).is_err() {
                return;
            }
            if let Some(outcome) = ended {
                // An empty buffer is the end; that the feeder is gone is not, for it may have died.
                let _ = self.filled.send(outcome.map(|()| Vec::new()));
                return;
            }
        }
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.len() && !self.is_ended && !buffer.is_empty() {
            let gone = || io::Error::new(io::ErrorKind::UnexpectedEof, "the thread that reads the layer has ended");
            let next = self.filled.recv().map_err(|_| gone()).flatten()?;
            self.is_ended = next.is_empty();
            // The feeder may be at its end already.
            let _ = self.spare.send(std::mem::replace(&mut self.current, next));
            self.at = 0;
        }
        let n = buffer.len().min(self.current.len() - self.at);
        buffer[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Fills the buffer as far as the input goes, and says how the input ended if it did.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> (usize, Option<io::Result<()>>) {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => return (filled, Some(Ok(()))),
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(Err(error))),
        }
    }
    (filled, None)
}

const BUFFER: usize = 256 << 10;
const QUEUED: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives some bytes, then fails.
    struct Failing(usize);

    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::Error::other("broken"));
            }
            let n = buffer.len().min(self.0).min(1000);
            self.0 -= n;
            buffer[..n].fill(7);
            Ok(n)
        }
    }

    #[test]
    fn passes_on_all_bytes_before_an_error_and_never_takes_a_lost_feeder_for_the_end() {
        for len in [0, 1, BUFFER - 1, BUFFER, 5 * BUFFER + 3] {
            let (feeder, mut ahead) = pair();
            let thread = std::thread::spawn(move || feeder.feed(Failing(len)));
            let mut bytes = Vec::new();
            assert_eq!(ahead.read_to_end(&mut bytes).unwrap_err().to_string(), "broken");
            assert_eq!(bytes.len(), len);
            thread.join().unwrap();
            let (feeder, mut ahead) = pair();
            let thread = std::thread::spawn(move || feeder.feed(io::repeat(1).take(len as u64)));
            assert_eq!(ahead.read_to_end(&mut Vec::new()).unwrap(), len);
            assert_eq!(ahead.read(&mut [0]).unwrap(), 0, "the end stays the end");
            thread.join().unwrap();
        }
        let (feeder, mut ahead) = pair();
        drop(feeder);
        assert!(ahead.read(&mut [0]).is_err());
    }

    #[test]
    fn a_reader_that_goes_ends_the_feeder() {
        let (feeder, ahead) = pair();
        let thread = std::thread::spawn(move || feeder.feed(io::repeat(1)));
        drop(ahead);
        thread.join().unwrap();
    }
}
