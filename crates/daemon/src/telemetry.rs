//! Logs: readable lines on stderr, or JSON lines with `CASEMATE_LOG_FORMAT=json`.

use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging for this process; later calls do nothing. The filter comes from `CASEMATE_LOG`, by default `info`.
pub fn init(name: &'static str) {
    let filter = EnvFilter::try_from_env("CASEMATE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let json = std::env::var_os("CASEMATE_LOG_FORMAT").is_some_and(|format| format == "json");
    // An error only says that logging runs already.
    let _ = if json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
    tracing::debug!(service.name = name, "logging started");
}
