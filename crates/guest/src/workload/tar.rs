//! The output directory as a tar archive (ustar, pax for long names), in chunks and without a second thread.

use std::{
    collections::VecDeque,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read as _},
    mem,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use tar::{Builder, EntryType, Header};

/// Yields the archive's bytes in chunks of at most [`CHUNK`]. The directory must not change meanwhile.
pub(crate) struct Archive {
    root: PathBuf,
    waiting: VecDeque<PathBuf>,
    buffer: Vec<u8>,
    file: Option<(File, u64)>,
    end: End,
}

#[derive(PartialEq, Eq)]
enum End {
    Ahead,
    Written,
}

impl Archive {
    /// Of everything under `root`, in the order of names. Regular files, directories and symbolic links are taken, the
    /// rest is left out.
    pub(crate) fn of(root: &Path) -> io::Result<Self> {
        let waiting = walk(root)?;
        Ok(Self { root: root.into(), waiting, buffer: Vec::new(), file: None, end: End::Ahead })
    }

    /// Adds to the buffer; nothing added means the end.
    fn step(&mut self) -> io::Result<()> {
        if let Some((file, left)) = self.file.take() {
            return self.copy(file, left);
        }
        match self.waiting.pop_front() {
            Some(path) => self.begin(&path),
            None if self.end == End::Ahead => {
                self.end = End::Written;
                self.buffer.extend_from_slice(&[0; 2 * BLOCK]);
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn begin(&mut self, path: &Path) -> io::Result<()> {
        let full = self.root.join(path);
        let metadata = fs::symlink_metadata(&full)?;
        let (kind, size, link) = match metadata.file_type() {
            kind if kind.is_dir() => (EntryType::Directory, 0, None),
            kind if kind.is_symlink() => (EntryType::Symlink, 0, Some(fs::read_link(&full)?)),
            _ => (EntryType::Regular, metadata.len(), None),
        };
        self.header(path, kind, &metadata, size, link.as_deref())?;
        if kind == EntryType::Regular && size > 0 {
            let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(full)?;
            self.file = Some((file, size));
        }
        Ok(())
    }

    fn header(&mut self, path: &Path, kind: EntryType, metadata: &Metadata, size: u64, link: Option<&Path>) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(metadata.mode() & 0o777);
        header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
        header.set_uid(0);
        header.set_gid(0);
        let mut long: Vec<(&str, Vec<u8>)> = Vec::new();
        let name = name_of(path, kind);
        if header.set_path(&name).is_err() {
            long.push(("path", name.as_os_str().as_bytes().to_vec()));
            header.set_path("long-name")?;
        }
        if let Some(link) = link
            && header.set_link_name_literal(link.as_os_str().as_bytes()).is_err()
        {
            long.push(("linkpath", link.as_os_str().as_bytes().to_vec()));
        }
        if size > MAX_OCTAL {
            long.push(("size", size.to_string().into_bytes()));
        }
        header.set_size(size.min(MAX_OCTAL));
        header.set_cksum();
        let mut builder = Builder::new(mem::take(&mut self.buffer));
        builder.append_pax_extensions(long.iter().map(|(key, value)| (*key, value.as_slice())))?;
        builder.get_mut().extend_from_slice(header.as_bytes());
        // `into_inner` would write the archive's end.
        self.buffer = mem::take(builder.get_mut());
        Ok(())
    }

    fn copy(&mut self, mut file: File, left: u64) -> io::Result<()> {
        let want = left.min((CHUNK - self.buffer.len().min(CHUNK - 1)) as u64);
        let read = (&mut file).take(want).read_to_end(&mut self.buffer)? as u64;
        if read < want {
            return Err(io::Error::other("a file of the output became shorter while it was read"));
        }
        if left > read {
            self.file = Some((file, left - read));
        } else {
            self.buffer.resize(self.buffer.len().next_multiple_of(BLOCK), 0);
        }
        Ok(())
    }
}

impl Iterator for Archive {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.buffer.len() < CHUNK {
            let before = self.buffer.len();
            if let Err(error) = self.step() {
                return Some(Err(error));
            }
            if self.buffer.len() == before && self.end == End::Written {
                break;
            }
        }
        if self.buffer.is_empty() {
            return None;
        }
        let rest = self.buffer.split_off(self.buffer.len().min(CHUNK));
        Some(Ok(mem::replace(&mut self.buffer, rest)))
    }
}

/// Paths under `root`, parents before children, within the limits.
fn walk(root: &Path) -> io::Result<VecDeque<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::new()];
    let mut bytes = 0u64;
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let (kind, path) = (entry.file_type()?, dir.join(entry.file_name()));
            if kind.is_dir() {
                dirs.push(path.clone());
            } else if kind.is_file() {
                bytes = bytes.saturating_add(entry.metadata()?.len());
            } else if !kind.is_symlink() {
                continue;
            }
            found.push(path);
            if found.len() > MAX_ENTRIES || bytes > MAX_BYTES {
                return Err(io::Error::other(format!("more than {MAX_ENTRIES} entries or {MAX_BYTES} bytes of output")));
            }
        }
    }
    found.sort();
    Ok(found.into())
}

