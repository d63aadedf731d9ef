//! System calls that a workload does not get.
//!
//! In the spirit of the OCI default profile, written as what is refused: the guest's kernel is our own, so the set of calls
//! is closed and its configuration already leaves out many of these. Whatever the kernel grew in a later version must be
//! looked at here when the kernel is renewed.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// The filters, to be applied in order.
pub(crate) fn filters() -> Result<[BpfProgram; 2], BackendError> {
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    refused.insert(libc::SYS_clone, vec![clones_user_namespace()?]);
    refused.insert(libc::SYS_personality, vec![unusual_personality()?]);
    refused.insert(libc::SYS_socket, vec![family(libc::AF_ALG)?, family(libc::AF_VSOCK)?, family(libc::AF_PACKET)?]);
    // The flags of clone3 are in memory, where a filter cannot look: "not implemented" makes libraries use clone.
    let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok([compile(refused, libc::EPERM)?, compile(absent, libc::ENOSYS)?])
}

fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), TargetArch::x86_64)?.try_into()
}

fn clones_user_namespace() -> Result<SeccompRule, BackendError> {
    let flag = libc::CLONE_NEWUSER as u64;
    SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?])
}

/// Only "normal" and "tell me" are let through: others switch protections of memory off.
fn unusual_personality() -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0)?,
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, 0xffff_ffff)?,
    ])
}

fn family(family: i32) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family as u64)?])
}

const REFUSED: &[i64] = &[
    // File systems and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_fanotify_init,
    libc::SYS_fanotify_mark,
    libc::SYS_lookup_dcookie,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_nfsservctl,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
    libc::SYS_vhangup,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Time.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    // Keys of the kernel.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    // Other processes' memory.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Known as good ways into a kernel.
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_move_pages,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_set_mempolicy,
    libc::SYS_memfd_secret,
];

#[cfg(test)]
mod tests {
    use std::{io, process::Command};

    use super::*;

    #[test]
    fn compiles_for_this_machine() {
        assert!(filters().unwrap().iter().all(|filter| !filter.is_empty() && filter.len() < 4096));
    }

    /// In a child of its own, because a filter cannot be taken off again.
    #[test]
    fn refuses_forbidden_calls_and_lets_ordinary_ones_pass() {
        const CHILD: &str = "CASEMATE_SECCOMP_TEST_CHILD";
        if std::env::var_os(CHILD).is_none() {
            let this = "workload::seccomp::tests::refuses_forbidden_calls_and_lets_ordinary_ones_pass";
            let output = Command::new(std::env::current_exe().unwrap()).args([this, "--exact"]).env(CHILD, "1").output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        rustix::thread::set_no_new_privs(true).unwrap();
        filters().unwrap().iter().for_each(|filter| seccompiler::apply_filter(filter).unwrap());
        let refused = |result: Result<(), rustix::io::Errno>| assert_eq!(result, Err(rustix::io::Errno::PERM));
        refused(rustix::process::chroot("/"));
        refused(rustix::mount::unmount("/", rustix::mount::UnmountFlags::empty()));
        refused(rustix::system::sethostname(b"x"));
        assert!(std::fs::read("/proc/self/stat").is_ok());
        std::thread::spawn(|| ()).join().unwrap();
        assert!(Command::new("/bin/true").status().map_err(|e: io::Error| e.to_string()).unwrap().success());
    }
}
