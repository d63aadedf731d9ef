//! Progress of long work, on standard error: one updating line on a terminal, a line now and then elsewhere.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    time::{Duration, Instant},
};

const TERMINAL_EVERY: Duration = Duration::from_millis(250);
const LOG_EVERY: Duration = Duration::from_secs(15);

/// One piece of work that takes its time.
#[derive(Debug)]
pub(crate) struct Progress {
    what: &'static str,
    started: Instant,
    shown: Instant,
    terminal: bool,
}

impl Progress {
    /// Says that `what` begins.
    pub(crate) fn start(what: &'static str, detail: &str) -> Self {
        note(what, detail);
        let now = Instant::now();
        Self { what, started: now, shown: now, terminal: stderr().is_terminal() }
    }

    /// Shows `detail` when it is time to.
    pub(crate) fn update(&mut self, detail: &str) {
        let every = if self.terminal { TERMINAL_EVERY } else { LOG_EVERY };
        if self.shown.elapsed() < every {
            return;
        }
        self.shown = Instant::now();
        let end = if self.terminal { "\x1b[K\r" } else { "\n" };
        let _ = write!(stderr(), "  {}: {detail}, {}{end}", self.what, self.elapsed());
    }

    /// Says that the work is done.
    pub(crate) fn done(self, detail: &str) {
        let clear = if self.terminal { "\x1b[K" } else { "" };
        let _ = writeln!(stderr(), "{clear}  {}: {detail} ({})", self.what, self.elapsed());
    }

    fn elapsed(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f32();
        if seconds < 60.0 {
            format!("{seconds:.1} s")
        } else {
            format!("{} min {:02} s", seconds as u32 / 60, seconds as u32 % 60)
        }
    }
}

/// One line about `what`.
pub(crate) fn note(what: &str, detail: &str) {
    let _ = writeln!(stderr(), "  {what}: {detail}");
}
