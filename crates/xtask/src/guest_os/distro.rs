//! The distribution's own kernel: `vmlinux` out of its bzImage, and the modules that the guest needs.
//!
//! It is the fallback where ours cannot be built: larger, slower to start, and with more in it than a guest needs.

mod bzimage;
mod decompress;
mod modules;

use anyhow::{Context as _, Result, bail};

use self::modules::Wanted;
pub(crate) use self::modules::{Module, Need};
use super::recipe::DistroPart;
use crate::{
    digest,
    packages::{self, Packages},
    progress::note,
    tree::{Node, Tree},
};

/// Where modules lie in a merged system.
const MODULES: &str = "usr/lib/modules/";

/// What decides the kernel's and the modules' bytes, beside the recipe.
#[derive(Debug)]
pub(crate) struct DistroInputs {
    roles: Vec<String>,
    digests: String,
    /// Version of the kernel's package.
    pub(crate) version: String,
    /// Packages with their versions.
    pub(crate) sources: Vec<(String, String)>,
}

impl DistroInputs {
    /// Looks them up. Of the roles, those that the release does not have are left out; the first it must have.
    pub(crate) fn gather(part: &DistroPart, packages: &Packages) -> Result<Self> {
        let first = part.packages.first().context("guest-os/recipe.toml names no package for the distribution's kernel")?;
        let version = packages.locked(first)?.version.clone();
        let roles: Vec<String> = part.packages.iter().filter(|role| packages.locked(role).is_ok()).cloned().collect();
        let (mut digests, mut sources) = (String::new(), Vec::new());
        for role in &roles {
            let package = packages.locked(role)?;
            digests += &package.sha256;
            sources.push((package.package.clone(), package.version.clone()));
        }
        Ok(Self { roles, digests, version, sources })
    }

    /// The digest of all of them.
    pub(crate) fn key(&self) -> String {
        digest::of_parts([("kernel", b"distro".as_slice()), ("packages", self.digests.as_bytes())])
    }

    /// Downloads the packages where needed.
    pub(crate) fn fetch(&self, packages: &Packages) -> Result<()> {
        self.paths(packages).map(drop)
    }

    /// The kernel and its modules in the order of loading.
    pub(crate) fn load(&self, part: &DistroPart, packages: &Packages) -> Result<(Vec<u8>, Vec<Module>)> {
        let (vmlinux, modules) = extract(part, &self.tree(packages)?)?;
        let names: Vec<&str> = modules.iter().map(|module| module.name.as_str()).collect();
        note("kernel", &format!("{} with the modules {}", self.sources[0].0, names.join(" ")));
        Ok((vmlinux, modules))
    }

    /// The kernel as its package has it: a bzImage, which firmware can start, too.
    pub(crate) fn image(&self, packages: &Packages) -> Result<Vec<u8>> {
        let tree = self.tree(packages)?;
        image(&tree, release(&tree)?).map(<[u8]>::to_vec)
    }

    fn tree(&self, packages: &Packages) -> Result<Tree> {
        let mut tree = Tree::default();
        for path in self.paths(packages)? {
            tree.merge(packages::read_tree(&path)?);
        }
        Ok(tree)
    }

    fn paths(&self, packages: &Packages) -> Result<Vec<std::path::PathBuf>> {
        packages.fetch(&self.roles.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

fn extract(part: &DistroPart, package: &Tree) -> Result<(Vec<u8>, Vec<Module>)> {
    let release = release(package)?;
    let vmlinux =
        bzimage::vmlinux(image(package, release)?).with_context(|| format!("taking the kernel out of boot/vmlinuz-{release}"))?;
    let wanted = Wanted { required: &part.modules, if_supported: &part.modules_if_supported };
    let modules = modules::select(package, &format!("{MODULES}{release}"), &wanted)
        .with_context(|| format!("choosing the modules of {release}"))?;
    Ok((vmlinux, modules))
}

fn image<'a>(package: &'a Tree, release: &str) -> Result<&'a [u8]> {
    // Newer packages have it beside its modules.
    let path = format!("boot/vmlinuz-{release}");
    match package.find(&path).or_else(|| package.find(&format!("{MODULES}{release}/vmlinuz"))) {
        Some(Node::File { bytes, .. }) => Ok(bytes),
        _ => bail!("{path} is missing in the kernel's package"),
    }
}

/// The one kernel release that the packages have modules of.
fn release(package: &Tree) -> Result<&str> {
    let mut found = package.iter().filter_map(|(path, _)| path.strip_prefix(MODULES)).filter(|name| !name.contains('/'));
    match (found.next(), found.next()) {
        (Some(release), None) => Ok(release),
        (None, _) => bail!("there are no modules in the kernel's packages"),
        (Some(one), Some(other)) => bail!("the kernel's packages have modules of {one} and of {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        modules::tests::{module, package},
        *,
    };

    fn part(modules: &[&str]) -> DistroPart {
        DistroPart {
            name: "distro".into(),
            packages: vec!["distro-kernel".into()],
            options: String::new(),
            modules: modules.iter().map(|name| (*name).to_owned()).collect(),
            modules_if_supported: Vec::new(),
        }
    }

    #[test]
    fn a_package_without_kernel_or_with_modules_of_two_is_refused() {
        let mut tree = package(&[("a.ko", module("depends="))]);
        let error = extract(&part(&["a"]), &tree).unwrap_err().to_string();
        assert_eq!(error, "boot/vmlinuz-6.1.0-cloud is missing in the kernel's package");
        tree.insert("boot/vmlinuz-6.1.0-cloud", Node::File { mode: 0o644, bytes: vec![0; 4096] });
        let error = format!("{:#}", extract(&part(&["a"]), &tree).unwrap_err());
        assert_eq!(error, "taking the kernel out of boot/vmlinuz-6.1.0-cloud: not a bzImage: it has no boot header");
        tree.folder("usr/lib/modules/6.2.0-cloud");
        let error = extract(&part(&["a"]), &tree).unwrap_err().to_string();
        assert_eq!(error, "the kernel's packages have modules of 6.1.0-cloud and of 6.2.0-cloud");
    }
}
