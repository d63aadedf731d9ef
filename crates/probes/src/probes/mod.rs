//! All probes.

mod files;
mod kernel;
mod network;
mod processes;

use std::{fs, io, os::fd::AsRawFd as _};

/// One way out.
pub(crate) struct Probe {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it tries.
    pub(crate) tries: &'static str,
    /// Tries it; is given the descriptors that were inherited.
    pub(crate) run: fn(&[i32]) -> Outcome,
}

/// What came of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Refused, for this reason.
    Blocked(String),
    /// There is nothing that could be tried.
    Absent(String),
    /// Granted.
    Through(String),
}

/// In the order in which they are tried.
pub(crate) const PROBES: &[Probe] = &[
    probe("descriptors", "descriptors that were left open for the workload", processes::descriptors),
    probe("capabilities", "capabilities over the host's own user namespace", processes::capabilities),
    probe("host-processes", "see the processes of the kernel outside", processes::host_processes),
    probe("trace", "trace another process", processes::trace),
    probe("join-namespaces", "join the namespaces of process 1", processes::join_namespaces),
    probe("runtime-program", "write to the program of a process that is not the workload's", processes::runtime_program),
    probe("user-namespace", "make a user namespace", processes::user_namespace),
    probe("mount-namespace", "make a mount namespace", processes::mount_namespace),
    probe("raw-devices", "open disks, memory or the hypervisor's device", files::raw_devices),
    probe("make-device", "make a device node", files::make_device),
    probe("mount", "mount a file system", files::mount),
    probe("mount-new", "the same by the newer system calls", files::mount_new),
    probe("change-root", "change the root directory", files::change_root),
    probe("file-handle", "open a file by its handle", files::file_handle),
    probe("kernel-memory", "read /proc/kcore", files::kernel_memory),
    probe("system-request", "write to /proc/sysrq-trigger", files::system_request),
    probe("helper-programs", "set a program that the kernel executes", files::helper_programs),
    probe("release-agent", "set or get a control group's release agent", files::release_agent),
    probe("control-groups", "leave the control group", files::control_groups),
    probe("kernel-tracing", "read the kernel's debugging file systems", files::kernel_tracing),
    probe("keys", "add a key to a keyring of the kernel", kernel::keys),
    probe("bpf", "load something into BPF", kernel::bpf),
    probe("perf", "open a performance counter", kernel::perf),
    probe("io-uring", "make an io_uring", kernel::io_uring),
    probe("userfaultfd", "handle page faults in user space", kernel::userfaultfd),
    probe("load-module", "load a kernel module", kernel::load_module),
    probe("load-kernel", "load another kernel", kernel::load_kernel),
    probe("reboot", "restart the machine", kernel::reboot),
    probe("kernel-log", "read the kernel's log", kernel::log),
    probe("ports", "reach I/O ports", kernel::ports),
    probe("raw-sockets", "send packets of one's own making", network::raw_sockets),
    probe("metadata", "reach the metadata address", network::metadata),
    probe("host-ports", "reach services of the host", network::host_ports),
    probe("host-sockets", "reach sockets of the host's services", network::host_sockets),
    probe("abstract-sockets", "reach abstract sockets of others", network::abstract_sockets),
    probe("host-vsock", "reach the host by vsock", network::host_vsock),
];

const fn probe(name: &'static str, tries: &'static str, run: fn(&[i32]) -> Outcome) -> Probe {
    Probe { name, tries, run }
}

/// Open descriptors beside the three usual ones. To be called before anything is opened.
pub(crate) fn inherited_descriptors() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let numbers: Vec<i32> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // The listing's own descriptor is the first that was free; it is closed by now.
    numbers.into_iter().filter(|number| *number > 2 && fs::read_link(format!("/proc/self/fd/{number}")).is_ok()).collect()
}

/// Granted is through; everything else is a refusal.
fn granted<T>(what: &str, answer: io::Result<T>) -> Outcome {
    match answer {
        Ok(_) => Outcome::Through(format!("{what} was granted")),
        Err(error) => Outcome::Blocked(format!("{what}: {error}")),
    }
}

/// Where the kernel checks rights first, only these answers are refusals: any other means that it went on to the rest.
fn permitted<T>(what: &str, answer: io::Result<T>) -> Outcome {
    match answer {
        Err(error) if error.raw_os_error().is_some_and(|number| REFUSALS.contains(&number)) => {
            Outcome::Blocked(format!("{what}: {error}"))
        }
        Err(error) => Outcome::Through(format!("{what} was permitted, and failed later: {error}")),
        Ok(_) => Outcome::Through(format!("{what} was granted")),
    }
}

/// Opens files for writing or reading, and touches none; the first that opens is through.
fn open_any<'a>(paths: impl IntoIterator<Item = &'a str>, how: &fs::OpenOptions) -> Outcome {
    let (mut seen, mut refused) = (0, None);
    for path in paths {
        seen += 1;
        match how.open(path) {
            Ok(file) => return Outcome::Through(format!("{path} opened (descriptor {})", file.as_raw_fd())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => refused = Some(format!("{path}: {error}")),
        }
    }
    match refused {
        Some(reason) => Outcome::Blocked(reason),
        None => Outcome::Absent(format!("none of {seen} files is there")),
    }
}

fn reading() -> fs::OpenOptions {
    fs::File::options().read(true).clone()
}

fn writing() -> fs::OpenOptions {
    fs::File::options().write(true).clone()
}

const REFUSALS: [i32; 3] = [libc::EPERM, libc::EACCES, libc::ENOSYS];
