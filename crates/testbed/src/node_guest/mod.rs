//! Node guests: the distribution's stock kernels in QEMU, without KVM, with the programs of a test in the initrd. Whatever is wrong here
//! ends the test that called it.

mod archive;

pub use archive::Archive;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// A whole suite takes one to two minutes of processor time under emulation; a busy machine has little of it to give.
const LIMIT: Duration = Duration::from_secs(3000);

/// With counted instructions the time stamp counter counts nanoseconds.
const LINE: &str =
    "console=ttyS0 reboot=t panic=-1 loglevel=3 no_timer_check cryptomgr.notests tsc_early_khz=1000000 tsc=reliable";

/// A kernel that a node may run.
#[derive(Debug)]
pub struct Kernel {
    /// The version of its package.
    pub version: String,
    folder: PathBuf,
}

impl Kernel {
    /// A module without needs, for tests of loading one.
    pub fn plain_module(&self) -> Vec<u8> {
        read(&self.folder.join("module.ko"))
    }

    /// What containers need and the kernel does not have built in, in the order of loading.
    pub fn container_modules(&self) -> Vec<Vec<u8>> {
        let folder = self.folder.join("modules");
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("read {}: {error}", folder.display()));
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths.iter().map(|path| read(path)).collect()
    }
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// The kernels that this release offers, by the builder that pins them. They come over the network the first time. Empty where they
/// cannot be had, which is an error where `CASEMATE_TEST_TOOLS=require`.
pub fn kernels(into: &Path) -> Vec<Kernel> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["xtask", "node-kernels", "--out"]).arg(into).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().expect("cargo can be executed");
    if !output.status.success() {
        let why = format!("no kernels for node guests: {}", String::from_utf8_lossy(&output.stderr));
        assert!(std::env::var_os("CASEMATE_TEST_TOOLS").is_none_or(|value| value != "require"), "{why}");
        eprintln!("SKIPPED: {why}");
        return Vec::new();
    }
    let folders = fs::read_dir(into).expect("the kernels were written there").flatten().map(|entry| entry.path());
    let named = folders.filter_map(|folder| Some(Kernel { version: folder.file_name()?.to_str()?.to_owned(), folder }));
    let mut kernels: Vec<Kernel> = named.collect();
    kernels.sort_by(|one, other| one.version.cmp(&other.version));
    kernels
}

/// What the guest says on its console until it is off. `init` is the first process's program, with its arguments behind ` -- `.
pub fn boot(kernel: &Kernel, initrd: &Path, init: &str) -> Vec<String> {
    // One thread for both processors: with one for each, code that the kernel rewrites on one of them is not always what the other runs.
    run(kernel, initrd, init, &["-accel", "tcg,thread=single", "-smp", "2"])
}

/// The same with one processor, whose clock goes on by a nanosecond with each instruction: for figures that do not depend on what this
/// machine is busy with.
pub fn boot_counted(kernel: &Kernel, initrd: &Path, init: &str) -> Vec<String> {
    run(kernel, initrd, init, &["-accel", "tcg,thread=single", "-smp", "1", "-icount", "shift=0,sleep=off"])
}

fn run(kernel: &Kernel, initrd: &Path, init: &str, processor: &[&str]) -> Vec<String> {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-M", "microvm,pit=off,pic=off,rtc=on", "-cpu", "max,-avx2", "-m", "512"])
        .args(processor)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-append", &format!("{LINE} rdinit={init}")])
        .arg("-kernel")
        .arg(kernel.folder.join("vmlinux"))
        .arg("-initrd")
        .arg(initrd);
    let mut machine = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("qemu-system-x86 is installed");
    let output = BufReader::new(machine.stdout.take().expect("it is piped"));
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let (end, mut console) = (Instant::now() + LIMIT, Vec::new());
    let ended = loop {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => console.push(line.trim_end().to_owned()),
            Err(error) => break error == mpsc::RecvTimeoutError::Disconnected,
        }
    };
    let _ = machine.kill();
    let _ = machine.wait();
    let _ = reader.join();
    assert!(ended, "the node is still on after {LIMIT:?}: {console:#?}");
    console
}
