//! Node guests: the distribution's stock kernels in QEMU, without KVM, with the monitor and the attack suite in the initrd.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::archive::Archive;

/// A whole suite takes one to two minutes of processor time under emulation; a busy machine has little of it to give.
const LIMIT: Duration = Duration::from_secs(3000);

/// With counted instructions the time stamp counter counts nanoseconds.
const LINE: &str = "rdinit=/attacks console=ttyS0 reboot=t panic=-1 loglevel=3 no_timer_check cryptomgr.notests tsc_early_khz=1000000 tsc=reliable";

/// A kernel that a node may run.
pub(crate) struct Kernel {
    pub(crate) version: String,
    folder: PathBuf,
}

/// The kernels that this release offers, by the builder that pins them. They come over the network the first time. Empty where they
/// cannot be had, which is an error where `CASEMATE_TEST_TOOLS=require`.
pub(crate) fn kernels(into: &Path) -> Vec<Kernel> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["xtask", "node-kernels", "--out"]).arg(into).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().unwrap();
    if !output.status.success() {
        let why = format!("no kernels for node guests: {}", String::from_utf8_lossy(&output.stderr));
        assert!(std::env::var_os("CASEMATE_TEST_TOOLS").is_none_or(|value| value != "require"), "{why}");
        eprintln!("SKIPPED: {why}");
        return Vec::new();
    }
    let folders = fs::read_dir(into).unwrap().map(|entry| entry.unwrap().path());
    let mut kernels: Vec<Kernel> =
        folders.map(|folder| Kernel { version: folder.file_name().unwrap().to_str().unwrap().to_owned(), folder }).collect();
    kernels.sort_by(|one, other| one.version.cmp(&other.version));
    kernels
}

/// The initrd of a node guest that plays `attacks/`.
pub(crate) fn initrd(kernel: &Kernel) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.program("monitor", Path::new(env!("CARGO_BIN_EXE_casemate-monitor")));
    archive.program("attacks", Path::new(env!("CARGO_BIN_EXE_casemate-attacks")));
    archive.file("module.ko", fs::read(kernel.folder.join("module.ko")).unwrap());
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../attacks");
    for entry in fs::read_dir(cases).unwrap() {
        let path = entry.unwrap().path();
        archive.file(&format!("cases/{}", path.file_name().unwrap().to_str().unwrap()), fs::read(&path).unwrap());
    }
    archive.bytes()
}

/// What the guest says on its console until it is off.
pub(crate) fn boot(kernel: &Kernel, initrd: &Path) -> Vec<String> {
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args([
            "-M",
            "microvm,pit=off,pic=off,rtc=on",
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max,-avx2",
            "-m",
            "512",
            "-smp",
            "2",
        ])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-append", LINE])
        .arg("-kernel")
        .arg(kernel.folder.join("vmlinux"))
        .arg("-initrd")
        .arg(initrd);
    let mut machine = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("qemu-system-x86 is installed");
    let output = BufReader::new(machine.stdout.take().unwrap());
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
    machine.wait().unwrap();
    let _ = reader.join();
    assert!(ended, "the node is still on after {LIMIT:?}: {console:#?}");
    console
}
