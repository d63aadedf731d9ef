//! Archives byte by byte, honest or not.

/// An archive in the making.
#[derive(Clone, Default)]
pub(crate) struct Tar(Vec<u8>);

/// An entry.
#[derive(Clone)]
pub(crate) struct Item {
    path: Vec<u8>,
    kind: u8,
    link: Vec<u8>,
    mode: u64,
    ids: (u64, u64),
    mtime: u64,
    content: Vec<u8>,
    device: (u64, u64),
    pax: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Item {
    fn new(path: impl AsRef<[u8]>, kind: u8) -> Self {
        Self {
            path: path.as_ref().to_vec(),
            kind,
            link: Vec::new(),
            mode: 0o644,
            ids: (0, 0),
            mtime: 1_700_000_000,
            content: Vec::new(),
            device: (0, 0),
            pax: Vec::new(),
        }
    }

    pub(crate) fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        Self { content: content.as_ref().to_vec(), ..Self::new(path, b'0') }
    }

    pub(crate) fn dir(path: impl AsRef<[u8]>) -> Self {
        Self::new(path, b'5').mode(0o755)
    }

    pub(crate) fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..Self::new(path, b'2') }.mode(0o777)
    }

    pub(crate) fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { link: target.as_ref().to_vec(), ..Self::new(path, b'1') }
    }

    pub(crate) fn char_device(path: &str, major: u64, minor: u64) -> Self {
        Self { device: (major, minor), ..Self::new(path, b'3') }
    }

    pub(crate) fn block_device(path: &str, major: u64, minor: u64) -> Self {
        Self { device: (major, minor), ..Self::new(path, b'4') }
    }

    pub(crate) fn fifo(path: &str) -> Self {
        Self::new(path, b'6')
    }

    pub(crate) fn of_kind(path: &str, kind: u8) -> Self {
        Self::new(path, kind)
    }

    pub(crate) fn mode(self, mode: u64) -> Self {
        Self { mode, ..self }
    }

    pub(crate) fn ids(self, uid: u64, gid: u64) -> Self {
        Self { ids: (uid, gid), ..self }
    }

    pub(crate) fn mtime(self, mtime: u64) -> Self {
        Self { mtime, ..self }
    }

    pub(crate) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.into(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    /// The header block, its checksum right.
    pub(crate) fn header(&self) -> [u8; 512] {
        let mut block = [0; 512];
        put(&mut block, 0, &self.path[..self.path.len().min(100)]);
        put(&mut block, 157, &self.link[..self.link.len().min(100)]);
        octal(&mut block, 100..108, self.mode);
        octal(&mut block, 108..116, self.ids.0);
        octal(&mut block, 116..124, self.ids.1);
        octal(&mut block, 124..136, self.content.len() as u64);
        octal(&mut block, 136..148, self.mtime);
        block[156] = self.kind;
        put(&mut block, 257, b"ustar\x0000");
        octal(&mut block, 329..337, self.device.0);
        octal(&mut block, 337..345, self.device.1);
        sum(&mut block);
        block
    }
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn of(items: impl IntoIterator<Item = Item>) -> Vec<u8> {
        items.into_iter().fold(Self::new(), Self::add).end()
    }

    /// An entry, with PAX records for what its header cannot hold.
    pub(crate) fn add(mut self, item: Item) -> Self {
        let mut records = item.pax.clone();
        for (key, value) in [(&b"path"[..], &item.path), (b"linkpath", &item.link)] {
            if value.len() > 100 {
                records.push((key.to_vec(), value.clone()));
            }
        }
        for (key, id) in [(b"uid", item.ids.0), (b"gid", item.ids.1)] {
            if id >= 1 << 21 {
                records.push((key.to_vec(), id.to_string().into_bytes()));
            }
        }
        if !records.is_empty() {
            let text = records.iter().flat_map(|(key, value)| record(key, value)).collect();
            self = self.extension(b'x', text);
        }
        self.raw(&item.header(), &item.content)
    }

    /// A header of the given kind with content, for the entry after it.
    pub(crate) fn extension(self, kind: u8, content: Vec<u8>) -> Self {
        let item = Item { content, ..Item::new("extension", kind) };
        self.raw(&item.header(), &item.content)
    }

    pub(crate) fn raw(mut self, header: &[u8; 512], content: &[u8]) -> Self {
        self.0.extend(header);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

/// Sets the checksum.
pub(crate) fn sum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum = block.iter().map(|b| u64::from(*b)).sum();
    octal(block, 148..155, sum);
}

fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = 3 + key.len() + value.len();
    let length = (1..=20).map(|digits| rest + digits).find(|all| all.to_string().len() + rest == *all).unwrap();
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn put(block: &mut [u8; 512], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

fn octal(block: &mut [u8; 512], range: std::ops::Range<usize>, value: u64) {
    let digits = range.len() - 1;
    let text = format!("{value:0digits$o}");
    put(block, range.start, &text.as_bytes()[text.len() - digits..]);
}
