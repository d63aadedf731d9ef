//! `cargo xtask guest-os`: kernel, initrd, root image, their description and signed reference values.
//!
//! ```text
//! packages.lock --> linux source + kernel.config --> vmlinux      (cached by the digest of its inputs)
//! crates/guest  --> static casemate-guest ---------> initrd.cpio
//! recipe.toml   --> folders, name -----------------> root.img     (EROFS | verity superblock | hash tree)
//! ```
//!
//! With `KERNEL=distro` the first line is: packages.lock --> the distribution's kernel --> vmlinux, and modules in the initrd.
//!
//! The same inputs give the same bytes: no time, owner, path or order of a folder enters.

mod binary;
mod description;
mod distro;
mod flavour;
mod initrd;
mod kconfig;
mod kernel;
mod newc;
mod recipe;
mod reference;
mod root;
mod verity;

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, bail};

use self::{
    description::{Description, KernelId},
    distro::DistroInputs,
    flavour::{Flavour, Inputs},
    kernel::KernelInputs,
    recipe::Recipe,
};
use crate::{
    digest, files,
    packages::Packages,
    paths::{self, Workspace},
    process,
    progress::note,
};

/// What the caller wants built.
#[derive(Debug)]
pub(crate) struct Options {
    /// Where to put it; `target/guest-os` unless given.
    pub(crate) out: Option<PathBuf>,
    /// A ready-made PID 1 instead of `crates/guest` (tests of the builder itself).
    pub(crate) guest_binary: Option<PathBuf>,
}

/// Builds the image, or finds that nothing changed.
pub(crate) fn build(workspace: &Workspace, options: &Options) -> Result<()> {
    let recipe = Recipe::load(workspace)?;
    let packages = Packages::of_this_machine(workspace)?;
    let kernel = Inputs::gather(workspace, &recipe, &packages, Flavour::chosen()?)?;
    let guest = build_programs(workspace, options, &kernel, &packages)?;
    let out = options.out.clone().unwrap_or_else(|| workspace.join("target/guest-os"));
    let stamp = Stamp::of(&recipe, &kernel, &guest)?;
    if stamp.holds(&out) {
        note("guest OS", &format!("unchanged in {}", out.display()));
        return Ok(());
    }
    assemble(&recipe, &packages, &kernel, &guest, &out)?;
    stamp.put(&out)
}

/// Checks the kernel fragment against the kernel source of `packages`, without a build.
pub(crate) fn check_kernel_config(workspace: &Workspace, packages: &Packages) -> Result<()> {
    kernel::try_config(&KernelInputs::gather(workspace, &Recipe::load(workspace)?, packages)?, packages)
}

/// Writes the distribution's kernel to `out` as its package has it.
pub(crate) fn write_distro_kernel(workspace: &Workspace, out: &Path) -> Result<()> {
    let packages = Packages::of_this_machine(workspace)?;
    let kernel = DistroInputs::gather(&Recipe::load(workspace)?.distro, &packages)?;
    files::write(out, &kernel.image(&packages).context("taking the kernel's image out of its package")?)
}

/// The kernels that a node may run, as far as this release offers them, with the modules that containers need and one more that a test
/// can load. The distribution's own must be there.
pub(crate) fn write_node_kernels(workspace: &Workspace, out: &Path) -> Result<()> {
    let packages = Packages::of_this_machine(workspace)?;
    let distro = Recipe::load(workspace)?.distro;
    let other = |roles: &[&str]| {
        let packages = roles.iter().map(|role| (*role).to_owned()).collect();
        recipe::DistroPart { packages, ..distro.clone() }
    };
    let newest = ["node-kernel-newest", "node-kernel-newest-binary", "node-kernel-newest-modules"];
    for part in [distro.clone(), other(&["node-kernel-newer"]), other(&newest)] {
        let modules = CONTAINER_MODULES.iter().chain([&NODE_MODULE]).map(|name| (*name).to_owned()).collect();
        let part = recipe::DistroPart { modules, modules_if_supported: Vec::new(), ..part };
        if part.packages[0].starts_with("node-kernel-") && packages.locked(&part.packages[0]).is_err() {
            continue;
        }
        let kernel = DistroInputs::gather(&part, &packages)?;
        let folder = out.join(kernel.version.replace(['~', '+'], "-"));
        let (vmlinux, modules) = kernel.load(&part, &packages)?;
        files::write(&folder.join("vmlinux"), &vmlinux)?;
        let (module, others) = modules
            .split_last()
            .filter(|(last, _)| last.name == NODE_MODULE)
            .with_context(|| format!("the kernel {} has {NODE_MODULE} built in", kernel.version))?;
        files::write(&folder.join("module.ko"), &module.bytes)?;
        for (index, module) in others.iter().enumerate() {
            files::write(&folder.join(format!("modules/{index:02}-{}.ko", module.name)), &module.bytes)?;
        }
    }
    Ok(())
}

/// What containers need of a node's kernel.
const CONTAINER_MODULES: [&str; 3] = ["loop", "erofs", "overlay"];

