//! One build with all mutants that compile.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{
    list::Mutant,
    render::{MODULE, SWITCH, render},
    sites,
};
use crate::{files, paths::Workspace, process, progress::note};

/// The compiler stops at the first phase with errors, so that finding all takes some rounds.
const MAX_ROUNDS: usize = 20;

/// How the condition of an arm begins that a mutant deletes.
const DELETED_ARM: &str = "if !crate::mutant_switch::on(";

/// A copy of the tree, which the mutants are put into.
pub(super) struct Tree<'w> {
    workspace: &'w Workspace,
    folder: PathBuf,
    package: &'static str,
    library: &'static str,
}

/// What came of the build.
pub(super) struct Built {
    /// Test programs by the name of their target.
    pub(super) programs: BTreeMap<String, PathBuf>,
    /// Mutants that do not compile.
    pub(super) unviable: BTreeSet<u32>,
    /// Mutants that cannot be behind a switch, and why.
    pub(super) apart: BTreeMap<u32, &'static str>,
}

#[derive(Deserialize)]
#[serde(tag = "reason")]
enum Message {
    #[serde(rename = "compiler-message")]
    Said { message: Diagnostic },
    #[serde(rename = "compiler-artifact")]
    Made { target: Target, executable: Option<PathBuf> },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

#[derive(Deserialize)]
struct Diagnostic {
    message: String,
    level: String,
    spans: Vec<DiagnosticSpan>,
}

#[derive(Deserialize)]
struct DiagnosticSpan {
    file_name: String,
    byte_start: usize,
    byte_end: usize,
    is_primary: bool,
}

impl<'w> Tree<'w> {
    /// Copies what belongs to the repository.
    pub(super) fn copy(workspace: &'w Workspace, package: &'static str, library: &'static str) -> Result<Self> {
        let tree = Self { workspace, folder: workspace.join("target/mutants/tree"), package, library };
        let mut list = Command::new("git");
        list.current_dir(workspace.root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let listed = String::from_utf8(process::output(&mut list)?).context("the names of files are text")?;
        for name in listed.split_terminator('\0').filter(|name| workspace.join(name).is_file()) {
            // What did not change keeps its time, so that only the mutated package is built again.
            let bytes = files::read(&workspace.join(name))?;
            let to = tree.folder.join(name);
            if !files::read(&to).is_ok_and(|old| old == bytes) {
                files::write(&to, &bytes)?;
            }
        }
        Ok(tree)
    }

    /// The folder of the package in the copy.
    pub(super) fn package_folder(&self) -> PathBuf {
        let library = Path::new(self.library);
        self.folder.join(library.ancestors().nth(2).expect("a library is in the folder src of its package"))
    }

    /// Builds the tests with all of `mutants` in the code, leaving out by and by those that do not compile.
    pub(super) fn build(&self, mutants: &[Mutant]) -> Result<Built> {
        let (mut unviable, mut keep_const) = (BTreeSet::new(), Vec::new());
        for round in 1..=MAX_ROUNDS {
            let apart = self.write(mutants, &unviable, &keep_const)?;
            let messages = self.compile()?;
            let errors: Vec<&Diagnostic> = messages.iter().filter_map(error).collect();
            if errors.is_empty() {
                let programs = messages.into_iter().filter_map(program).collect();
                return Ok(Built { programs, unviable, apart });
            }
            note("mutants", &format!("round {round}: {} errors", errors.len()));
            let before = (unviable.len(), keep_const.len());
            for error in &errors {
                match called_in_a_constant(error) {
                    Some(name) => keep_const.push(name),
                    None => {
                        let blamed = self.mutants_of(error).into_iter().find(|id| !unviable.contains(id));
                        unviable.extend(blamed);
                    }
                }
            }
            keep_const.sort();
            keep_const.dedup();
            if before == (unviable.len(), keep_const.len()) {
                bail!("the copy in {} does not compile: {}", self.folder.display(), errors[0].message);
            }
        }
        bail!("mutants that do not compile remain after {MAX_ROUNDS} rounds");
    }

    fn write(&self, mutants: &[Mutant], without: &BTreeSet<u32>, keep_const: &[String]) -> Result<BTreeMap<u32, &'static str>> {
        let mut of_file: BTreeMap<&str, Vec<&Mutant>> = BTreeMap::from([(self.library, Vec::new())]);
        for mutant in mutants {
            // A file without any is written as well: the round before may have left some there.
            let of_file = of_file.entry(&mutant.file).or_default();
            of_file.extend((!without.contains(&mutant.id)).then_some(mutant));
        }
        let mut apart = BTreeMap::new();
        for (file, mutants) in of_file {
            let text = files::read_text(&self.workspace.join(file))?;
            let found = sites::find(&text, &mutants, keep_const).with_context(|| format!("parsing {file}"))?;
            let mut mutated = render(&text, &found);
            if file == self.library {
                mutated.push_str(MODULE);
            }
            files::write(&self.folder.join(file), mutated.as_bytes())?;
            apart.extend(found.apart);
        }
        Ok(apart)
    }

