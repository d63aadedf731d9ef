//! The files of a `.deb`, as a tree in the merged `/usr` layout.

use std::{
    io::{Cursor, Read as _},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use tar::{Archive, EntryType};

use crate::{
    process,
    tree::{Node, Tree},
};

/// Top folders that are links into `/usr` on a merged system; older packages still ship files in them.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];

/// The files of the package at `path`.
pub(crate) fn read_tree(path: &Path) -> Result<Tree> {
    let bytes = process::output(Command::new("dpkg-deb").arg("--fsys-tarfile").arg(path))?;
    let mut tree = Tree::default();
    let mut archive = Archive::new(Cursor::new(bytes));
    let entries = archive.entries().with_context(|| format!("reading {}", path.display()))?;
    for entry in entries {
        add_entry(&mut tree, &mut entry.with_context(|| format!("reading {}", path.display()))?)?;
    }
    Ok(tree)
}

fn add_entry(tree: &mut Tree, entry: &mut tar::Entry<'_, impl std::io::Read>) -> Result<()> {
    let path = entry.path().context("reading the path of a packaged file")?;
    let path = merged(path.to_str().context("a packaged file's name is not UTF-8")?);
    let mode = entry.header().mode().with_context(|| format!("reading the mode of {path}"))? & 0o777;
    let link = entry.link_name().with_context(|| format!("reading the target of {path}"))?;
    let link = link.map(|target| merged_target(&target.to_string_lossy())).unwrap_or_default();
    match entry.header().entry_type() {
        _ if path.is_empty() => {}
        EntryType::Directory => tree.insert(&path, Node::Folder { mode }),
        EntryType::Regular => {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).with_context(|| format!("reading {path}"))?;
            tree.insert(&path, Node::File { mode, bytes });
        }
        EntryType::Symlink => tree.insert(&path, Node::Link(link)),
        EntryType::Link => {
            let target = tree.find(&merged(&link)).cloned().with_context(|| format!("{path} is a hard link to nothing"))?;
            tree.insert(&path, target);
        }
        other => bail!("{path} is of a kind that is not expected in a package: {other:?}"),
    }
    Ok(())
}

fn merged(path: &str) -> String {
    let path = path.trim_start_matches("./").trim_matches('/');
    let top = path.split('/').next().unwrap_or_default();
    if MERGED.contains(&top) { format!("usr/{path}") } else { path.to_owned() }
}

/// An absolute target moves like the file that it names; a relative one stays right, as both ends move.
fn merged_target(target: &str) -> String {
    if target.starts_with('/') { format!("/{}", merged(target)) } else { target.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::{merged, merged_target};

    #[test]
    fn paths_move_below_usr() {
        assert_eq!(merged("./lib/x86_64-linux-gnu/libc.so.6"), "usr/lib/x86_64-linux-gnu/libc.so.6");
        assert_eq!(merged("./usr/lib64/"), "usr/lib64");
        assert_eq!(merged("./library"), "library");
        assert_eq!(merged("./"), "");
        assert_eq!(merged_target("/lib/x86_64-linux-gnu/ld.so"), "/usr/lib/x86_64-linux-gnu/ld.so");
        assert_eq!(merged_target("libc-2.36.so"), "libc-2.36.so");
    }
}
