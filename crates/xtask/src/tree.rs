//! A file tree in memory: what goes into an initrd, a root image or an OCI layer, free of owners, times and order of discovery.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use anyhow::{Context as _, Result, bail};

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// A folder.
    Folder {
        /// Permission bits.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// All of it.
        bytes: Vec<u8>,
    },
    /// A symbolic link to this path.
    Link(String),
    /// A character device.
    Device {
        /// Permission bits.
        mode: u32,
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// Entries by their path, relative to the top (`usr/bin/python3`), in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tree(BTreeMap<String, Node>);

impl Tree {
    /// Adds `node` at `path`, with the folders above it.
    pub(crate) fn insert(&mut self, path: &str, node: Node) {
        let mut end = 0;
        while let Some(slash) = path[end..].find('/') {
            self.0.entry(path[..end + slash].to_owned()).or_insert(Node::Folder { mode: 0o755 });
            end += slash + 1;
        }
        self.0.insert(path.to_owned(), node);
    }

    /// Adds an empty folder.
    pub(crate) fn folder(&mut self, path: &str) {
        self.insert(path, Node::Folder { mode: 0o755 });
    }

    /// The entry at `path`.
    pub(crate) fn find(&self, path: &str) -> Option<&Node> {
        self.0.get(path)
    }

    /// All entries; a folder comes before what is in it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// Adds all of `other`; its entries win.
    pub(crate) fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Keeps the entries that `keep` wants; for a folder only its own path counts.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&str, &Node) -> bool) {
        self.0.retain(|path, node| keep(path, node));
    }

    /// The file that `path` leads to, through symbolic links in its last part.
    pub(crate) fn resolve(&self, path: &str) -> Result<&Node> {
        let mut at = path.to_owned();
        for _ in 0..MAX_LINKS {
            match self.0.get(&at) {
                Some(Node::Link(target)) => at = follow(&at, target),
                Some(node) => return Ok(node),
                None => bail!("there is no {at}"),
            }
        }
        bail!("{path} is a loop of symbolic links")
    }

    /// Writes it to the existing folder `top`. Devices are for archives only.
    pub(crate) fn write_to(&self, top: &Path) -> Result<()> {
        for (path, node) in &self.0 {
            let at = top.join(path);
            write_node(&at, node).with_context(|| format!("writing {}", at.display()))?;
        }
        Ok(())
    }
}

fn write_node(at: &Path, node: &Node) -> Result<()> {
    match node {
        Node::Folder { mode } => {
            fs::create_dir_all(at)?;
            fs::set_permissions(at, fs::Permissions::from_mode(*mode))?;
        }
        Node::File { mode, bytes } => {
            fs::write(at, bytes)?;
            fs::set_permissions(at, fs::Permissions::from_mode(*mode))?;
        }
        Node::Link(target) => symlink(target, at)?,
        Node::Device { .. } => bail!("a device cannot be written to a folder"),
    }
    Ok(())
}

/// Where the link at `path` leads.
fn follow(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = if target.starts_with('/') { Vec::new() } else { path.split('/').collect() };
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

const MAX_LINKS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_above_an_entry_appear_before_it() {
        let mut tree = Tree::default();
        tree.insert("usr/lib/libc.so.6", Node::Link("libc-2.so".into()));
        let paths: Vec<&str> = tree.iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["usr", "usr/lib", "usr/lib/libc.so.6"]);
    }

    #[test]
    fn links_are_followed_and_loops_are_noticed() {
        let mut tree = Tree::default();
        tree.insert("usr/lib/a", Node::Link("../lib64/b".into()));
        tree.insert("usr/lib64/b", Node::File { mode: 0o644, bytes: b"x".to_vec() });
        tree.insert("loop", Node::Link("/loop".into()));
        assert_eq!(tree.resolve("usr/lib/a").unwrap(), tree.find("usr/lib64/b").unwrap());
        assert!(tree.resolve("loop").unwrap_err().to_string().contains("loop"));
    }
}
