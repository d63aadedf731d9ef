//! Follows yamux frames in the input, only to see where they end.

/// Where the input stands relative to yamux's frames.
#[derive(Debug, Default)]
pub(crate) struct Boundary {
    header: Vec<u8>,
    body_left: u64,
}

impl Boundary {
    /// How many of `bytes` belong to the session. Fewer than all: what follows starts no yamux frame.
    pub(crate) fn own(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.body_left > 0 {
                let step = usize::try_from(self.body_left).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.body_left -= step as u64;
                at += step;
                continue;
            }
            if self.header.is_empty() && bytes[at] != VERSION {
                return at;
            }
            self.header.push(bytes[at]);
            at += 1;
            if let Some(header) = self.header.first_chunk::<HEADER>() {
                self.body_left = body_len(header);
                self.header.clear();
            }
        }
        at
    }

    /// Whether the last frame is incomplete.
    pub(crate) fn inside(&self) -> bool {
        self.body_left > 0 || !self.header.is_empty()
    }
}

/// Only data frames have a body.
fn body_len(header: &[u8; HEADER]) -> u64 {
    match header[1] {
        DATA => u64::from(u32::from_be_bytes([header[8], header[9], header[10], header[11]])),
        _ => 0,
    }
}

const HEADER: usize = 12;
const VERSION: u8 = 0;
const DATA: u8 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: u32, body: &[u8]) -> Vec<u8> {
        [&[0, kind, 0, 0, 0, 0, 0, 1], &length.to_be_bytes()[..], body].concat()
    }

    #[test]
    fn sees_a_new_preamble_after_whole_frames_but_not_inside_data() {
        let mut input = frame(0, 9, b"CASEMATE!");
        input.extend(frame(1, 9, b""));
        let end = input.len();
        input.extend(b"CASEMATE0123456789abcdef");
        for cut in 0..end {
            let mut boundary = Boundary::default();
            assert_eq!(boundary.own(&input[..cut]), cut);
            assert_eq!(boundary.own(&input[cut..]), end - cut, "cut at {cut}");
        }
    }

    #[test]
    fn knows_that_a_frame_is_incomplete() {
        let mut boundary = Boundary::default();
        assert!(!boundary.inside());
        boundary.own(&frame(0, 5, b"four"));
        assert!(boundary.inside());
        boundary.own(b"5");
        assert!(!boundary.inside());
    }
}
