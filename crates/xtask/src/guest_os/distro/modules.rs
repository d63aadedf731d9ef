//! Which modules of a kernel package go into the initrd, and in which order they are loaded.
//!
//! The package has no `modules.dep` (that is made when it is installed), so what a module needs is read from the module.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};

use super::decompress::decompress;
use crate::{
    elf,
    tree::{Node, Tree},
};

/// More than any single module.
const MAX_MODULE: usize = 64 << 20;
/// The end of a signed module (the kernel's `MODULE_SIG_STRING`).
const SIGNED: &[u8] = b"~Module signature appended~\n";

/// A module for the initrd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its name, as the kernel spells it.
    pub(crate) name: String,
    /// Whether the machine goes on when the module says that the hardware lacks what it is for.
    pub(crate) need: Need,
    /// The module, not compressed, with its signature.
    pub(crate) bytes: Vec<u8>,
}

/// How much depends on a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// The machine does not work without it.
    Required,
    /// It makes use of hardware that not every machine has.
    IfSupported,
}

/// What a guest needs of its kernel; names are spelt with `-` or `_`.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// Must be built in or a module.
    pub(crate) required: &'a [String],
    /// Is taken where the kernel has it.
    pub(crate) if_supported: &'a [String],
}

/// The modules below `folder` of a package that `wanted` come to, those that others need first.
pub(crate) fn select(package: &Tree, folder: &str, wanted: &Wanted<'_>) -> Result<Vec<Module>> {
    let available = Available::of(package, folder)?;
    let mut order = Order { available: &available, path: Vec::new(), done: BTreeSet::new(), modules: Vec::new() };
    for name in wanted.required {
        if !order.add(&normal(name), Need::Required)? {
            bail!("{name} is neither built into the kernel nor a module below {folder}");
        }
    }
    for name in wanted.if_supported {
        order.add(&normal(name), Need::IfSupported)?;
    }
    Ok(order.modules)
}

/// What the package has.
struct Available<'a> {
    built_in: BTreeSet<String>,
    files: BTreeMap<String, &'a [u8]>,
}

impl<'a> Available<'a> {
    fn of(package: &'a Tree, folder: &str) -> Result<Self> {
        let list = format!("{folder}/modules.builtin");
        let Some(Node::File { bytes, .. }) = package.find(&list) else { bail!("{list} is missing in the package") };
        let list = std::str::from_utf8(bytes).with_context(|| format!("{list} is not text"))?;
        let below = format!("{folder}/");
        let files = package.iter().filter_map(|(path, node)| match node {
            Node::File { bytes, .. } => Some((module_name(path.strip_prefix(&below)?)?, bytes.as_slice())),
            _ => None,
        });
        Ok(Self { built_in: list.lines().filter_map(module_name).collect(), files: files.collect() })
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(bytes) = self.files.get(name) else { return Ok(None) };
        let bytes = if bytes.starts_with(b"\x7fELF") { bytes.to_vec() } else { decompress(bytes, MAX_MODULE)? };
        if !bytes.ends_with(SIGNED) {
            bail!("it is not signed, and the guest's kernel takes signed modules only");
        }
        Ok(Some(bytes))
    }
}

struct Order<'a> {
    available: &'a Available<'a>,
    /// From the wanted module to the one looked at.
    path: Vec<String>,
    done: BTreeSet<String>,
    modules: Vec<Module>,
}

impl Order<'_> {
    /// Adds what the module needs, then the module. False where the kernel does not have it.
    fn add(&mut self, name: &str, need: Need) -> Result<bool> {
        if self.done.contains(name) || self.available.built_in.contains(name) {
            return Ok(true);
        }
        if self.path.iter().any(|above| above == name) {
            bail!("modules need each other in a circle: {} > {name}", self.path.join(" > "));
        }
        let Some(bytes) = self.available.read(name).with_context(|| format!("reading the module {name}"))? else {
            return Ok(false);
        };
        let needs = needs(&bytes).with_context(|| format!("reading what the module {name} needs"))?;
        self.path.push(name.to_owned());
        for other in &needs.modules {
            if !self.add(other, Need::Required)? {
                bail!("{name} needs {other}, which is neither built into the kernel nor a module of it");
            }
        }
        for other in &needs.before {
            // Most of these are names of algorithms, which some module or the kernel itself has.
            self.add(other, Need::Required)?;
        }
        self.path.pop();
        self.done.insert(name.to_owned());
        self.modules.push(Module { name: name.to_owned(), need, bytes });
        Ok(true)
    }
}

struct Needs {
    /// It cannot be linked without them.
    modules: Vec<String>,
    /// It works better with them ("softdep").
    before: Vec<String>,
}

fn needs(module: &[u8]) -> Result<Needs> {
    let info = elf::section(module, ".modinfo")?.context("it has no section .modinfo")?;
    let mut needs = Needs { modules: Vec::new(), before: Vec::new() };
    for entry in info.split(|byte| *byte == 0) {
        let entry = String::from_utf8_lossy(entry);
        if let Some(list) = entry.strip_prefix("depends=") {
            needs.modules.extend(list.split(',').filter(|name| !name.is_empty()).map(normal));
        } else if let Some(text) = entry.strip_prefix("softdep=") {
            let words = text.split_ascii_whitespace().skip_while(|word| *word != "pre:").skip(1);
            needs.before.extend(words.take_while(|word| !word.ends_with(':')).map(normal));
        }
    }
    Ok(needs)
}

