//! An initrd (cpio, "newc") of folders and programs, with the libraries that the programs need.

use std::{collections::BTreeMap, path::Path, process::Command};

use super::read;

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

/// What goes into an initrd.
#[derive(Debug, Default)]
pub struct Archive(BTreeMap<String, (u32, Vec<u8>)>);

impl Archive {
    /// Adds a file, and the folders above it.
    pub fn file(&mut self, path: &str, bytes: Vec<u8>) {
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert((FOLDER, Vec::new()));
        }
        self.0.insert(path.to_owned(), (FILE, bytes));
    }

    /// Adds a program and its libraries, as the dynamic linker of this machine finds them.
    pub fn program(&mut self, path: &str, from: &Path) {
        self.file(path, read(from));
        let output = Command::new("ldd").arg(from).output().expect("ldd is in the package libc-bin");
        assert!(output.status.success(), "ldd {}: {}", from.display(), String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("ldd writes paths");
        for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
            self.file(library.trim_start_matches('/'), read(Path::new(library)));
        }
    }

    /// The archive's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, (path, (mode, bytes))) in (1..).zip(&self.0) {
            entry(&mut out, number, path, *mode, bytes);
        }
        entry(&mut out, 0, "TRAILER!!!", 0, &[]);
        out
    }
}

fn entry(out: &mut Vec<u8>, inode: u32, path: &str, mode: u32, bytes: &[u8]) {
    let fields = [inode, mode, 0, 0, 1, 0, bytes.len() as u32, 0, 0, 0, 0, path.len() as u32 + 1, 0];
    out.extend_from_slice(b"070701");
    out.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
}
