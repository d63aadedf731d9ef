//! Where things are: the clone, its `target/`, and the cache that clones share.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The clone of the repository that this command works on.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The nearest folder, from the current one upwards, that holds the guest OS recipe.
    pub(crate) fn locate() -> Result<Self> {
        let start = env::current_dir().context("finding the current folder")?;
        let root = start.ancestors().find(|folder| folder.join("guest-os/recipe.toml").is_file()).with_context(|| {
            format!("no guest-os/recipe.toml in {} or above: run this inside the repository", start.display())
        })?;
        Ok(Self { root: root.to_owned() })
    }

    /// A path inside the clone.
    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    /// The top of the clone.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

/// The folder for what is expensive to make or fetch again: packages, kernels, the guest's build.
///
/// `CASEMATE_CACHE`, else `$XDG_CACHE_HOME/casemate`, else `~/.cache/casemate`.
pub(crate) fn cache() -> Result<PathBuf> {
    let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("CASEMATE_CACHE")
        .or_else(|| named("XDG_CACHE_HOME").map(|folder| folder.join("casemate")))
        .or_else(|| named("HOME").map(|home| home.join(".cache/casemate")))
        .context("none of CASEMATE_CACHE, XDG_CACHE_HOME and HOME is set: set CASEMATE_CACHE to a folder for the build cache")
}
