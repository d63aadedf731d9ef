//! Running other programs, with errors that carry what they said.

use std::{
    ffi::OsStr,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Lines of a failed program's output that are shown.
const SHOWN_LINES: usize = 30;

/// Runs `command` to its end; its standard output.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = raw_output(command)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}):\n{}", name(command), output.status, last_lines(&said));
    }
    Ok(output.stdout)
}

/// Runs `command` to its end and leaves the judgement to the caller.
pub(crate) fn raw_output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| not_started(command))
}

/// Runs `command` with this process's own output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| not_started(command))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(())
}

/// What to say when a program cannot be started.
pub(crate) fn not_started(command: &Command) -> String {
    format!("starting {} (hint: `make setup` installs what the build needs)", name(command))
}

/// The end of a long text.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
