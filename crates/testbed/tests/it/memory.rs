//! Secrets in the memory of processes stay there: no core dumps, no swap.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::SystemTime,
};

use casemate_testbed::{Bed, BedOptions};
use rustix::process::{Pid, Signal};

use crate::{
    deaths::processes_of,
    support::{Background, prepare, run_args},
};

#[test]
fn secrets_in_memory_reach_neither_core_dumps_nor_swap() {
    let bed = Bed::start(&BedOptions::default()).unwrap();
    prepare(&bed);
    let begin = SystemTime::now();
    // A tenant whose shell allows cores of any size.
    let mut run = Background::of(with_any_core(&bed.casemate_command(&run_args(&[], &["60"]))));
    let instance = run.instance();
    run.wait_for("ok running");

    let tenant = i32::try_from(run.pid()).unwrap();
    for part in ["server", "agent", "tpm"] {
        leaves_no_core(bed.pid(part).unwrap(), part);
    }
    leaves_no_core(tenant, "casemate");
    let locked = status(tenant, "VmLck");
    assert!(locked.trim_end_matches(" kB").parse::<u64>().unwrap() > 1000, "the tenant's memory is not locked: {locked}");
    let inside = processes_of(&instance);
    for program in ["qemu-system-x86_64", "swtpm"] {
        let (pid, _) = inside.iter().find(|(_, name)| name == program).unwrap_or_else(|| panic!("{program} in {inside:?}"));
        leaves_no_core(*pid, program);
    }
    guest_memory_is_never_swapped(&bed, &instance);

    // The real thing, while the command has the data key and the tenant's key in its memory.
    for pid in [tenant, bed.pid("agent").unwrap()] {
        rustix::process::kill_process(Pid::from_raw(pid).unwrap(), Signal::ABORT).unwrap();
    }
    let ended = run.wait();
    assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()), "it died of the signal");
    assert!(!ended.core_dumped(), "it left a core");
    bed.restart("agent").unwrap();
    bed.casemate(&["stop", &instance]).expect_code(0);
    let cores: Vec<PathBuf> = places_of_cores(&bed).iter().flat_map(|place| cores_in(place, begin)).collect();
    assert!(cores.is_empty(), "cores were written: {cores:?}");
    a_dump_would_be_seen(&bed, begin);
    bed.assert_no_instance_remains();
    bed.finish();
}

/// The same command from a shell with no limit on cores.
fn with_any_core(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -c unlimited && exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    shell.current_dir(command.get_current_dir().unwrap()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// The limit 1 makes the kernel write to neither file nor program.
fn leaves_no_core(pid: i32, what: &str) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let values: Vec<&str> = line.split_whitespace().skip(4).take(2).collect();
    assert!(values.iter().all(|value| matches!(*value, "0" | "1")), "{what}: {line}");
}

fn status(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).trim().to_owned()
}

/// Guest memory is on a tmpfs that refuses swap, and the group of VMM and vTPM has none.
fn guest_memory_is_never_swapped(bed: &Bed, instance: &str) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let point = bed.run_dir().join("agent/ram").join(instance);
    let mount = mounts.lines().find(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == point)).unwrap();
    assert!(mount.contains("noswap"), "{mount}");
    let mut limits = Vec::new();
    for line in mounts.lines().filter(|line| line.contains(" - cgroup")) {
        let group = find(Path::new(line.split(' ').nth(4).unwrap()), instance, 6);
        for (file, wanted) in [("memory.swap.max", "0"), ("memory.swappiness", "0")] {
            if let Some(text) = group.as_ref().and_then(|group| fs::read_to_string(group.join(file)).ok()) {
                assert_eq!(text.trim(), wanted, "{file}");
                limits.push(file);
            }
        }
    }
    assert!(!limits.is_empty(), "no group of {instance} limits swap");
}

fn find(folder: &Path, name: &str, depth: usize) -> Option<PathBuf> {
    let folders = || fs::read_dir(folder).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    let here = folders().find(|entry| entry.file_name() == name).map(|entry| entry.path());
    here.or_else(|| (depth > 0).then(|| folders().find_map(|entry| find(&entry.path(), name, depth - 1))).flatten())
}

/// Working folders of what was killed, and where the kernel's pattern leads.
fn places_of_cores(bed: &Bed) -> Vec<PathBuf> {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let pattern = Path::new(pattern.trim()).parent().filter(|parent| parent.is_absolute()).map(Path::to_owned);
    let coredump = Path::new("/var/lib/systemd/coredump").to_owned();
    [bed.work(), std::env::current_dir().unwrap(), bed.state(), "/".into(), coredump].into_iter().chain(pattern).collect()
}

fn cores_in(folder: &Path, since: SystemTime) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let new = |path: &PathBuf| fs::metadata(path).and_then(|meta| meta.modified()).is_ok_and(|at| at >= since);
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("core") && entry.path().is_file())
        .map(|entry| entry.path())
        .filter(new)
        .collect()
}

/// A program without protection, under the same limits and in the same folder: otherwise the absence of cores proves nothing.
fn a_dump_would_be_seen(bed: &Bed, begin: SystemTime) {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    if pattern.starts_with('|') {
        eprintln!("cores go to a program here ({}): where it keeps them is not looked at", pattern.trim());
        return;
    }
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -c unlimited && exec sh -c 'kill -SEGV $$'"]).current_dir(bed.work()).stderr(Stdio::null());
    let status = command.status().unwrap();
    assert!(status.core_dumped(), "{status}");
    let cores: Vec<PathBuf> = places_of_cores(bed).iter().flat_map(|place| cores_in(place, begin)).collect();
    assert!(!cores.is_empty(), "the test looks in the wrong places");
    cores.iter().for_each(|core| fs::remove_file(core).unwrap());
}
