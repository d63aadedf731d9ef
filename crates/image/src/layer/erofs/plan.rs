//! Where everything goes, before any of it is written.

use super::{
    super::{
        BLOCK,
        data::fits_inline,
        tree::{Body, Directory, Id, Inode, Tree},
    },
    INODE_LEN,
    dirent::{self, DirEntry},
};

/// An inode and its place.
pub(super) struct Planned<'t> {
    pub(super) inode: &'t Inode,
    parent: usize,
    pub(super) links: u32,
    /// In the area of inodes.
    pub(super) offset: usize,
    /// Length of content stored with the inode.
    pub(super) inline: usize,
    pub(super) folder_block: u32,
    pub(super) folder_size: u64,
}

/// Places of all inodes that names lead to.
pub(super) struct Plan<'t> {
    inodes: Vec<Planned<'t>>,
    /// Position in `inodes` by number in the tree.
    positions: Vec<Option<u32>>,
    meta_block: u32,
    meta_len: usize,
}

impl<'t> Plan<'t> {
    /// Folders' blocks begin at `first_block`.
    pub(super) fn new(tree: &'t Tree, first_block: u32) -> Self {
        let mut plan =
            Self { inodes: Vec::new(), positions: vec![None; tree.len()], meta_block: first_block, meta_len: FIRST_SLOT };
        plan.collect(tree);
        for at in 0..plan.inodes.len() {
            plan.place(at);
        }
        plan
    }

    pub(super) fn inodes(&self) -> &[Planned<'t>] {
        &self.inodes
    }

    pub(super) fn meta_block(&self) -> u32 {
        self.meta_block
    }

    /// Of the whole image.
    pub(super) fn blocks(&self) -> u64 {
        u64::from(self.meta_block) + self.meta_len.div_ceil(BLOCK) as u64
    }

    pub(super) fn root_nid(&self) -> u64 {
        self.inodes[0].nid()
    }

    /// The sorted entries of a folder.
    pub(super) fn entries(&self, folder: &Planned<'t>) -> Vec<DirEntry<'t>> {
        let Body::Directory(directory) = &folder.inode.body else { return Vec::new() };
        let dots = [(&b"."[..], folder), (b"..", &self.inodes[folder.parent])];
        let dots = dots.map(|(name, to)| DirEntry { name, nid: to.nid(), file_type: dirent::DIRECTORY });
        let children = directory.children.iter().map(|(name, id)| {
            let to = &self.inodes[self.position(*id)];
            DirEntry { name, nid: to.nid(), file_type: dirent::file_type(&to.inode.body) }
        });
        let mut entries: Vec<_> = dots.into_iter().chain(children).collect();
        entries.sort_by_key(|entry| entry.name);
        entries
    }

    /// Lists what names lead to, level by level, and counts links.
    fn collect(&mut self, tree: &'t Tree) {
        self.add(tree, Tree::ROOT, 0);
        let mut at = 0;
        while at < self.inodes.len() {
            if let Body::Directory(directory) = &self.inodes[at].inode.body {
                for child in directory.children.values() {
                    match self.positions[child.index()] {
                        Some(known) => self.inodes[known as usize].links += 1,
                        None => self.add(tree, *child, at),
                    }
                    if tree.get(*child).is_directory() {
                        self.inodes[at].links += 1;
                    }
                }
            }
            at += 1;
        }
    }

    fn add(&mut self, tree: &'t Tree, id: Id, parent: usize) {
        let inode = tree.get(id);
        self.positions[id.index()] = u32::try_from(self.inodes.len()).ok();
        let links = if inode.is_directory() { 2 } else { 1 };
        self.inodes.push(Planned { inode, parent, links, offset: 0, inline: 0, folder_block: 0, folder_size: 0 });
    }

    fn place(&mut self, at: usize) {
        let planned = &mut self.inodes[at];
        match &planned.inode.body {
            Body::Directory(directory) => {
                let len = folder_len(directory);
                let end = len % BLOCK;
                planned.inline = if end > 0 && fits_inline(&planned.inode.meta, end) { end } else { 0 };
                planned.folder_size = len as u64;
                planned.folder_block = self.meta_block;
                let blocks = (len - planned.inline).div_ceil(BLOCK);
                self.meta_block = self.meta_block.saturating_add(u32::try_from(blocks).unwrap_or(u32::MAX));
            }
            Body::File(extent) | Body::Symlink(extent) => planned.inline = extent.tail_len(),
            Body::CharDevice(_) | Body::BlockDevice(_) | Body::Fifo => {}
        }
        let attributes = planned.inode.meta.xattrs.encoded_len();
        // What must lie in one block: with an inline end everything, else the inode alone.
        let together = if planned.inline > 0 { INODE_LEN + attributes + planned.inline } else { INODE_LEN };
        let mut offset = self.meta_len.next_multiple_of(SLOT);
        if offset % BLOCK + together > BLOCK {
            offset = offset.next_multiple_of(BLOCK);
        }
        planned.offset = offset;
        self.meta_len = offset + INODE_LEN + attributes + planned.inline;
    }

    fn position(&self, id: Id) -> usize {
        self.positions[id.index()].expect("collect() visited every child") as usize
    }
}

impl Planned<'_> {
    fn nid(&self) -> u64 {
        (self.offset / SLOT) as u64
    }
}

fn folder_len(directory: &Directory) -> usize {
    let mut names: Vec<&[u8]> = directory.children.keys().map(AsRef::as_ref).chain([&b"."[..], b".."]).collect();
    names.sort_unstable();
    let lens: Vec<usize> = names.into_iter().map(<[u8]>::len).collect();
    dirent::encoded_len(&lens)
}

const SLOT: usize = 32;
/// Number 0 is no inode to user space.
const FIRST_SLOT: usize = SLOT;
