//! Arbitrary trees and arbitrary bytes.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use crate::support::{
    Bench,
    tarball::{Item, Tar},
};

/// What a path should be in the end: a folder, or a file with this content.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    Folder { mode: u16 },
    File { mode: u16, uid: u32, content: Vec<u8> },
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => prop::sample::select(vec![b"a".to_vec(), b"b".to_vec(), b"c".to_vec(), b"-".to_vec(), b"\xc3\x28".to_vec()]),
        1 => vec(any::<u8>(), 1..255),
    ]
    .prop_filter("names that mean themselves", |name| {
        !name.contains(&0) && !name.contains(&b'/') && name != b"." && name != b".." && !name.starts_with(b".wh.")
    })
}

type Step = (Vec<Vec<u8>>, Option<Vec<u8>>, u16, u32);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let content = prop::option::of(vec(any::<u8>(), 0..9000));
    vec((vec(name(), 1..4), content, 0..0o10000u16, 0..u32::MAX), 0..40)
}

/// The model: a map of paths. A step whose parent is a file is left out.
fn apply(model: &mut BTreeMap<Vec<u8>, Expected>, (parts, content, mode, uid): &Step) -> bool {
    let parents: Vec<Vec<u8>> = (1..parts.len()).map(|n| parts[..n].join(&b'/')).collect();
    if parents.iter().any(|parent| matches!(model.get(parent), Some(Expected::File { .. }))) {
        return false;
    }
    for parent in parents {
        model.entry(parent).or_insert(Expected::Folder { mode: 0o755 });
    }
    let path = parts.join(&b'/');
    let new = match content {
        Some(content) => Expected::File { mode: *mode, uid: *uid, content: content.clone() },
        None => Expected::Folder { mode: *mode },
    };
    if content.is_some() {
        let below = [&path[..], b"/"].concat();
        model.retain(|other, _| !other.starts_with(&below));
    }
    model.insert(path, new);
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_trees_arrive_as_they_were_meant(steps in steps()) {
        let mut model = BTreeMap::new();
        let mut tar = Tar::new();
        for step in &steps {
            if !apply(&mut model, step) {
                continue;
            }
            let (parts, content, mode, uid) = step;
            let path = parts.join(&b'/');
            let item = match content {
                Some(content) => Item::file(path, content).ids(u64::from(*uid), 0),
                None => Item::dir(path),
            };
            tar = tar.add(item.mode(u64::from(*mode)));
        }
        let tree = Bench::new().tree(&tar.end());
        let found: BTreeMap<Vec<u8>, Expected> = tree.0.into_iter().filter(|(path, _)| !path.is_empty()).map(|(path, node)| {
            let mode = node.mode & 0o7777;
            let is_folder = node.mode & 0o170_000 == 0o040_000;
            let folder = Expected::Folder { mode };
            (path, if is_folder { folder } else { Expected::File { mode, uid: node.uid, content: node.content } })
        }).collect();
        prop_assert_eq!(found, model);
    }

    #[test]
    fn arbitrary_bytes_never_panic_nor_leave_anything(bytes in vec(any::<u8>(), 0..4096)) {
        let bench = Bench::new();
        if bench.convert(&bytes).is_err() {
            prop_assert!(bench.remains().is_empty());
        }
    }

    #[test]
    fn damaged_archives_never_panic_nor_leave_anything(
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        fix_sums in any::<bool>(),
    ) {
        let mut tar = crate::golden::fixture();
        for (at, value) in flips {
            let at = at.index(tar.len());
            tar[at] = value;
        }
        if fix_sums {
            for block in tar.chunks_exact_mut(512).filter(|block| &block[257..262] == b"ustar") {
                crate::support::tarball::sum(block.try_into().unwrap());
            }
        }
        let bench = Bench::new();
        match bench.convert(&tar) {
            Ok(layer) => drop(crate::support::erofs::Tree::read(&std::fs::read(layer.path).unwrap())),
            Err(_) => prop_assert!(bench.remains().is_empty()),
        }
    }
}
