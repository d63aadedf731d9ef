//! Character devices that machines are made of, by the names that the kernel gives their numbers now.
//!
//! Numbers are given out at run time, and new ones appear when a driver is loaded: they are looked up again and again.

use std::{fs, io};

use serde::Deserialize;

/// A kind of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Virtual machines.
    Kvm,
    /// Devices that are handed to machines.
    Vfio,
    /// What their memory accesses are held in.
    Iommu,
    /// What serves machines' devices in the kernel.
    Vhost,
    /// Network interfaces of machines.
    Tun,
    /// Graphics cards.
    Nvidia,
    /// Protection by the processor.
    Confidential,
    /// Answering page faults of others.
    Userfaultfd,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Kvm, Self::Vfio, Self::Iommu, Self::Vhost, Self::Tun, Self::Nvidia, Self::Confidential, Self::Userfaultfd];

    /// How names of its drivers begin, in the lists of majors and of miscellaneous devices.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["kvm"],
            Self::Vfio => &["vfio"],
            Self::Iommu => &["iommu"],
            Self::Vhost => &["vhost", "udmabuf"],
            Self::Tun => &["tun"],
            Self::Nvidia => &["nvidia"],
            Self::Confidential => &["sev", "tdx", "sgx"],
            Self::Userfaultfd => &["userfaultfd"],
        }
    }
}

/// `/dev/mem`, `/dev/kmem`, `/dev/port`: always.
pub const MEMORY: [u32; 3] = [1 << MINOR_BITS | 1, 1 << MINOR_BITS | 2, 1 << MINOR_BITS | 4];
/// The major of miscellaneous devices.
const MISC: u32 = 10;
const MINOR_BITS: u32 = 20;
/// All minors of a major.
pub const ALL_MINORS: u32 = (1 << MINOR_BITS) - 1;

/// Numbers of the devices of these kinds that there are now.
pub fn numbers(kinds: &[Kind]) -> io::Result<Vec<u32>> {
    let majors = fs::read_to_string("/proc/devices")?;
    // A kernel without miscellaneous devices has no such list.
    let misc = fs::read_to_string("/proc/misc").unwrap_or_default();
    Ok(numbers_in(&majors, &misc, kinds))
}

fn numbers_in(majors: &str, misc: &str, kinds: &[Kind]) -> Vec<u32> {
    let wanted = |name: &str| kinds.iter().flat_map(|kind| kind.names()).any(|start| name.starts_with(start));
    let characters = majors.lines().take_while(|line| !line.starts_with("Block devices"));
    let majors = named(characters).filter(|(_, name)| wanted(name)).map(|(number, _)| number << MINOR_BITS | ALL_MINORS);
    let misc = named(misc.lines()).filter(|(_, name)| wanted(name)).map(|(number, _)| MISC << MINOR_BITS | number);
    MEMORY.into_iter().chain(majors).chain(misc).collect()
}

fn named<'a>(lines: impl Iterator<Item = &'a str>) -> impl Iterator<Item = (u32, &'a str)> {
    lines.filter_map(|line| {
        let (number, name) = line.trim().split_once(' ')?;
        Some((number.parse().ok()?, name.trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAJORS: &str =
        "Character devices:\n  1 mem\n 10 misc\n195 nvidia\n235 nvidia-uvm\n\nBlock devices:\n  7 loop\n236 nvidia-none\n";
    const LISTED: &str = "232 kvm\n200 tun\n144 nvram\n 196 vfio\n";

    #[test]
    fn numbers_are_those_of_the_kinds_and_of_the_memory() {
        let found = numbers_in(MAJORS, LISTED, &[Kind::Nvidia, Kind::Vfio]);
        let expected = [195 << 20 | 0xf_ffff, 235 << 20 | 0xf_ffff, 10 << 20 | 196];
        assert_eq!(found, [MEMORY.as_slice(), &expected].concat());
        assert_eq!(numbers_in("", "x\n-1 kvm\n", &Kind::ALL), MEMORY);
    }
}
