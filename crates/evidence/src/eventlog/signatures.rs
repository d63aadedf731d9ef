//! EFI_SIGNATURE_LIST (UEFI 2.10, section 32.4.1): the content of PK, KEK, db and dbx.

use super::Guid;

/// One list: signatures of one type and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureList<'a> {
    /// Type of its signatures (X.509, SHA-256, …).
    pub kind: Guid,
    size: usize,
    body: &'a [u8],
}

impl<'a> SignatureList<'a> {
    /// Owner and signature, one by one.
    pub fn signatures(&self) -> impl Iterator<Item = (Guid, &'a [u8])> + use<'a> {
        self.body.chunks_exact(self.size).map(|entry| {
            let (owner, signature) = entry.split_at(16);
            (Guid(owner.try_into().expect("split at sixteen")), signature)
        })
    }

    /// How many signatures there are.
    pub fn len(&self) -> usize {
        self.body.len() / self.size
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }
}

/// The lists in the value of such a variable; `None` where it is not made of whole lists.
pub fn signature_lists(mut value: &[u8]) -> Option<Vec<SignatureList<'_>>> {
    let mut lists = Vec::new();
    while !value.is_empty() {
        let size_at = |at: usize| -> Option<usize> {
            let bytes = value.get(at..at + 4)?.try_into().expect("four bytes");
            usize::try_from(u32::from_le_bytes(bytes)).ok()
        };
        let kind = Guid(value.get(..16)?.try_into().expect("sixteen bytes"));
        let (total, header, size) = (size_at(16)?, size_at(20)?, size_at(24)?);
        let (list, rest) = value.split_at_checked(total)?;
        let body = list.get(HEADER.checked_add(header)?..)?;
        if size < 16 || !body.len().is_multiple_of(size) {
            return None;
        }
        lists.push(SignatureList { kind, size, body });
        value = rest;
    }
    Some(lists)
}

/// How many signatures there are in all lists.
pub fn count_signatures(value: &[u8]) -> Option<usize> {
    Some(signature_lists(value)?.iter().map(SignatureList::len).sum())
}

const HEADER: usize = 28;
