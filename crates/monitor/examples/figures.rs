//! The monitor's figures, in node guests whose clock counts instructions. Arguments: the folder with both programs (`target/release`), and
//! what the versions of the wanted kernels begin with (`6.1.`; all of them where nothing is said).

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use casemate_testbed::node_guest::{Archive, boot_counted, kernels};

fn main() -> Result<()> {
    let programs: PathBuf = env::args_os().nth(1).context("say where casemate-monitor and casemate-attacks are")?.into();
    let wanted = env::args().nth(2).unwrap_or_default();
    let folder = tempfile::tempdir()?;
    let kernels = kernels(&folder.path().join("kernels"));
    for kernel in kernels.into_iter().filter(|kernel| kernel.version.starts_with(&wanted)) {
        let mut archive = Archive::default();
        archive.program("monitor", &programs.join("casemate-monitor"));
        archive.program("attacks", &programs.join("casemate-attacks"));
        let path = folder.path().join("initrd");
        fs::write(&path, archive.bytes())?;
        let console = boot_counted(&kernel, &path, "/attacks -- figures");
        ensure!(console.iter().any(|line| line == "SUITE-END"), "{}: {console:#?}", kernel.version);
        let figures = console.iter().filter(|line| ["COSTS ", "ENDS ", "FLOOD "].iter().any(|word| line.starts_with(word)));
        figures.for_each(|line| println!("{} {line}", kernel.version));
    }
    Ok(())
}
