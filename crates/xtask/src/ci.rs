//! `cargo xtask ci`: everything that must hold before a change is taken. CI and `make test` run exactly this.

use std::{env, process::Command, time::Instant};

use anyhow::{Context as _, Result, bail};

use crate::{paths::Workspace, process, progress::note};

/// One step: its name and cargo's arguments.
type Step = (&'static str, &'static [&'static str]);

const BEFORE_TESTS: [Step; 2] = [
    ("format", &["fmt", "--all", "--check"]),
    ("lints", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]),
];
const NEXTEST: Step = ("tests", &["nextest", "run", "--workspace", "--no-fail-fast"]);
const PLAIN_TESTS: Step = ("tests", &["test", "--workspace", "--all-targets", "--no-fail-fast"]);
const AFTER_TESTS: [Step; 2] = [
    ("examples in documentation", &["test", "--workspace", "--doc", "--quiet"]),
    ("documentation", &["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]),
];

/// Runs all steps, and says at the end which failed.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let tests = if has_nextest(workspace)? { NEXTEST } else { PLAIN_TESTS };
    let mut failed = Vec::new();
    for step in BEFORE_TESTS.into_iter().chain([tests]).chain(AFTER_TESTS) {
        if let Err(error) = run_step(workspace, step) {
            note("ci", &format!("FAILED: {}: {error:#}", step.0));
            failed.push(step.0);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    note("ci", "all passed");
    Ok(())
}

fn run_step(workspace: &Workspace, (name, arguments): Step) -> Result<()> {
    note("ci", name);
    let started = Instant::now();
    process::run(cargo(workspace).args(arguments).env("RUSTDOCFLAGS", "-D warnings").env("CASEMATE_TEST_TOOLS", "require"))
        .with_context(|| format!("running {name}"))?;
    note("ci", &format!("{name} passed ({:.0} s)", started.elapsed().as_secs_f32()));
    Ok(())
}

/// nextest runs each test in its own process and is faster, but nobody must install it.
fn has_nextest(workspace: &Workspace) -> Result<bool> {
    Ok(process::raw_output(cargo(workspace).args(["nextest", "--version"]))?.status.success())
}

fn cargo(workspace: &Workspace) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace.root());
    command
}
