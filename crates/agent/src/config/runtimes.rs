//! The tables `[[runtime]]`, and the names of drivers.

use std::path::PathBuf;

use casemate_sandbox::{
    Isolation,
    oci::{Compatible, Runtime},
};
use serde::Deserialize;

use super::{DriverKind, File};

/// An OCI runtime beside those that are known; see docs/containers.md.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeFile {
    /// As `drivers` names it.
    pub name: String,
    /// Its program, by an absolute path.
    pub program: PathBuf,
    /// `container` where workloads call the host's kernel, `sandbox` where they have a kernel of their own.
    pub level: String,
    /// What it is told before the command.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// The same for workloads with a network; absent: no other than without.
    pub connected: Option<Vec<String>>,
}

/// In the order of the file, which gives each of them its user ids.
pub(super) fn runtimes(files: &[RuntimeFile], faults: &mut Vec<String>) -> Vec<Runtime> {
    if files.len() > MOST_RUNTIMES {
        faults.push(format!("runtime: at most {MOST_RUNTIMES} can be described"));
        return Vec::new();
    }
    let mut found: Vec<Runtime> = Vec::new();
    for file in files {
        match runtime(file) {
            Ok(runtime) if found.iter().any(|other| other.name() == runtime.name()) => {
                faults.push(format!("runtime: {} is there twice", file.name));
            }
            Ok(runtime) => found.push(runtime),
            Err(fault) => faults.push(format!("runtime: {fault}")),
        }
    }
    found
}

fn runtime(file: &RuntimeFile) -> Result<Runtime, String> {
    if ["qemu", "fake"].contains(&file.name.as_str()) {
        return Err(format!("{} is another driver's name", file.name));
    }
    let isolation = match file.level.as_str() {
        "container" => Isolation::Container,
        "sandbox" => Isolation::Sandbox,
        other => return Err(format!("the level of {} must be container or sandbox, got {other:?}", file.name)),
    };
    let (arguments, connected) = (file.arguments.clone(), file.connected.clone().unwrap_or_else(|| file.arguments.clone()));
    Compatible { name: file.name.clone(), program: file.program.clone(), isolation, arguments, connected }.runtime()
}

/// Which drivers the node has, each once.
pub(super) fn drivers(file: &File, runtimes: &[Runtime], faults: &mut Vec<String>) -> Vec<DriverKind> {
    let (field, names) = match (&file.driver, &file.drivers) {
        (Some(name), None) => ("driver", std::slice::from_ref(name)),
        (None, Some(names)) if (1..=MOST_DRIVERS).contains(&names.len()) => ("drivers", names.as_slice()),
        (None, Some(_)) => {
            faults.push(format!("drivers: must name 1 to {MOST_DRIVERS}"));
            return Vec::new();
        }
        (Some(_), Some(_)) | (None, None) => {
            faults.push("driver: give either this or drivers".to_owned());
            return Vec::new();
        }
    };
    let mut kinds = Vec::new();
    for name in names {
        match driver_kind(name, runtimes) {
            Some(kind) if kinds.contains(&kind) => faults.push(format!("{field}: {name:?} is there twice")),
            Some(kind) => kinds.push(kind),
            None => {
                let known = Runtime::ALL.map(Runtime::name).join(", ");
                faults.push(format!("{field}: must be qemu, {known}, fake or the name of a [[runtime]], got {name:?}"));
            }
        }
    }
    if kinds.len() > 1 && kinds.contains(&DriverKind::Fake) {
        faults.push(format!("{field}: \"fake\" stands alone"));
    }
    kinds
}

fn driver_kind(text: &str, runtimes: &[Runtime]) -> Option<DriverKind> {
    match text {
        "qemu" => Some(DriverKind::Qemu),
        "fake" => Some(DriverKind::Fake),
        name => {
            let described = runtimes.iter().copied().find(|runtime| runtime.name() == name);
            name.parse().ok().or(described).map(DriverKind::Oci)
        }
    }
}

/// As many as there are ranges of user ids beside those of the known ones.
const MOST_RUNTIMES: usize = 6;

const MOST_DRIVERS: usize = 1 + Runtime::ALL.len() + MOST_RUNTIMES;

#[cfg(test)]
mod tests {
    use super::{
        super::{Config, tests::EXAMPLE},
        *,
    };

    const QUARK: &str =
        "[[runtime]]\nname = \"quark\"\nprogram = \"/opt/quark\"\nlevel = \"sandbox\"\narguments = [\"--quiet\"]\n";

    fn load(drivers: &str, tables: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, EXAMPLE.replace("driver = \"qemu\"", drivers) + "\n" + tables).unwrap();
        Config::load(&path).map_err(|error| crate::failure::chain(&error))
    }

    #[test]
    fn names_one_driver_or_several_once_each() {
        let of = |lines: &str| load(lines, "").map(|config| config.drivers);
        assert_eq!(of("driver = \"fake\"").unwrap(), [DriverKind::Fake]);
        let several = of("drivers = [\"qemu\", \"crun\", \"runsc\"]").unwrap();
        assert_eq!(several, [DriverKind::Qemu, DriverKind::Oci(Runtime::Crun), DriverKind::Oci(Runtime::Runsc)]);
        for (lines, told) in [
            ("", "either this or drivers"),
            ("driver = \"qemu\"\ndrivers = [\"crun\"]", "either this or drivers"),
            ("drivers = []", "must name 1 to 10"),
            ("drivers = [\"crun\", \"crun\"]", "twice"),
            ("drivers = [\"qemu\", \"fake\"]", "stands alone"),
            ("drivers = [\"quark\"]", "got \"quark\""),
        ] {
            assert!(of(lines).unwrap_err().contains(told), "{lines}");
        }
    }

    #[test]
    fn another_runtime_is_described_and_then_named() {
        let config = load("drivers = [\"quark\", \"crun\"]", QUARK).unwrap();
        let DriverKind::Oci(Runtime::Other(quark)) = config.drivers[0] else { panic!("{:?}", config.drivers) };
        assert_eq!((quark.isolation, quark.program.as_path()), (Isolation::Sandbox, "/opt/quark".as_ref()));
        assert_eq!((&quark.arguments, &quark.connected), (&vec!["--quiet".to_owned()], &vec!["--quiet".to_owned()]));
        for (changed, told) in [
            (QUARK.replace("/opt/quark", "quark"), "absolute path"),
            (QUARK.replace("sandbox", "microvm"), "must be container or sandbox"),
            (QUARK.replace("\"quark\"", "\"crun\""), "is known"),
            (QUARK.replace("\"quark\"", "\"qemu\""), "another driver's name"),
            (QUARK.replace("\"quark\"", "\"../quark\""), "no name of a runtime"),
            (QUARK.replace("\"--quiet\"", &"\"-q\",".repeat(33)), "more than 32 arguments"),
            (QUARK.repeat(2), "is there twice"),
            ((0..7).map(|number| QUARK.replace("quark", &format!("quark{number}"))).collect(), "at most 6"),
        ] {
            let fault = load("driver = \"crun\"", &changed).unwrap_err();
            assert!(fault.contains(told), "{told}: {fault}");
        }
    }
}
