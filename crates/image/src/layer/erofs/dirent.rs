//! Blocks of folder entries: an array of 12-byte entries, then their names; sorted bytewise across all blocks.

use super::super::{BLOCK, tree::Body};

/// An entry of a folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct DirEntry<'t> {
    pub(super) name: &'t [u8],
    pub(super) nid: u64,
    pub(super) file_type: u8,
}

/// The folder's content from its sorted entries: all blocks but the last are padded.
pub(super) fn encode(entries: &[DirEntry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        let count = fitting(rest.iter().map(|entry| entry.name.len()));
        let (block, after) = rest.split_at(count);
        encode_block(block, &mut out);
        rest = after;
    }
    out
}

/// Length of [`encode`]'s result for entries with names of these lengths.
pub(super) fn encoded_len(mut name_lens: &[usize]) -> usize {
    let mut len = 0usize;
    while !name_lens.is_empty() {
        let count = fitting(name_lens.iter().copied());
        let (block, after) = name_lens.split_at(count);
        len = len.next_multiple_of(BLOCK) + block.iter().map(|name| ENTRY + name).sum::<usize>();
        name_lens = after;
    }
    len
}

pub(super) fn file_type(body: &Body) -> u8 {
    match body {
        Body::File(_) => 1,
        Body::Directory(_) => DIRECTORY,
        Body::CharDevice(_) => 3,
        Body::BlockDevice(_) => 4,
        Body::Fifo => 5,
        Body::Symlink(_) => 7,
    }
}

/// How many entries of the given name lengths fit into one block. Names have at most 255 bytes, so that it is never 0.
fn fitting(name_lens: impl Iterator<Item = usize>) -> usize {
    let ends = name_lens.scan(0, |end, len| {
        *end += ENTRY + len;
        Some(*end)
    });
    ends.take_while(|end| *end <= BLOCK).count()
}

fn encode_block(entries: &[DirEntry<'_>], out: &mut Vec<u8>) {
    let mut name_at = entries.len() * ENTRY;
    for entry in entries {
        out.extend(entry.nid.to_le_bytes());
        out.extend(u16::try_from(name_at).expect("names are inside the block").to_le_bytes());
        out.extend([entry.file_type, 0]);
        name_at += entry.name.len();
    }
    for entry in entries {
        out.extend_from_slice(entry.name);
    }
}

pub(super) const DIRECTORY: u8 = 2;
const ENTRY: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_known_before_the_numbers_are() {
        for count in [1usize, 16, 17, 200, 1000] {
            let names: Vec<Vec<u8>> = (0..count).map(|i| vec![b'a'; 1 + i * 37 % 255]).collect();
            let entries: Vec<_> = names.iter().map(|name| DirEntry { name, nid: 7, file_type: 1 }).collect();
            let lens: Vec<_> = names.iter().map(Vec::len).collect();
            assert_eq!(encode(&entries).len(), encoded_len(&lens));
        }
    }
}
