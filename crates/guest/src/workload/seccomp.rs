//! System calls that a workload does not get.
//!
//! In the spirit of the OCI default profile, written as what is refused: the guest's kernel is our own, so the set of calls
//! is closed and its configuration already leaves out many of these. Whatever the kernel grew in a later version must be
//! looked at here when the kernel is renewed.
//!
//! The filter is a binary search, assembled here: a list that is gone through for every call takes the kernel milliseconds when it
//! finds out, at installation, which calls pass in any case. The tests compare it with the list that a library makes.

use seccompiler::{BpfProgram, sock_filter};

/// The filter that the workload runs under.
pub(crate) fn filter() -> BpfProgram {
    let mut rules: Vec<(u32, Rule)> = REFUSED.iter().map(|call| (number(*call), Rule::Refuse(libc::EPERM))).collect();
    rules.push((number(libc::SYS_clone), Rule::RefuseFlag(libc::CLONE_NEWUSER as u32)));
    // Only "normal" and "tell me" are let through: others switch protections of memory off.
    rules.push((number(libc::SYS_personality), Rule::AllowOnly(&[0, u32::MAX])));
    let families = &[libc::AF_ALG as u32, libc::AF_VSOCK as u32, libc::AF_PACKET as u32];
    rules.push((number(libc::SYS_socket), Rule::RefuseAnyOf(families)));
    // The flags of clone3 are in memory, where a filter cannot look: "not implemented" makes libraries use clone.
    rules.push((number(libc::SYS_clone3), Rule::Refuse(libc::ENOSYS)));
    rules.sort_unstable_by_key(|(number, _)| *number);

    let mut program = vec![
        load(ARCHITECTURE),
        jump(JUMP_IF_EQUAL, AUDIT_ARCH_X86_64, 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
    ];
    search(&rules, &mut program);
    program
}

/// What is refused of one call. Arguments are looked at in their lower half: all these are 32 bits wide for the kernel too.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// All of it, with this error.
    Refuse(i32),
    /// With this bit in the first argument.
    RefuseFlag(u32),
    /// With one of these as the first argument.
    RefuseAnyOf(&'static [u32]),
    /// With anything but these as the first argument.
    AllowOnly(&'static [u32]),
}

/// Halves the sorted rules until one is left, which the call's number, loaded before, fits or not.
fn search(rules: &[(u32, Rule)], program: &mut BpfProgram) {
    match rules {
        [] => program.push(answer(libc::SECCOMP_RET_ALLOW)),
        [(number, rule)] => {
            program.push(jump(JUMP_IF_EQUAL, *number, 1, 0));
            program.push(answer(libc::SECCOMP_RET_ALLOW));
            decide(*rule, program);
        }
        _ => {
            let (low, high) = rules.split_at(rules.len() / 2);
            let at = program.len();
            search(low, program);
            let skip = u8::try_from(program.len() - at).expect("half of the rules are shorter than the longest jump");
            program.insert(at, jump(JUMP_IF_AT_LEAST, high[0].0, skip, 0));
            search(high, program);
        }
    }
}

fn decide(rule: Rule, program: &mut BpfProgram) {
    let any_of = |values: &[u32], program: &mut BpfProgram| {
        program.push(load(FIRST_ARGUMENT));
        for (left, value) in (1..=values.len()).rev().zip(values) {
            // Behind the other values and one answer is the second answer.
            program.push(jump(JUMP_IF_EQUAL, *value, u8::try_from(left).expect("a few values"), 0));
        }
    };
    match rule {
        Rule::Refuse(errno) => program.push(refuse(errno)),
        Rule::RefuseFlag(flag) => {
            program.push(load(FIRST_ARGUMENT));
            program.push(jump(JUMP_IF_BIT, flag, 0, 1));
            program.push(refuse(libc::EPERM));
            program.push(answer(libc::SECCOMP_RET_ALLOW));
        }
        Rule::RefuseAnyOf(values) => {
            any_of(values, program);
            program.push(answer(libc::SECCOMP_RET_ALLOW));
            program.push(refuse(libc::EPERM));
        }
        Rule::AllowOnly(values) => {
            any_of(values, program);
            program.push(refuse(libc::EPERM));
            program.push(answer(libc::SECCOMP_RET_ALLOW));
        }
    }
}

fn number(call: libc::c_long) -> u32 {
    u32::try_from(call).expect("numbers of system calls are small")
}

/// Loads a word of `struct seccomp_data`.
fn load(offset: u32) -> sock_filter {
    sock_filter { code: LOAD, jt: 0, jf: 0, k: offset }
}

fn jump(code: u16, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    sock_filter { code, jt: if_true, jf: if_false, k: value }
}

fn answer(action: u32) -> sock_filter {
    sock_filter { code: RETURN, jt: 0, jf: 0, k: action }
}

fn refuse(errno: i32) -> sock_filter {
    answer(libc::SECCOMP_RET_ERRNO | errno.unsigned_abs())
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP_IF_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

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
    use std::{collections::BTreeMap, io, process::Command};

    use seccompiler::{SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};

    use super::*;

    /// What the kernel's interpreter does with a filter.
    fn run(program: &BpfProgram, number: u32, architecture: u32, first: u64) -> u32 {
        let (mut at, mut loaded) = (0, 0_u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            let fits = match code {
                LOAD => {
                    loaded = match k {
                        0 => number,
                        4 => architecture,
                        16 => first as u32,
                        20 => (first >> 32) as u32,
                        _ => panic!("a load from {k}"),
                    };
                    at += 1;
                    continue;
                }
                // The library's programs mask before they compare.
                0x54 => {
                    loaded &= k;
                    at += 1;
                    continue;
                }
                0x05 => {
                    at += 1 + k as usize;
                    continue;
                }
                RETURN => return k,
                JUMP_IF_EQUAL => loaded == k,
                JUMP_IF_AT_LEAST => loaded >= k,
                JUMP_IF_BIT => loaded & k != 0,
                _ => panic!("instruction {code:#x}"),
            };
            at += 1 + usize::from(if fits { jt } else { jf });
        }
    }

    fn library(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> BpfProgram {
        let (pass, refuse) = (SeccompAction::Allow, SeccompAction::Errno(errno as u32));
        SeccompFilter::new(rules, pass, refuse, TargetArch::x86_64).unwrap().try_into().unwrap()
    }

    fn first(length: SeccompCmpArgLen, comparison: SeccompCmpOp, value: u64) -> SeccompCondition {
        SeccompCondition::new(0, length, comparison, value).unwrap()
    }

    fn library_filters() -> [BpfProgram; 2] {
        use {SeccompCmpArgLen::Dword, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, SeccompCmpOp::MaskedEq, SeccompCmpOp::Ne};
        let rule = |conditions| SeccompRule::new(conditions).unwrap();
        let mut refused: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
        let flag = libc::CLONE_NEWUSER as u64;
        refused.insert(libc::SYS_clone, vec![rule(vec![first(Qword, MaskedEq(flag), flag)])]);
        refused.insert(libc::SYS_personality, vec![rule(vec![first(Dword, Ne, 0), first(Dword, Ne, 0xffff_ffff)])]);
        let families = [libc::AF_ALG, libc::AF_VSOCK, libc::AF_PACKET];
        refused.insert(libc::SYS_socket, families.map(|family| rule(vec![first(Dword, Eq, family as u64)])).to_vec());
        let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        [library(refused, libc::EPERM), library(absent, libc::ENOSYS)]
    }

    #[test]
    fn decides_like_the_list_that_a_library_makes() {
        let (own, library) = (filter(), library_filters());
        let arguments = [0, 1, 2, 16, 17, 38, 40, 41, 0x1000_0000, 0x1000_0011, 0xffff_ffff, 1 << 32, 0xdead_0000_0011, u64::MAX];
        let mut refused = 0;
        for number in (0..1024).chain([0x4000_0000, 0x4000_0165, u32::MAX]) {
            for first in arguments {
                // The kernel takes the strictest answer, which among these is never "allow".
                let answers = library.each_ref().map(|program| run(program, number, AUDIT_ARCH_X86_64, first));
                let expected = answers.into_iter().find(|answer| *answer != libc::SECCOMP_RET_ALLOW);
                let expected = expected.unwrap_or(libc::SECCOMP_RET_ALLOW);
                assert_eq!(run(&own, number, AUDIT_ARCH_X86_64, first), expected, "call {number} with {first:#x}");
                refused += usize::from(expected != libc::SECCOMP_RET_ALLOW);
            }
        }
        assert!(refused > REFUSED.len() * arguments.len());
        assert_eq!(run(&own, 0, 0x4000_0003, 0), libc::SECCOMP_RET_KILL_PROCESS, "calls of another architecture");
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
        seccompiler::apply_filter(&filter()).unwrap();
        let refused = |result: Result<(), rustix::io::Errno>| assert_eq!(result, Err(rustix::io::Errno::PERM));
        refused(rustix::process::chroot("/"));
        refused(rustix::mount::unmount("/", rustix::mount::UnmountFlags::empty()));
        refused(rustix::system::sethostname(b"x"));
        assert!(std::fs::read("/proc/self/stat").is_ok());
        std::thread::spawn(|| ()).join().unwrap();
        assert!(Command::new("/bin/true").status().map_err(|e: io::Error| e.to_string()).unwrap().success());
    }
}
