//! The flavour with the distribution's kernel: built twice, booted in QEMU as far as it comes without a node.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// A boot takes 3 to 8 seconds under emulation, many times that on a loaded machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

#[test]
fn the_distributions_kernel_boots_to_the_verified_root_and_takes_no_changed_module() {
    let work = tempfile::tempdir().unwrap();
    let (image, again) = (work.path().join("image"), work.path().join("again"));
    build(&image, &[]);
    let guest = work.path().join("guest");
    fs::write(&guest, init_of(&fs::read(image.join("initrd.cpio")).unwrap())).unwrap();
    build(&again, &["--guest-binary", guest.to_str().unwrap()]);
    for file in ["vmlinux", "initrd.cpio", "root.img", "reference-values.json"] {
        assert!(fs::read(image.join(file)).unwrap() == fs::read(again.join(file)).unwrap(), "two builds differ in {file}");
    }

    let console = boot(&image);
    let phases: Vec<&str> = console.iter().filter_map(|line| line.strip_prefix("CASEMATE-PHASE ")?.split(' ').next()).collect();
    assert_eq!(phases, ["init", "root"], "{console:#?}");
    assert!(console.iter().any(|line| line.starts_with("CASEMATE-FATAL guest.protocol")), "it has no channel: {console:#?}");

    change_a_module(&image.join("initrd.cpio"));
    let console = boot(&image);
    let fatal = console.iter().find(|line| line.starts_with("CASEMATE-FATAL")).expect("the machine says why it ends");
    let expected = "CASEMATE-FATAL guest.root-verity load the kernel's modules: load the kernel module 00-";
    assert!(fatal.starts_with(expected), "{fatal}");
}

fn build(out: &Path, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["guest-os", "--out"]).arg(out).args(arguments).env("KERNEL", "distro").current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The first process in an archive: other clones may replace the built one at any time.
fn init_of(initrd: &[u8]) -> &[u8] {
    const HEADER: usize = 110;
    let name = position(initrd, b"00000000init\0") + 8;
    let header = &initrd[name - HEADER..name];
    let length = usize::from_str_radix(std::str::from_utf8(&header[54..62]).unwrap(), 16).unwrap();
    let start = (name + b"init\0".len()).next_multiple_of(4);
    &initrd[start..start + length]
}

/// One bit in the middle of the first module.
fn change_a_module(initrd: &Path) {
    let mut bytes = fs::read(initrd).unwrap();
    let entry = position(&bytes, b"lib/modules/00-");
    let start = entry + position(&bytes[entry..], b"\x7fELF");
    let end = start + position(&bytes[start..], b"~Module signature appended~");
    bytes[start.midpoint(end)] ^= 1;
    fs::write(initrd, bytes).unwrap();
}

fn position(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).unwrap()
}

/// What the guest says on its console until the machine is off.
fn boot(image: &Path) -> Vec<String> {
    let description: Value = serde_json::from_slice(&fs::read(image.join("guest-os.json")).unwrap()).unwrap();
    assert_eq!(description["kernel"]["flavour"], "distro");
    let line = description["command_lines"]["tcg"].as_str().unwrap().replace("{tsc_khz}", &tsc_khz().to_string());
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-M", "microvm,pit=off,pic=off,rtc=on", "-accel", "tcg,thread=multi", "-cpu", "max,-avx2", "-m", "256"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
        // There is no TPM to be forced.
        .args(["-append", &line.replace("tpm_tis.force=1 ", "")])
        .arg("-kernel")
        .arg(image.join("vmlinux"))
        .arg("-initrd")
        .arg(image.join("initrd.cpio"))
        .arg("-drive")
        .arg(format!("if=none,id=root,format=raw,readonly=on,file={}", image.join("root.img").display()))
        .args(["-device", "virtio-blk-device,drive=root,serial=root"]);
    let mut machine = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(machine.stdout.take().unwrap());
    let (sender, receiver) = mpsc::channel();
    let reader = thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let (end, mut console) = (Instant::now() + BOOT_LIMIT, Vec::new());
    let ended = loop {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => console.push(line.trim_end().to_owned()),
            Err(error) => break error == mpsc::RecvTimeoutError::Disconnected,
        }
    };
    let _ = machine.kill();
    machine.wait().unwrap();
    let _ = reader.join();
    assert!(ended, "the machine is still on after {BOOT_LIMIT:?}: {console:#?}");
    console
}

fn tsc_khz() -> u64 {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap();
    let mhz = text.lines().find_map(|line| line.strip_prefix("cpu MHz")?.split(':').nth(1)?.trim().parse::<f64>().ok());
    (mhz.expect("the CPU has a frequency") * 1e3) as u64
}
