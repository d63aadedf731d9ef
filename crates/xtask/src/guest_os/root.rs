//! The root image: a small tree as EROFS with a verity hash tree behind it.
//!
//! It holds what the image calls itself and folders to mount on. No program: PID 1 comes with the initrd and stays.

use std::process::Command;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use super::{flavour::Flavour, recipe::Recipe, verity};
use crate::{
    files, process,
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

/// The root image.
pub(crate) fn make(recipe: &Recipe) -> Result<Root> {
    seal(recipe, &compose(recipe))
}

/// What mkfs.erofs says that it is.
pub(crate) fn mkfs_version() -> Result<String> {
    super::version_of("mkfs.erofs", "--version")
}

fn compose(recipe: &Recipe) -> Tree {
    let mut tree = Tree::default();
    for folder in &recipe.root.folders {
        tree.folder(folder);
    }
    tree.insert("etc/os-release", Node::File { mode: 0o644, bytes: os_release(recipe).into_bytes() });
    tree
}

/// One root for both flavours of the kernel: it has the name of our own.
fn os_release(recipe: &Recipe) -> String {
    let (name, version) = (recipe.name(Flavour::Own), recipe.version);
    format!("ID={name}\nNAME=\"Casemate guest OS\"\nVERSION_ID={version}\n")
}

fn seal(recipe: &Recipe, tree: &Tree) -> Result<Root> {
    let uuid = parse_uuid(&recipe.root.uuid)?;
    let salt: [u8; 32] = Sha256::digest(SALT_LABEL).into();
    let mut image = erofs(recipe, tree)?;
    // The tree of a single block would have no level, and its root hash be another kind of thing.
    image.resize(image.len().next_multiple_of(verity::BLOCK).max(2 * verity::BLOCK), 0);
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

    #[test]
    fn two_builds_of_the_same_inputs_are_identical() {
        let first = make(&recipe()).unwrap();
        assert_eq!(first, make(&recipe()).unwrap());
        let mut other = recipe();
        other.version = 9999;
        assert_ne!(first.root_hash, make(&other).unwrap().root_hash);
    }

    #[test]
    fn the_root_image_holds_folders_and_a_name_and_no_program() {
        let tree = compose(&recipe());
        let files: Vec<&str> =
            tree.iter().filter(|(_, node)| !matches!(node, Node::Folder { .. })).map(|(path, _)| path).collect();
        assert_eq!(files, ["etc/os-release"]);
    }

    #[test]
    fn the_smallest_root_still_has_a_hash_tree() {
        let root = make(&recipe()).unwrap();
        assert!(root.data_blocks >= 2);
        let tree = root.image.len() / verity::BLOCK - usize::try_from(root.hash_start_block()).unwrap();
        assert_eq!(tree, 1);
    }
}
