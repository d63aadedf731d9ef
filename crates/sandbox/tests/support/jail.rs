//! The helper process of this crate's tests: the jail helper without arguments or with `container`; with `hold` or
//! `hold-container` an agent that starts a machine or a container and then waits to be killed; with `node` the first process of a node
//! guest.

mod node;

use std::{ffi::OsString, io, process::ExitCode};

use casemate_sandbox::{
    ContainerSystem, Demand, Driver, Isolation, LayerFile, MachineSystem, Plan, System, VtpmProvisioner,
    oci::{LayerMounts, OciConfig, OciDriver, Runtime},
    qemu::{AccelChoice, QemuConfig, QemuDriver},
};

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.first().and_then(|first| first.to_str()) {
        Some("hold") => hold_machine(args.into_iter().skip(1).collect()),
        Some("hold-container") => hold_container(args.into_iter().skip(1).collect()),
        Some("node") => node::main(),
        _ => casemate_sandbox::jail::main(args),
    }
}

struct Nothing;

impl VtpmProvisioner for Nothing {
    fn provision(&self, _: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

fn hold_machine(args: Vec<OsString>) -> ExitCode {
    let [state, run, kernel, initrd, uid_base, id] = <[OsString; 6]>::try_from(args).expect("six arguments");
    let config = QemuConfig {
        accel: AccelChoice::Tcg,
        uid_base: text(&uid_base).parse().expect("a number"),
        ..QemuConfig::new(state.into(), run.into(), vec![own()])
    };
    let driver = QemuDriver::new(config).expect("a driver");
    let command_line = format!(
        "console=ttyS0 reboot=t panic=-1 quiet no_timer_check tsc_early_khz={} tsc=reliable",
        driver.capabilities().tsc_khz.unwrap_or_default()
    );
    let machine = MachineSystem { kernel: kernel.into(), initrd: initrd.into(), command_line };
    hold(&driver, &plan(&id, vec![Demand::Vtpm], System::Machine(machine)))
}

fn hold_container(args: Vec<OsString>) -> ExitCode {
    let [state, run, init, layer, uid_base, id, runtime, mounts] = <[OsString; 8]>::try_from(args).expect("eight arguments");
    let runtime: Runtime = text(&runtime).parse().expect("a runtime");
    let config = OciConfig {
        uid_base: text(&uid_base).parse().expect("a number"),
        mounts: if text(&mounts) == "loop-devices" { LayerMounts::LoopDevices } else { LayerMounts::Files },
        ..OciConfig::new(state.into(), run.into(), vec![own()], runtime)
    };
    let driver = OciDriver::new(config).expect("a driver");
    let layers = vec![LayerFile { path: layer.into() }];
    let container = ContainerSystem { init: init.into(), args: Vec::new(), layers, shared: Vec::new() };
    let plan = plan(&id, Vec::new(), System::Container(container));
    hold(&driver, &Plan { isolation: runtime.isolation(), ..plan })
}

fn plan(id: &OsString, demands: Vec<Demand>, system: System) -> Plan {
    Plan {
        id: text(id).parse().expect("an id"),
        isolation: Isolation::Microvm,
        demands,
        system,
        disks: Vec::new(),
        cpus: 1,
        memory_mib: 128,
        scratch_mib: 16,
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn hold(driver: &dyn Driver, plan: &Plan) -> ExitCode {
    eprintln!("begins");
    driver.prepare(plan, &Nothing).await.expect("prepared");
    driver.start(plan).await.expect("started");
    eprintln!("started");
    std::future::pending().await
}

fn own() -> OsString {
    std::env::current_exe().expect("a path").into()
}

fn text(value: &OsString) -> String {
    value.to_str().expect("plain text").to_owned()
}
