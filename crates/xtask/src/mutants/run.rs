//! Runs the tests that reach a mutant, until one of them notices it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::list::Mutant;
use crate::{paths::VECTORS, process, progress::Progress};

/// Tests that are run one by one, the quickest first, before the others of a mutant are run together.
const ALONE: usize = 8;
/// Tests that are run together.
const TOGETHER: usize = 25;
/// What a test may take beyond many times its usual time, so that a busy machine is not mistaken for an endless loop.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many times its usual time a test may take.
const SLOWER: u32 = 20;
/// Exit status of `timeout` where the time was over.
const TIME_OVER: i32 = 124;

/// What became of a mutant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// A test failed.
    Caught,
    /// A test did not end.
    Endless,
    /// Every test that reaches it passed.
    Missed,
    /// No test reaches it.
    Unreached,
}

/// One test, how long it takes, and the mutants that it reaches.
struct Test {
    program: String,
    name: String,
    time: Duration,
    reaches: BTreeSet<u32>,
}

/// The test programs, and where they run.
pub(super) struct Runner<'a> {
    pub(super) programs: &'a BTreeMap<String, PathBuf>,
    pub(super) folder: &'a Path,
    pub(super) threads: usize,
    /// Tests that are not run: too slow for a thousand times.
    pub(super) without: &'a [&'a str],
    /// The folder of evidence from real machines; without it the tests over that, which are the ignored ones, are not run.
    pub(super) vectors: Option<&'a Path>,
}

impl Runner<'_> {
    /// What becomes of each of `mutants`.
    pub(super) fn run(&self, mutants: &[&Mutant]) -> Result<BTreeMap<u32, Outcome>> {
        let tests = self.reach()?;
        let mut progress = Progress::start("mutants", &format!("{} tests, {} mutants", tests.len(), mutants.len()));
        let (next, outcomes) = (Mutex::new(mutants.iter()), Mutex::new(BTreeMap::new()));
        let progress_of = Mutex::new(&mut progress);
        let work = || -> Result<()> {
            loop {
                let Some(mutant) = next.lock().expect("no thread panics").next() else { return Ok(()) };
                let outcome = self.judge(mutant.id, &tests)?;
                let mut outcomes = outcomes.lock().expect("no thread panics");
                outcomes.insert(mutant.id, outcome);
                progress_of.lock().expect("no thread panics").update(&format!("{} of {}", outcomes.len(), mutants.len()));
            }
        };
        self.in_threads(&work)?;
        progress.done("run");
        Ok(outcomes.into_inner().expect("no thread panics"))
    }

    fn in_threads(&self, work: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
        })
    }

    /// All tests; each must pass without a mutant.
    fn reach(&self) -> Result<Vec<Test>> {
        let mut names = Vec::new();
        for (program, path) in self.programs {
            let list = |arguments: &[&str]| -> Result<String> {
                let listed = process::output(Command::new(path).args(arguments).current_dir(self.folder))?;
                String::from_utf8(listed).context("the names of tests are text")
            };
            let ignored = if self.vectors.is_none() { list(&["--list", "--ignored"])? } else { String::new() };
            let listed = chosen(&list(&["--list"])?, &ignored, self.without);
            names.extend(listed.into_iter().map(|name| (program.clone(), name)));
        }
        let folder = tempfile::tempdir().context("making a folder")?;
        let (next, tests) = (Mutex::new(names.into_iter().enumerate()), Mutex::new(Vec::new()));
        let work = || -> Result<()> {
            loop {
                let Some((index, (program, name))) = next.lock().expect("no thread panics").next() else { return Ok(()) };
                let file = folder.path().join(index.to_string());
                let started = Instant::now();
                let outcome = self.tests(u32::MAX, &program, &[&name], PATIENCE * SLOWER, Some(&file))?;
                if outcome.is_some() {
                    bail!("{name} fails without any mutant");
                }
                let time = started.elapsed();
                // A test that reaches no mutant leaves no file.
                let reaches = fs::read_to_string(&file).unwrap_or_default().lines().flat_map(str::parse).collect();
                tests.lock().expect("no thread panics").push(Test { program, name, time, reaches });
            }
        };
        self.in_threads(&work)?;
        let mut tests = tests.into_inner().expect("no thread panics");
        tests.sort_by_key(|test| test.time);
        Ok(tests)
    }

    /// What becomes of mutant `id`, by `tests`, the quickest first.
    fn judge(&self, id: u32, tests: &[Test]) -> Result<Outcome> {
        let tests: Vec<&Test> = tests.iter().filter(|test| test.reaches.contains(&id)).collect();
        if tests.is_empty() {
            return Ok(Outcome::Unreached);
        }
        let (alone, rest) = tests.split_at(tests.len().min(ALONE));
        let mut groups: Vec<Vec<&Test>> = alone.iter().map(|test| vec![*test]).collect();
        for program in self.programs.keys() {
            let of_program: Vec<&Test> = rest.iter().copied().filter(|test| test.program == *program).collect();
            groups.extend(of_program.chunks(TOGETHER).map(<[&Test]>::to_vec));
        }
        for group in groups {
            let names: Vec<&str> = group.iter().map(|test| test.name.as_str()).collect();
            let limit = PATIENCE + group.iter().map(|test| test.time).sum::<Duration>() * SLOWER;
            if let Some(outcome) = self.tests(id, &group[0].program, &names, limit, None)? {
                return Ok(outcome);
            }
        }
        Ok(Outcome::Missed)
    }

    /// Runs tests with mutant `id`; `None` if they pass.
    fn tests(&self, id: u32, program: &str, names: &[&str], limit: Duration, reached: Option<&Path>) -> Result<Option<Outcome>> {
        // It ends the processes that a test started as well.
        let mut command = Command::new("timeout");
        command.arg("--kill-after=5").arg(limit.as_secs().to_string()).arg(&self.programs[program]).arg("--exact").args(names);
        command.current_dir(self.folder).env("MUTANT", id.to_string()).env("CARGO_MANIFEST_DIR", self.folder);
        command.env("PROPTEST_CASES", "32").env("CASEMATE_TEST_TOOLS", "require");
        if let Some(folder) = self.vectors {
            command.arg("--include-ignored").env(VECTORS, folder);
        }
        if let Some(file) = reached {
            command.env("MUTANT_REACHED", file);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status().with_context(|| process::not_started(&command))?;
        Ok(match status.code() {
            Some(0) => None,
            Some(TIME_OVER) => Some(Outcome::Endless),
            Some(_) | None => Some(Outcome::Caught),
        })
    }
}

/// The tests that a program lists, but for those that it lists as ignored and those `without` which it is run.
pub(super) fn chosen(listed: &str, ignored: &str, without: &[&str]) -> Vec<String> {
    let names = |list| str::lines(list).filter_map(|line| line.strip_suffix(": test"));
    let ignored: BTreeSet<&str> = names(ignored).collect();
    names(listed).filter(|name| !ignored.contains(name) && !without.contains(name)).map(str::to_owned).collect()
}
