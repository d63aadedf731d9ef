//! A running VMM and the guest's memory, as /proc shows them. What cannot be seen is left open.

use std::{
    fs,
    os::{linux::fs::MetadataExt as _, unix::fs::MetadataExt as _},
    path::Path,
};

use crate::{VmmReport, layout::Places, record::Record};

/// Looks at a VMM whose user is `user`. Refuses nothing: what does not hold is said.
pub(crate) fn observe(pid: i32, user: u32, places: &Places, record: &Record) -> VmmReport {
    let ram = fs::metadata(places.ram()).ok();
    let mapping = ram.as_ref().and_then(|ram| {
        let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
        Mapping::find(&maps, ram.st_dev(), ram.ino())
    });
    let alone = |ram: &fs::Metadata| {
        let above = fs::metadata(places.memory.parent()?).ok()?;
        Some(ram.uid() == user && ram.mode() & 0o077 == 0 && ram.nlink() == 1 && ram.dev() != above.dev())
    };
    VmmReport {
        kvm: holds_machine(pid),
        memory_private: ram.as_ref().and_then(alone),
        // Nothing is said of memory that this VMM does not have mapped.
        memory_no_swap: mapping.as_ref().and_then(|_| Some(mounted_without_swap(&places.memory)? || record.group.forbids_swap())),
        memory_no_merge: mapping.as_ref().map(|mapping| !mapping.has("mg")),
        memory_no_dump: mapping.as_ref().and_then(|mapping| Some(mapping.has("dd") || dumps_nothing(pid)?)),
        landlock: record.landlock,
    }
}

/// Whether the process has a virtual machine of KVM.
fn holds_machine(pid: i32) -> Option<bool> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let mut links = entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    Some(links.any(|link| link == Path::new("anon_inode:kvm-vm")))
}

/// A mount that does not say so may be of a kernel that does not know the option.
fn mounted_without_swap(point: &Path) -> Option<bool> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = table.lines().find(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == point))?;
    Some(line.split_once(" - ").is_some_and(|(_, rest)| rest.split([' ', ',']).any(|option| option == "noswap")))
}

/// The kernel writes no mapping, and no file either.
fn dumps_nothing(pid: i32) -> Option<bool> {
    let filter = fs::read_to_string(format!("/proc/{pid}/coredump_filter")).ok()?;
    Some(u64::from_str_radix(filter.trim(), 16).ok()? == 0)
}

/// One mapping of a process.
struct Mapping {
    flags: String,
}

impl Mapping {
    /// Of the file with this device and inode.
    fn find(maps: &str, device: u64, inode: u64) -> Option<Self> {
        let number = format!("{:02x}:{:02x}", rustix::fs::major(device), rustix::fs::minor(device));
        let inode = inode.to_string();
        let mut lines = maps.lines().skip_while(|line| {
            let mut fields = line.split_whitespace().skip(3);
            (fields.next(), fields.next()) != (Some(&*number), Some(&*inode))
        });
        lines.next()?;
        // Up to the next mapping, whose line begins with its addresses.
        lines.find_map(|line| line.strip_prefix("VmFlags:")).map(|flags| Self { flags: flags.to_owned() })
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.split_whitespace().any(|has| has == flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
7f00-7f10 rw-p 00000000 00:00 0 \nRss: 4 kB\nVmFlags: rd wr mr mg sd\n\
7f20-7f30 rw-s 00000000 00:2a 17                         /vm/ram\nRss: 4 kB\nSwap: 0 kB\nVmFlags: rd wr sh mr dd\n\
7f40-7f50 rw-s 00000000 00:2a 18                         /vm/ram\nVmFlags: rd wr mg\n";

    #[test]
    fn only_the_mapping_of_guest_memory_counts() {
        let device = rustix::fs::makedev(0, 0x2a);
        let ram = Mapping::find(MAPS, device, 17).unwrap();
        assert!(ram.has("dd") && !ram.has("mg"));
        let other = Mapping::find(MAPS, device, 18).unwrap();
        assert!(other.has("mg") && !other.has("dd"));
        assert!(Mapping::find(MAPS, device, 19).is_none());
        assert!(Mapping::find(MAPS, rustix::fs::makedev(1, 0x2a), 17).is_none());
    }

    #[test]
    fn a_process_without_a_machine_holds_none() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(holds_machine(own), Some(false));
        assert_eq!(holds_machine(i32::MAX), None);
        assert_eq!(dumps_nothing(i32::MAX), None);
    }
}
