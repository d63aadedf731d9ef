//! The few words of QEMU's control protocol that are needed: greeting, negotiation, `cont`.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};

/// A control connection of a VMM that has finished its own start.
pub(crate) struct Qmp {
    reader: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and waits until the VMM answers.
    pub(crate) fn connect(socket: &Path, limit: Duration) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let mut qmp = Self { reader: BufReader::new(stream) };
        if qmp.read()?.get("QMP").is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the VMM did not greet"));
        }
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Executes a command without arguments.
    pub(crate) fn execute(&mut self, command: &str) -> io::Result<Value> {
        let mut line = json!({ "execute": command }).to_string();
        line.push('\n');
        self.reader.get_mut().write_all(line.as_bytes())?;
        for _ in 0..EVENTS_LIMIT {
            let mut message = self.read()?;
            if let Some(error) = message.get("error") {
                return Err(io::Error::other(format!("{command}: {error}")));
            }
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the VMM sends events and no answer"))
    }

    fn read(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.reader.by_ref().take(LINE_LIMIT).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

/// Most events before an answer.
const EVENTS_LIMIT: usize = 64;

/// Most bytes of a message.
const LINE_LIMIT: u64 = 64 * 1024;
