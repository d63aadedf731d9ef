//! What this node has, as the kernel says.

use std::{fs, path::Path};

use casemate_api::node::Inventory;

use crate::{
    assignment::{MACHINE_OVERHEAD_MIB, NodeCapacity},
    config::Config,
    drivers::Drivers,
    monitor::Monitor,
};

/// Virtual CPUs of all instances together, for each CPU of the host.
const CPU_OVERCOMMIT: u32 = 4;
/// Disk that instances never get, in MiB.
const DISK_RESERVE_MIB: u64 = 512;

/// Looks at the host.
pub(crate) fn take(config: &Config, drivers: &Drivers, monitor: Option<&Monitor>) -> Inventory {
    let capabilities = drivers.first().capabilities();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let uname = rustix::system::uname();
    Inventory {
        hostname: uname.nodename().to_string_lossy().into_owned(),
        cpus: cpus(),
        memory_mib: memory_mib(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
            .saturating_sub(config.memory_reserve_mib),
        disk_mib: disk_mib(&config.state_dir).saturating_sub(DISK_RESERVE_MIB),
        cpu_model: cpu_model(&cpuinfo),
        kernel: uname.release().to_string_lossy().into_owned(),
        accel: capabilities.accel.into(),
        accel_reason: capabilities.accel_reason.clone(),
        isolation_levels: levels(drivers),
        vmm_version: capabilities.version.clone(),
        drivers: drivers.report(),
        monitor: monitor.map(Monitor::inventory),
        // It changes: each report says it anew.
        dedicated: None,
    }
}

/// Each once, weakest first.
fn levels(drivers: &Drivers) -> Vec<String> {
    let mut levels: Vec<_> = drivers.iter().map(|driver| driver.capabilities().isolation).collect();
    levels.sort();
    levels.dedup();
    levels.into_iter().map(|level| level.as_str().to_owned()).collect()
}

/// The bounds that assignments are held against.
pub(crate) fn capacity(config: &Config, inventory: &Inventory) -> NodeCapacity {
    NodeCapacity {
        memory_mib: inventory.memory_mib.max(MACHINE_OVERHEAD_MIB),
        cpus: inventory.cpus.max(1),
        cpus_in_all: inventory.cpus.saturating_mul(CPU_OVERCOMMIT),
        disk_mib: inventory.disk_mib,
        instances: config.max_instances,
    }
}

fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

fn memory_mib(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn cpu_model(cpuinfo: &str) -> String {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':')).map(|(_, model)| model.trim().to_owned()).unwrap_or_default()
}

fn disk_mib(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize) >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(memory_mib("MemTotal:       24683840 kB\nMemFree: 1 kB\n"), 24105);
        assert_eq!(memory_mib(""), 0);
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n"), "Some CPU @ 2 GHz");
    }
}
