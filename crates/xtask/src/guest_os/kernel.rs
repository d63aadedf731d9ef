//! The guest kernel, from the distribution's source package, cached by the digest of everything that goes in.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};

use super::{kconfig, recipe::Recipe};
use crate::{
    digest, files,
    packages::Packages,
    paths::Workspace,
    process,
    progress::{Progress, note},
};

/// The kernel source's role in the list of packages.
pub(crate) const SOURCE_ROLE: &str = "kernel-source";

/// Everything that decides the kernel's bytes.
#[derive(Debug)]
pub(crate) struct KernelInputs {
    source: String,
    source_sha256: String,
    fragment: String,
    steps: u32,
    /// What the compiler says that it is.
    pub(crate) compiler: String,
}

impl KernelInputs {
    /// Reads them.
    pub(crate) fn gather(workspace: &Workspace, recipe: &Recipe, packages: &Packages) -> Result<Self> {
        let source = packages.locked(SOURCE_ROLE)?;
        Ok(Self {
            source: format!("{} {}", source.package, source.version),
            source_sha256: source.sha256.clone(),
            fragment: files::read_text(&workspace.join("guest-os/kernel.config"))?,
            steps: recipe.kernel.steps,
            compiler: super::version_of("gcc", "--version")?,
        })
    }

    /// The digest of all of them; a comment in the fragment is none of them.
    pub(crate) fn key(&self) -> String {
        let wishes: String = kconfig::parse(&self.fragment).iter().map(|wish| format!("{wish:?}\n")).collect();
        let parts = [("builder", BUILDER), ("source", &self.source_sha256), ("config", &wishes), ("compiler", &self.compiler)];
        digest::of_parts(parts.map(|(name, text)| (name, text.as_bytes())))
    }
}

/// The stripped `vmlinux` for `inputs`: from the cache, else built.
pub(crate) fn build(inputs: &KernelInputs, packages: &Packages) -> Result<PathBuf> {
    let folder = super::cache_folder("kernel")?.join(&inputs.key()[..KEY_LENGTH]);
    let vmlinux = folder.join("vmlinux");
    if vmlinux.is_file() {
        return Ok(vmlinux);
    }
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let _held = hold(&folder.join("lock"))?;
    if vmlinux.is_file() {
        return Ok(vmlinux);
    }
    let tree = folder.join("src");
    remove_tree(&tree)?;
    unpack(inputs, packages, &tree)?;
    configure(inputs, &tree)?;
    let compiled = compiled_place(inputs, &tree)?;
    if !compiled.is_file() {
        compile(inputs, &tree, &folder.join("build.log"))?;
        strip(&tree, &compiled)?;
    }
    files::copy(&tree.join(".config"), &folder.join("config"))?;
    files::copy(&compiled, &vmlinux)?;
    remove_tree(&tree)?;
    Ok(vmlinux)
}

/// Where the kernel of this very configuration is kept: a changed fragment often configures the same kernel.
fn compiled_place(inputs: &KernelInputs, tree: &Path) -> Result<PathBuf> {
    let config = files::read(&tree.join(".config"))?;
    let texts = [("builder", BUILDER), ("source", &inputs.source_sha256), ("compiler", &inputs.compiler)];
    let parts = texts.map(|(name, text)| (name, text.as_bytes())).into_iter().chain([("config", config.as_slice())]);
    Ok(super::cache_folder("kernel")?.join("compiled").join(format!("{}.vmlinux", &digest::of_parts(parts)[..KEY_LENGTH])))
}

/// Configures the kernel without compiling it: proves that every line of the fragment takes effect.
pub(crate) fn try_config(inputs: &KernelInputs, packages: &Packages) -> Result<()> {
    let work = tempfile::tempdir().context("making a folder for the kernel source")?;
    unpack(inputs, packages, work.path())?;
    configure(inputs, work.path())?;
    note("kernel", &format!("every line of guest-os/kernel.config takes effect in {}", inputs.source));
    Ok(())
}

/// Waits for another build of the same kernel, so that there is never a second one.
fn hold(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("making {}", path.display()))?;
    if file.try_lock().is_err() {
        note("kernel", "another process is building this kernel: waiting for it");
        file.lock().with_context(|| format!("waiting for {}", path.display()))?;
    }
    Ok(file)
}

