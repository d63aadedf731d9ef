//! Where things are: the clone, its `target/`, and the cache that clones share.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// The variable that names the folder of evidence from real machines.
pub(crate) const VECTORS: &str = "CASEMATE_VECTORS";

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

    /// The folder of evidence from real machines, which is not in the repository: the one that is named, else `shared/vectors` beside
    /// the clone if it is there.
    pub(crate) fn vectors(&self, named: Option<PathBuf>) -> Option<PathBuf> {
        named.or_else(|| Some(self.join("../shared/vectors")).filter(|folder| folder.is_dir()))
    }
}

/// The folder of evidence from real machines, if one is named.
pub(crate) fn named_vectors() -> Result<Option<PathBuf>> {
    env::var_os(VECTORS).map(|folder| existing(Path::new(&folder))).transpose()
}

/// Whole, since tests run in the folders of their crates. A folder that was named and is not there is a mistake.
fn existing(folder: &Path) -> Result<PathBuf> {
    if !folder.is_dir() {
        bail!(
            "{VECTORS} names {}, which is no folder (hint: unset it to do without evidence of real machines)",
            folder.display()
        );
    }
    folder.canonicalize().with_context(|| format!("finding {}", folder.display()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_that_is_named_goes_before_that_beside_the_clone_which_may_be_absent() {
        let top = tempfile::tempdir().unwrap();
        let (clone, beside) = (Workspace { root: top.path().join("clone") }, top.path().join("shared/vectors"));
        std::fs::create_dir(clone.root()).unwrap();
        assert_eq!(clone.vectors(None), None);
        std::fs::create_dir_all(&beside).unwrap();
        assert_eq!(clone.vectors(None).unwrap().canonicalize().unwrap(), beside.canonicalize().unwrap());
        assert_eq!(clone.vectors(Some("/named".into())), Some("/named".into()));
    }

    #[test]
    fn a_named_folder_that_is_not_there_is_a_mistake() {
        let top = tempfile::tempdir().unwrap();
        let refused = existing(&top.path().join("absent")).unwrap_err().to_string();
        assert!(refused.contains("/absent, which is no folder (hint: "), "{refused}");
        assert_eq!(existing(&top.path().join(".")).unwrap(), top.path().canonicalize().unwrap());
    }
}
