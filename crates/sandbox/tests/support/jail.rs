//! The helper process of this crate's tests: without arguments the jail helper, with `hold` an agent that starts a machine
//! and then waits to be killed.

use std::{ffi::OsString, io, process::ExitCode};

use casemate_sandbox::{
    Demand, Driver, Isolation, MachineSystem, Plan, System, VtpmProvisioner,
    qemu::{AccelChoice, QemuConfig, QemuDriver},
};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        None => casemate_sandbox::jail::main(Vec::new()),
        Some(first) if first == "hold" => hold(args.collect()),
        Some(_) => ExitCode::FAILURE,
    }
}

struct Nothing;

impl VtpmProvisioner for Nothing {
    fn provision(&self, _: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn hold(args: Vec<OsString>) -> ExitCode {
    let [state, run, kernel, initrd, uid_base, id] = <[OsString; 6]>::try_from(args).expect("six arguments");
    let text = |value: &OsString| value.to_str().expect("plain text").to_owned();
    let own = std::env::current_exe().expect("a path");
    let config = QemuConfig {
        accel: AccelChoice::Tcg,
        uid_base: text(&uid_base).parse().expect("a number"),
        ..QemuConfig::new(state.into(), run.into(), vec![own.into()])
    };
    let driver = QemuDriver::new(config).expect("a driver");
    let plan = Plan {
        id: text(&id).parse().expect("an id"),
        isolation: Isolation::Microvm,
        demands: vec![Demand::Vtpm],
        system: System::Machine(MachineSystem {
            kernel: kernel.into(),
            initrd: initrd.into(),
            command_line: format!(
                "console=ttyS0 reboot=t panic=-1 quiet no_timer_check tsc_early_khz={} tsc=reliable",
                driver.capabilities().tsc_khz.unwrap_or_default()
            ),
        }),
        disks: Vec::new(),
        cpus: 1,
        memory_mib: 128,
        scratch_mib: 16,
    };
    eprintln!("begins");
    driver.prepare(&plan, &Nothing).await.expect("prepared");
    driver.start(&plan).await.expect("started");
    eprintln!("started");
    std::future::pending().await
}
