//! The recipe: `guest-os/recipe.toml`.

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::flavour::Flavour;
use crate::{files, paths::Workspace};

/// How the image is made.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    name: String,
    /// Version of the way of building.
    pub(crate) version: u32,
    /// The kernel's part.
    pub(crate) kernel: KernelPart,
    /// The flavour with the distribution's kernel.
    pub(crate) distro: DistroPart,
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

/// What is different with the distribution's kernel.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DistroPart {
    /// The image's name in the reference values.
    pub(crate) name: String,
    /// Roles of the kernel's packages; not every release has all of them.
    pub(crate) packages: Vec<String>,
    /// What goes into the command lines.
    pub(crate) options: String,
    /// Modules that the guest does not work without.
    pub(crate) modules: Vec<String>,
    /// Modules that make use of hardware, where kernel and machine have it.
    pub(crate) modules_if_supported: Vec<String>,
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

    /// The image's name in the reference values.
    pub(crate) fn name(&self, flavour: Flavour) -> &str {
        match flavour {
            Flavour::Own => &self.name,
            Flavour::Distro => &self.distro.name,
        }
    }

    /// The command line under `accelerator` for the root image described by `root`.
    pub(crate) fn command_line(&self, flavour: Flavour, accelerator: Accelerator, root: &str) -> String {
        let line = &self.command_line;
        let special = match accelerator {
            Accelerator::Tcg => &line.tcg,
            Accelerator::Kvm => &line.kvm,
        };
        let options = match flavour {
            Flavour::Own => "",
            Flavour::Distro => self.distro.options.as_str(),
        };
        let measured = line.measured.replace("{root}", root);
        let parts = [line.common.as_str(), options, special, &measured];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    }
}
