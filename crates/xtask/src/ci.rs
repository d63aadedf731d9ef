//! `cargo xtask ci`: everything that must hold before a change is taken. CI and `make test` run exactly this.

use std::{env, path::Path, process::Command, time::Instant};

use anyhow::{Context as _, Result, bail};

use crate::{
    paths::{VECTORS, Workspace, named_vectors},
    process,
    progress::note,
};

/// One step: its name and cargo's arguments.
type Step = (&'static str, &'static [&'static str]);

const BEFORE_TESTS: [Step; 2] = [
    ("format", &["fmt", "--all", "--check"]),
    ("lints", &["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]),
];
const AFTER_TESTS: [Step; 2] = [
    ("examples in documentation", &["test", "--workspace", "--doc", "--quiet"]),
    ("documentation", &["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]),
];

/// What runs the tests.
#[derive(Debug, Clone, Copy)]
enum Runner {
    /// Each test in its own process, which is faster; but nobody must install it.
    Nextest,
    /// What comes with cargo.
    Plain,
}

/// Runs all steps, and says at the end which failed.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let vectors = workspace.vectors(named_vectors()?);
    let mut failed = Vec::new();
    for step in BEFORE_TESTS.into_iter().chain([tests(runner(workspace)?, vectors.as_deref())]).chain(AFTER_TESTS) {
        if let Err(error) = run_step(workspace, step, vectors.as_deref()) {
            note("ci", &format!("FAILED: {}: {error:#}", step.0));
            failed.push(step.0);
        }
    }
    if vectors.is_none() {
        note(
            "ci",
            &format!("NOT RUN: tests over evidence of real machines; set {VECTORS} to its folder (hint: docs/evidence.md)"),
        );
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    note("ci", if vectors.is_some() { "all passed" } else { "all that was run passed" });
    Ok(())
}

/// The tests. The ignored ones are those over evidence of real machines, which another test holds; they are run where that is.
fn tests(runner: Runner, vectors: Option<&Path>) -> Step {
    let arguments: &[&str] = match (runner, vectors) {
        (Runner::Nextest, Some(_)) => &["nextest", "run", "--workspace", "--no-fail-fast", "--run-ignored", "all"],
        (Runner::Nextest, None) => &["nextest", "run", "--workspace", "--no-fail-fast"],
        (Runner::Plain, Some(_)) => &["test", "--workspace", "--all-targets", "--no-fail-fast", "--", "--include-ignored"],
        (Runner::Plain, None) => &["test", "--workspace", "--all-targets", "--no-fail-fast"],
    };
    ("tests", arguments)
}

fn run_step(workspace: &Workspace, (name, arguments): Step, vectors: Option<&Path>) -> Result<()> {
    note("ci", name);
    let started = Instant::now();
    let mut command = cargo(workspace);
    command.args(arguments).env("RUSTDOCFLAGS", "-D warnings").env("CASEMATE_TEST_TOOLS", "require");
    command.envs(vectors.map(|folder| (VECTORS, folder)));
    process::run(&mut command).with_context(|| format!("running {name}"))?;
    note("ci", &format!("{name} passed ({:.0} s)", started.elapsed().as_secs_f32()));
    Ok(())
}

fn runner(workspace: &Workspace) -> Result<Runner> {
    let has_nextest = process::raw_output(cargo(workspace).args(["nextest", "--version"]))?.status.success();
    Ok(if has_nextest { Runner::Nextest } else { Runner::Plain })
}

fn cargo(workspace: &Workspace) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace.root());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_tests_are_run_where_their_evidence_is_and_only_there() {
        let ends_with = |runner, end: &[&str]| tests(runner, Some(Path::new("/vectors"))).1.ends_with(end);
        assert!(ends_with(Runner::Nextest, &["--run-ignored", "all"]));
        assert!(ends_with(Runner::Plain, &["--", "--include-ignored"]));
        for runner in [Runner::Nextest, Runner::Plain] {
            let without = tests(runner, None).1;
            assert!(without.iter().all(|argument| !argument.contains("ignored")), "{without:?}");
        }
    }
}
