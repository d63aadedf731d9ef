//! Kernel modules from the initrd, for kernels that have drivers in modules: the distribution's, and not our own.
//!
//! The initrd is measured, and the kernel takes signed modules only. Once all are loaded the kernel is told to never load another
//! one, before anything of the host's is opened.
//!
//! ```text
//! /lib/modules/order    <file name>[ if-supported] on each line, in the order of loading
//! ```

use std::{fs, io, path::Path};

use rustix::{io::Errno, system::finit_module};

/// Why the modules are not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModulesError {
    #[error("read the list of modules {LIST}")]
    List(#[source] io::Error),
    #[error("line {number} of {LIST} is not a file name, or one and \"{IF_SUPPORTED}\"")]
    Line { number: usize },
    #[error("load the kernel module {file}")]
    Load {
        file: String,
        #[source]
        source: io::Error,
    },
    #[error("close the loading of modules")]
    Close(#[source] io::Error),
}

/// Loads what the initrd lists and closes module loading for good. Does nothing where there is no list.
pub(crate) fn load_all() -> Result<(), ModulesError> {
    let list = match fs::read_to_string(LIST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        list => list.map_err(ModulesError::List)?,
    };
    for line in parse(&list)? {
        match load(line.file) {
            Err(Errno::NODEV) if line.need == Need::IfSupported => {}
            result => result.map_err(|source| ModulesError::Load { file: line.file.into(), source: source.into() })?,
        }
    }
    close().map_err(ModulesError::Close)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    /// "No such device" is a good answer: the CPU lacks what the module makes use of.
    IfSupported,
}

#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    file: &'a str,
    need: Need,
}

fn parse(list: &str) -> Result<Vec<Line<'_>>, ModulesError> {
    let lines = list.lines().zip(1..);
    lines.map(|(line, number)| parse_line(line).ok_or(ModulesError::Line { number })).collect()
}

fn parse_line(line: &str) -> Option<Line<'_>> {
    let (file, need) = match line.split_once(' ') {
        None => (line, Need::Required),
        Some((file, IF_SUPPORTED)) => (file, Need::IfSupported),
        Some(_) => return None,
    };
    (file.ends_with(".ko") && !file.contains('/')).then_some(Line { file, need })
}

fn load(file: &str) -> Result<(), Errno> {
    let module = fs::File::open(Path::new(FOLDER).join(file))
        .map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
    finit_module(&module, c"", 0)
}

/// From here on the kernel loads no module, asked by whomever, and looks for no program that would.
fn close() -> io::Result<()> {
    fs::write("/proc/sys/kernel/modules_disabled", "1")?;
    fs::write("/proc/sys/kernel/modprobe", "\n")
}

const FOLDER: &str = "/lib/modules";
const LIST: &str = "/lib/modules/order";
const IF_SUPPORTED: &str = "if-supported";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_list_in_order() {
        let lines = parse("00-virtio.ko\n01-aesni_intel.ko if-supported\n").unwrap();
        let expected =
            [Line { file: "00-virtio.ko", need: Need::Required }, Line { file: "01-aesni_intel.ko", need: Need::IfSupported }];
        assert_eq!(lines, expected);
    }

    #[test]
    fn refuses_a_line_that_it_does_not_understand() {
        for bad in ["", "virtio", "../virtio.ko", "a.ko maybe", "a.ko if-supported now", "a.ko ", " a.ko if-supported"] {
            let error = parse(&format!("00-virtio.ko\n{bad}\n")).unwrap_err().to_string();
            assert!(error.starts_with("line 2 of /lib/modules/order"), "{bad:?}: {error}");
        }
    }
}
