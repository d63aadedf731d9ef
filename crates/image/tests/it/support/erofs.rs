//! A reader of EROFS images, from the format's documentation and not from the writer.

use std::collections::BTreeMap;

/// Everything in an image, by path (`""` is the root).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tree(pub(crate) BTreeMap<Vec<u8>, Node>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) nid: u64,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) links: u32,
    pub(crate) device: u32,
    /// Of files and symbolic links.
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    size: u64,
}

impl Tree {
    pub(crate) fn read(image: &[u8]) -> Self {
        let reader = Image(image);
        assert_eq!(reader.u32(1024), 0xE0F5_E1E2, "magic");
        assert_eq!(image[1024 + 12], 12, "block size");
        assert_eq!(reader.u32(1024 + 80), 0, "no incompatible features");
        let mut nodes = BTreeMap::new();
        let root = u64::from(reader.u16(1024 + 14));
        let mut open = vec![(Vec::new(), root, root)];
        while let Some((path, nid, parent)) = open.pop() {
            let (node, bytes) = reader.node(nid);
            if node.mode & 0o170_000 == 0o040_000 {
                for (name, child, kind) in entries(&bytes, node.size) {
                    match name.as_slice() {
                        b"." => assert_eq!((child, kind), (nid, 2)),
                        b".." => assert_eq!((child, kind), (parent, 2)),
                        _ => {
                            let path = if path.is_empty() { name } else { [&path[..], b"/", &name].concat() };
                            assert_eq!(kind, file_type(reader.node(child).0.mode), "{}", path.escape_ascii());
                            open.push((path, child, nid));
                        }
                    }
                }
                nodes.insert(path, node);
            } else {
                nodes.insert(path, Node { content: bytes, ..node });
            }
        }
        let distinct: std::collections::BTreeSet<u64> = nodes.values().map(|node| node.nid).collect();
        assert_eq!(reader.u64(1024 + 16), distinct.len() as u64, "number of inodes");
        Self(nodes)
    }

    pub(crate) fn get(&self, path: impl AsRef<[u8]>) -> &Node {
        let path = path.as_ref();
        self.0.get(path).unwrap_or_else(|| panic!("no {}: {:?}", path.escape_ascii(), self.paths()))
    }

    pub(crate) fn has(&self, path: impl AsRef<[u8]>) -> bool {
        self.0.contains_key(path.as_ref())
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.0.keys().map(|path| path.escape_ascii().to_string()).collect()
    }
}

impl Node {
    pub(crate) fn is_whiteout(&self) -> bool {
        self.mode == 0o020_000 && self.device == 0
    }

    pub(crate) fn is_opaque(&self) -> bool {
        self.xattrs.get(&b"trusted.overlay.opaque"[..]).is_some_and(|value| value == b"y")
    }
}

struct Image<'a>(&'a [u8]);

impl Image<'_> {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.0[at..at + 2].try_into().unwrap())
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn node(&self, nid: u64) -> (Node, Vec<u8>) {
        let at = self.u32(1024 + 40) as usize * 4096 + nid as usize * 32;
        let format = self.u16(at);
        assert_eq!(format & 1, 1, "extended inode");
        let attribute_len = match self.u16(at + 2) {
            0 => 0,
            count => 12 + (usize::from(count) - 1) * 4,
        };
        let mode = self.u16(at + 4);
        let is_device = matches!(mode & 0o170_000, 0o020_000 | 0o060_000);
        let node = Node {
            nid,
            mode,
            uid: self.u32(at + 24),
            gid: self.u32(at + 28),
            mtime: (self.u64(at + 32) as i64, self.u32(at + 40)),
            links: self.u32(at + 44),
            device: if is_device { self.u32(at + 16) } else { 0 },
            content: Vec::new(),
            xattrs: xattrs(&self.0[at + 64..at + 64 + attribute_len]),
            size: self.u64(at + 8),
        };
        let size = node.size as usize;
        let inline = if format >> 1 == 2 { size % 4096 } else { 0 };
        let start = self.u32(at + 16) as usize * 4096;
        let end = at + 64 + attribute_len;
        assert!(inline == 0 || end / 4096 == (end + inline - 1) / 4096, "an inline end crosses a block");
        let whole = if is_device || size == inline { &[] } else { &self.0[start..start + size - inline] };
        (node, [whole, &self.0[end..end + inline]].concat())
    }
}

fn entries(bytes: &[u8], size: u64) -> Vec<(Vec<u8>, u64, u8)> {
    assert_eq!(bytes.len() as u64, size);
    let mut all = Vec::new();
    for block in bytes.chunks(4096) {
        let field = |i: usize| usize::from(u16::from_le_bytes([block[i * 12 + 8], block[i * 12 + 9]]));
        let count = field(0) / 12;
        for i in 0..count {
            let end = if i + 1 < count { field(i + 1) } else { block.len() };
            let name = &block[field(i)..end];
            let name = name.split(|b| *b == 0).next().unwrap();
            let nid = u64::from_le_bytes(block[i * 12..i * 12 + 8].try_into().unwrap());
            all.push((name.to_vec(), nid, block[i * 12 + 10]));
        }
    }
    assert!(all.is_sorted_by(|a, b| a.0 < b.0), "entries are sorted and distinct");
    all
}

fn xattrs(mut area: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let prefixes = [&b""[..], b"user.", b"system.posix_acl_access", b"system.posix_acl_default", b"trusted.", b"", b"security."];
    let mut all = BTreeMap::new();
    area = area.get(12..).unwrap_or(&[]);
    while area.len() >= 4 {
        let (name_len, value_len) = (usize::from(area[0]), usize::from(u16::from_le_bytes([area[2], area[3]])));
        let name = [prefixes[usize::from(area[1])], &area[4..4 + name_len]].concat();
        all.insert(name, area[4 + name_len..4 + name_len + value_len].to_vec());
        area = &area[(4 + name_len + value_len).next_multiple_of(4)..];
    }
    all
}

fn file_type(mode: u16) -> u8 {
    match mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o120_000 => 7,
        other => panic!("mode {other:o}"),
    }
}
