//! Kernel settings that the configuration of the kernel cannot fix, and PID 1's own limits.

use std::{fs, io};

use rustix::process::{Resource, Rlimit, setrlimit};

use crate::phase::say;

/// Best effort by design: a setting that this kernel was built without does not exist, and needs no hardening. Any other
/// failure is said on the console.
pub(crate) fn apply() {
    for (name, value) in SETTINGS {
        match fs::write(format!("/proc/sys/{name}"), value) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => say(&format!("casemate-guest: set {name}: {error}")),
            _ => {}
        }
    }
    // No core dump of PID 1 or of anything after it.
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        say(&format!("casemate-guest: limit core dumps: {error}"));
    }
    if let Err(error) = rustix::system::sethostname(b"casemate") {
        say(&format!("casemate-guest: set the host name: {error}"));
    }
}

/// File below /proc/sys, and what it shall hold.
pub(crate) const SETTINGS: &[(&str, &str)] = &[
    // The kernel's log and addresses are not for the workload.
    ("kernel/dmesg_restrict", "1"),
    ("kernel/kptr_restrict", "2"),
    // No process looks into another, whoever it is.
    ("kernel/yama/ptrace_scope", "3"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("kernel/perf_event_paranoid", "3"),
    ("kernel/kexec_load_disabled", "1"),
    ("kernel/modules_disabled", "1"),
    ("kernel/sysrq", "0"),
    ("kernel/core_pattern", "|/nonexistent"),
    ("kernel/randomize_va_space", "2"),
    // A confused kernel ends the machine.
    ("kernel/panic_on_oops", "1"),
    ("fs/suid_dumpable", "0"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_symlinks", "1"),
    ("fs/protected_fifos", "2"),
    ("fs/protected_regular", "2"),
    ("vm/unprivileged_userfaultfd", "0"),
    // User namespaces open kernel surface that no workload here needs.
    ("user/max_user_namespaces", "0"),
];
