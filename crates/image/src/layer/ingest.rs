//! Entries of an archive become a tree; their content goes to the image.

use std::io::Read;

use super::{
    data::Data,
    path::{self, Name},
    tree::{Body, Inode, Metadata, Tree},
    xattr::Xattrs,
};
use crate::{
    LayerError, Limits,
    error::{LimitHit, Refusal},
    tar::{Entry, Input, Kind, Reader},
};

/// Reads the whole archive, whose files may have the bound's size in sum.
pub(super) fn ingest<R: Input>(
    archive: &mut Reader<'_, R>,
    data: &mut Data,
    limits: &Limits,
    most: LimitHit,
) -> Result<Tree, LayerError> {
    let LimitHit { name, limit } = most;
    let mut tree = Tree::new(limits);
    let mut left = limit;
    while let Some(entry) = archive.next_entry()? {
        // The bound on the stream does not see the holes of sparse files.
        left = left.checked_sub(entry.size).ok_or(LayerError::Limit { name, limit })?;
        add(&mut tree, &entry, archive.content(&entry), data, limits).map_err(|refusal| refusal.at(&entry.path))?;
    }
    tree.settle();
    Ok(tree)
}

fn add(tree: &mut Tree, entry: &Entry, content: impl Read, data: &mut Data, limits: &Limits) -> Result<(), Refusal> {
    let parts = path::parts(&entry.path, limits)?;
    let Some((name, parents)) = parts.split_last() else {
        if entry.kind != Kind::Directory {
            return Err("the layer's root can only be a folder".into());
        }
        let meta = metadata(entry, limits)?;
        tree.charge(meta.xattrs.memory())?;
        tree.set_root(meta);
        return Ok(());
    };
    match path::meaning(parents, name)? {
        None => Ok(()),
        // Overlayfs merges the roots of all layers without looking at this mark.
        Some(Name::Opaque) if parents.is_empty() => Err("a layer's root cannot be opaque".into()),
        Some(Name::Opaque) => {
            let folder = tree.make_folders(parents)?;
            tree.set_opaque(folder);
            Ok(())
        }
        Some(Name::Whiteout(hidden)) => {
            tree.charge(hidden.len())?;
            let folder = tree.make_folders(parents)?;
            tree.set_whiteout(folder, hidden);
            Ok(())
        }
        Some(Name::Plain(name)) if entry.kind == Kind::HardLink => hard_link(tree, entry, parents, name, limits),
        Some(Name::Plain(name)) => {
            let meta = metadata(entry, limits)?;
            tree.charge(name.len() + meta.xattrs.memory())?;
            let parent = tree.make_folders(parents)?;
            let body = body(entry, content, &meta, data)?;
            tree.put(parent, name, Inode { meta, body });
            Ok(())
        }
    }
}

fn hard_link(tree: &mut Tree, entry: &Entry, parents: &[&[u8]], name: &[u8], limits: &Limits) -> Result<(), Refusal> {
    let target_parts = path::parts(&entry.link, limits)?;
    if target_parts.split_last() == Some((&name, parents)) {
        return Err("it is a hard link to itself".into());
    }
    let target = tree.find(&target_parts)?.ok_or("it is a hard link to something that this layer does not have")?;
    if tree.get(target).is_directory() {
        return Err("it is a hard link to a folder".into());
    }
    tree.charge(name.len())?;
    let parent = tree.make_folders(parents)?;
    tree.link(parent, name, target);
    Ok(())
}

fn metadata(entry: &Entry, limits: &Limits) -> Result<Metadata, Refusal> {
    Ok(Metadata {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime_s: entry.mtime_s,
        mtime_ns: entry.mtime_ns,
        xattrs: Xattrs::from_archive(&entry.xattrs, limits)?,
    })
}

fn body(entry: &Entry, content: impl Read, meta: &Metadata, data: &mut Data) -> Result<Body, Refusal> {
    Ok(match entry.kind {
        Kind::Directory => Body::Directory(Box::default()),
        Kind::File => Body::File(data.store(content, entry.size, meta)?),
        Kind::Symlink => {
            let target = entry.link.as_slice();
            if target.is_empty() || target.len() >= MAX_TARGET || target.contains(&0) {
                return Err("its target is empty, too long or contains NUL".into());
            }
            Body::Symlink(data.store(target, target.len() as u64, meta)?)
        }
        Kind::CharDevice => Body::CharDevice(device(entry.device)?),
        Kind::BlockDevice => Body::BlockDevice(device(entry.device)?),
        Kind::Fifo => Body::Fifo,
        Kind::HardLink => return Err("it is a hard link where none can be".into()),
    })
}

/// The kernel's 32-bit form.
fn device((major, minor): (u32, u32)) -> Result<u32, Refusal> {
    if major >= 1 << 12 || minor >= 1 << 20 {
        return Err("its device number is out of range".into());
    }
    Ok((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// Linux reads no longer link.
const MAX_TARGET: usize = 4096;
