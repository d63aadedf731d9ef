//! Progress for people on stderr, results on stdout.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Instant,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::args::Globals;

/// Where a command's words go.
#[derive(Debug)]
pub(crate) struct Printer {
    quiet: bool,
    color: bool,
    started: Instant,
}

impl Printer {
    pub(crate) fn new(globals: &Globals) -> Self {
        let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { quiet: globals.quiet, color, started: Instant::now() }
    }

    /// A step that succeeded.
    pub(crate) fn done(&self, step: &str, text: &str) {
        self.line("32", "ok", step, text);
    }

    /// A step under way or a remark.
    pub(crate) fn note(&self, step: &str, text: &str) {
        self.line("36", "..", step, text);
    }

    /// A step that failed.
    pub(crate) fn failed(&self, step: &str, text: &str) {
        self.line("31", "NO", step, text);
    }

    fn line(&self, color: &str, mark: &str, step: &str, text: &str) {
        if self.quiet {
            return;
        }
        let at = self.started.elapsed().as_secs_f32();
        let mark = if self.color { format!("\x1b[{color}m{mark}\x1b[0m") } else { mark.to_owned() };
        // Text may come from a node or a guest.
        eprintln!("{at:7.2}s {mark} {step:<12} {}", clean(text));
    }

    /// A bar of `total` bytes; hidden unless stderr is a terminal.
    pub(crate) fn bytes_bar(&self, step: &'static str, total: u64) -> ProgressBar {
        let target = if self.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let style = ProgressStyle::with_template("         .. {prefix:<12} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
        ProgressBar::with_draw_target(Some(total), target)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            .with_prefix(step)
    }
}

/// Removes control characters (except tab): nothing from outside may steer a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect()
}

/// One JSON value on stdout.
pub(crate) fn json<T: serde::Serialize>(value: &T) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Left-aligned columns with a header, on stdout.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).chain([header[i].len()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut out = std::io::stdout().lock();
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&header).chain(&rows) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}
