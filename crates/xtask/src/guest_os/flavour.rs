//! Which kernel the guest OS boots, and how it comes about.

use anyhow::{Context as _, Result, bail};

use super::{
    distro::{DistroInputs, Module},
    kernel::{self, KernelInputs},
    recipe::Recipe,
};
use crate::{files, packages::Packages, paths::Workspace};

/// The kernels that a guest OS can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// Our own configuration of the distribution's source.
    Own,
    /// The distribution's own kernel, with modules in the initrd.
    Distro,
}

impl Flavour {
    /// What the variable `KERNEL` says.
    pub(crate) fn chosen() -> Result<Self> {
        Self::parse(&std::env::var("KERNEL").unwrap_or_default())
    }

    /// As people and `guest-os.json` spell it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Distro => "distro",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        match text {
            "" | "own" => Ok(Self::Own),
            "distro" => Ok(Self::Distro),
            other => {
                bail!("KERNEL={other} is unknown (hint: `distro` is the distribution's kernel; leave KERNEL unset for our own)")
            }
        }
    }
}

/// Everything that decides the kernel's bytes.
#[derive(Debug)]
pub(crate) enum Inputs {
    /// Of our own kernel.
    Own(KernelInputs),
    /// Of the distribution's.
    Distro(DistroInputs),
}

/// A kernel, ready for the image.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Entered by PVH.
    pub(crate) vmlinux: Vec<u8>,
    /// In the order of loading.
    pub(crate) modules: Vec<Module>,
}

impl Inputs {
    /// Reads them.
    pub(crate) fn gather(workspace: &Workspace, recipe: &Recipe, packages: &Packages, flavour: Flavour) -> Result<Self> {
        Ok(match flavour {
            Flavour::Own => Self::Own(KernelInputs::gather(workspace, recipe, packages)?),
            Flavour::Distro => Self::Distro(DistroInputs::gather(&recipe.distro, packages)?),
        })
    }

    /// Which kernel they make.
    pub(crate) fn flavour(&self) -> Flavour {
        match self {
            Self::Own(_) => Flavour::Own,
            Self::Distro(_) => Flavour::Distro,
        }
    }

    /// The digest of all of them.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Own(inputs) => inputs.key(),
            Self::Distro(inputs) => inputs.key(),
        }
    }

    /// The version of the package that the kernel comes from.
    pub(crate) fn version(&self, packages: &Packages) -> Result<String> {
        Ok(match self {
            Self::Own(_) => packages.locked(kernel::SOURCE_ROLE)?.version.clone(),
            Self::Distro(inputs) => inputs.version.clone(),
        })
    }

    /// What went in, by name and version.
    pub(crate) fn sources(&self, packages: &Packages) -> Result<Vec<(String, String)>> {
        match self {
            Self::Own(inputs) => {
                let package = packages.locked(kernel::SOURCE_ROLE)?;
                let source = (package.package.clone(), package.version.clone());
                Ok(vec![("compiler".to_owned(), inputs.compiler.clone()), source])
            }
            Self::Distro(inputs) => Ok(inputs.sources.clone()),
        }
    }

    /// Does what takes long: compiles or downloads, unless that was done before.
    pub(crate) fn prepare(&self, packages: &Packages) -> Result<()> {
        match self {
            Self::Own(inputs) => kernel::build(inputs, packages).map(drop),
            Self::Distro(inputs) => inputs.fetch(packages),
        }
        .context("building the guest kernel")
    }

    /// The kernel, once prepared.
    pub(crate) fn load(&self, recipe: &Recipe, packages: &Packages) -> Result<Kernel> {
        match self {
            Self::Own(inputs) => Ok(Kernel { vmlinux: files::read(&kernel::build(inputs, packages)?)?, modules: Vec::new() }),
            Self::Distro(inputs) => {
                let (vmlinux, modules) = inputs.load(&recipe.distro, packages).context("reading the distribution's kernel")?;
                Ok(Kernel { vmlinux, modules })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Flavour;

    #[test]
    fn knows_two_kernels_and_refuses_others_by_name() {
        assert_eq!(Flavour::parse("").unwrap(), Flavour::Own);
        for flavour in [Flavour::Own, Flavour::Distro] {
            assert_eq!(Flavour::parse(flavour.name()).unwrap(), flavour);
        }
        assert!(Flavour::parse("Distro").unwrap_err().to_string().contains("KERNEL=Distro is unknown"));
    }
}
