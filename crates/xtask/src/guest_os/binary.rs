//! Our static programs, the same bytes wherever the clone lies.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{paths::Workspace, process, progress::Progress};

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const SEPARATOR: &str = "\x1f";

/// Builds the program of a package; its path.
pub(crate) fn build(workspace: &Workspace, package: &'static str) -> Result<PathBuf> {
    let target = super::cache_folder("guest-target")?;
    let progress = Progress::start(package, "building");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--quiet", "--package", package, "--profile", "guest", "--target", TARGET])
        .current_dir(workspace.root())
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(workspace.root(), &target)?)
        .env_remove("RUSTFLAGS")
        .env_remove("MAKEFLAGS");
    process::output(&mut command)?;
    progress.done("built");
    Ok(target.join(TARGET).join("guest").join(package))
}

fn flags(root: &Path, target: &Path) -> Result<String> {
    let registry =
        env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let registry = registry.context("neither CARGO_HOME nor HOME is set")?;
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    // Later prefixes win, so the folders that may lie inside others come last.
    let flags = [
        "-Ctarget-feature=+crt-static".to_owned(),
        remap(&registry, "/cargo"),
        remap(root, "/casemate"),
        remap(target, "/target"),
    ];
    Ok(flags.join(SEPARATOR))
}
