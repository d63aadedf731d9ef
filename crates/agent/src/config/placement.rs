//! The table `[placement]`: where machines lie on their host.

use casemate_sandbox::{CpuRange, Placement};
use serde::Deserialize;

use super::DriverKind;

/// Wishes for all machines of this node. They make a machine faster, not safer; see docs/drivers.md.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacementFile {
    /// Their memory in large pages, as far as the kernel finds some.
    #[serde(default)]
    pub huge_pages: bool,
    /// Their memory on this NUMA node, and nowhere else.
    pub node: Option<u32>,
    /// They run on these processors of the host, and on no others: `2` or `2-5`.
    pub cpus: Option<String>,
}

/// In the driver's words. What the host really has is seen by the driver.
pub(super) fn wishes(file: Option<&PlacementFile>, drivers: &[DriverKind], faults: &mut Vec<String>) -> Vec<Placement> {
    let Some(file) = file else { return Vec::new() };
    if !drivers.is_empty() && !drivers.contains(&DriverKind::Qemu) {
        faults.push("placement: is for machines of qemu, which is none of the drivers".to_owned());
    }
    let cpus = file.cpus.as_deref().and_then(|text| {
        let range = range(text);
        if range.is_none() {
            faults.push(format!("placement.cpus: must be like \"2\" or \"2-5\", got {text:?}"));
        }
        range
    });
    let huge_pages = file.huge_pages.then_some(Placement::HugePages);
    huge_pages.into_iter().chain(file.node.map(Placement::Node)).chain(cpus.map(Placement::Cpus)).collect()
}

fn range(text: &str) -> Option<CpuRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    // A sign would be taken by the parser of numbers.
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u32>().ok()).flatten();
    let (first, last) = (number(first)?, number(last)?);
    Some(CpuRange { first, count: last.checked_sub(first)?.checked_add(1)? })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Config, tests::EXAMPLE},
        *,
    };

    fn load(change: impl Fn(String) -> String) -> Result<Vec<Placement>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, change(EXAMPLE.to_owned())).unwrap();
        Config::load(&path).map(|config| config.placement).map_err(|error| crate::failure::chain(&error))
    }

    fn with(placement: &str) -> Result<Vec<Placement>, String> {
        load(|example| format!("{example}\n[placement]\n{placement}\n"))
    }

    #[test]
    fn nothing_is_wished_that_is_not_written() {
        assert_eq!(load(|example| example).unwrap(), []);
        assert_eq!(with("").unwrap(), []);
        assert_eq!(with("huge_pages = false").unwrap(), []);
    }

    #[test]
    fn what_is_written_is_wished() {
        let all = with("huge_pages = true\nnode = 1\ncpus = \"2-5\"").unwrap();
        let cpus = Placement::Cpus(CpuRange { first: 2, count: 4 });
        assert_eq!(all, [Placement::HugePages, Placement::Node(1), cpus]);
        assert_eq!(with("cpus = \"0\"").unwrap(), [Placement::Cpus(CpuRange { first: 0, count: 1 })]);
    }

    #[test]
    fn nonsense_is_named() {
        for cpus in ["", "x", "5-2", "1,2", "-1", "+1", "1-", "0-4294967295", "1-2-3", " 1", "99999999999"] {
            assert!(with(&format!("cpus = {cpus:?}")).unwrap_err().contains("placement.cpus:"), "{cpus:?}");
        }
        assert!(with("numa = 1").unwrap_err().contains("numa"));
        let containers = load(|example| example.replace("\"qemu\"", "\"crun\"") + "\n[placement]\nhuge_pages = true\n");
        assert!(containers.unwrap_err().contains("placement: is for machines of qemu"));
    }
}
