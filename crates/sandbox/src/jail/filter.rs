//! A system call filter of our own, under which a program may put further ones: what no VMM and no vTPM needs once it was
//! executed.
//!
//! It names what is refused: programs differ in what they need, and bring narrower filters themselves. Its point is that every
//! thread has it from its first moment, also those that a program forgets, and that it refuses what a program's own filter
//! leaves open (that of QEMU knows neither io_uring nor BPF nor keyrings).

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use super::{Attempt, Failure};

/// Puts the calling process, and what it executes, under the filter; `no_new_privs` must be set.
pub(super) fn apply() -> Result<(), Failure> {
    for program in programs().map_err(std::io::Error::other).attempt("make the system call filter")? {
        seccompiler::apply_filter(&program).map_err(std::io::Error::other).attempt("apply the system call filter")?;
    }
    Ok(())
}

fn programs() -> Result<[BpfProgram; 3], BackendError> {
    let mut refused: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    refused.insert(libc::SYS_clone, vec![new_user_namespace()?]);
    refused.insert(libc::SYS_socket, vec![other_family()?]);
    let absent = ABSENT.iter().map(|call| (*call, Vec::new())).collect();
    Ok([only_one_set_of_numbers(), compile(refused, libc::EPERM)?, compile(absent, libc::ENOSYS)?])
}

/// Refuses the x32 numbers of all calls, under which a list of what is refused would be passed by. That they are of the same
/// architecture as the others is why the library's check of it does not see them.
fn only_one_set_of_numbers() -> BpfProgram {
    let statement = |code: u32, k: u32, jf: u8| sock_filter { code: code as u16, jt: 0, jf, k };
    vec![
        // The number is what a filter's data begin with.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32, 1),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
    ]
}

fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32), TargetArch::x86_64)?.try_into()
}

fn new_user_namespace() -> Result<SeccompRule, BackendError> {
    let flag = libc::CLONE_NEWUSER as u64;
    SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?])
}

/// Sockets of any family but Unix: what network there is comes as an open descriptor.
fn other_family() -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?])
}

/// The bit in the numbers of x32.
const X32: u32 = 0x4000_0000;

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
#[allow(unsafe_code, reason = "system calls are made as a program behind the filter makes them")]
mod tests {
    use std::{io, thread};

    use super::*;

    /// What a thread behind the filter gets for a call whose arguments are nonsense everywhere.
    fn answers(calls: Vec<i64>) -> Vec<(i64, i32)> {
        let ask = move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            apply().unwrap();
            let ask = |call: i64| {
                // SAFETY: no address is valid and no number known, so that nothing is read, written or changed.
                let result = unsafe { libc::syscall(call, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64, -1_i64) };
                assert_eq!(result, -1, "call {call}");
                (call, io::Error::last_os_error().raw_os_error().unwrap())
            };
            calls.into_iter().map(ask).collect()
        };
        // The filter ends with its thread.
        thread::spawn(ask).join().unwrap()
    }

    #[test]
    fn the_filter_names_nothing_twice() {
        let mut names = [REFUSED, ABSENT].concat();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), REFUSED.len() + ABSENT.len());
    }

    #[test]
    fn what_is_listed_is_refused() {
        let conditional = [libc::SYS_clone, libc::SYS_socket];
        for (call, answer) in answers([REFUSED, &conditional].concat()) {
            assert_eq!(answer, libc::EPERM, "call {call}");
        }
        for (call, answer) in answers(ABSENT.to_vec()) {
            assert_eq!(answer, libc::ENOSYS, "call {call}");
        }
    }

    #[test]
    fn other_numbers_of_the_same_calls_lead_nowhere() {
        // A kernel without them would say that there is no such call.
        for (call, answer) in answers(REFUSED.iter().chain([&libc::SYS_read]).map(|call| call | i64::from(X32)).collect()) {
            assert_eq!(answer, libc::EPERM, "call {call:#x}");
        }
    }

    #[test]
    fn what_is_not_listed_goes_on() {
        assert_eq!(
            answers(vec![libc::SYS_read, libc::SYS_close]),
            [(libc::SYS_read, libc::EBADF), (libc::SYS_close, libc::EBADF)]
        );
        let made = || {
            rustix::thread::set_no_new_privs(true).unwrap();
            apply().unwrap();
            thread::spawn(|| ()).join().unwrap();
            std::os::unix::net::UnixStream::pair().is_ok()
        };
        assert!(thread::spawn(made).join().unwrap(), "threads and Unix sockets are made");
    }
}
