//! `cargo xtask mutants`: which changes of the verifier does no test notice?
//!
//! cargo-mutants makes the list. It would build the tests anew for each entry, which takes half a minute thousands of times. Here
//! all of them go into one build, each behind a switch that an environment variable turns on, and only the tests that reach a
//! mutant are run with it. What cannot be behind a switch is listed, for cargo-mutants to run.

mod build;
mod list;
mod render;
mod run;
mod sites;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use self::{
    build::{Built, Tree},
    list::Mutant,
    run::{Outcome, Runner},
};
use crate::{
    files,
    paths::{Workspace, named_vectors},
    progress::note,
};

const PACKAGE: &str = "casemate-verifier";
const LIBRARY: &str = "crates/verifier/src/lib.rs";
/// It boots a machine, and what it shows other tests show in milliseconds.
const WITHOUT: [&str; 1] = ["uefi::a_real_boot_is_accepted_and_one_with_another_command_line_is_not"];
/// What the last run found.
const REPORT: &str = "target/mutants/report.md";
/// Heads the list of them in the report.
const SURVIVORS: &str = "## Survivors";
/// The mutants that are known to survive, each with the reason.
const KNOWN: &str = "docs/mutation-testing.md";

/// Runs the mutants in `names`, which are ends of paths; all if there is none. With `again` only those of them that survived the last time.
pub(crate) fn run(workspace: &Workspace, names: &[String], again: bool, threads: usize) -> Result<()> {
    let vectors = named_vectors()?;
    let path = workspace.join(REPORT);
    let mut mutants = list::of_package(workspace, PACKAGE, names)?;
    if again {
        let last = survivors(&files::read_text(&path)?);
        mutants.retain(|mutant| last.contains(&mutant.title()));
    }
    if mutants.is_empty() {
        bail!("there is no mutant in {names:?} (hint: give the ends of paths, as in `x509/path.rs`)");
    }
    let tree = Tree::copy(workspace, PACKAGE, LIBRARY)?;
    let built = tree.build(&mutants)?;
    let runnable: Vec<&Mutant> =
        mutants.iter().filter(|mutant| !built.unviable.contains(&mutant.id) && !built.apart.contains_key(&mutant.id)).collect();
    let folder = tree.package_folder();
    let runner = Runner { programs: &built.programs, folder: &folder, threads, without: &WITHOUT, vectors: vectors.as_deref() };
    let outcomes = runner.run(&runnable)?;
    let known = files::read_text(&workspace.join(KNOWN))?;
    let report = report(&mutants, &built, &outcomes, &known);
    files::write(&path, report.text.as_bytes())?;
    print!("{}", report.text);
    note("mutants", &format!("the report is in {}", path.display()));
    if report.new > 0 {
        bail!("{} mutants survive that {KNOWN} does not explain", report.new);
    }
    Ok(())
}

/// The titles of the survivors in a report. Lines and columns have moved since.
fn survivors(report: &str) -> BTreeSet<String> {
    let listed = report.lines().skip_while(|line| *line != SURVIVORS).skip(1).take_while(|line| !line.starts_with('#'));
    listed.filter_map(|line| line.split('`').nth(1)).map(list::title_of).collect()
}

struct Report {
    text: String,
    /// Survivors that nobody explained.
    new: usize,
}

fn report(mutants: &[Mutant], built: &Built, outcomes: &BTreeMap<u32, Outcome>, known: &str) -> Report {
    let mut files: BTreeMap<&str, [usize; 7]> = BTreeMap::new();
    let (mut survivors, mut apart, mut new) = (Vec::new(), Vec::new(), 0);
    for mutant in mutants {
        let explained = known.contains(&format!("`{}`", mutant.title()));
        let column = match (outcomes.get(&mutant.id), built.apart.get(&mutant.id)) {
            (Some(Outcome::Caught), _) => 1,
            (Some(Outcome::Endless), _) => 2,
            (Some(outcome @ (Outcome::Missed | Outcome::Unreached)), _) => {
                let reached = if *outcome == Outcome::Missed { "" } else { " (no test reaches it)" };
                survivors.push(format!("- {} `{}`{reached}", if explained { "known" } else { "NEW" }, mutant.name));
                new += usize::from(!explained);
                if explained { 3 } else { 4 }
            }
            (None, Some(why)) => {
                apart.push(format!("- `{}`: {why}", mutant.name));
                6
            }
            (None, None) => 5,
        };
        let counts = files.entry(mutant.file.trim_start_matches("crates/verifier/src/")).or_default();
        counts[0] += 1;
        counts[column] += 1;
    }
    let total = files.values().fold([0; 7], |sum, counts| std::array::from_fn(|i| sum[i] + counts[i]));
    let row = |name: &str, counts: &[usize; 7]| format!("| {name} | {} |\n", counts.map(|count| count.to_string()).join(" | "));
    let mut text = "| file | mutants | caught | endless | missed, explained | missed | not compiling | apart |\n".to_owned();
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    files.iter().for_each(|(name, counts)| text.push_str(&row(name, counts)));
    text.push_str(&row("all", &total));
    for (title, lines) in [(SURVIVORS, survivors), ("## Not behind a switch", apart)] {
        text.push_str(&format!("\n{title}\n\n{}\n", lines.join("\n")));
    }
    Report { text, new }
}
