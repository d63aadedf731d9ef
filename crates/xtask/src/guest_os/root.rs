//! The root image: a tree from packages and casemate-guest, as EROFS with a verity hash tree behind it.

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::{recipe::Recipe, verity};
use crate::{
    elf, files,
    packages::{self, Packages},
    process,
    tree::{Node, Tree},
};

/// The finished image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Root {
    /// EROFS, superblock, hash tree.
    pub(crate) image: Vec<u8>,
    /// Root hash, in hexadecimal.
    pub(crate) root_hash: String,
    /// Salt, in hexadecimal.
    pub(crate) salt: String,
    /// Blocks of EROFS.
    pub(crate) data_blocks: u64,
}

impl Root {
    /// The first block of the hash tree.
    pub(crate) fn hash_start_block(&self) -> u64 {
        self.data_blocks + 1
    }
}

/// The root image with `guest` as its only service.
pub(crate) fn make(recipe: &Recipe, packages: &Packages, guest: &[u8]) -> Result<Root> {
    let roles: Vec<&str> = recipe.root.packages.iter().map(String::as_str).collect();
    let mut packaged = Tree::default();
    for path in packages.fetch(&roles)? {
        packaged.merge(packages::read_tree(&path)?);
    }
    let tree = compose(recipe, &packaged, guest)?;
    check_libraries(&tree)?;
    seal(recipe, &tree)
}

/// What mkfs.erofs says that it is.
pub(crate) fn mkfs_version() -> Result<String> {
    super::version_of("mkfs.erofs", "--version")
}

fn compose(recipe: &Recipe, packaged: &Tree, guest: &[u8]) -> Result<Tree> {
    let mut tree = Tree::default();
    for folder in &recipe.root.folders {
        tree.folder(folder);
    }
    for (link, target) in [("lib", "usr/lib"), ("lib64", "usr/lib64"), ("sbin", "usr/sbin"), ("etc/mtab", "/proc/self/mounts")] {
        tree.insert(link, Node::Link(target.to_owned()));
    }
    for path in &recipe.root.files {
        let node = packaged.resolve(path).with_context(|| format!("{path} in the packages of the root image"))?;
        let Node::File { mode, bytes } = node else { bail!("{path} of the root image is not a file") };
        // Nothing here is setuid, whatever its package says: only the permission bits were kept.
        tree.insert(path, Node::File { mode: *mode, bytes: bytes.clone() });
    }
    tree.insert("usr/sbin/casemate-guest", Node::File { mode: 0o755, bytes: guest.to_vec() });
    Ok(tree)
}

/// Every library that a program in the image asks for is in the image.
fn check_libraries(tree: &Tree) -> Result<()> {
    for (path, node) in tree.iter() {
        let Node::File { bytes, .. } = node else { continue };
        for library in elf::needed(bytes).with_context(|| format!("reading {path} as a program"))? {
            let places = [format!("usr/lib/x86_64-linux-gnu/{library}"), format!("usr/lib64/{library}")];
            if !places.iter().any(|place| tree.find(place).is_some()) {
                bail!("{path} needs {library}, which the root image lacks (hint: add it to guest-os/recipe.toml)");
            }
        }
    }
    Ok(())
}

fn seal(recipe: &Recipe, tree: &Tree) -> Result<Root> {
    let uuid = parse_uuid(&recipe.root.uuid)?;
    let salt: [u8; 32] = Sha256::digest(SALT_LABEL).into();
    let mut image = erofs(recipe, tree)?;
    image.resize(image.len().next_multiple_of(verity::BLOCK), 0);
    let data_blocks = (image.len() / verity::BLOCK) as u64;
    let hashes = verity::hash_tree(&image, &salt);
    image.extend_from_slice(&verity::superblock(data_blocks, &salt, &uuid));
    image.extend_from_slice(&hashes.blocks);
    Ok(Root { image, root_hash: hex::encode(hashes.root_hash), salt: hex::encode(salt), data_blocks })
}

fn erofs(recipe: &Recipe, tree: &Tree) -> Result<Vec<u8>> {
    let work = tempfile::tempdir().context("making a folder for the root image")?;
    let (top, image) = (work.path().join("root"), work.path().join("root.erofs"));
    std::fs::create_dir(&top).context("making the top of the root image")?;
    tree.write_to(&top)?;
    // Fixed times, owners and UUID, and no extended attributes of the host's (labels).
    let mut command = Command::new("mkfs.erofs");
    command.args(["-T0", "-x-1", "--all-root", "-U", &recipe.root.uuid]).args([&image, &top]);
    process::output(&mut command)?;
    files::read(&image)
}

fn parse_uuid(text: &str) -> Result<[u8; 16]> {
    let bytes = hex::decode(text.replace('-', "")).ok();
    bytes.and_then(|bytes| bytes.try_into().ok()).with_context(|| format!("{text:?} in guest-os/recipe.toml is not a UUID"))
}

const SALT_LABEL: &[u8] = b"casemate/root-salt/v1";

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe() -> Recipe {
        Recipe::parse(include_str!("../../../../guest-os/recipe.toml")).unwrap()
    }

    fn packaged(recipe: &Recipe) -> Tree {
        let mut tree = Tree::default();
        for path in &recipe.root.files {
            tree.insert(path, Node::File { mode: 0o755, bytes: path.repeat(900).into_bytes() });
        }
        tree
    }

    #[test]
    fn two_builds_of_the_same_inputs_are_identical() {
        let recipe = recipe();
        let tree = compose(&recipe, &packaged(&recipe), b"guest").unwrap();
        let first = seal(&recipe, &tree).unwrap();
        assert_eq!(first, seal(&recipe, &tree).unwrap());
        let other = compose(&recipe, &packaged(&recipe), b"guess").unwrap();
        assert_ne!(first.root_hash, seal(&recipe, &other).unwrap().root_hash);
    }

    #[test]
    fn the_root_image_holds_no_shell_no_login_and_no_package_manager() {
        let recipe = recipe();
        let tree = compose(&recipe, &packaged(&recipe), b"guest").unwrap();
        for name in ["bash", "sh", "busybox", "login", "getty", "sulogin", "apt", "dpkg", "su", "sudo"] {
            assert!(!tree.iter().any(|(path, _)| path.rsplit('/').next() == Some(name)), "{name}");
        }
    }

    #[test]
    fn a_program_without_its_library_is_refused_by_name() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let mut tree = Tree::default();
        tree.insert("usr/sbin/mke2fs", Node::File { mode: 0o755, bytes: own });
        let error = check_libraries(&tree).unwrap_err().to_string();
        assert!(error.contains("usr/sbin/mke2fs needs lib"), "{error}");
    }
}
