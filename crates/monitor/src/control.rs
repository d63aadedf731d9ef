//! What the agent asks of the monitor, over the socket that it was started with (its standard input): one JSON document per line each way.
//!
//! Nobody else can have that socket: it has no name, and taking descriptors out of labelled processes is refused.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The longest request.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;
/// More processes than a machine has threads at its start.
pub const MAX_PROCESSES: usize = 1024;
/// More files than a machine's memory has.
pub const MAX_MEMORY_FILES: usize = 64;
/// More sockets than a machine is controlled by.
pub const MAX_SOCKETS: usize = 64;

/// A request. Variants without parts have braces all the same: without them serde would pass over parts that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Guard an instance from now on. Refused while the monitor has tripped.
    Watch(Instance),
    /// The instance is gone: its labels end.
    Unwatch {
        /// Its name.
        instance: String,
    },
    /// The agent's work goes round. Silence ends what is watched.
    Alive {},
    /// What is the state?
    Status {},
    /// The instances are ended and what happened is reported: accept work again.
    Clear {},
    /// Begin maintenance: the node may be changed, and nothing is watched. Refused while instances are watched, unless it is forced: that ends
    /// them.
    Unseal {
        /// Whether instances are ended for it.
        #[serde(default)]
        forced: bool,
    },
    /// End maintenance: everything is guarded again, as it is now.
    Seal {},
    /// End in order. Refused while instances are watched.
    Stop {},
}

/// An instance to be guarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// Its name.
    pub instance: String,
    /// Its cgroup, below the configured one.
    pub cgroup: PathBuf,
    /// Its processes; their children inherit.
    pub processes: Vec<u32>,
    /// Files of its memory.
    #[serde(default)]
    pub memory: Vec<PathBuf>,
    /// Sockets that it is controlled by.
    #[serde(default)]
    pub sockets: Vec<PathBuf>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Done.
    Done,
    /// Not done, and nothing changed.
    Refused {
        /// What was attempted, on what, and why not.
        why: String,
    },
    /// The state.
    Status {
        /// As in the status file.
        status: serde_json::Value,
    },
}

/// Lines out of what a socket delivers.
#[derive(Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Takes what was read; gives back the whole lines, or `None` when one is too long.
    pub fn take(&mut self, bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
        self.0.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = self.0.drain(..=end).collect();
            line.pop();
            lines.push(line);
        }
        let longest = lines.iter().map(Vec::len).max().unwrap_or(0).max(self.0.len());
        (longest <= MAX_REQUEST_BYTES).then_some(lines)
    }
}

/// What a line asks for, or why it is refused.
pub fn parse(line: &[u8]) -> Result<Request, String> {
    let request: Request = serde_json::from_slice(line).map_err(|error| format!("read a request: {error}"))?;
    if let Request::Watch(instance) = &request {
        if instance.instance.is_empty() || instance.instance.len() > 128 {
            return Err("watch an instance: its name has no or more than 128 bytes".into());
        }
        if instance.processes.is_empty() || instance.processes.len() > MAX_PROCESSES {
            return Err(format!("watch {}: it has no or more than {MAX_PROCESSES} processes", instance.instance));
        }
        if instance.memory.len() > MAX_MEMORY_FILES {
            return Err(format!("watch {}: it has more than {MAX_MEMORY_FILES} files of memory", instance.instance));
        }
        if instance.sockets.len() > MAX_SOCKETS {
            return Err(format!("watch {}: it has more than {MAX_SOCKETS} sockets", instance.instance));
        }
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_are_cut() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(b"one\ntw"), Some(vec![b"one".to_vec()]));
        assert_eq!(lines.take(b"o\n\n"), Some(vec![b"two".to_vec(), Vec::new()]));
        assert_eq!(lines.take(&vec![b'x'; MAX_REQUEST_BYTES + 1]), None);
    }

    #[test]
    fn requests_beyond_limits_or_with_unknown_parts_are_refused() {
        let watch = |processes: usize| {
            let instance = Instance {
                instance: "i".into(),
                cgroup: "/c".into(),
                processes: vec![1; processes],
                memory: Vec::new(),
                sockets: Vec::new(),
            };
            serde_json::to_vec(&Request::Watch(instance)).unwrap()
        };
        assert!(parse(&watch(1)).is_ok());
        assert!(parse(&watch(0)).is_err());
        assert!(parse(&watch(MAX_PROCESSES + 1)).is_err());
        for text in ["{\"request\":\"status\",\"more\":1}", "{\"request\":\"none\"}", "", "\u{0}", "[[[["] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(parse(b"{\"request\":\"status\"}"), Ok(Request::Status {}));
    }
}
