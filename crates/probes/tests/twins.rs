//! Each probe's twin: the same probe where what it tries is granted. A probe that gets through nowhere would prove nothing by
//! being blocked.
//!
//! Needs root and util-linux. Namespaces of the test's own hold whatever is changed. Where this machine's kernel may lack what
//! is asked for, a filter answers in its place as a kernel does that has it and allows it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use std::{
    collections::BTreeSet,
    fs, io,
    net::TcpListener,
    os::{
        fd::AsRawFd as _,
        linux::net::SocketAddrExt as _,
        unix::{
            net::{SocketAddr, UnixListener},
            process::CommandExt as _,
        },
    },
    process::Command,
    thread,
};

const PROBES: &str = env!("CARGO_BIN_EXE_casemate-probes");

/// What the host's root may do anyway.
const AS_ROOT: &[&str] = &[
    "capabilities",
    "host-processes",
    "trace",
    "runtime-program",
    "user-namespace",
    "mount-namespace",
    "raw-devices",
    "make-device",
    "mount",
    "mount-new",
    "change-root",
    "file-handle",
    "reboot",
    "kernel-log",
    "raw-sockets",
    "control-groups",
    "keys",
];

/// What a kernel may lack or its policy refuse even to root, the call, and its answer where it is granted.
const GRANTED: &[(&str, &[libc::c_long], i32)] = &[
    ("bpf", &[libc::SYS_bpf], 0),
    ("perf", &[libc::SYS_perf_event_open], 0),
    ("io-uring", &[libc::SYS_io_uring_setup], 0),
    ("userfaultfd", &[libc::SYS_userfaultfd], 0),
    ("ports", &[libc::SYS_ioperm], 0),
    ("release-agent", &[libc::SYS_mount], 0),
    ("host-vsock", &[libc::SYS_socket, libc::SYS_connect], 0),
    // Rights are checked first: these answers are of a kernel that went on to look at what it was given.
    ("load-module", &[libc::SYS_init_module], libc::ENOEXEC),
    ("load-kernel", &[libc::SYS_kexec_load], libc::EINVAL),
];

/// Files and sockets that are there only in namespaces of the test's own.
const ARRANGED: &[&str] = &[
    "descriptors",
    "join-namespaces",
    "kernel-memory",
    "system-request",
    "helper-programs",
    "kernel-tracing",
    "metadata",
    "host-ports",
    "host-sockets",
    "abstract-sockets",
];

#[test]
fn every_probe_has_a_twin() {
    let output = Command::new(PROBES).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let known: BTreeSet<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    let twins: BTreeSet<&str> =
        AS_ROOT.iter().copied().chain(GRANTED.iter().map(|(name, ..)| *name)).chain(ARRANGED.iter().copied()).collect();
    assert_eq!(known, twins);
    assert_eq!(output.status.code(), Some(1), "root gets through");
}

#[test]
fn root_gets_through() {
    for name in AS_ROOT {
        gets_through(&mut probe(name));
    }
}

#[test]
fn what_is_granted_is_noticed() {
    for (name, calls, answer) in GRANTED {
        let mut command = probe(name);
        answer_calls(&mut command, calls, *answer);
        gets_through(&mut command);
    }
}

#[test]
fn what_is_refused_is_blocked() {
    for (name, calls, _) in GRANTED {
        let mut command = probe(name);
        answer_calls(&mut command, calls, libc::EPERM);
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // Of two ways to the same thing the filter refuses one.
        assert!(text.starts_with("blocked") || *name == "release-agent", "{text}");
    }
}

