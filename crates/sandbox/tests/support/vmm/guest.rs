//! Plays a guest that executes lines, behind the hybrid vsock of its monitor.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::symlink,
        net::{UnixListener, UnixStream},
    },
    path::Path,
};

use crate::{Fault, card, say};

/// How the guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    PowerOff,
    Reboot,
    Panic,
    /// The hypervisor gave up on it.
    Crash,
}

/// Listens where the monitor does, and plays the guest in a thread; `ended` is told, once, how that ended.
pub(crate) fn run(socket: &str, fault: &Fault, ended: impl Fn(End) + Send + 'static) {
    say("init runs");
    if let Some(target) = fault.0.strip_prefix("link-to-") {
        // A monitor that a guest has taken over, and that leads its host to somebody else's socket.
        if let Err(error) = symlink(target.replace('~', "/"), socket) {
            say(&format!("no link: {error}"));
        }
        return;
    }
    let _ = std::fs::remove_file(Path::new(socket));
    let listener = UnixListener::bind(socket).unwrap();
    let mut refusals = if fault.is("late-guest") { 5 } else { 0 };
    let garbled = fault.is("garbled-vsock");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            let _ = reader.read_line(&mut line);
            let port = line.trim_end().strip_prefix("CONNECT ");
            if port != Some("5200") || refusals > 0 {
                // Nobody listens there: the connection is closed.
                refusals = refusals.max(1) - 1;
                continue;
            }
            let mut writer = &stream;
            let _ = writer.write_all(if garbled { b"READY\n".as_slice() } else { b"OK 1073741824\n" });
            if let Some(end) = session(&mut reader, &stream) {
                ended(end);
                return;
            }
        }
    });
}

/// Executes lines until the connection ends, or the guest does.
fn session(reader: &mut impl BufRead, stream: &UnixStream) -> Option<End> {
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or_default() == 0 {
            return None;
        }
        let (command, rest) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
        match command {
            "echo" => writeln!(writer, "{rest}").ok()?,
            "frame" => {
                writeln!(writer, "{}", card::send(rest).map_or_else(|error| error.to_string(), |()| "sent".to_owned())).ok()?
            }
            "card" => {
                writeln!(writer, "{}", card::open(rest).map_or_else(|error| error.to_string(), |()| "opened".to_owned())).ok()?
            }
            "off" => return Some(End::PowerOff),
            "reboot" => return Some(End::Reboot),
            "panic" => return Some(End::Panic),
            "crash" => return Some(End::Crash),
            "fatal" => {
                say(&format!("CASEMATE-FATAL {rest}"));
                return Some(End::PowerOff);
            }
            _ => writeln!(writer, "what?").ok()?,
        }
    }
}
