//! Cloud Hypervisor 53 as it was seen: it takes nearly every configuration, and says at boot what is wrong with it.

use std::{
    fs::File,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    process::{ExitCode, exit},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    Fault, card, firecracker,
    guest::{self, End},
    http::{self, Request, Response},
    option, say,
};

pub(crate) fn main(args: &[String], fault: Fault) -> ExitCode {
    if args.iter().any(|arg| arg == "--version") {
        say("cloud-hypervisor v53.0");
        return ExitCode::SUCCESS;
    }
    match fault.0.as_str() {
        "dies" => {
            say("Error: Failed to create Hypervisor: /dev/kvm: Permission denied");
            return ExitCode::FAILURE;
        }
        "dies-with-0" => return ExitCode::SUCCESS,
        "slow-start" => std::thread::sleep(Duration::from_millis(1500)),
        _ => {}
    }
    fault.hang_at("start");
    let socket = option(args, "--api-socket").unwrap();
    let number = socket.strip_prefix("fd=").unwrap().parse().unwrap();
    // SAFETY: the number is one that whoever executed this program handed over for nothing else.
    let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(number) });
    let vm = Arc::new(Mutex::new(Vm { config: None, state: "Created", descriptors: Vec::new() }));
    http::serve(&listener, &fault, |request| answer(&vm, request, &fault));
    ExitCode::SUCCESS
}

struct Vm {
    config: Option<Value>,
    state: &'static str,
    /// The cards that were handed over.
    descriptors: Vec<OwnedFd>,
}

fn answer(vm: &Arc<Mutex<Vm>>, request: Request, fault: &Fault) -> Response {
    let name = request.path.strip_prefix("/api/v1/").unwrap_or_default().to_owned();
    let name = name.as_str();
    fault.hang_at(name);
    match (request.method.as_str(), name) {
        ("GET", "vmm.ping") => {
            let features = ["kvm", "landlock"];
            Response::json(&json!({ "build_version": "v53.0", "version": "v53.0", "pid": 1, "features": features }))
        }
        ("GET", "vm.info") => info(&vm.lock().unwrap(), fault),
        ("PUT", "vm.create") => create(&mut vm.lock().unwrap(), request.body.clone()),
        ("PUT", "vm.add-net") => add_net(&mut vm.lock().unwrap(), request, fault),
        ("PUT", "vm.boot") => boot(vm, fault),
        _ => Response { status: 404, body: String::new() },
    }
}

fn info(vm: &Vm, fault: &Fault) -> Response {
    let Some(config) = &vm.config else { return fail(404, &["The VM info is not available", "VM is not created"]) };
    let mut config = config.clone();
    config["cpus"]["topology"] = Value::Null;
    if fault.is("other-config") {
        config["payload"]["cmdline"] = json!("init=/bin/sh");
    }
    let state = if fault.is("unknown-state") { "Migrating" } else { vm.state };
    Response::json(&json!({ "config": config, "state": state, "memory_actual_size": 1, "device_tree": {} }))
}

fn create(vm: &mut Vm, config: Option<Value>) -> Response {
    let Some(config) = config else { return Response { status: 400, body: String::new() } };
    if vm.config.is_some() {
        return fail(500, &["The VM could not be created", "VM is already created"]);
    }
    vm.config = Some(config);
    Response::none()
}

/// Of a machine that does not run it is only written down; the card is opened at the boot.
fn add_net(vm: &mut Vm, request: Request, fault: &Fault) -> Response {
    let Some(config) = &mut vm.config else { return fail(404, &["The network device could not be added", "VM is not created"]) };
    let Some(mut net) = request.body else { return Response { status: 400, body: String::new() } };
    if !fault.is("forgets-net") {
        net["num_queues"] = json!(2);
        config["net"] = json!([net]);
    }
    vm.descriptors = request.descriptors;
    Response::none()
}

fn boot(shared: &Arc<Mutex<Vm>>, fault: &Fault) -> Response {
    let mut vm = shared.lock().unwrap();
    let Some(config) = vm.config.clone() else { return fail(404, &["The VM could not boot", "VM is not created"]) };
    if vm.state == "Running" {
        return fail(500, &["The VM could not boot", "InvalidStateTransition(Running, Running)"]);
    }
    if let Err(cause) = check(&config) {
        return fail(500, &["Error response from the API", "The VM could not boot\n   0: backtrace\n   1: more", &cause]);
    }
    if let Some(Err(error)) = vm.descriptors.pop().map(card::take) {
        return fail(500, &["The VM could not boot", &format!("Cannot open the tap device: {error}")]);
    }
    if fault.is("refuses-start") {
        return fail(500, &["The VM could not boot", "Cannot create a VM: Permission denied"]);
    }
    if fault.is("started-and-gone") {
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(30));
            exit(0)
        });
        return Response::none();
    }
    if fault.is("started-in-words") {
        return Response::none();
    }
    vm.state = "Running";
    run(shared, &config, fault);
    Response::none()
}

/// What a boot opens.
fn check(config: &Value) -> Result<(), String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    firecracker::kernel(&text(&config["payload"]["kernel"])).map_err(|error| format!("Cannot load the kernel: {error}"))?;
    let open = |path: String, write: bool| {
        let opened = File::options().read(true).write(write).open(&path);
        opened.map(drop).map_err(|error| format!("Cannot open {path}: {error}"))
    };
    open(text(&config["payload"]["initramfs"]), false)?;
    open(text(&config["rng"]["src"]), false)?;
    for disk in config["disks"].as_array().into_iter().flatten() {
        open(text(&disk["path"]), disk["readonly"] != true)?;
    }
    for zone in config["memory"]["zones"].as_array().into_iter().flatten() {
        open(text(&zone["file"]), true)?;
    }
    if let Some(socket) = config["tpm"]["socket"].as_str() {
        // Its monitor keeps the connection; here it is enough that somebody accepts it.
        std::mem::forget(UnixStream::connect(socket).map_err(|error| format!("Cannot connect to the TPM: {error}"))?);
    }
    Ok(())
}

fn run(shared: &Arc<Mutex<Vm>>, config: &Value, fault: &Fault) {
    let socket = config["vsock"]["socket"].as_str().unwrap().to_owned();
    let (shared, config, again) = (Arc::clone(shared), config.clone(), fault.clone());
    guest::run(&socket, fault, move |end| match end {
        End::PowerOff => {
            say("reboot: Power down");
            exit(0);
        }
        End::Crash => {
            say("cloud-hypervisor: 1.2s: <vcpu0> ERROR:vmm/src/cpu.rs:9 -- VCPU generated error: VcpuRun(InternalError)");
            exit(0);
        }
        End::Reboot | End::Panic => {
            if end == End::Panic {
                say("Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100");
            }
            // The same process boots the same machine again, if it can.
            match check(&config) {
                Ok(()) => run(&shared, &config, &again),
                Err(error) => {
                    shared.lock().unwrap().state = "Created";
                    say(&format!("cloud-hypervisor: 2.1s: <vmm> ERROR:vmm/src/lib.rs:1 -- {error}"));
                }
            }
        }
    });
}

/// Causes, the outermost first.
fn fail(status: u16, causes: &[&str]) -> Response {
    Response { status, body: json!(causes).to_string() }
}
