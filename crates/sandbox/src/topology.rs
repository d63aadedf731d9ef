//! Where on this host an instance's memory and processors can lie: large pages, NUMA nodes, processors.
//!
//! Read once from /sys. What the host does not show it does not have: a plan that asks for it is refused before anything is made.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use crate::{DriverError, Plan};

/// A wish about where an instance lies on its host. It changes how fast an instance is, not what protects it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Guest memory in large pages, as far as the kernel finds some.
    HugePages,
    /// Guest memory on this NUMA node, and nowhere else.
    Node(u32),
    /// The VMM, with all its threads, on these processors of the host, and on no others.
    Cpus(CpuRange),
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HugePages => f.write_str("large pages"),
            Self::Node(number) => write!(f, "memory of NUMA node {number}"),
            Self::Cpus(cpus) => write!(f, "processors {cpus}"),
        }
    }
}

/// Processors of the host, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuRange {
    /// The first of them.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl CpuRange {
    /// In the form of the kernel.
    pub(crate) fn list(self) -> String {
        match self.count {
            0 => String::new(),
            1 => self.first.to_string(),
            count => format!("{}-{}", self.first, self.first.saturating_add(count - 1)),
        }
    }

    /// Their numbers; none beyond 1023.
    pub fn numbers(self) -> impl Iterator<Item = u32> {
        (self.first..self.first.saturating_add(self.count)).take_while(|number| *number <= MOST_CPU)
    }
}

impl fmt::Display for CpuRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.list())
    }
}

/// What the host has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// Whether a tmpfs can have large pages.
    huge_pages: Option<String>,
    /// Free memory by NUMA node, MiB.
    nodes: BTreeMap<u32, u64>,
    /// Processors that are switched on.
    online: Vec<u32>,
}

impl Topology {
    /// Of the tree at `root`, `/` outside of tests.
    pub fn read(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned());
        let nodes = list(&text("sys/devices/system/node/has_memory").unwrap_or_default());
        let free = |node: u32| Some((node, free_mib(&text(&format!("sys/devices/system/node/node{node}/meminfo"))?)?));
        Self {
            huge_pages: text("sys/kernel/mm/transparent_hugepage/shmem_enabled"),
            nodes: nodes.into_iter().filter_map(free).collect(),
            online: list(&text("sys/devices/system/cpu/online").unwrap_or_default()),
        }
    }

    /// Whether all that the plan wishes can be had.
    pub(crate) fn admit(&self, plan: &Plan, wish: Placement) -> Result<(), DriverError> {
        self.offers(wish)?;
        let refuse = |reason: String| Err(DriverError::Unsupported { what: wish.to_string(), reason });
        match wish {
            Placement::Node(number) => match self.nodes.get(&number) {
                Some(free) if *free < plan.memory_mib => {
                    refuse(format!("it had {free} MiB free when it was looked at, and the guest has {} MiB", plan.memory_mib))
                }
                _ => Ok(()),
            },
            Placement::Cpus(cpus) if cpus.count < plan.cpus => refuse(format!("they are fewer than its {} CPUs", plan.cpus)),
            Placement::Cpus(_) | Placement::HugePages => Ok(()),
        }
    }

    /// Whether the host has it, for whichever instance.
    pub fn offers(&self, wish: Placement) -> Result<(), DriverError> {
        let refuse = |reason: String| Err(DriverError::Unsupported { what: wish.to_string(), reason });
        match wish {
            Placement::HugePages => match &self.huge_pages {
                None => refuse("this kernel has no large pages for files in memory".to_owned()),
                Some(setting) if setting.contains("[deny]") => {
                    refuse("hint: /sys/kernel/mm/transparent_hugepage/shmem_enabled denies them".to_owned())
                }
                Some(_) => Ok(()),
            },
            Placement::Node(number) => match self.nodes.get(&number) {
                None => refuse(format!("this host has {}", numbers("NUMA nodes", self.nodes.keys().copied()))),
                Some(_) => Ok(()),
            },
            Placement::Cpus(cpus) if cpus.first.checked_add(cpus.count).is_none_or(|end| end > MOST_CPU + 1) => {
                refuse(format!("no host has more than {}", MOST_CPU + 1))
            }
            Placement::Cpus(cpus) => match cpus.numbers().find(|number| !self.online.contains(number)) {
                None => Ok(()),
                Some(_) => refuse(format!("this host has {}", numbers("processors", self.online.iter().copied()))),
            },
        }
    }
}