fn unpack(inputs: &KernelInputs, packages: &Packages, tree: &Path) -> Result<()> {
    let deb = packages.fetch(&[SOURCE_ROLE])?.remove(0);
    let progress = Progress::start("kernel", &format!("unpacking {}", inputs.source));
    fs::create_dir_all(tree).with_context(|| format!("making {}", tree.display()))?;
    let mut outer = Command::new("dpkg-deb");
    let mut outer =
        outer.arg("--fsys-tarfile").arg(&deb).stdout(Stdio::piped()).spawn().with_context(|| process::not_started(&outer))?;
    let mut archive = tar::Archive::new(outer.stdout.take().expect("its output is a pipe"));
    let found = unpack_inner(&mut archive, tree);
    // What follows the source in the package is of no interest, and reading ends here.
    drop(archive);
    let _ = outer.wait();
    found.with_context(|| format!("unpacking {}", deb.display()))?;
    progress.done("unpacked");
    Ok(())
}

/// Finds the source archive in the package and unpacks it to `tree`.
fn unpack_inner(package: &mut tar::Archive<impl io::Read>, tree: &Path) -> Result<()> {
    for entry in package.entries().context("reading the package")? {
        let mut entry = entry.context("reading the package")?;
        let path = entry.path().context("reading a name in the package")?.into_owned();
        let Some(filter) = filter_for(&path).filter(|_| entry.header().entry_type().is_file()) else { continue };
        let mut command = Command::new("tar");
        command.args(["--extract", filter, "--strip-components=1", "--directory"]).arg(tree).stdin(Stdio::piped());
        let mut inner = command.spawn().with_context(|| process::not_started(&command))?;
        let mut pipe = inner.stdin.take().expect("its input is a pipe");
        io::copy(&mut entry, &mut pipe).with_context(|| format!("unpacking {}", path.display()))?;
        drop(pipe);
        return finished(&mut inner, "tar");
    }
    bail!("there is no linux-source-*.tar in it")
}

fn filter_for(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?;
    if !name.starts_with("linux-source-") {
        return None;
    }
    match name.rsplit_once(".tar.")?.1 {
        "xz" => Some("--xz"),
        "bz2" => Some("--bzip2"),
        "zst" => Some("--zstd"),
        _ => None,
    }
}

fn configure(inputs: &KernelInputs, tree: &Path) -> Result<()> {
    let wishes = kconfig::parse(&inputs.fragment);
    let fragment = tree.join("casemate.config");
    files::write(&fragment, kconfig::fragment(&wishes).as_bytes())?;
    process::output(make(tree).arg("tinyconfig"))?;
    let mut merge = Command::new("scripts/kconfig/merge_config.sh");
    process::output(clean(merge.args(["-m", ".config"]).arg(&fragment).current_dir(tree)))?;
    process::output(make(tree).arg("olddefconfig"))?;
    check_config(&wishes, tree)
}

/// Every line of the fragment took effect, or is about a symbol that this kernel does not know and need not.
fn check_config(wishes: &[kconfig::Wish], tree: &Path) -> Result<()> {
    let config = files::read_text(&tree.join(".config"))?;
    let mut unmet = kconfig::unmet(wishes, &config);
    if unmet.iter().any(|(wish, _)| wish.where_known) {
        let known = known_symbols(tree)?;
        unmet.retain(|(wish, _)| !wish.where_known || known.contains(&wish.symbol));
    }
    if unmet.is_empty() {
        return Ok(());
    }
    let lines: String = unmet.iter().map(|(wish, is)| format!("\n  {}={} (is {is})", wish.symbol, wish.value)).collect();
    bail!(
        "these lines of guest-os/kernel.config did not take effect:{lines}\nhint: a symbol that they depend on is missing, or this kernel spells them differently"
    )
}

/// All symbols that x86 kernels of this source know.
fn known_symbols(tree: &Path) -> Result<BTreeSet<String>> {
    let mut symbols = BTreeSet::new();
    let mut folders = vec![tree.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
            let entry = entry.with_context(|| format!("listing {}", folder.display()))?;
            let kind = entry.file_type().with_context(|| format!("looking at {}", entry.path().display()))?;
            let name = entry.file_name();
            if kind.is_dir() && !(folder.ends_with("arch") && name != "x86") {
                folders.push(entry.path());
            } else if kind.is_file() && name.to_string_lossy().starts_with("Kconfig") {
                symbols.extend(kconfig::declared(&files::read_text(&entry.path())?));
            }
        }
    }
    Ok(symbols)
}

