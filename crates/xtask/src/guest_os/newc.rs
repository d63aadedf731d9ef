//! The cpio format of an initrd ("newc"), written so that equal trees give equal bytes.

use crate::tree::{Node, Tree};

const ALIGN: usize = 4;
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFCHR: u32 = 0o020_000;

/// `tree` as an archive: owner root, time zero, inode numbers in order.
pub(crate) fn write(tree: &Tree) -> Vec<u8> {
    let mut out = Vec::new();
    for (number, (path, node)) in (1..).zip(tree.iter()) {
        entry(&mut out, number, path, node);
    }
    header(&mut out, &Fields { inode: 0, mode: 0, links: 1, size: 0, device: (0, 0) }, "TRAILER!!!");
    out
}

struct Fields {
    inode: u32,
    mode: u32,
    links: u32,
    size: usize,
    device: (u32, u32),
}

fn entry(out: &mut Vec<u8>, inode: u32, path: &str, node: &Node) {
    let (mode, links, device, body): (u32, u32, (u32, u32), &[u8]) = match node {
        Node::Folder { mode } => (S_IFDIR | mode, 2, (0, 0), &[]),
        Node::File { mode, bytes } => (S_IFREG | mode, 1, (0, 0), bytes),
        Node::Link(target) => (S_IFLNK | 0o777, 1, (0, 0), target.as_bytes()),
        Node::Device { mode, major, minor } => (S_IFCHR | mode, 1, (*major, *minor), &[]),
    };
    header(out, &Fields { inode, mode, links, size: body.len(), device }, path);
    out.extend_from_slice(body);
    pad(out);
}

fn header(out: &mut Vec<u8>, fields: &Fields, name: &str) {
    let Fields { inode, mode, links, size, device: (major, minor) } = fields;
    let name_length = name.len() + 1;
    // inode, mode, uid, gid, links, time, size, device of the archive (2), device described (2), name, checksum
    out.extend_from_slice(
        format!(
            "070701{inode:08x}{mode:08x}{zero:08x}{zero:08x}{links:08x}{zero:08x}{size:08x}{zero:08x}{zero:08x}{major:08x}{minor:08x}{name_length:08x}{zero:08x}",
            zero = 0
        )
        .as_bytes(),
    );
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(ALIGN), 0);
}

#[cfg(test)]
mod tests {
    use super::write;
    use crate::tree::{Node, Tree};

    #[test]
    fn every_entry_starts_aligned_and_the_trailer_ends_it() {
        let mut tree = Tree::default();
        tree.insert("dev/console", Node::Device { mode: 0o600, major: 5, minor: 1 });
        tree.insert("init", Node::File { mode: 0o755, bytes: b"12345".to_vec() });
        let archive = write(&tree);
        assert_eq!(archive.len() % 4, 0);
        let magics: Vec<usize> =
            archive.windows(6).enumerate().filter(|(_, window)| *window == b"070701").map(|(at, _)| at).collect();
        assert_eq!(magics.len(), 4, "dev, dev/console, init, trailer");
        assert!(magics.iter().all(|at| at % 4 == 0));
        assert!(String::from_utf8_lossy(&archive).contains("TRAILER!!!"));
    }
}
