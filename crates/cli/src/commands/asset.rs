//! `casemate asset`: encryption of inputs, on the tenant's machine.

use std::{
    fs,
    io::{self, BufReader, BufWriter, Write as _},
    path::Path,
};

use anyhow::Context as _;
use casemate_seal::Dek;

use crate::{
    args::{Asset, AssetCommand, Globals},
    exit::Status,
    printer::Printer,
    resolve,
};

pub(crate) fn run(globals: &Globals, args: Asset) -> anyhow::Result<Status> {
    let printer = Printer::new(globals);
    match args.command {
        AssetCommand::Encrypt { key, input, output } => {
            let dek = key_or_new(&key, &printer)?;
            let entropy = resolve::random32()?;
            let size = convert(&input, &output, |from, to| casemate_seal::asset::encrypt(from, to, &dek, entropy))?;
            printer.done("encrypted", &format!("{} -> {} ({size} bytes)", input.display(), output.display()));
        }
        AssetCommand::Decrypt { key, input, output } => {
            let dek = resolve::read_key(&key)?;
            let size = convert(&input, &output, |from, to| casemate_seal::asset::decrypt(from, to, &dek))?;
            printer.done("decrypted", &format!("{} -> {} ({size} bytes)", input.display(), output.display()));
        }
    }
    Ok(Status::Ok)
}

fn key_or_new(path: &Path, printer: &Printer) -> anyhow::Result<Dek> {
    if path.exists() {
        return resolve::read_key(path);
    }
    let dek = Dek::generate(&mut resolve::os_rng());
    resolve::write_key(path, &dek)?;
    printer.done("key", &format!("made {} (mode 0600); whoever has it can read the data", path.display()));
    Ok(dek)
}

/// The output file appears only when all of it is written.
fn convert<E: std::error::Error + Send + Sync + 'static>(
    input: &Path,
    output: &Path,
    with: impl FnOnce(BufReader<fs::File>, &mut BufWriter<&fs::File>) -> Result<u64, E>,
) -> anyhow::Result<u64> {
    let from = fs::File::open(input).with_context(|| format!("open {}", input.display()))?;
    let output = absolute(output)?;
    let folder = output.parent().context("the output needs a folder")?;
    let to = tempfile::NamedTempFile::new_in(folder).with_context(|| format!("create a file in {}", folder.display()))?;
    let mut writer = BufWriter::new(to.as_file());
    with(BufReader::new(from), &mut writer).with_context(|| format!("convert {}", input.display()))?;
    writer.flush().context("write the output")?;
    drop(writer);
    let size = to.as_file().metadata()?.len();
    to.persist(&output).with_context(|| format!("write {}", output.display()))?;
    Ok(size)
}

fn absolute(path: &Path) -> io::Result<std::path::PathBuf> {
    std::path::absolute(path)
}