fn compile(inputs: &KernelInputs, tree: &Path, log: &Path) -> Result<()> {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let progress =
        Progress::start("kernel", &format!("compiling {} with {jobs} jobs (once; about 10 minutes of CPU time)", inputs.source));
    let sink = File::create(log).with_context(|| format!("making {}", log.display()))?;
    let errors = sink.try_clone().context("sharing the build log")?;
    let mut command = make(tree);
    command.arg(format!("-j{jobs}")).arg("vmlinux").stdout(Stdio::piped()).stderr(errors);
    let mut child = command.spawn().with_context(|| process::not_started(&command))?;
    let progress = follow(&mut child, sink, progress, inputs.steps)?;
    if let Err(error) = finished(&mut child, "make vmlinux") {
        bail!("{error}; the end of {}:\n{}", log.display(), process::last_lines(&files::read_text(log)?));
    }
    progress.done("compiled");
    Ok(())
}

/// Logs the build's output and counts its steps.
fn follow(child: &mut Child, mut log: File, mut progress: Progress, expected: u32) -> Result<Progress> {
    let mut steps = 0;
    for line in BufReader::new(child.stdout.take().expect("its output is a pipe")).lines() {
        let line = line.context("reading the output of make")?;
        io::Write::write_all(&mut log, format!("{line}\n").as_bytes()).context("writing the build log")?;
        steps += u32::from(line.trim_start().starts_with("CC ") || line.trim_start().starts_with("AS "));
        progress.update(&format!("{steps} of about {expected} files compiled"));
    }
    Ok(progress)
}

fn strip(tree: &Path, to: &Path) -> Result<()> {
    let stripped = tree.join("vmlinux.stripped");
    process::output(Command::new("objcopy").arg("--strip-all").arg(tree.join("vmlinux")).arg(&stripped))?;
    files::copy(&stripped, to)
}

/// `make` in `tree`, with nothing of this process's environment that could change the kernel.
fn make(tree: &Path) -> Command {
    let mut command = Command::new("make");
    clean(command.current_dir(tree));
    command
}

fn clean(command: &mut Command) -> &mut Command {
    for name in FOREIGN {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").env("TZ", "UTC").env("KCONFIG_NOTIMESTAMP", "1").envs(IDENTITY)
}

fn finished(child: &mut Child, name: &str) -> Result<()> {
    let status = child.wait().with_context(|| format!("waiting for {name}"))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Raise it when the steps in this file change.
const BUILDER: &str = "2";
const KEY_LENGTH: usize = 32;
/// Who builds, and when: the same for everybody.
const IDENTITY: [(&str, &str); 4] = [
    ("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970"),
    ("KBUILD_BUILD_USER", "casemate"),
    ("KBUILD_BUILD_HOST", "casemate"),
    ("KBUILD_BUILD_VERSION", "1"),
];
/// Variables that an outer make or a developer's shell may hold.
const FOREIGN: [&str; 11] = [
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "MAKEOVERRIDES",
    "ARCH",
    "CROSS_COMPILE",
    "KCFLAGS",
    "KAFLAGS",
    "LLVM",
    "CC",
    "KBUILD_OUTPUT",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(fragment: &str) -> KernelInputs {
        KernelInputs {
            source: String::new(),
            source_sha256: "aa".into(),
            fragment: fragment.into(),
            steps: 1,
            compiler: "gcc 12".into(),
        }
    }

    #[test]
    fn the_cache_key_changes_with_an_option_but_not_with_a_comment() {
        let key = inputs("CONFIG_SMP=y\n").key();
        assert_eq!(inputs("# why\nCONFIG_SMP=y\n").key(), key);
        assert_ne!(inputs("CONFIG_SMP=n\n").key(), key);
    }

    #[test]
    fn finds_the_source_archive_of_debian_and_ubuntu() {
        assert_eq!(filter_for(Path::new("./usr/src/linux-source-6.1.tar.xz")), Some("--xz"));
        assert_eq!(filter_for(Path::new("usr/src/linux-source-6.8.0/linux-source-6.8.0.tar.bz2")), Some("--bzip2"));
        assert_eq!(filter_for(Path::new("usr/src/linux-patch-6.1-rt.patch.xz")), None);
    }
}
