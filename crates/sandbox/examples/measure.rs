//! Measures the start of a machine by the QEMU driver against a plain QEMU command, alternating in one run: `measure GUEST_OS [ROUNDS
//! [MEMORY_MIB]]`, as root; GUEST_OS is the folder that `xtask guest-os` fills.
//!
//! All three times end with the first word of init on the console. Bare: from the execution of QEMU with the same kernel, initial RAM
//! disk and memory, and nothing else. Equipped: the same with the driver's devices (disks, serial channel, a vTPM whose swtpm runs already), from a
//! kernel command line that is the driver's. Driver: from `prepare`, with everything that it makes and wipes.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use casemate_sandbox::{
    Demand, Disk, Driver, Isolation, MachineSystem, Plan, System, VtpmProvisioner,
    qemu::{QemuConfig, QemuDriver},
};
use serde_json::Value;

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.is_empty() {
        return casemate_sandbox::jail::main(args);
    }
    let number = |at: usize, otherwise: u64| args.get(at).and_then(|text| text.to_str()?.parse().ok()).unwrap_or(otherwise);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(measure(Path::new(&args[0]), number(1, 9), number(2, 256)));
    ExitCode::SUCCESS
}

/// Nothing is asked of the vTPM before the machine starts.
struct Nothing;

impl VtpmProvisioner for Nothing {
    fn provision(&self, _: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

async fn measure(guest_os: &Path, rounds: u64, memory_mib: u64) {
    let directory = tempfile::tempdir().expect("a directory");
    let own = std::env::current_exe().expect("a path");
    let config = QemuConfig::new(directory.path().join("s"), directory.path().join("r"), vec![own.into()]);
    let driver = QemuDriver::new(QemuConfig { uid_base: USERS, ..config }).expect("a driver");
    let system = system(guest_os, driver.capabilities().accel, driver.capabilities().tsc_khz.unwrap_or_default());
    let root = Disk { serial: "root".to_owned(), path: guest_os.join("root.img") };
    let (mut bare, mut equipped, mut prepared, mut started, mut booted) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..rounds {
        let plan = Plan {
            id: format!("i-{round}").parse().expect("an id"),
            isolation: Isolation::Microvm,
            demands: vec![Demand::Vtpm],
            system: System::Machine(system.clone()),
            disks: vec![root.clone()],
            cpus: 1,
            memory_mib,
            scratch_mib: SCRATCH_MIB,
        };
        bare.push(plain(&plan, directory.path(), false));
        equipped.push(plain(&plan, directory.path(), true));
        std::thread::sleep(QUIET);
        let begin = Instant::now();
        driver.prepare(&plan, &Nothing).await.expect("prepared");
        prepared.push(begin.elapsed());
        driver.start(&plan).await.expect("started");
        started.push(begin.elapsed());
        until(&driver.console_log(&plan.id));
        booted.push(begin.elapsed());
        driver.wipe(&plan.id).await.expect("wiped");
        driver.forget(&plan.id).await.expect("forgotten");
    }
    let ratio = |to: &[Duration]| median(booted.iter().zip(to).map(|(driver, to)| driver.div_duration_f64(*to)).collect());
    let (to_bare, to_equipped) = (ratio(&bare), ratio(&equipped));
    let [bare, equipped, prepared, started, booted] = [bare, equipped, prepared, started, booted].map(median);
    println!(
        "{}: bare {bare:.0?}, equipped {equipped:.0?}; driver: prepared {prepared:.0?}, started {started:.0?}, init {booted:.0?} ({to_bare:.2} \
         of bare, {to_equipped:.2} of equipped)",
        driver.capabilities().version,
    );
}

fn system(guest_os: &Path, accel: &str, khz: u64) -> MachineSystem {
    let text = fs::read(guest_os.join("guest-os.json")).expect("guest-os.json: run `xtask guest-os` before");
    let manifest: Value = serde_json::from_slice(&text).expect("its JSON");
    let line = manifest["command_lines"][accel].as_str().expect("a command line for this accelerator");
    MachineSystem {
        kernel: guest_os.join("vmlinux"),
        initrd: guest_os.join("initrd.cpio"),
        command_line: line.replace("{tsc_khz}", &khz.to_string()),
    }
}

/// A plain QEMU; what it needs is made before the clock starts.
fn plain(plan: &Plan, directory: &Path, with_devices: bool) -> Duration {
    let machine = plan.machine().expect("it is one");
    let place = |name: &str| directory.join(name);
    let log = place("plain.log");
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "microvm,pit=off,pic=off,rtc=on"])
        .args(["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,-avx2", "-m", &plan.memory_mib.to_string()])
        .args(["-serial", &format!("file:{}", log.display())])
        .arg("-kernel")
        .arg(&machine.kernel)
        .arg("-initrd")
        .arg(&machine.initrd);
    let mut vtpm = None;
    if with_devices {
        let (scratch, socket) = (place("plain.scratch"), place("plain.tpm"));
        File::create(&scratch).and_then(|file| file.set_len(plan.scratch_mib << 20)).expect("a scratch disk");
        vtpm = Some(start_vtpm(&place("plain.state"), &socket));
        let disks = plan.disks.iter().map(|disk| (disk.serial.as_str(), &disk.path, "on")).chain([("scratch", &scratch, "off")]);
        for (serial, path, read_only) in disks {
            command.args(["-drive", &format!("if=none,format=raw,id={serial},read-only={read_only},file={}", path.display())]);
            command.args(["-device", &format!("virtio-blk-device,drive={serial},serial={serial}")]);
        }
        command.args(["-chardev", &format!("socket,id=tpm,path={}", socket.display())]);
        command.args(["-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm"]);
        command.args(["-chardev", &format!("socket,id=guest,server=on,wait=off,path={}", place("plain.guest").display())]);
        command.args(["-device", "virtio-serial-device", "-device", "virtserialport,chardev=guest,name=casemate.guest"]);
        command.args(["-append", &machine.command_line]);
    } else {
        // Without a TPM the kernel must not look for one, which takes it half a second.
        command.args(["-append", &machine.command_line.replace("tpm_tis.force=1 ", "")]);
    }
    std::thread::sleep(QUIET);
    let begin = Instant::now();
    let mut child = command.stdin(Stdio::null()).spawn().expect("QEMU");
    until(&log);
    let elapsed = begin.elapsed();
    for child in [Some(&mut child), vtpm.as_mut()].into_iter().flatten() {
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }
    fs::remove_file(log).expect("removed");
    elapsed
}

fn start_vtpm(state: &Path, socket: &PathBuf) -> Child {
    let _ = fs::remove_dir_all(state);
    let _ = fs::remove_file(socket);
    fs::create_dir(state).expect("a directory");
    let child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "startup-clear", "--tpmstate", &format!("dir={}", state.display())])
        .args(["--ctrl", &format!("type=unixio,path={}", socket.display())])
        .spawn()
        .expect("swtpm");
    while !socket.exists() || UnixStream::connect(socket).is_err() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

fn until(log: &Path) {
    while !fs::read_to_string(log).is_ok_and(|text| text.contains(MARK)) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|one, other| one.partial_cmp(other).expect("times and ratios have an order"));
    values[values.len() / 2]
}

/// The first word of the guest's process 1.
const MARK: &str = "CASEMATE-PHASE init";

const SCRATCH_MIB: u64 = 64;

/// So that nothing measured profits from what was done just before.
const QUIET: Duration = Duration::from_millis(200);

/// Nobody else's.
const USERS: u32 = 1_900_000;