    fn compile(&self) -> Result<Vec<Message>> {
        let mut cargo = Command::new("cargo");
        cargo.current_dir(&self.folder).args(["test", "--no-run", "--message-format=json", "--lib", "--tests"]);
        cargo.args(["--package", self.package]).env("CARGO_TARGET_DIR", self.workspace.join("target/mutants/build"));
        let said = cargo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().with_context(|| process::not_started(&cargo))?;
        let lines = said.stdout.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{"));
        let messages = lines.map(|line| serde_json::from_slice(line).context("reading what cargo said"));
        let messages = messages.collect::<Result<Vec<Message>>>()?;
        if !said.status.success() && !messages.iter().any(|message| error(message).is_some()) {
            bail!("building the tests in {} failed", self.folder.display());
        }
        Ok(messages)
    }

    /// Mutants that may be what the compiler complains of, the likeliest first: the one whose switch is next before the code that it
    /// shows, in it, next behind it.
    fn mutants_of(&self, error: &Diagnostic) -> Vec<u32> {
        let id = |text: &str| -> Option<u32> { text.split(')').next()?.parse().ok() };
        let mut spans: Vec<&DiagnosticSpan> = error.spans.iter().collect();
        spans.sort_by_key(|span| !span.is_primary);
        let mut blamed = Vec::new();
        for span in spans {
            let Ok(bytes) = files::read(&self.folder.join(&span.file_name)) else { continue };
            let part = |from: usize, to: usize| String::from_utf8_lossy(bytes.get(from..to).unwrap_or_default()).into_owned();
            let (inside, behind) = (part(span.byte_start, span.byte_end), part(span.byte_end, bytes.len()));
            let before = part(0, span.byte_start);
            let before = before.rfind(SWITCH).and_then(|at| id(&before[at + SWITCH.len()..]));
            let first = |text: &str| -> Option<u32> { text.split(SWITCH).nth(1).and_then(id) };
            // A `match` that lacks an arm is shown by its head. Only its last arm, which takes all that is left, can be missed.
            let found = if error.message.starts_with("non-exhaustive patterns") {
                [body(&behind).rfind(DELETED_ARM).and_then(|at| first(&behind[at..])), None, None]
            } else {
                [before, first(&inside), first(&behind)]
            };
            blamed.extend(found.into_iter().flatten());
        }
        blamed
    }
}

/// Up to the end of the first block in `text`.
fn body(text: &str) -> &str {
    let mut depth = 0_usize;
    for (at, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth <= 1 => return &text[..at],
            '}' => depth -= 1,
            _ => {}
        }
    }
    text
}

fn error(message: &Message) -> Option<&Diagnostic> {
    match message {
        Message::Said { message } if message.level == "error" && !message.spans.is_empty() => Some(message),
        _ => None,
    }
}

fn program(message: Message) -> Option<(String, PathBuf)> {
    match message {
        Message::Made { target, executable: Some(executable) } => Some((target.name, executable)),
        _ => None,
    }
}

/// The function that a constant needs, and that therefore must stay one which the compiler can evaluate.
fn called_in_a_constant(error: &Diagnostic) -> Option<String> {
    let name = error.message.contains("non-const").then(|| error.message.split('`').nth(1))??;
    Some(name.rsplit("::").next()?.to_owned())
}
