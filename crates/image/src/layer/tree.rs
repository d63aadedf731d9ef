//! The layer's tree, without file content: what the archive's entries amount to.

use std::collections::{BTreeMap, BTreeSet};

use super::{data::Extent, xattr::Xattrs};
use crate::{Limits, error::Refusal};

/// All inodes; the root is the first. Inodes that no name leads to any more stay, unused.
pub(super) struct Tree {
    inodes: Vec<Inode>,
    names: usize,
    name_bytes: u64,
    most_names: usize,
    most_bytes: u64,
}

/// Index of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(u32);

pub(super) struct Inode {
    pub(super) meta: Metadata,
    pub(super) body: Body,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    /// Without the type bits.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime_s: i64,
    pub(super) mtime_ns: u32,
    pub(super) xattrs: Xattrs,
}

pub(super) enum Body {
    Directory(Box<Directory>),
    File(Extent),
    Symlink(Extent),
    CharDevice(u32),
    BlockDevice(u32),
    Fifo,
}

#[derive(Default)]
pub(super) struct Directory {
    pub(super) children: BTreeMap<Box<[u8]>, Id>,
    whiteouts: BTreeSet<Box<[u8]>>,
    opaque: bool,
}

impl Tree {
    pub(super) fn new(limits: &Limits) -> Self {
        let root = Inode::implicit_directory();
        let (most_names, most_bytes) = (limits.entries, limits.metadata_bytes);
        Self { inodes: vec![root], names: 1, name_bytes: 0, most_names, most_bytes }
    }

    pub(super) const ROOT: Id = Id(0);

    pub(super) fn get(&self, id: Id) -> &Inode {
        &self.inodes[id.index()]
    }

    pub(super) fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Counts what an entry costs in memory, within the limits.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.names += 1;
        self.name_bytes += bytes as u64;
        if self.names > self.most_names {
            return Err(Refusal::limit("entries", self.most_names));
        }
        if self.name_bytes > self.most_bytes {
            return Err(Refusal::limit("metadata_bytes", self.most_bytes as usize));
        }
        Ok(())
    }

    /// The folder at `parts`; missing ones on the way are made.
    pub(super) fn make_folders(&mut self, parts: &[&[u8]]) -> Result<Id, Refusal> {
        let mut at = Self::ROOT;
        for part in parts {
            let Some(directory) = self.directory(at) else { return Err(NO_FOLDER.into()) };
            at = match directory.children.get(*part) {
                Some(child) => *child,
                None => {
                    self.charge(part.len())?;
                    let child = self.add(Inode::implicit_directory());
                    self.link(at, part, child);
                    child
                }
            };
        }
        if self.directory(at).is_some() { Ok(at) } else { Err(NO_FOLDER.into()) }
    }

    /// What is at `parts`.
    pub(super) fn find(&self, parts: &[&[u8]]) -> Result<Option<Id>, Refusal> {
        let mut at = Self::ROOT;
        for part in parts {
            let Some(directory) = self.directory(at) else { return Err(NO_FOLDER.into()) };
            match directory.children.get(*part) {
                Some(child) => at = *child,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    /// Puts a new inode to a name; a folder over a folder only changes its metadata.
    pub(super) fn put(&mut self, parent: Id, name: &[u8], inode: Inode) {
        let present = self.directory(parent).and_then(|d| d.children.get(name)).copied();
        match present {
            Some(present) if inode.is_directory() && self.get(present).is_directory() => {
                self.inodes[present.index()].meta = inode.meta;
            }
            _ => {
                let id = self.add(inode);
                self.link(parent, name, id);
            }
        }
    }

    /// Puts an inode to a (further) name.
    pub(super) fn link(&mut self, parent: Id, name: &[u8], id: Id) {
        self.directory_mut(parent).children.insert(name.into(), id);
    }

    pub(super) fn set_root(&mut self, meta: Metadata) {
        self.inodes[0].meta = meta;
    }

    pub(super) fn set_opaque(&mut self, folder: Id) {
        self.directory_mut(folder).opaque = true;
    }

    pub(super) fn set_whiteout(&mut self, folder: Id, name: &[u8]) {
        self.directory_mut(folder).whiteouts.insert(name.into());
    }

    /// Turns marks into what overlayfs reads. Only now, since a whiteout never concerns its own layer, whatever the order.
    pub(super) fn settle(&mut self) {
        let whiteout = self.add(Inode { meta: Metadata::default(), body: Body::CharDevice(0) });
        for at in 0..self.inodes.len() {
            let Body::Directory(directory) = &mut self.inodes[at].body else { continue };
            for name in std::mem::take(&mut directory.whiteouts) {
                let Body::Directory(directory) = &mut self.inodes[at].body else { break };
                let present = *directory.children.entry(name).or_insert(whiteout);
                if let Body::Directory(hidden_below) = &mut self.inodes[present.index()].body {
                    hidden_below.opaque = true;
                }
            }
        }
        for inode in &mut self.inodes {
            if matches!(&inode.body, Body::Directory(directory) if directory.opaque) {
                inode.meta.xattrs = inode.meta.xattrs.with_opaque();
            }
        }
    }

    fn add(&mut self, inode: Inode) -> Id {
        let id = Id(u32::try_from(self.inodes.len()).expect("charge() bounds the number of inodes"));
        self.inodes.push(inode);
        id
    }

    fn directory(&self, id: Id) -> Option<&Directory> {
        match &self.get(id).body {
            Body::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn directory_mut(&mut self, id: Id) -> &mut Directory {
        match &mut self.inodes[id.index()].body {
            Body::Directory(directory) => directory,
            _ => panic!("parents come from make_folders, which returns folders"),
        }
    }
}

impl Id {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

impl Inode {
    pub(super) fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    fn implicit_directory() -> Self {
        Self { meta: Metadata { mode: 0o755, ..Metadata::default() }, body: Body::Directory(Box::default()) }
    }
}

const NO_FOLDER: &str = "a part of its path is not a folder in this layer";
