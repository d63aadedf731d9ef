//! The initrd: casemate-guest as `/init`, a console, and folders to mount on.

use super::{newc, recipe::Recipe};
use crate::tree::{Node, Tree};

/// The initrd that runs `guest`.
pub(crate) fn make(recipe: &Recipe, guest: &[u8]) -> Vec<u8> {
    let mut tree = Tree::default();
    for folder in &recipe.initrd.folders {
        tree.folder(folder);
    }
    // The kernel opens it for PID 1 before anything is mounted.
    tree.insert("dev/console", Node::Device { mode: 0o600, major: 5, minor: 1 });
    tree.insert("init", Node::File { mode: 0o755, bytes: guest.to_vec() });
    newc::write(&tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_builds_of_the_same_guest_are_identical_and_of_another_are_not() {
        let recipe = Recipe::parse(include_str!("../../../../guest-os/recipe.toml")).unwrap();
        assert_eq!(make(&recipe, b"guest"), make(&recipe, b"guest"));
        assert_ne!(make(&recipe, b"guest"), make(&recipe, b"guess"));
    }
}
