//! Finishing touches to Python: a `python3` and compiled modules, so that a start under emulation need not compile.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    files, process,
    tree::{Node, Tree},
};

/// Adds `python3` and the compiled standard library to a layer that holds Python; others are left alone.
pub(crate) fn finish(layer: &mut Tree, below: &Tree) -> Result<()> {
    let Some(program) = layer
        .iter()
        .map(|(path, _)| path)
        .find_map(|path| path.strip_prefix("usr/bin/python3."))
        .map(|minor| format!("python3.{minor}"))
    else {
        return Ok(());
    };
    layer.insert("usr/bin/python3", Node::Link(program.clone()));
    let work = tempfile::tempdir().context("making a folder for compiling Python modules")?;
    let mut whole = below.clone();
    whole.merge(layer.clone());
    whole.write_to(work.path())?;
    let library = format!("usr/lib/{program}");
    compile(work.path(), &program, &library)?;
    collect(layer, work.path(), &library)
}

/// Runs the image's own Python through its own loader.
fn compile(top: &Path, program: &str, library: &str) -> Result<()> {
    let mut command = Command::new(top.join("usr/lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(top.join("usr/lib/x86_64-linux-gnu")).arg(top.join("usr/bin").join(program));
    // Modules are trusted as the verity layer is: no time stamps, which the image does not keep.
    command.args(["-S", "-m", "compileall", "-q", "-j1", "--invalidation-mode", "unchecked-hash"]);
    command.arg("-s").arg(top).arg("-p").arg("/").arg(top.join(library));
    command
        .env_clear()
        .env("PYTHONHOME", top.join("usr"))
        .env("PYTHONHASHSEED", "0")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("LC_ALL", "C");
    process::output(&mut command).map(drop)
}

fn collect(layer: &mut Tree, top: &Path, library: &str) -> Result<()> {
    let mut folders = vec![top.join(library)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
            let path = entry.with_context(|| format!("listing {}", folder.display()))?.path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "pyc") {
                let inside = path.strip_prefix(top).expect("it was found below the top").to_string_lossy().into_owned();
                layer.insert(&inside, Node::File { mode: 0o644, bytes: files::read(&path)? });
            }
        }
    }
    Ok(())
}
