//! Extended attributes: which are kept, and their form in EROFS.

use std::collections::BTreeMap;

use crate::{Limits, error::Refusal};

/// Kept attributes: kind of name, rest of the name, value; sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Xattrs(Box<[(Key, Box<[u8]>)]>);

type Key = (u8, Box<[u8]>);

impl Xattrs {
    /// From the full names of an archive; of repeated names the last wins.
    pub(super) fn from_archive(named: &[(Vec<u8>, Vec<u8>)], limits: &Limits) -> Result<Self, Refusal> {
        let mut kept = BTreeMap::new();
        for (name, value) in named {
            if let Some(key) = key(name)? {
                kept.insert(key, value.as_slice());
            }
        }
        let kept = Self(kept.into_iter().map(|(key, value)| (key, value.into())).collect());
        if kept.encoded_len() > limits.xattr_bytes.min(MAX_AREA) {
            return Err(Refusal::limit("xattr_bytes", limits.xattr_bytes.min(MAX_AREA)));
        }
        Ok(kept)
    }

    /// These and the mark of an opaque folder.
    pub(super) fn with_opaque(&self) -> Self {
        let mark = ((TRUSTED, b"overlay.opaque"[..].into()), b"y"[..].into());
        let mut all: Vec<_> = self.0.iter().cloned().chain([mark]).collect();
        all.sort();
        Self(all.into())
    }

    /// About what they cost in memory, which for tiny ones is much more than their text.
    pub(super) fn memory(&self) -> usize {
        self.0.iter().map(|((_, name), value)| 96 + name.len() + value.len()).sum()
    }

    /// Length of the area after the inode; 0 for none.
    pub(super) fn encoded_len(&self) -> usize {
        if self.0.is_empty() {
            return 0;
        }
        HEADER + self.0.iter().map(|((_, name), value)| (4 + name.len() + value.len()).next_multiple_of(4)).sum::<usize>()
    }

    /// `i_xattr_icount` of the inode.
    pub(super) fn count_field(&self) -> u16 {
        match self.encoded_len() {
            0 => 0,
            len => u16::try_from((len - HEADER) / 4 + 1).expect("the area is bounded by MAX_AREA"),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        if !self.0.is_empty() {
            out.resize(HEADER, 0);
        }
        for ((kind, name), value) in &self.0 {
            let value_len = u16::try_from(value.len()).expect("the area is bounded by MAX_AREA");
            out.extend([u8::try_from(name.len()).expect("key() bounds names"), *kind]);
            out.extend(value_len.to_le_bytes());
            out.extend_from_slice(name);
            out.extend_from_slice(value);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }
}

/// The kind and the rest of a name; none for attributes that Linux file systems do not have.
fn key(name: &[u8]) -> Result<Option<Key>, Refusal> {
    match name {
        b"system.posix_acl_access" => return Ok(Some((2, [].into()))),
        b"system.posix_acl_default" => return Ok(Some((3, [].into()))),
        _ if name.starts_with(b"trusted.overlay.") => {
            return Err("it sets trusted.overlay.*, which would rearrange layers".into());
        }
        _ => {}
    }
    let known = [(1, &b"user."[..]), (TRUSTED, b"trusted."), (6, b"security.")];
    let Some((kind, rest)) = known.into_iter().find_map(|(kind, prefix)| Some((kind, name.strip_prefix(prefix)?))) else {
        return Ok(None);
    };
    if rest.is_empty() || name.len() > 255 || name.contains(&0) {
        return Err("an extended attribute's name is empty, too long or contains NUL".into());
    }
    Ok(Some((kind, rest.into())))
}

const TRUSTED: u8 = 4;
/// Of the area; no shared attributes follow it.
const HEADER: usize = 12;
/// Keeps every 16-bit field in range.
const MAX_AREA: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_linux_has_and_refuses_what_rearranges_layers() {
        let limits = Limits::default();
        let named = |names: &[&str]| names.iter().map(|n| (n.as_bytes().to_vec(), b"v".to_vec())).collect::<Vec<_>>();
        let kept = Xattrs::from_archive(&named(&["user.b", "com.apple.x", "user.a", "user.a"]), &limits).unwrap();
        assert_eq!(kept.0.len(), 2);
        assert_eq!(kept.encode().len(), kept.encoded_len());
        assert_eq!(usize::from(kept.count_field() - 1) * 4 + HEADER, kept.encoded_len());
        assert!(Xattrs::from_archive(&named(&["trusted.overlay.redirect"]), &limits).is_err());
        assert!(Xattrs::from_archive(&named(&["user."]), &limits).is_err());
        let large = [(b"user.a".to_vec(), vec![0; 70_000])];
        assert!(matches!(Xattrs::from_archive(&large, &limits), Err(Refusal::Limit(_))));
    }
}
