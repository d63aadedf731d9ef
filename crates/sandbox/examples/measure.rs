//! Times and sizes of the QEMU driver on this host, beside a plain QEMU with the same kernel.
//!
//! `measure KERNEL INITRD [MEMORY_MIB [DIRTY_MIB]]`, with the initial RAM disk of this crate's tests, which prints `init runs`
//! and fills DIRTY_MIB of its memory when told so.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use casemate_sandbox::{
    Demand, Driver, Isolation, MachineSystem, Plan, System, VtpmProvisioner,
    qemu::{QemuConfig, QemuDriver},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MARK: &str = "init runs";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.is_empty() {
        return casemate_sandbox::jail::main(args);
    }
    let [kernel, initrd, ..] = args.as_slice() else { return ExitCode::FAILURE };
    let memory = args.get(2).and_then(|text| text.to_str()?.parse().ok()).unwrap_or(512);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let dirty = args.get(3).and_then(|text| text.to_str()?.parse().ok()).unwrap_or(0);
    runtime.block_on(measure(kernel.into(), initrd.into(), memory, dirty));
    ExitCode::SUCCESS
}

struct Nothing;

impl VtpmProvisioner for Nothing {
    fn provision(&self, _: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

async fn measure(kernel: PathBuf, initrd: PathBuf, memory_mib: u64, dirty_mib: u64) {
    let directory = tempfile::tempdir().expect("a directory");
    let own = std::env::current_exe().expect("a path");
    let config = QemuConfig {
        uid_base: 1_900_000,
        ..QemuConfig::new(directory.path().join("s"), directory.path().join("r"), vec![own.into()])
    };
    let begin = Instant::now();
    let driver = QemuDriver::new(config).expect("a driver");
    println!("driver made in {:?}: {:?}", begin.elapsed(), driver.capabilities());
    let khz = driver.capabilities().tsc_khz.unwrap_or_default();
    let line = format!(
        "console=ttyS0 reboot=t panic=-1 quiet no_timer_check tsc_early_khz={khz} tsc=reliable tpm_tis.force=1 tpm_tis.interrupts=0"
    );
    for round in 0..5 {
        let plan = Plan {
            id: format!("i-{round}").parse().expect("an id"),
            isolation: Isolation::Microvm,
            demands: vec![Demand::Vtpm],
            system: System::Machine(MachineSystem { kernel: kernel.clone(), initrd: initrd.clone(), command_line: line.clone() }),
            disks: Vec::new(),
            cpus: 1,
            memory_mib,
            scratch_mib: 64,
        };
        let begin = Instant::now();
        driver.prepare(&plan, &Nothing).await.expect("prepared");
        let prepared = begin.elapsed();
        driver.start(&plan).await.expect("started");
        let started = begin.elapsed() - prepared;
        until(&driver.console_log(&plan.id));
        let booted = begin.elapsed() - prepared;
        let rss = resident_kib();
        if dirty_mib > 0 {
            let mut channel = driver.connect(&plan.id).await.expect("connected");
            channel.write_all(format!("mark {dirty_mib} marker\n").as_bytes()).await.expect("told");
            channel.read_u8().await.expect("done");
        }
        let begin = Instant::now();
        let evidence = driver.wipe(&plan.id).await.expect("wiped");
        driver.forget(&plan.id).await.expect("forgotten");
        println!(
            "prepare {prepared:?}, start returned {started:?}, init after {booted:?}, VMM {rss} KiB, wipe {:?}",
            begin.elapsed()
        );
        for (name, item) in evidence.items {
            println!("    {name}: {} in {} ms, verified {}: {}", item.method, item.duration_ms, item.verified, item.detail);
        }
        // Without a TPM the kernel must not look for one, which takes it half a second.
        let line = line.split(" tpm_tis").next().unwrap_or_default();
        println!("  plain QEMU: init after {:?}", plain(&kernel, &initrd, line, memory_mib, &directory.path().join("plain.log")));
    }
}

fn plain(kernel: &Path, initrd: &Path, line: &str, memory_mib: u64, log: &Path) -> Duration {
    let begin = Instant::now();
    let mut child = Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "microvm,pit=off,pic=off,rtc=on"])
        .args(["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max,-avx2", "-m", &memory_mib.to_string()])
        .arg("-serial")
        .arg(format!("file:{}", log.display()))
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", line])
        .stdin(Stdio::null())
        .spawn()
        .expect("QEMU");
    until(log);
    let elapsed = begin.elapsed();
    child.kill().expect("killed");
    child.wait().expect("reaped");
    fs::remove_file(log).expect("removed");
    elapsed
}

fn until(log: &Path) {
    while !fs::read_to_string(log).is_ok_and(|text| text.contains(MARK)) {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn resident_kib() -> u64 {
    let statuses =
        fs::read_dir("/proc").expect("proc").flatten().filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
    let field =
        |status: &str, name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).map(str::to_owned);
    statuses
        .filter(|status| {
            field(status, "Uid:").is_some_and(|uid| uid.starts_with("1900000"))
                && field(status, "Name:").is_some_and(|name| name.starts_with("qemu"))
        })
        .filter_map(|status| field(&status, "VmRSS:")?.split(' ').next()?.parse().ok())
        .max()
        .unwrap_or_default()
}