#[test]
fn a_descriptor_left_open_is_found() {
    let folder = fs::File::open("/").unwrap();
    let mut command = probe("descriptors");
    // SAFETY: dup2 is safe to call between fork and execution, and the descriptor is open until the command has run.
    unsafe {
        command.pre_exec(move || match libc::dup2(folder.as_raw_fd(), 77) {
            77 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let text = gets_through(&mut command);
    assert!(text.contains("77 is /"), "{text}");
}

#[test]
fn namespaces_of_process_1_can_be_joined() {
    let mut command = Command::new("unshare");
    gets_through(command.args(["--pid", "--fork", "--kill-child", "--mount-proc", PROBES, "--only", "join-namespaces"]));
}

#[test]
fn files_of_the_kernel_are_found() {
    in_namespaces(libc::CLONE_NEWNS, || {
        let tree = tempfile::tempdir().unwrap();
        cover(tree.path().to_str().unwrap());
        for file in ["proc/kcore", "proc/sysrq-trigger", "proc/sys/kernel/modprobe", "sys/kernel/debug/x"] {
            let file = tree.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "x").unwrap();
        }
        for folder in ["proc", "sys"] {
            shell(&format!("mount --bind {}/{folder} /{folder}", tree.path().display()));
        }
        for name in ["kernel-memory", "system-request", "helper-programs", "kernel-tracing"] {
            gets_through(&mut probe(name));
        }
        shell_quietly("umount /sys; umount /proc");
        shell_quietly(&format!("umount {}", tree.path().display()));
    });
}

#[test]
fn services_that_answer_are_found() {
    in_namespaces(libc::CLONE_NEWNS | libc::CLONE_NEWNET, || {
        for name in ["metadata", "host-ports", "abstract-sockets"] {
            let output = probe(name).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "nothing is there yet: {}", String::from_utf8_lossy(&output.stdout));
        }
        // A gateway that becomes one of this machine's addresses only after the route to it was made.
        shell(
            "ip link set lo up && ip link add d0 type veth peer name d1 && ip addr add 10.9.9.2/24 dev d0 && ip link set d0 up && ip link set d1 up",
        );
        shell("ip route add default via 10.9.9.1 && ip addr add 10.9.9.1/32 dev lo && ip addr add 169.254.169.254/32 dev lo");
        cover("/run");
        let _metadata = TcpListener::bind("169.254.169.254:80").unwrap();
        let _port = TcpListener::bind("10.9.9.1:10250").unwrap();
        let _socket = UnixListener::bind("/run/docker.sock").unwrap();
        let _other = UnixListener::bind_addr(&SocketAddr::from_abstract_name("casemate-twin").unwrap()).unwrap();
        for name in ["metadata", "host-ports", "host-sockets", "abstract-sockets"] {
            gets_through(&mut probe(name));
        }
    });
}

#[test]
fn wrong_use_is_refused_and_a_report_is_written() {
    for args in [&["--only", "nothing"][..], &["--out"], &["more"], &["--out", "/nonexistent/x"]] {
        assert_eq!(Command::new(PROBES).args(args).output().unwrap().status.code(), Some(2), "{args:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("report.json");
    Command::new(PROBES).arg("--out").arg(&file).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!(report["version"], 1);
    assert_eq!(report["findings"].as_array().unwrap().len(), AS_ROOT.len() + GRANTED.len() + ARRANGED.len());
}

fn probe(name: &str) -> Command {
    let mut command = Command::new(PROBES);
    command.args(["--only", name]);
    command
}

fn gets_through(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.starts_with("through"), "{text}");
    text
}

/// Runs `work` on a thread with namespaces of its own; what it executes has them, too.
fn in_namespaces(flags: i32, work: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || {
        // SAFETY: this thread shares nothing of what it leaves with another one that relies on it.
        assert_eq!(unsafe { libc::unshare(flags) }, 0, "{}; hint: run as root", io::Error::last_os_error());
        shell("mount --make-rprivate /");
        work();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn cover(path: &str) {
    shell(&format!("mount -t tmpfs tmpfs {path}"));
}

fn shell(line: &str) {
    let status = Command::new("sh").args(["-ec", line]).status().unwrap();
    assert!(status.success(), "{line}; hint: install util-linux and iproute2");
}

fn shell_quietly(line: &str) {
    let _ = Command::new("sh").args(["-c", line]).output();
}

/// Has every one of the calls answered so, without the kernel doing anything.
fn answer_calls(command: &mut Command, calls: &[libc::c_long], answer: i32) {
    let statement = |code: u32, k: u32, jt: u8| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    for (index, call) in calls.iter().enumerate() {
        let to_answer = u8::try_from(calls.len() - index).unwrap();
        program.push(statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, u32::try_from(*call).unwrap(), to_answer));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0));
    let errno = u32::try_from(answer).unwrap();
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno, 0));
    // SAFETY: only system calls are made between fork and execution; the program is a valid filter that lives long enough.
    unsafe {
        command.pre_exec(move || {
            let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap_or(0), filter: program.as_mut_ptr() };
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) != 0
            {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}
