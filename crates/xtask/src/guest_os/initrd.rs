//! The initrd: casemate-guest as `/init`, a console, folders to mount on, and the modules of a kernel that has some.
//!
//! ```text
//! lib/modules/00-virtio_ring.ko
//! lib/modules/order               one line for each: its file name, then "if-supported" where hardware may lack it
//! ```

use super::{
    distro::{Module, Need},
    newc,
    recipe::Recipe,
};
use crate::tree::{Node, Tree};

/// The initrd that runs `guest`, which loads these modules in this order.
pub(crate) fn make(recipe: &Recipe, guest: &[u8], modules: &[Module]) -> Vec<u8> {
    let mut tree = Tree::default();
    for folder in &recipe.initrd.folders {
        tree.folder(folder);
    }
    // The kernel opens it for PID 1 before anything is mounted.
    tree.insert("dev/console", Node::Device { mode: 0o600, major: 5, minor: 1 });
    tree.insert("init", Node::File { mode: 0o755, bytes: guest.to_vec() });
    add_modules(&mut tree, modules);
    newc::write(&tree)
}

fn add_modules(tree: &mut Tree, modules: &[Module]) {
    let mut order = String::new();
    for (number, module) in modules.iter().enumerate() {
        let file = format!("{number:02}-{}.ko", module.name);
        order += &file;
        order += match module.need {
            Need::Required => "\n",
            Need::IfSupported => " if-supported\n",
        };
        tree.insert(&format!("{MODULES}/{file}"), Node::File { mode: 0o400, bytes: module.bytes.clone() });
    }
    if !modules.is_empty() {
        tree.insert(&format!("{MODULES}/order"), Node::File { mode: 0o400, bytes: order.into_bytes() });
    }
}

const MODULES: &str = "lib/modules";

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str, need: Need) -> Module {
        Module { name: name.into(), need, bytes: name.repeat(100).into_bytes() }
    }

    #[test]
    fn two_builds_of_the_same_inputs_are_identical_and_of_others_are_not() {
        let recipe = Recipe::parse(include_str!("../../../../guest-os/recipe.toml")).unwrap();
        let modules = [module("virtio", Need::Required), module("aesni_intel", Need::IfSupported)];
        let first = make(&recipe, b"guest", &modules);
        assert_eq!(first, make(&recipe, b"guest", &modules));
        assert_ne!(first, make(&recipe, b"guess", &modules));
        assert_ne!(first, make(&recipe, b"guest", &modules[..1]));
        let other_order = [modules[1].clone(), modules[0].clone()];
        assert_ne!(first, make(&recipe, b"guest", &other_order));
    }

    #[test]
    fn modules_are_listed_in_the_order_of_loading() {
        let mut tree = Tree::default();
        add_modules(&mut tree, &[module("virtio", Need::Required), module("aesni_intel", Need::IfSupported)]);
        let file = |path: &str| match tree.find(path) {
            Some(Node::File { bytes, .. }) => String::from_utf8_lossy(bytes).into_owned(),
            other => panic!("{path} is {other:?}"),
        };
        assert_eq!(file("lib/modules/order"), "00-virtio.ko\n01-aesni_intel.ko if-supported\n");
        assert!(file("lib/modules/01-aesni_intel.ko").starts_with("aesni_intelaesni_intel"));
    }

    #[test]
    fn a_kernel_without_modules_gets_no_list() {
        let mut tree = Tree::default();
        add_modules(&mut tree, &[]);
        assert_eq!(tree, Tree::default());
    }
}
