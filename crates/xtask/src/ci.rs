//! `cargo xtask ci`: everything that must hold before a change is taken. CI and `make test` run exactly this.

use std::{env, fs, path::Path, process::Command, time::Instant};

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

/// Idmapped mounts of EROFS came with it.
const FIRST_WITH_CONTAINERS: (u32, u32) = (5, 19);
const KERNEL_RELEASE: &str = "/proc/sys/kernel/osrelease";
/// Parts of the names of all tests that run containers.
const OF_CONTAINERS: [&str; 17] = [
    "oci::crun",
    "oci::runc::",
    "oci::runsc::",
    "oci::each_way_out_of_a_container",
    "oci::fifty_at_once",
    "oci::hostile_plans",
    "oci::neighbours_have_users",
    "layers::a_kill_amid_many_loop_devices",
    "layers::layers_on_a_file_system",
    "network::containers::",
    "probes::nothing_gets_out_of_",
    "levels::a_node_offers_what_it_has",
    "levels::no_level_is_taken_for_another",
    "levels::the_same_workload_file_runs_at_every_level",
    "network::a_workload_reaches_what_its_rules_allow_at_every_level",
    "protection::nothing_gets_out_of_a_container_or_sandbox",
    "monitor::a_breach_ends_the_machine",
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
    let old_kernel = kernel_without_containers(&fs::read_to_string(KERNEL_RELEASE).context("read the kernel's release")?);
    let tests = tests(runner(workspace)?, vectors.as_deref(), old_kernel.is_some());
    let (before, after) = (BEFORE_TESTS.map(fixed), AFTER_TESTS.map(fixed));
    for (name, arguments) in before.into_iter().chain([tests]).chain(after) {
        if let Err(error) = run_step(workspace, name, &arguments, vectors.as_deref()) {
            note("ci", &format!("FAILED: {name}: {error:#}"));
            failed.push(name);
        }
    }
    if vectors.is_none() {
        note(
            "ci",
            &format!("NOT RUN: tests over evidence of real machines; set {VECTORS} to its folder (hint: docs/evidence.md)"),
        );
    }
    if let Some(release) = &old_kernel {
        note(
            "ci",
            &format!(
                "NOT RUN: tests of the levels container and sandbox; Linux {release} is older than 5.19 (docs/containers.md)"
            ),
        );
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    note("ci", if vectors.is_some() && old_kernel.is_none() { "all passed" } else { "all that was run passed" });
    Ok(())
}

/// The tests. The ignored ones are those over evidence of real machines, which another test holds; they are run where that is.
fn tests(runner: Runner, vectors: Option<&Path>, without_containers: bool) -> (&'static str, Vec<&'static str>) {
    let mut arguments: Vec<&str> = match (runner, vectors) {
        (Runner::Nextest, Some(_)) => {
            vec!["nextest", "run", "--profile", "ci", "--workspace", "--no-fail-fast", "--run-ignored", "all", "--"]
        }
        (Runner::Nextest, None) => vec!["nextest", "run", "--profile", "ci", "--workspace", "--no-fail-fast", "--"],
        (Runner::Plain, Some(_)) => vec!["test", "--workspace", "--all-targets", "--no-fail-fast", "--", "--include-ignored"],
        (Runner::Plain, None) => vec!["test", "--workspace", "--all-targets", "--no-fail-fast", "--"],
    };
    if without_containers {
        arguments.extend(OF_CONTAINERS.iter().flat_map(|part| ["--skip", part]));
    }
    ("tests", arguments)
}

/// The kernel's release, where it is too old to give the users of a container another number on the read-only layers of its image.
fn kernel_without_containers(release: &str) -> Option<String> {
    let mut parts = release.trim().split(|c: char| !c.is_ascii_digit());
    let mut number = || parts.next().and_then(|part| part.parse::<u32>().ok());
    // A release that is not understood is no reason to leave anything out.
    let version = (number()?, number()?);
    (version < FIRST_WITH_CONTAINERS).then(|| release.trim().to_owned())
}

fn fixed((name, arguments): Step) -> (&'static str, Vec<&'static str>) {
    (name, arguments.to_vec())
}

fn run_step(workspace: &Workspace, name: &str, arguments: &[&str], vectors: Option<&Path>) -> Result<()> {
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
        let ends_with = |runner, end: &[&str]| tests(runner, Some(Path::new("/vectors")), false).1.ends_with(end);
        assert!(ends_with(Runner::Nextest, &["--run-ignored", "all", "--"]));
        assert!(ends_with(Runner::Plain, &["--", "--include-ignored"]));
        for runner in [Runner::Nextest, Runner::Plain] {
            let without = tests(runner, None, false).1;
            assert!(without.iter().all(|argument| !argument.contains("ignored")), "{without:?}");
        }
    }

    #[test]
    fn containers_are_left_out_on_kernels_that_cannot_have_them_and_only_there() {
        for old in ["5.15.0-91-generic\n", "5.18.19", "4.19.0-26-amd64"] {
            assert_eq!(kernel_without_containers(old).as_deref(), Some(old.trim()));
        }
        for able in ["5.19.0", "6.1.0-28-amd64\n", "6.18.5", "10.0", "", "unknown"] {
            assert_eq!(kernel_without_containers(able), None, "{able}");
        }
        let skipped = |without| tests(Runner::Plain, None, without).1.iter().filter(|word| **word == "--skip").count();
        assert_eq!((skipped(false), skipped(true)), (0, OF_CONTAINERS.len()));
    }

    #[test]
    fn every_part_of_a_name_is_that_of_a_test() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let sources: String =
            ["sandbox/tests/it", "testbed/tests/it"].iter().flat_map(|folder| texts(&crates.join(folder))).collect();
        for part in OF_CONTAINERS {
            let last = part.trim_end_matches("::").rsplit("::").next().unwrap();
            assert!(sources.contains(last), "{part}");
        }
    }

    fn texts(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries
            .flat_map(|path| if path.is_dir() { texts(&path) } else { vec![fs::read_to_string(path).unwrap_or_default()] })
            .collect()
    }
}
