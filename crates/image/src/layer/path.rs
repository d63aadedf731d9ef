//! Names in archives.

use crate::{Limits, error::Refusal};

/// The parts of a path, taken as relative to the layer's root; none for the root itself.
pub(super) fn parts<'p>(path: &'p [u8], limits: &Limits) -> Result<Vec<&'p [u8]>, Refusal> {
    if path.len() > limits.path_bytes {
        return Err(Refusal::limit("path_bytes", limits.path_bytes));
    }
    if path.contains(&0) {
        return Err("its name contains NUL".into());
    }
    let parts: Vec<_> = path.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.len() > limits.path_depth {
        return Err(Refusal::limit("path_depth", limits.path_depth));
    }
    for part in &parts {
        if *part == b".." {
            return Err("its name has a \"..\" part: path traversal".into());
        }
        if part.len() > MAX_NAME {
            return Err("a part of its name is longer than 255 bytes".into());
        }
    }
    Ok(parts)
}

/// What the last part of a name means to layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name<'p> {
    Plain(&'p [u8]),
    Whiteout(&'p [u8]),
    Opaque,
}

/// Reads whiteouts; none for an entry that layers leave out.
pub(super) fn meaning<'p>(parents: &[&[u8]], name: &'p [u8]) -> Result<Option<Name<'p>>, Refusal> {
    if parents.iter().any(|part| part.starts_with(META_PREFIX)) {
        return Ok(None);
    }
    if parents.iter().any(|part| part.starts_with(PREFIX)) {
        return Err("it is inside of a whiteout".into());
    }
    match name.strip_prefix(PREFIX) {
        None => Ok(Some(Name::Plain(name))),
        Some(b".wh..opq") => Ok(Some(Name::Opaque)),
        Some(_) if name.starts_with(META_PREFIX) => Ok(None),
        Some(b"" | b"." | b"..") => Err("it is a whiteout of nothing".into()),
        Some(hidden) => Ok(Some(Name::Whiteout(hidden))),
    }
}

const MAX_NAME: usize = 255;
const PREFIX: &[u8] = b".wh.";
const META_PREFIX: &[u8] = b".wh..wh.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_relative_to_the_root_and_never_leave_it() {
        let limits = Limits::default();
        let read = |path: &'static [u8]| parts(path, &limits).ok();
        assert_eq!(read(b"./a//b/").unwrap(), [b"a", b"b"]);
        assert_eq!(read(b"/a").unwrap(), [b"a"]);
        assert!(read(b"./").unwrap().is_empty() && read(b"").unwrap().is_empty());
        assert_eq!(read(b"..a/...").unwrap(), [&b"..a"[..], b"..."]);
        for bad in [&b"../x"[..], b"a/../x", b"..", b"/..", b"a\0b"] {
            assert!(read(bad).is_none(), "{}", bad.escape_ascii());
        }
        assert!(parts(&[b'a'; 256], &limits).is_err() && parts(&[b'a'; 255], &limits).is_ok());
        assert!(matches!(parts(&[b'/'; 4097], &limits), Err(Refusal::Limit(_))));
        assert!(matches!(parts(&b"a/".repeat(129), &limits), Err(Refusal::Limit(_))));
    }

    #[test]
    fn whiteouts_are_told_from_names() {
        let of = |name: &'static [u8]| meaning(&[], name);
        assert_eq!(of(b".wh.x").unwrap(), Some(Name::Whiteout(b"x")));
        assert_eq!(of(b".wh..wh..opq").unwrap(), Some(Name::Opaque));
        assert_eq!(of(b".wh..wh.plnk").unwrap(), None);
        assert_eq!(of(b".whx").unwrap(), Some(Name::Plain(b".whx")));
        assert_eq!(meaning(&[b".wh..wh.plnk"], b"1.2").unwrap(), None);
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert!(of(bad).is_err());
        }
        assert!(meaning(&[b".wh.a"], b"b").is_err());
    }
}
