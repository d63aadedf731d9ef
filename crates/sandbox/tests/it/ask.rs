//! The real VMM, in its real jail, is asked from the inside: each of its threads is stopped and made to do what a guest that has
//! taken it over would do next.
//!
//! A thread executes the system call itself, with its own user, namespaces, root and filter. What its filter answers by ending the
//! process or the thread costs a machine per question, and is asked of one thread (not of the first: it is not gone before the others are).

use std::{
    fs::{self, File},
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::FileExt as _,
            net::{SocketAddr, UnixListener},
        },
    },
};

use crate::qemu::bench;

/// A question: a name, the call, its arguments, and bytes whose address replaces each argument that is [`BYTES`].
struct Question {
    name: &'static str,
    call: libc::c_long,
    args: [u64; 5],
    bytes: Vec<u8>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// What the call returned: at least 0, or an error number with its sign changed.
    Returned(i64),
    /// The filter ended the process, or would have.
    Ended,
}

/// Calls that swtpm's own filter knows.
const ENDS_THE_VTPM: &[&str] = &[
    "trace another process",
    "make a device",
    "change the root",
    "load a module",
    "load into BPF",
    "add a key",
    "reach I/O ports",
    "raise a limit",
];
const FOLDER: &str = "make a folder where it may write";
const BYTES: u64 = u64::MAX - 1;
const NAME: &[u8] = b"casemate-ask";
const CWD: u64 = libc::AT_FDCWD as u64;

fn question(name: &'static str, call: libc::c_long, args: [u64; 5], bytes: &[u8]) -> Question {
    Question { name, call, args, bytes: [bytes, b"\0"].concat() }
}

/// What must be refused with an error. The filter lets some of it pass; then there is nothing to be reached, or no right.
fn refused() -> Vec<Question> {
    let open = |name, path: &str, flags: i32| question(name, libc::SYS_openat, [CWD, BYTES, flags as u64, 0, 0], path.as_bytes());
    let socket = |name, family: i32, kind: i32| question(name, libc::SYS_socket, [family as u64, kind as u64, 0, 0, 0], b"");
    vec![
        open("open a file of the host", "/etc/passwd", libc::O_RDONLY),
        open("open the host's memory", "/dev/mem", libc::O_RDWR),
        open("open the hypervisor", "/dev/kvm", libc::O_RDWR),
        open("open /proc", "/proc/self/status", libc::O_RDONLY),
        open("open the host by ..", "../../../../etc/shadow", libc::O_RDONLY),
        open("make a file in the root", "/new", libc::O_CREAT | libc::O_RDWR),
        open("write to its own program", "/usr/bin/qemu-system-x86_64", libc::O_WRONLY),
        open("write to a library", "/usr/lib/os-release", libc::O_WRONLY),
        socket("open an internet socket", libc::AF_INET, libc::SOCK_STREAM),
        socket("open a packet socket", libc::AF_PACKET, libc::SOCK_RAW),
        socket("open a netlink socket", libc::AF_NETLINK, libc::SOCK_RAW),
        socket("open a vsock", libc::AF_VSOCK, libc::SOCK_STREAM),
        socket("open a crypto socket", libc::AF_ALG, libc::SOCK_SEQPACKET),
        question("trace another process", libc::SYS_ptrace, [libc::PTRACE_ATTACH as u64, 1, 0, 0, 0], b""),
        question("read another process", libc::SYS_process_vm_readv, [1, BYTES, 0, BYTES, 0], b""),
        // By the number that it has outside; number 2 may be one of its own threads.
        question("signal another process", libc::SYS_kill, [std::process::id().into(), 0, 0, 0, 0], b""),
        question("take a descriptor of another", libc::SYS_pidfd_getfd, [0, 0, 0, 0, 0], b""),
        // Of the vTPM's folder everything but Landlock allows it; the VMM does not even see it.
        question(FOLDER, libc::SYS_mkdirat, [CWD, BYTES, 0o700, 0, 0], b"/vtpm/folder"),
        question("make a device", libc::SYS_mknod, [BYTES, (libc::S_IFBLK | 0o600).into(), 0x800, 0, 0], b"/vm/disk"),
        question("make a file system's context", libc::SYS_fsopen, [BYTES, 0, 0, 0, 0], b"tmpfs"),
        question("clone a mount", libc::SYS_open_tree, [CWD, BYTES, 1, 0, 0], b"/"),
        question("change the root", libc::SYS_chroot, [BYTES, 0, 0, 0, 0], b"/"),
        question("open by handle", libc::SYS_open_by_handle_at, [CWD, BYTES, 0, 0, 0], &[8, 0, 0, 0, 1, 0, 0, 0]),
        question("load a module", libc::SYS_init_module, [BYTES, 1, BYTES, 0, 0], b""),
        question("load into BPF", libc::SYS_bpf, [0, BYTES, 16, 0, 0], &[2, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0]),
        question("handle page faults", libc::SYS_userfaultfd, [1, 0, 0, 0, 0], b""),
        question("make an io_uring", libc::SYS_io_uring_setup, [1, BYTES, 0, 0, 0], &[0; 120]),
        question("add a key", libc::SYS_add_key, [BYTES, BYTES, BYTES, 1, (-2_i64) as u64], b"user"),
        question("reach I/O ports", libc::SYS_ioperm, [0x80, 1, 1, 0, 0], b""),
        question(
            "raise a limit",
            libc::SYS_setrlimit,
            [libc::RLIMIT_NOFILE as u64, BYTES, 0, 0, 0],
            &[0xff, 0xff, 0, 0, 0, 0, 0, 0].repeat(2),
        ),
    ]
}