fn numbers(what: &str, has: impl Iterator<Item = u32>) -> String {
    match has.map(|number| number.to_string()).collect::<Vec<_>>() {
        none if none.is_empty() => format!("no {what} that it shows"),
        some => format!("{what} {}", some.join(" ")),
    }
}

/// A list in the form of the kernel: `0-3,8`. Empty where it is anything else.
fn list(text: &str) -> Vec<u32> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        (first <= last && last <= MOST_CPU).then_some(first..=last)
    };
    let ranges: Option<Vec<_>> = text.split(',').map(part).collect();
    ranges.into_iter().flatten().flatten().collect()
}

/// Of a node's `meminfo`: `Node 0 MemFree: 4096 kB`.
fn free_mib(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.split_once("MemFree:"))?;
    line.1.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib >> 10)
}

/// The highest number of a processor, or node, that is looked at.
const MOST_CPU: u32 = 1023;

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::{Isolation, MachineSystem, System};

    fn host() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in [
            ("sys/kernel/mm/transparent_hugepage/shmem_enabled", "always within_size advise [never] deny force\n"),
            ("sys/devices/system/node/has_memory", "0-1\n"),
            ("sys/devices/system/node/node0/meminfo", "Node 0 MemTotal: 9 kB\nNode 0 MemFree:  1048576 kB\n"),
            ("sys/devices/system/node/node1/meminfo", "Node 1 MemFree: 4096 kB\n"),
            ("sys/devices/system/cpu/online", "0-3,8\n"),
        ] {
            write(&dir, path, text);
        }
        dir
    }

    fn write(dir: &TempDir, path: &str, text: &str) {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn plan() -> Plan {
        Plan {
            id: "i-1".parse().unwrap(),
            isolation: Isolation::Microvm,
            demands: Vec::new(),
            system: System::Machine(MachineSystem { kernel: "/k".into(), initrd: "/i".into(), command_line: String::new() }),
            disks: Vec::new(),
            cpus: 2,
            memory_mib: 512,
            scratch_mib: 16,
        }
    }

    fn refusal(dir: &TempDir, wish: Placement) -> Option<String> {
        Topology::read(dir.path()).admit(&plan(), wish).err().map(|error| error.to_string())
    }

    fn cpus(first: u32, count: u32) -> Placement {
        Placement::Cpus(CpuRange { first, count })
    }

    #[test]
    fn what_the_host_has_is_admitted() {
        for wish in [Placement::HugePages, Placement::Node(0), cpus(0, 4), cpus(1, 2)] {
            assert_eq!(refusal(&host(), wish), None, "{wish}");
        }
        // Enough for a smaller one.
        for wish in [Placement::Node(1), cpus(0, 1)] {
            Topology::read(host().path()).offers(wish).unwrap();
        }
    }

    #[test]
    fn what_it_has_not_is_refused_with_the_reason() {
        let cases = [
            (Placement::Node(2), "NUMA nodes 0 1"),
            (Placement::Node(1), "4 MiB free"),
            (cpus(3, 2), "processors 0 1 2 3 8"),
            (cpus(0, 1), "fewer than its 2 CPUs"),
            (cpus(u32::MAX, u32::MAX), "no host has more"),
            (cpus(1000, 100), "no host has more"),
        ];
        for (wish, reason) in cases {
            let refused = refusal(&host(), wish).unwrap();
            assert!(refused.contains(reason), "{refused}");
        }
        let denied = host();
        write(&denied, "sys/kernel/mm/transparent_hugepage/shmem_enabled", "always never [deny]\n");
        assert!(refusal(&denied, Placement::HugePages).unwrap().contains("denies them"));
    }

    #[test]
    fn a_host_that_shows_nothing_has_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Topology::read(dir.path()), Topology::default());
        for wish in [Placement::HugePages, Placement::Node(0), cpus(0, 2)] {
            assert!(refusal(&dir, wish).is_some(), "{wish}");
        }
        for text in ["", "x", "3-1", "0-4294967295", "1,,2", "-1"] {
            assert_eq!(list(text), Vec::<u32>::new(), "{text:?}");
        }
    }
}
