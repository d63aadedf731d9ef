//! The recipe: `guest-os/recipe.toml`.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::{files, paths::Workspace};

/// How the image is made.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    /// The image's name in the reference values.
    pub(crate) name: String,
    /// Version of the way of building.
    pub(crate) version: u32,
    /// The kernel's part.
    pub(crate) kernel: KernelPart,
    /// The kernel's command lines.
    pub(crate) command_line: CommandLinePart,
    /// The initrd's part.
    pub(crate) initrd: InitrdPart,
    /// The root image's part.
    pub(crate) root: RootPart,
    /// The recipe as written.
    #[serde(skip)]
    pub(crate) text: String,
}

/// The kernel's part.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KernelPart {
    /// About how many files are compiled.
    pub(crate) steps: u32,
}

/// The parts of the command lines.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommandLinePart {
    common: String,
    measured: String,
    tcg: String,
    kvm: String,
}

/// The initrd's part.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InitrdPart {
    /// Empty folders.
    pub(crate) folders: Vec<String>,
}

/// The root image's part.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RootPart {
    /// UUID of file system and verity device.
    pub(crate) uuid: String,
    /// Empty folders.
    pub(crate) folders: Vec<String>,
}

/// The accelerators that need a command line of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Accelerator {
    /// Emulation.
    Tcg,
    /// Hardware virtualisation.
    Kvm,
}

impl Recipe {
    /// The recipe of this clone.
    pub(crate) fn load(workspace: &Workspace) -> Result<Self> {
        Self::parse(&files::read_text(&workspace.join("guest-os/recipe.toml"))?)
    }

    /// The recipe in `text`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let recipe: Self = toml::from_str(text).context("reading guest-os/recipe.toml")?;
        Ok(Self { text: text.to_owned(), ..recipe })
    }

    /// The command line under `accelerator` for the root image described by `root`.
    pub(crate) fn command_line(&self, accelerator: Accelerator, root: &str) -> String {
        let line = &self.command_line;
        let special = match accelerator {
            Accelerator::Tcg => &line.tcg,
            Accelerator::Kvm => &line.kvm,
        };
        let measured = line.measured.replace("{root}", root);
        [&line.common, special, &measured].into_iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(" ")
    }
}
