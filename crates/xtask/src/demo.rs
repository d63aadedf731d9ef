//! `cargo xtask demo-image`: a small real OCI image and a small real data set (target/demo).

mod oci;
mod python;

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use self::oci::{Image, Process};
use crate::{
    digest, elf, files,
    packages::{self, Packages},
    paths::Workspace,
    progress::note,
    tree::{Node, Tree},
};

/// The data set's place in its package.
const DATASET: &str = "usr/lib/python3/dist-packages/sklearn/datasets/data/breast_cancer.csv";
const SCRIPT: &str = "examples/demo/train.py";
const DESCRIPTION: &str = "examples/demo/image.toml";

/// Builds image and data set, or finds that nothing changed.
pub(crate) fn build(workspace: &Workspace, out: &Path) -> Result<()> {
    let text = files::read_text(&workspace.join(DESCRIPTION))?;
    let description: Description = toml::from_str(&text).with_context(|| format!("reading {DESCRIPTION}"))?;
    let packages = Packages::of_this_machine(workspace)?;
    let script = files::read(&workspace.join(SCRIPT))?;
    let stamp = stamp(&description, &packages, &text, &script)?;
    let (image, data, mark) = (out.join("demo.oci"), out.join("data.csv"), out.join(".stamp"));
    if image.is_file() && data.is_file() && files::read_text(&mark).is_ok_and(|kept| kept == stamp) {
        note("demo image", &format!("unchanged in {}", out.display()));
        return Ok(());
    }
    let layers = layers(&description, &packages, &script)?;
    let bytes = Image { layers, process: process() }.archive()?;
    files::write(&image, &bytes)?;
    files::write(&data, &dataset(&packages)?)?;
    note(
        "demo image",
        &format!("{}: {:.1} MiB, {}", image.display(), bytes.len() as f64 / f64::from(1 << 20), digest::of_bytes(&bytes)),
    );
    files::write(&mark, stamp.as_bytes())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    layer: Vec<LayerPart>,
}

/// A layer made of packages.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerPart {
    comment: String,
    /// Roles.
    packages: Vec<String>,
    /// Empty folders.
    #[serde(default)]
    folders: Vec<String>,
    /// What is kept: paths that start with one of these ...
    keep: Vec<String>,
    /// ... and contain none of these.
    drop: Vec<String>,
}

impl LayerPart {
    fn wants(&self, path: &str) -> bool {
        let folder = format!("/{path}/");
        self.keep.iter().any(|start| format!("{path}/").starts_with(start.as_str()))
            && !self.drop.iter().any(|part| folder.contains(part))
    }
}

fn process() -> Process {
    Process {
        user: "65534:65534",
        environment: &["PATH=/usr/bin", "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"],
        entrypoint: &["/usr/bin/python3", "/app/train.py"],
        folder: "/",
    }
}

fn stamp(description: &Description, packages: &Packages, text: &str, script: &[u8]) -> Result<String> {
    let mut debs = String::new();
    let roles = description.layer.iter().flat_map(|layer| &layer.packages).map(String::as_str);
    for role in roles.chain(["dataset"]) {
        debs += &packages.locked(role)?.sha256;
    }
    Ok(digest::of_parts([("format", FORMAT), ("description", text.as_bytes()), ("debs", debs.as_bytes()), ("script", script)]))
}

fn layers(description: &Description, packages: &Packages, script: &[u8]) -> Result<Vec<(String, Tree)>> {
    let mut below = Tree::default();
    let mut layers = Vec::new();
    for part in &description.layer {
        let mut tree = package_layer(part, packages)?;
        if layers.is_empty() {
            add_base(&mut tree);
        }
        drop_unlinkable(&mut tree, &below)?;
        python::finish(&mut tree, &below).with_context(|| format!("finishing the layer {:?}", part.comment))?;
        below.merge(tree.clone());
        layers.push((part.comment.clone(), tree));
    }
    let mut app = Tree::default();
    app.insert("app/train.py", Node::File { mode: 0o644, bytes: script.to_vec() });
    layers.push(("the program".to_owned(), app));
    Ok(layers)
}

fn package_layer(part: &LayerPart, packages: &Packages) -> Result<Tree> {
    let roles: Vec<&str> = part.packages.iter().map(String::as_str).collect();
    let mut tree = Tree::default();
    for folder in &part.folders {
        tree.folder(folder);
    }
    for path in packages.fetch(&roles)? {
        for (path, node) in
            packages::read_tree(&path)?.iter().filter(|(path, node)| part.wants(path) && !matches!(node, Node::Folder { .. }))
        {
            tree.insert(path, node.clone());
        }
    }
    Ok(tree)
}

/// What every program expects of a root file system.
fn add_base(tree: &mut Tree) {
    for (link, target) in [("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        tree.insert(link, Node::Link(target.to_owned()));
    }
    tree.insert("tmp", Node::Folder { mode: 0o1777 });
    let mut text = |path: &str, text: &str| tree.insert(path, Node::File { mode: 0o644, bytes: text.as_bytes().to_vec() });
    text("etc/passwd", "root:x:0:0:root:/:/nonexistent\nnobody:x:65534:65534:nobody:/:/nonexistent\n");
    text("etc/group", "root:x:0:\nnogroup:x:65534:\n");
    text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n");
}

/// Drops Python extensions whose libraries the image does not hold (readline, OpenSSL and the like).
fn drop_unlinkable(tree: &mut Tree, below: &Tree) -> Result<()> {
    let mut unlinkable = Vec::new();
    for (path, node) in tree.iter() {
        let Node::File { bytes, .. } = node else { continue };
        for library in elf::needed(bytes).with_context(|| format!("reading {path} as a program"))? {
            let places = [format!("usr/lib/x86_64-linux-gnu/{library}"), format!("usr/lib64/{library}")];
            if !places.iter().any(|place| tree.find(place).or_else(|| below.find(place)).is_some()) {
                anyhow::ensure!(path.contains("/lib-dynload/"), "{path} needs {library}, which the demo image lacks");
                unlinkable.push(path.to_owned());
            }
        }
    }
    tree.retain(|path, _| !unlinkable.iter().any(|dropped| dropped == path));
    Ok(())
}

fn dataset(packages: &Packages) -> Result<Vec<u8>> {
    let deb = packages.fetch(&["dataset"])?.remove(0);
    match packages::read_tree(&deb)?.resolve(DATASET)? {
        Node::File { bytes, .. } => Ok(bytes.clone()),
        other => anyhow::bail!("{DATASET} is not a file: {other:?}"),
    }
}

/// Raise it when this file changes what it makes of the same inputs.
const FORMAT: &[u8] = b"1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_keeps_what_starts_right_and_holds_no_dropped_part() {
        let part = LayerPart {
            comment: String::new(),
            packages: vec![],
            folders: vec![],
            keep: vec!["usr/lib/python3".into()],
            drop: vec!["/test/".into(), "/lib-dynload/_test".into()],
        };
        assert!(part.wants("usr/lib/python3.11/csv.py"));
        assert!(!part.wants("usr/share/doc/python3.11/README"));
        assert!(!part.wants("usr/lib/python3.11/test/support.py"));
        assert!(!part.wants("usr/lib/python3.11/lib-dynload/_testcapi.so"));
        assert!(part.wants("usr/lib/python3.11/testing.py"));
    }

    #[test]
    fn the_description_in_the_repository_is_valid() {
        let description: Description = toml::from_str(include_str!("../../../examples/demo/image.toml")).unwrap();
        assert_eq!(description.layer.len(), 2);
    }
}
