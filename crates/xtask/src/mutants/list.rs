//! The mutants, as cargo-mutants makes them.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{paths::Workspace, process};

/// One change of the code that a test should notice.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Mutant {
    /// Its place in the list, from 1.
    #[serde(skip)]
    pub(super) id: u32,
    pub(super) file: String,
    pub(super) name: String,
    pub(super) genre: Genre,
    pub(super) replacement: String,
    span: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) enum Genre {
    FnValue,
    BinaryOperator,
    UnaryOperator,
    MatchArm,
    MatchArmGuard,
    StructField,
}

#[derive(Debug, Clone, Deserialize)]
struct Span {
    start: Position,
}

/// As editors count: lines and characters from 1.
#[derive(Debug, Clone, Deserialize)]
struct Position {
    line: usize,
    column: usize,
}

impl Mutant {
    /// The byte of `text` that it begins at.
    pub(super) fn start(&self, text: &str) -> usize {
        let Position { line, column } = self.span.start;
        let before: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
        before + text[before..].chars().take(column - 1).map(char::len_utf8).sum::<usize>()
    }

    /// Its name without line and column, which change with the file.
    pub(super) fn title(&self) -> String {
        title_of(&self.name)
    }
}

/// The same of a name.
pub(super) fn title_of(name: &str) -> String {
    let (place, what) = name.split_once(": ").unwrap_or(("", name));
    let file = place.split(':').next().unwrap_or(place);
    format!("{}: {what}", file.trim_start_matches("crates/verifier/src/"))
}

/// What `cargo mutants` lists for `package`, in those of its files whose paths end with one of `files`; in all if there is none.
pub(super) fn of_package(workspace: &Workspace, package: &str, files: &[String]) -> Result<Vec<Mutant>> {
    let mut command = Command::new("cargo");
    command.current_dir(workspace.root()).args(["mutants", "--list", "--json", "--package", package]);
    let json = process::output(&mut command).context("listing mutants (hint: `cargo install --locked cargo-mutants`)")?;
    let listed: Vec<Mutant> = serde_json::from_slice(&json).context("reading what cargo-mutants listed")?;
    let wanted = |mutant: &Mutant| files.is_empty() || files.iter().any(|file| mutant.file.ends_with(file.as_str()));
    Ok((1..).zip(listed.into_iter().filter(wanted)).map(|(id, mutant)| Mutant { id, ..mutant }).collect())
}
