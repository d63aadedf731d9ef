//! A system call filter of our own, under which a program may put further ones: what no monitor needs once it was executed.
//!
//! It names what is refused: programs differ in what they need, and bring narrower filters themselves. Its point is that every
//! thread has it from its first moment, also those that a program forgets.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::{Attempt, Failure};

/// Puts the calling process, and what it executes, under the filter; `no_new_privs` must be set.
pub(super) fn apply() -> Result<(), Failure> {
    for program in programs().map_err(std::io::Error::other).attempt("make the system call filter")? {
        seccompiler::apply_filter(&program).map_err(std::io::Error::other).attempt("apply the system call filter")?;
    }
    Ok(())
}

fn programs() -> Result<[BpfProgram; 2], BackendError> {
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    refused.insert(libc::SYS_clone, vec![new_user_namespace()?]);
    refused.insert(libc::SYS_socket, vec![other_family()?]);
    let absent = ABSENT.iter().map(|call| (*call, Vec::new())).collect();
    Ok([compile(refused, libc::EPERM)?, compile(absent, libc::ENOSYS)?])
}

fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), TargetArch::x86_64)?.try_into()
}

fn new_user_namespace() -> Result<SeccompRule, BackendError> {
    let flag = libc::CLONE_NEWUSER as u64;
    SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?])
}

/// Sockets of any family but Unix: a monitor without a network has no use for one.
fn other_family() -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?])
}

/// As on a kernel without them: programs then do what they did before.
const ABSENT: &[i64] = &[
    // Its flags are in memory, where a filter cannot look; libraries use clone instead.
    libc::SYS_clone3,
    // What is asked for through a ring passes no filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

const REFUSED: &[i64] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
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
    libc::SYS_mknod,
    libc::SYS_mknodat,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_fanotify_init,
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
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles_and_names_nothing_twice() {
        assert!(programs().is_ok());
        let mut names = [REFUSED, ABSENT].concat();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REFUSED.len() + ABSENT.len());
    }
}
