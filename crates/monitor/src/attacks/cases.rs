//! The cases as they are written in `attacks/`.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// A file of cases.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Suite {
    pub(crate) cases: Vec<Case>,
}

/// One attack, and the lawful act next to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// The act's name, and what it is done to.
    pub(crate) act: String,
    pub(crate) on: String,
    /// What the agent does beforehand.
    pub(crate) prepare: Option<String>,
    #[serde(default)]
    pub(crate) by: By,
    pub(crate) expect: Expectation,
    pub(crate) lawful: Lawful,
}

/// Who acts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum By {
    /// Root, without a label.
    #[default]
    Stranger,
    /// The agent.
    Agent,
}

/// What must come of an attack.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Expectation {
    pub(crate) result: Outcome,
    /// Who must have counted it.
    pub(crate) detector: String,
    pub(crate) instance: Fate,
}

/// What comes of an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// "Operation not permitted".
    Denied,
    /// The offender was killed.
    Killed,
    /// It succeeded: there is no hook that could refuse it.
    Done,
}

/// What becomes of the instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fate {
    /// They are ended.
    Ended,
    /// They go on.
    Alive,
}

/// The same act, lawfully.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lawful {
    #[serde(default)]
    pub(crate) by: By,
    /// Another act, where the same cannot be lawful.
    pub(crate) act: Option<String>,
    /// On something else, where it is not the same.
    pub(crate) on: Option<String>,
    /// The number of the error that is due (no such device, no such id); none for success.
    #[serde(default)]
    pub(crate) error: i32,
}

/// Reads all suites in `folder`, in the order of their names.
pub(crate) fn load(folder: &std::path::Path) -> Result<Vec<Case>> {
    let mut paths: Vec<_> = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    let mut cases = Vec::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "yaml")) {
        let suite: Suite = serde_yaml_ng::from_str(&std::fs::read_to_string(path)?)
            .with_context(|| format!("read the cases in {}", path.display()))?;
        cases.extend(suite.cases);
    }
    if cases.is_empty() {
        bail!("there are no cases in {}", folder.display());
    }
    Ok(cases)
}
