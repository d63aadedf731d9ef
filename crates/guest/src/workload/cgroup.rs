//! The workload's control group.

use std::{
    fs::{self, File},
    io,
    path::Path,
};

/// Where the workload's processes are counted.
const DIR: &str = "/sys/fs/cgroup/workload";

/// Makes the group, empty. How much memory it gets is decided when the workload starts.
pub(crate) fn create() -> io::Result<()> {
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids +cpu")?;
    fs::create_dir_all(DIR)?;
    // One process over the limit ends the workload as a whole, not a random part of it.
    set("memory.oom.group", "1")?;
    set("pids.max", MAX_PROCESSES)
}

/// Limits the group to the memory that is free now, less what PID 1 needs to finish its work, and opens it for a first process.
pub(crate) fn open() -> io::Result<File> {
    let available = available_bytes(&fs::read_to_string("/proc/meminfo")?).unwrap_or(0);
    let memory = available.saturating_sub(RESERVE).max(MIN_MEMORY);
    set("memory.max", &memory.to_string())?;
    File::open(DIR)
}

/// Kills everything in the group at once.
pub(crate) fn kill() -> io::Result<()> {
    set("cgroup.kill", "1")
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
pub(crate) fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

fn set(file: &str, value: &str) -> io::Result<()> {
    fs::write(Path::new(DIR).join(file), value)
}

const RESERVE: u64 = 32 << 20;
const MIN_MEMORY: u64 = 32 << 20;
const MAX_PROCESSES: &str = "4096";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_available_memory() {
        let meminfo = "MemTotal:         490000 kB\nMemFree:  3 kB\nMemAvailable:     400000 kB\n";
        assert_eq!(available_bytes(meminfo), Some(409_600_000));
        assert_eq!(available_bytes("MemTotal: 1 kB\n"), None);
        assert_eq!(available_bytes("MemAvailable: x kB\n"), None);
    }
}
