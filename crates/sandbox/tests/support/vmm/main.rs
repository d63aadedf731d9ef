//! A monitor for tests that behaves as Firecracker or Cloud Hypervisor were seen to, on demand with their ways to fail. It runs
//! no machine: a thread plays the guest's end of the vsock.
//!
//! Its own name says which of the two it is, and what goes wrong: `cloud-hypervisor`, `firecracker.slow-start`.

#![allow(clippy::unwrap_used, reason = "a test program that cannot go on ends there")]

mod card;
mod cloud_hypervisor;
mod firecracker;
mod guest;
mod http;

use std::{io::Write, process::ExitCode};

/// What goes wrong.
#[derive(Debug, Clone)]
pub(crate) struct Fault(String);

impl Fault {
    pub(crate) fn is(&self, name: &str) -> bool {
        self.0 == name
    }

    /// Stops for good at a named moment, if that is the fault; whoever waits for the word on the console finds it.
    pub(crate) fn hang_at(&self, moment: &str) {
        if self.0 == format!("hang-{moment}") {
            say(&format!("HANGS at {moment}"));
            loop {
                std::thread::park();
            }
        }
    }
}

/// Writes a line to the console.
pub(crate) fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    let _ = writeln!(output, "{line}");
    let _ = output.flush();
}

fn main() -> ExitCode {
    let mut args = std::env::args();
    let program = args.next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default();
    let (kind, fault) = name.split_once('.').unwrap_or((name, ""));
    let (args, fault) = (args.collect::<Vec<_>>(), Fault(fault.to_owned()));
    match kind {
        "firecracker" => firecracker::main(&args, fault),
        "cloud-hypervisor" => cloud_hypervisor::main(&args, fault),
        _ => {
            eprintln!("a monitor of the name {kind:?} is not known");
            ExitCode::FAILURE
        }
    }
}

/// The value after an option.
pub(crate) fn option<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    let at = args.iter().position(|arg| arg == name)?;
    args.get(at + 1).map(String::as_str)
}