/// `kernel/drivers/md/dm-mod.ko.xz` is `dm_mod`.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, compression) = file.split_once(".ko")?;
    matches!(compression, "" | ".xz" | ".zst" | ".gz").then(|| normal(name))
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::elf::tests::with_section;

    pub(in super::super) const FOLDER: &str = "usr/lib/modules/6.1.0-cloud";

    pub(in super::super) fn module(info: &str) -> Vec<u8> {
        [&with_section(".modinfo", info.replace(' ', "\0").replace('~', " ").as_bytes())[..], SIGNED].concat()
    }

    pub(in super::super) fn package(modules: &[(&str, Vec<u8>)]) -> Tree {
        let mut tree = Tree::default();
        let file = |bytes: &[u8]| Node::File { mode: 0o644, bytes: bytes.to_vec() };
        tree.insert(&format!("{FOLDER}/modules.builtin"), file(b"kernel/fs/ext4/ext4.ko\nkernel/lib/crc16.ko\n"));
        for (path, bytes) in modules {
            tree.insert(&format!("{FOLDER}/kernel/{path}"), file(bytes));
        }
        tree
    }

    fn names(package: &Tree, required: &[&str], if_supported: &[&str]) -> Result<Vec<String>> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (required, if_supported) = (owned(required), owned(if_supported));
        let modules = select(package, FOLDER, &Wanted { required: &required, if_supported: &if_supported })?;
        Ok(modules.into_iter().map(|module| module.name).collect())
    }

    #[test]
    fn what_a_module_needs_comes_before_it_and_once() {
        let package = package(&[
            ("md/dm-verity.ko", module("depends=reed_solomon,dm-mod,dm-bufio license=GPL")),
            ("md/dm-bufio.ko.zst", zstd::encode_all(module("depends=dm-mod").as_slice(), 1).unwrap()),
            ("md/dm-mod.ko", module("license=GPL depends=")),
            ("lib/reed_solomon.ko", module("depends=")),
            ("md/unwanted.ko", module("depends=dm-mod")),
        ]);
        let expected = ["reed_solomon", "dm_mod", "dm_bufio", "dm_verity"];
        assert_eq!(names(&package, &["dm-verity", "dm_mod"], &[]).unwrap(), expected);
    }

    #[test]
    fn what_is_built_in_is_left_out() {
        let package = package(&[("fs/ext2.ko", module("depends=crc16"))]);
        assert_eq!(names(&package, &["ext4", "ext2"], &[]).unwrap(), ["ext2"]);
    }

    #[test]
    fn a_wanted_module_that_is_nowhere_is_named() {
        let package = package(&[("md/dm-verity.ko", module("depends=dm-mod"))]);
        let error = names(&package, &["erofs"], &[]).unwrap_err().to_string();
        assert!(error.starts_with("erofs is neither built into the kernel nor a module"), "{error}");
        let error = names(&package, &["dm-verity"], &[]).unwrap_err().to_string();
        assert!(error.starts_with("dm_verity needs dm_mod, which is neither"), "{error}");
    }

    #[test]
    fn a_module_for_hardware_may_be_absent_but_what_it_needs_may_not() {
        let built = package(&[
            ("aesni-intel.ko", module("depends=crypto_simd")),
            ("crypto_simd.ko", module("depends=")),
            ("broken.ko", module("depends=nothing")),
        ]);
        let wanted = ["aesni-intel".to_owned(), "sha256-ssse3".to_owned()];
        let modules = select(&built, FOLDER, &Wanted { required: &[], if_supported: &wanted }).unwrap();
        let needs: Vec<_> = modules.iter().map(|module| (module.name.as_str(), module.need)).collect();
        assert_eq!(needs, [("crypto_simd", Need::Required), ("aesni_intel", Need::IfSupported)]);
        assert!(names(&built, &[], &["broken"]).is_err());
    }

    #[test]
    fn a_circle_is_an_error_and_not_an_endless_loop() {
        let package = package(&[("a.ko", module("depends=b")), ("b.ko", module("depends=c")), ("c.ko", module("depends=a"))]);
        let error = names(&package, &["a"], &[]).unwrap_err().to_string();
        assert_eq!(error, "modules need each other in a circle: a > b > c > a");
    }

    #[test]
    fn soft_dependencies_come_first_where_the_kernel_has_them() {
        let package = package(&[
            ("xts.ko", module("softdep=pre:~ecb~crc32c~post:~late depends=")),
            ("ecb.ko", module("depends=")),
            ("late.ko", module("depends=")),
        ]);
        assert_eq!(names(&package, &["xts"], &[]).unwrap(), ["ecb", "xts"]);
    }

    #[test]
    fn an_unsigned_or_misshapen_module_is_refused_by_name() {
        let unsigned = package(&[("a.ko", with_section(".modinfo", b"depends="))]);
        let error = format!("{:#}", names(&unsigned, &["a"], &[]).unwrap_err());
        assert!(error.contains("module a: it is not signed"), "{error}");
        let plain = package(&[("a.ko", [&with_section(".text", b"")[..], SIGNED].concat())]);
        let error = format!("{:#}", names(&plain, &["a"], &[]).unwrap_err());
        assert!(error.contains("module a needs: it has no section .modinfo"), "{error}");
    }

    #[test]
    fn names_are_those_of_the_kernel() {
        assert_eq!(module_name("kernel/drivers/md/dm-mod.ko.xz").as_deref(), Some("dm_mod"));
        assert_eq!(module_name("kernel/drivers/md/dm-mod.ko.sig"), None);
        assert_eq!(module_name("modules.builtin"), None);
    }
}
