//! The Merkle tree over the instances that one node quote covers (RFC 6962, section 2.1, hash SHA-256).
//!
//! Leaves are domain-separated digests already (see [`crate::instance::instance_leaf`]); inner nodes are
//! `SHA-256(0x01 || left || right)`.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::Sha256Digest;

/// Most instances in one batch.
pub const MAX_LEAVES: u32 = 4096;

/// Where a leaf stands, and its siblings from the leaf up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InclusionPath {
    /// Index of the leaf, from 0.
    pub index: u32,
    /// Number of leaves.
    pub count: u32,
    /// Sibling digests, lowest first; at most 12.
    #[serde(deserialize_with = "crate::instance::serde_list::deserialize")]
    pub siblings: Vec<crate::instance::Pcr>,
}

/// The root over `leaves`; `None` when there are none or more than [`MAX_LEAVES`].
pub fn root(leaves: &[Sha256Digest]) -> Option<Sha256Digest> {
    match leaves.len() {
        0 => None,
        n if n > MAX_LEAVES as usize => None,
        1 => Some(leaves[0]),
        n => {
            let (left, right) = leaves.split_at(split(n));
            Some(node(&root(left)?, &root(right)?))
        }
    }
}

/// The path of leaf `index`; `None` where there is no such leaf.
pub fn path(leaves: &[Sha256Digest], index: usize) -> Option<InclusionPath> {
    fn siblings(leaves: &[Sha256Digest], index: usize, out: &mut Vec<crate::instance::Pcr>) -> Option<()> {
        if leaves.len() == 1 {
            return Some(());
        }
        let at = split(leaves.len());
        let (left, right) = leaves.split_at(at);
        if index < at {
            siblings(left, index, out)?;
            out.push(crate::instance::Pcr(root(right)?));
        } else {
            siblings(right, index - at, out)?;
            out.push(crate::instance::Pcr(root(left)?));
        }
        Some(())
    }
    if index >= leaves.len() || leaves.len() > MAX_LEAVES as usize {
        return None;
    }
    let mut out = Vec::new();
    siblings(leaves, index, &mut out)?;
    Some(InclusionPath { index: u32::try_from(index).ok()?, count: u32::try_from(leaves.len()).ok()?, siblings: out })
}

/// The root that `leaf` and `path` lead to; `None` where the path does not fit its own index and count
/// (RFC 9162, section 2.1.3.2).
pub fn root_of(leaf: &Sha256Digest, path: &InclusionPath) -> Option<Sha256Digest> {
    if path.count == 0 || path.count > MAX_LEAVES || path.index >= path.count {
        return None;
    }
    let (mut at, mut last, mut hash) = (path.index, path.count - 1, *leaf);
    for sibling in &path.siblings {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = node(&sibling.0, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, &sibling.0);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

fn split(n: usize) -> usize {
    n.next_power_of_two() / 2
}

fn node(left: &Sha256Digest, right: &Sha256Digest) -> Sha256Digest {
    let mut hash = Sha256::new();
    hash.update([0x01]);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_leads_to_the_root_and_no_other_does() {
        for n in 1u8..40 {
            let leaves: Vec<_> = (0..n).map(|i| [i; 32]).collect();
            let top = root(&leaves).unwrap();
            for i in 0..leaves.len() {
                let p = path(&leaves, i).unwrap();
                assert_eq!(root_of(&leaves[i], &p), Some(top), "leaf {i} of {n}");
                assert_ne!(root_of(&[0xff; 32], &p), Some(top));
                if n > 1 {
                    let moved = InclusionPath { index: (p.index + 1) % p.count, ..p.clone() };
                    assert_ne!(root_of(&leaves[i], &moved), Some(top), "leaf {i} of {n} moved");
                    let mut short = p.clone();
                    short.siblings.pop();
                    assert_eq!(root_of(&leaves[i], &short), None);
                }
            }
        }
    }

    #[test]
    fn refuses_batches_of_none_or_too_many() {
        assert_eq!(root(&[]), None);
        assert_eq!(path(&[], 0), None);
        let many = vec![[1; 32]; MAX_LEAVES as usize + 1];
        assert_eq!(root(&many), None);
        assert_eq!(path(&many, 0), None);
        assert!(root(&many[1..]).is_some());
    }

    #[test]
    fn the_largest_batch_has_paths_of_twelve() {
        let leaves: Vec<_> = (0..MAX_LEAVES).map(|i| [i.to_le_bytes(); 8].concat().try_into().unwrap()).collect();
        let p = path(&leaves, 4095).unwrap();
        assert_eq!(p.siblings.len(), 12);
        assert_eq!(root_of(&leaves[4095], &p), root(&leaves));
    }

    /// An inner node must not pass for an instance: leaves are hashes with the prefix 0x00, nodes with 0x01, and a path that is too
    /// short or too long for its count leads nowhere.
    #[test]
    fn an_inner_node_is_no_leaf_of_the_same_batch() {
        let leaves: Vec<_> = (0u8..4).map(|i| [i; 32]).collect();
        let inner = node(&leaves[0], &leaves[1]);
        let mut p = path(&leaves, 0).unwrap();
        p.siblings.remove(0);
        assert_eq!(root_of(&inner, &p), None);
    }

    proptest::proptest! {
        #[test]
        fn no_path_makes_it_panic(
            index in 0u32..,
            count in 0u32..,
            siblings in proptest::collection::vec(proptest::array::uniform32(0u8..), 0..40),
        ) {
            let siblings = siblings.into_iter().map(crate::instance::Pcr).collect();
            let _ = root_of(&[0; 32], &InclusionPath { index, count, siblings });
        }

        #[test]
        fn an_altered_sibling_leads_elsewhere(n in 2usize..200, at in 0usize..200, which in 0usize..12, flip in 1u8..) {
            let leaves: Vec<_> = (0..n).map(|i| [u8::try_from(i).unwrap(); 32]).collect();
            let at = at % n;
            let mut p = path(&leaves, at).unwrap();
            let which = which % p.siblings.len();
            p.siblings[which].0[0] ^= flip;
            proptest::prop_assert_ne!(root_of(&leaves[at], &p), root(&leaves));
        }
    }
}