/// A module without needs: network interfaces that lead nowhere.
const NODE_MODULE: &str = "dummy";

/// Kernel and PID 1 side by side; the path of PID 1.
fn build_programs(workspace: &Workspace, options: &Options, kernel: &Inputs, packages: &Packages) -> Result<PathBuf> {
    thread::scope(|scope| {
        let guest = scope.spawn(|| match &options.guest_binary {
            Some(path) => Ok(path.clone()),
            None => binary::build(workspace, "casemate-guest"),
        });
        let prepared = kernel.prepare(packages);
        let guest = guest.join().map_err(|_| anyhow::anyhow!("the build of casemate-guest panicked"))?;
        prepared?;
        guest.context("building casemate-guest")
    })
}

fn assemble(recipe: &Recipe, packages: &Packages, inputs: &Inputs, guest: &Path, out: &Path) -> Result<()> {
    let guest = files::read(guest)?;
    let kernel = inputs.load(recipe, packages)?;
    let initrd = initrd::make(recipe, &guest, &kernel.modules);
    let root = root::make(recipe)?;
    let vmlinux = kernel.vmlinux;
    // The same program as in the initrd, for containers.
    for (name, bytes) in [("vmlinux", &vmlinux), ("initrd.cpio", &initrd), ("root.img", &root.image), ("casemate-guest", &guest)]
    {
        files::write(&out.join(name), bytes)?;
        note("guest OS", &format!("{name}: {:.1} MiB, {}", bytes.len() as f64 / f64::from(1 << 20), digest::of_bytes(bytes)));
    }
    let id = KernelId { flavour: inputs.flavour(), version: inputs.version(packages)? };
    let description = Description::new(recipe, &id, &vmlinux, &initrd, &root, &guest, sources(packages, inputs, recipe)?);
    executable(&out.join("casemate-guest"))?;
    files::write(&out.join("guest-os.json"), description.to_json()?.as_bytes())?;
    let values = reference::sign(&description.reference_values(recipe.name(id.flavour)), &reference::signing_key()?);
    files::write(&out.join("reference-values.json"), values.as_bytes())?;
    note("guest OS", &format!("root hash {} in {}", root.root_hash, out.display()));
    Ok(())
}

/// For all: nobody in a container is its owner.
fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).with_context(|| format!("making {} executable", path.display()))
}

/// What went in, for people who compare two builds.
fn sources(packages: &Packages, kernel: &Inputs, recipe: &Recipe) -> Result<Vec<(String, String)>> {
    let mut sources = vec![
        ("release".to_owned(), packages.release().to_string()),
        ("recipe".to_owned(), recipe.version.to_string()),
        ("mkfs.erofs".to_owned(), root::mkfs_version()?),
    ];
    sources.extend(kernel.sources(packages)?);
    Ok(sources)
}

/// One digest over all inputs, kept beside the output of the build that they led to.
struct Stamp(String);

impl Stamp {
    fn of(recipe: &Recipe, kernel: &Inputs, guest: &Path) -> Result<Self> {
        let guest = digest::of_file(guest)?;
        let key = reference::public_key_hex(&reference::signing_key()?);
        let mkfs = root::mkfs_version()?;
        let kernel = kernel.key();
        let parts = [("recipe", &recipe.text), ("guest", &guest), ("key", &key), ("mkfs", &mkfs), ("kernel", &kernel)];
        Ok(Self(digest::of_parts(parts.map(|(name, text)| (name, text.as_bytes())))))
    }

    /// Whether `out` holds the whole, undamaged output for these inputs.
    fn holds(&self, out: &Path) -> bool {
        let same = files::read_text(&out.join(STAMP)).is_ok_and(|text| text == self.0);
        same && out.join("reference-values.json").is_file() && Description::matches_files(out)
    }

    fn put(&self, out: &Path) -> Result<()> {
        files::write(&out.join(STAMP), self.0.as_bytes())
    }
}

/// Refuses machines and choices that the builder does not support.
pub(crate) fn check_supported() -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the guest OS is built for x86_64 only, and this machine is {}", std::env::consts::ARCH);
    }
    Flavour::chosen().map(drop)
}

/// The first line of what `program` says about its version.
fn version_of(program: &str, argument: &str) -> Result<String> {
    let output = process::raw_output(Command::new(program).arg(argument).env("LC_ALL", "C"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().next().map(|line| line.trim().to_owned()).with_context(|| format!("{program} {argument} says nothing"))
}

/// Builds the probes of `casemate selftest` and writes them to the folder `out`.
pub(crate) fn build_probes(workspace: &Workspace, out: &Path) -> Result<()> {
    let program = binary::build(workspace, PROBES)?;
    files::write_program(&out.join(PROBES), &files::read(&program)?)
}

/// The folder for what the guest OS build keeps between runs.
fn cache_folder(name: &str) -> Result<PathBuf> {
    Ok(paths::cache()?.join(name))
}

const PROBES: &str = "casemate-probes";
const STAMP: &str = ".stamp";