/// What its own filter ends it for.
fn fatal() -> Vec<Question> {
    vec![
        question("fork", libc::SYS_fork, [0; 5], b""),
        question("execute a program", libc::SYS_execve, [BYTES, 0, 0, 0, 0], b"/bin/sh"),
        question("mount", libc::SYS_mount, [BYTES, BYTES, BYTES, 0, 0], b"tmpfs"),
        question("make a user namespace", libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0], b""),
        question("read the kernel's log", libc::SYS_syslog, [3, BYTES, 8, 0, 0], &[0; 16]),
        question("become root", libc::SYS_setuid, [0; 5], b""),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_thread_of_the_vmm_gets_anything() {
    let bench = bench();
    let (plan, mut line) = bench.started(|_| {}).await;
    let pid = bench.vmm().0;
    let asked = tokio::task::spawn_blocking(move || {
        let threads = threads(pid);
        // Some threads end when they have nothing to do; where all have, there is no answer, and that fails below.
        let alive = |answer: io::Result<Answer>| match answer {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => None,
            answer => Some(answer.unwrap()),
        };
        let ask =
            |question: &Question| threads.iter().filter_map(|thread| alive(ask(pid, *thread, question))).collect::<Vec<_>>();
        // Or the refusals below say nothing: a call that anybody may make is answered.
        let own = question("its own number", libc::SYS_getpid, [0; 5], b"");
        assert!(ask(&own).iter().all(|answer| *answer == Answer::Returned(1)), "it is process 1 of its namespace");
        let mut asked: Vec<_> = refused().iter().map(|question| (question.name, ask(question))).collect();
        // Somebody listens, in another network namespace. The sockets end with the process.
        let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(NAME).unwrap()).unwrap();
        let connected = threads.iter().filter_map(|thread| alive(connect(pid, *thread))).collect();
        asked.push(("connect to a service of the host", connected));
        asked
    })
    .await
    .unwrap();
    assert!(asked[0].1.len() >= 2, "QEMU has several threads");
    let granted: Vec<_> = asked
        .iter()
        .filter(|(_, answers)| {
            answers.is_empty() || answers.iter().any(|answer| !matches!(answer, Answer::Returned(number) if *number < 0))
        })
        .collect();
    assert!(granted.is_empty(), "{granted:?}");
    assert_eq!(line.ask("echo on").await, "on", "it was not harmed by the questions");
    bench.end(&plan).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vmm_that_would_execute_something_is_ended() {
    for question in fatal() {
        let bench = bench();
        let (plan, _line) = bench.started(|_| {}).await;
        let pid = bench.vmm().0;
        let name = question.name;
        let thread = threads(pid).into_iter().find(|thread| *thread != pid).expect("QEMU has several threads");
        let answer = tokio::task::spawn_blocking(move || ask(pid, thread, &question).unwrap()).await.unwrap();
        let refused = matches!(answer, Answer::Ended) || matches!(answer, Answer::Returned(number) if number < 0);
        assert!(refused, "{name}: {answer:?}");
        bench.end(&plan).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vtpm_gets_nothing_either() {
    let bench = bench();
    let (plan, _line) = bench.started(|_| {}).await;
    let landlock = bench.subject.driver.start(&plan).await.unwrap().vmm.landlock;
    let pid = bench.vtpm();
    let asked = tokio::task::spawn_blocking(move || {
        // Its own filter ends it for what it knows; what it does not know is ours to refuse, and is asked first.
        let (ours, its): (Vec<_>, Vec<_>) = refused().into_iter().partition(|question| !ENDS_THE_VTPM.contains(&question.name));
        let mut asked = Vec::new();
        for question in ours.iter().chain(its.first()) {
            asked.push((question.name, ask(pid, pid, question).unwrap()));
        }
        asked
    })
    .await
    .unwrap();
    let (last, before) = asked.split_last().unwrap();
    // The errors of a folder that it may not search, or where there is a file of the name, are others.
    let folder = before.iter().find(|(name, _)| *name == FOLDER).map(|(_, answer)| *answer);
    assert!(
        landlock.is_some_and(|version| version == 0) || folder == Some(Answer::Returned(-i64::from(libc::EACCES))),
        "{folder:?}"
    );
    let granted: Vec<_> =
        before.iter().filter(|(_, answer)| !matches!(answer, Answer::Returned(number) if *number < 0)).collect();
    assert!(granted.is_empty() && before.len() >= 15, "{granted:?}");
    assert_eq!(last.1, Answer::Ended, "{}: its own filter is in force as well", last.0);
    bench.end(&plan).await;
}

/// To the listener of this test.
fn connect(pid: i32, thread: i32) -> io::Result<Answer> {
    let socket = question("a socket", libc::SYS_socket, [libc::AF_UNIX as u64, libc::SOCK_STREAM as u64, 0, 0, 0], b"");
    let Answer::Returned(number) = ask(pid, thread, &socket)? else { return Ok(Answer::Ended) };
    let Ok(number) = u64::try_from(number) else { return Ok(Answer::Returned(number)) };
    let name = [&[libc::AF_UNIX as u8, 0, 0][..], NAME].concat();
    let length = name.len() as u64;
    ask(pid, thread, &question("connect", libc::SYS_connect, [number, BYTES, length, 0, 0], &name))
}

fn threads(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Has one thread make one call, and lets it go on with what it did.
fn ask(pid: i32, thread: i32, question: &Question) -> io::Result<Answer> {
    let instruction = system_call_instruction(pid)?;
    trace(libc::PTRACE_SEIZE, thread, 0, OPTIONS)?;
    trace(libc::PTRACE_INTERRUPT, thread, 0, 0)?;
    wait(thread)?;
    let before = registers(thread)?;
    // Below what the thread uses of its stack.
    let place = (before.rsp - 4096) & !15;
    let memory = File::options().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
    memory.write_all_at(&question.bytes, place)?;
    let args = question.args.map(|arg| if arg == BYTES { place } else { arg });
    let mut now = before;
    (now.rip, now.rax) = (instruction, question.call as u64);
    // Whatever was interrupted is not begun again yet.
    now.orig_rax = u64::MAX;
    (now.rdi, now.rsi, now.rdx, now.r10, now.r8) = (args[0], args[1], args[2], args[3], args[4]);
    set_registers(thread, &now)?;
    // To the call, and through it.
    let (mut stops, mut signal) = (0, 0);
    while stops < 2 {
        trace(libc::PTRACE_SYSCALL, thread, 0, signal)?;
        match wait(thread)? {
            Stop::Gone => return Ok(Answer::Ended),
            Stop::Call => (stops, signal) = (stops + 1, 0),
            Stop::Signal(other) => signal = usize::try_from(other).unwrap_or(0),
            Stop::Asked => signal = 0,
        }
    }
    let answer = registers(thread)?.rax as i64;
    let trapped = let_go(thread, &before)?;
    Ok(if trapped { Answer::Ended } else { Answer::Returned(answer) })
}

/// From a stop in which the kernel begins an interrupted call again. A filter's signal is taken away; whether there was one.
fn let_go(thread: i32, before: &libc::user_regs_struct) -> io::Result<bool> {
    trace(libc::PTRACE_INTERRUPT, thread, 0, 0)?;
    let (mut trapped, mut asked, mut signal) = (false, false, 0);
    while !asked || is_pending(thread, libc::SIGSYS) {
        trace(libc::PTRACE_CONT, thread, 0, signal)?;
        signal = 0;
        match wait(thread)? {
            Stop::Signal(libc::SIGSYS) => trapped = true,
            Stop::Signal(other) => signal = usize::try_from(other).unwrap_or(0),
            Stop::Asked | Stop::Call => asked = true,
            Stop::Gone => return Ok(true),
        }
    }
    set_registers(thread, before)?;
    trace(libc::PTRACE_DETACH, thread, 0, 0)?;
    Ok(trapped)
}

fn is_pending(thread: i32, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let pending = status.lines().find_map(|line| line.strip_prefix("SigPnd:")).map(str::trim).unwrap_or_default();
    u64::from_str_radix(pending, 16).is_ok_and(|set| set & (1 << (signal - 1)) != 0)
}

#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// A signal is about to be delivered.
    Signal(i32),
    /// At a system call, before or after it.
    Call,
    /// Because it was asked to.
    Asked,
    Gone,
}

fn wait(thread: i32) -> io::Result<Stop> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    if unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if !libc::WIFSTOPPED(status) {
        return Ok(Stop::Gone);
    }
    Ok(match (status >> 16, libc::WSTOPSIG(status)) {
        (0, signal) if signal == libc::SIGTRAP | 0x80 => Stop::Call,
        (0, signal) => Stop::Signal(signal),
        _ => Stop::Asked,
    })
}

fn trace(request: libc::c_uint, thread: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: requests that are made so take numbers, or the address of a register set that the caller has.
    let result = unsafe { libc::ptrace(request, thread, address, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn registers(thread: i32) -> io::Result<libc::user_regs_struct> {
    // SAFETY: all-zero is a valid set of registers.
    let mut found: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    trace(libc::PTRACE_GETREGS, thread, 0, (&raw mut found).expose_provenance()).map(|()| found)
}

fn set_registers(thread: i32, to: &libc::user_regs_struct) -> io::Result<()> {
    trace(libc::PTRACE_SETREGS, thread, 0, std::ptr::from_ref(to).expose_provenance())
}

/// Where the process has the instruction `syscall`: in the kernel's own page.
fn system_call_instruction(pid: i32) -> io::Result<u64> {
    let missing = || io::Error::other("the process has no such instruction");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]")).ok_or_else(missing)?;
    let range = line.split(' ').next().and_then(|range| range.split_once('-')).ok_or_else(missing)?;
    let number = |text: &str| u64::from_str_radix(text, 16).map_err(io::Error::other);
    let (begin, end) = (number(range.0)?, number(range.1)?);
    let mut code = vec![0; usize::try_from(end - begin).map_err(io::Error::other)?];
    File::open(format!("/proc/{pid}/mem"))?.read_exact_at(&mut code, begin)?;
    let at = code.windows(2).position(|bytes| bytes == [0x0f, 0x05]).ok_or_else(missing)?;
    Ok(begin + at as u64)
}

const OPTIONS: usize = libc::PTRACE_O_TRACESYSGOOD as usize;