fn name_of(path: &Path, kind: EntryType) -> PathBuf {
    if kind == EntryType::Directory { path.join("") } else { path.into() }
}

/// Largest part, at most a record.
const CHUNK: usize = 256 << 10;
const BLOCK: usize = 512;
const MAX_OCTAL: u64 = (1 << 33) - 1;
const MAX_ENTRIES: usize = 100_000;
const MAX_BYTES: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn archive(dir: &Path) -> Vec<u8> {
        let chunks: Vec<_> = Archive::of(dir).unwrap().map(Result::unwrap).collect();
        assert!(chunks.iter().all(|chunk| !chunk.is_empty() && chunk.len() <= CHUNK));
        assert!(chunks[..chunks.len() - 1].iter().all(|chunk| chunk.len() == CHUNK));
        chunks.concat()
    }

    #[test]
    fn another_tar_reads_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let (sub, long) = ("model", "n".repeat(250));
        fs::create_dir(dir.path().join(sub)).unwrap();
        fs::write(dir.path().join(sub).join("big"), vec![7; CHUNK * 2 + 13]).unwrap();
        fs::write(dir.path().join("empty"), []).unwrap();
        fs::write(dir.path().join(&long), b"long").unwrap();
        fs::set_permissions(dir.path().join("empty"), fs::Permissions::from_mode(0o4640)).unwrap();
        symlink("../../etc/passwd", dir.path().join("link")).unwrap();
        symlink("t".repeat(300), dir.path().join("far")).unwrap();
        let bytes = archive(dir.path());
        assert_eq!(bytes.len() % BLOCK, 0);

        let target = tempfile::tempdir().unwrap();
        let mut reader = tar::Archive::new(bytes.as_slice());
        reader.set_preserve_permissions(true);
        reader.unpack(target.path()).unwrap();
        assert_eq!(fs::read(target.path().join("model/big")).unwrap(), vec![7; CHUNK * 2 + 13]);
        assert_eq!(fs::read(target.path().join(&long)).unwrap(), b"long");
        assert_eq!(target.path().join("empty").metadata().unwrap().permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_link(target.path().join("link")).unwrap(), Path::new("../../etc/passwd"));
        assert_eq!(fs::read_link(target.path().join("far")).unwrap(), PathBuf::from("t".repeat(300)));
    }

    #[test]
    fn an_empty_directory_is_an_empty_archive() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(archive(dir.path()), vec![0; 2 * BLOCK]);
    }

    #[test]
    fn pipes_and_sockets_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        assert_eq!(archive(dir.path()), vec![0; 2 * BLOCK]);
    }

    #[test]
    fn refuses_more_than_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("huge")).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert!(Archive::of(dir.path()).is_err());
    }
}
