//! The start of a session, searched for in whatever an earlier one left behind.

use casemate_api::guest::PREAMBLE;

/// "CASEMATE" and the host's 16 random bytes; the guest answers with the same.
pub(crate) type Preamble = [u8; LEN];

/// Input that holds no preamble yet. Never holds more than one preamble's length after a search.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    buffer: Vec<u8>,
}

impl Scanner {
    /// Takes input; returns a preamble and what came after it.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Option<(Preamble, Vec<u8>)> {
        self.buffer.extend_from_slice(bytes);
        let Some(start) = self.buffer.windows(PREAMBLE.len()).position(|window| window == PREAMBLE) else {
            // The end may be the beginning of one.
            let useless = self.buffer.len().saturating_sub(PREAMBLE.len() - 1);
            self.buffer.drain(..useless);
            return None;
        };
        self.buffer.drain(..start);
        let preamble = *self.buffer.first_chunk::<LEN>()?;
        let rest = self.buffer.split_off(LEN);
        self.buffer.clear();
        Some((preamble, rest))
    }

    /// The host is gone: what it sent is the start of nothing.
    pub(crate) fn reset(&mut self) {
        self.buffer.clear();
    }
}

const LEN: usize = PREAMBLE.len() + 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_preamble_behind_garbage_in_any_cut() {
        let mut input = b"half a frame CASECASEMAT".to_vec();
        input.extend_from_slice(b"CASEMATE0123456789abcdefrest");
        for cut in 0..=input.len() {
            let mut scanner = Scanner::default();
            let mut found = scanner.feed(&input[..cut]);
            match &mut found {
                Some((_, rest)) => rest.extend_from_slice(&input[cut..]),
                None => found = scanner.feed(&input[cut..]),
            }
            let (preamble, rest) = found.expect("there is one");
            assert_eq!(&preamble, b"CASEMATE0123456789abcdef");
            assert_eq!(rest, b"rest", "cut at {cut}");
        }
    }

    #[test]
    fn keeps_little_of_endless_garbage() {
        let mut scanner = Scanner::default();
        for _ in 0..100 {
            assert!(scanner.feed(&[b'C'; 5000]).is_none());
            assert!(scanner.buffer.len() < LEN);
        }
    }

    #[test]
    fn forgets_a_half_preamble_of_a_host_that_went_away() {
        let mut scanner = Scanner::default();
        assert!(scanner.feed(b"CASEMATE0123").is_none());
        scanner.reset();
        assert!(scanner.feed(b"456789abcdef").is_none());
    }
}
