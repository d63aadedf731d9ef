//! Keeps what a process has in its memory, keys above all, away from disks.

use std::{fs, io};

use rustix::{
    mm::MlockAllFlags,
    process::{DumpableBehavior, Resource, Rlimit},
};

/// Whether pages of this process can reach a swap area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// No: all of them are locked, also those to come.
    Locked,
    /// No: this machine has no swap area at present.
    Absent,
    /// Yes: the system lets this user lock too little, and swap is on.
    Possible,
}

/// From now on no core of this process is written, neither to a file nor to a program, and nobody but root looks into its
/// memory. Programs that it starts inherit the limit.
pub fn forbid_dumps() -> io::Result<()> {
    let most = rustix::process::getrlimit(Resource::Core).maximum.map_or(CORE_LIMIT, |most| most.min(CORE_LIMIT));
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(most), maximum: Some(most) })?;
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Locks every page as soon as it is used, where the system allows that.
pub fn keep_out_of_swap() -> Swap {
    if rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).is_ok() {
        return Swap::Locked;
    }
    match fs::read_to_string("/proc/swaps") {
        Ok(table) if has_area(&table) => Swap::Possible,
        _ => Swap::Absent,
    }
}

/// The first line of /proc/swaps is a heading.
fn has_area(table: &str) -> bool {
    table.lines().skip(1).any(|line| !line.trim().is_empty())
}

/// Bytes. Not 0: core(5) writes to a program also under that limit, but not under 1.
const CORE_LIMIT: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_can_no_longer_be_dumped() {
        forbid_dumps().unwrap();
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let limit = rustix::process::getrlimit(Resource::Core);
        assert!(limit.current.is_some_and(|bytes| bytes <= 1) && limit.maximum == limit.current, "{limit:?}");
        forbid_dumps().unwrap();
    }

    #[test]
    fn a_heading_is_no_swap_area() {
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(!has_area(heading));
        assert!(has_area(&format!("{heading}/dev/vda2 partition 1048572 0 -2\n")));
    }
}
