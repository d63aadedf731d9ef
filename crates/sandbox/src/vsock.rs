//! The guest channel of monitors with hybrid vsock: a Unix socket of the monitor, on which a line names the guest's port.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use crate::unix_http;

/// The guest's port, above those that need privileges.
pub(crate) const GUEST_PORT: u32 = 5200;

/// The guest's context id; each machine has a socket of its own, so that all may have the same.
pub(crate) const GUEST_CID: u32 = 3;

/// Connects to the guest's port. An error of kind [`io::ErrorKind::ConnectionReset`] says that the monitor answered and the
/// guest does not listen (yet).
pub(crate) fn connect(directory: &Path, name: &str, user: u32) -> io::Result<UnixStream> {
    let mut stream = unix_http::connect(directory, name, user)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    let not_listening = |error: io::Error| match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => reset(),
        _ => error,
    };
    stream.write_all(format!("CONNECT {GUEST_PORT}\n").as_bytes()).map_err(not_listening)?;
    acknowledged(&mut stream).map_err(not_listening)?;
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    Ok(stream)
}

/// Reads the one line, and not a byte of what the guest says after it.
fn acknowledged(stream: &mut impl Read) -> io::Result<()> {
    let mut line = Vec::new();
    let mut byte = [0_u8];
    while line.len() < LINE_LIMIT {
        match stream.read(&mut byte) {
            Ok(0) if line.is_empty() => return Err(reset()),
            Ok(0) => break,
            Ok(_) if byte == *b"\n" => {
                let port = line.strip_prefix(b"OK ").filter(|port| !port.is_empty() && port.iter().all(u8::is_ascii_digit));
                return port.map(drop).ok_or_else(|| garbled(&line));
            }
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Err(garbled(&line))
}

fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the guest does not listen")
}

fn garbled(line: &[u8]) -> io::Error {
    let text = unix_http::printable(&String::from_utf8_lossy(line));
    io::Error::new(io::ErrorKind::InvalidData, format!("the monitor acknowledged with {text:?}"))
}

/// The monitor says within 2 s that a guest does not answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Most bytes of the acknowledgement.
const LINE_LIMIT: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_acknowledgement_is_one() {
        let kind = |mut text: &[u8]| acknowledged(&mut text).map_err(|error| error.kind());
        assert_eq!(kind(b"OK 1073741824\n"), Ok(()));
        assert_eq!(kind(b""), Err(io::ErrorKind::ConnectionReset));
        for bad in ["OK \n", "OK 12", "OK -1\n", "NO 12\n", "OK 1x\n", &"9".repeat(99)] {
            assert_eq!(kind(bad.as_bytes()), Err(io::ErrorKind::InvalidData), "{bad:?}");
        }
    }

    #[test]
    fn what_the_guest_says_stays_in_the_stream() {
        let mut text: &[u8] = b"OK 7\nhello";
        acknowledged(&mut text).unwrap();
        assert_eq!(text, b"hello");
    }
}
