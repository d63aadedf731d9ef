//! Firecracker 1.16 as it was seen: states, order, refusals, and ends of which the exit code says nothing.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    os::unix::net::UnixListener,
    process::{ExitCode, exit},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    Fault, card,
    guest::{self, End},
    http::{self, Request, Response},
    option, say,
};

pub(crate) fn main(args: &[String], fault: Fault) -> ExitCode {
    if args.iter().any(|arg| arg == "--version") {
        say("Firecracker v1.16.1\n");
        return ExitCode::SUCCESS;
    }
    match fault.0.as_str() {
        "dies" => {
            say("[anonymous-instance:main] Failed to open the API socket");
            return ExitCode::FAILURE;
        }
        "dies-with-0" => return ExitCode::SUCCESS,
        "slow-start" => std::thread::sleep(Duration::from_millis(1500)),
        _ => {}
    }
    fault.hang_at("start");
    let socket = option(args, "--api-sock").unwrap();
    let Ok(listener) = UnixListener::bind(socket) else {
        say("Failed to open the API socket at: /vm/sock/api. Check that it is not already used.");
        return ExitCode::FAILURE;
    };
    let id = option(args, "--id").unwrap().to_owned();
    let mut vmm = Firecracker {
        id,
        state: "Not started",
        config: BTreeMap::new(),
        drives: Vec::new(),
        interfaces: Vec::new(),
        fault: fault.clone(),
    };
    http::serve(&listener, &fault, |request| vmm.answer(&request));
    ExitCode::SUCCESS
}

struct Firecracker {
    id: String,
    state: &'static str,
    config: BTreeMap<String, Value>,
    drives: Vec<Value>,
    interfaces: Vec<Value>,
    fault: Fault,
}

impl Firecracker {
    fn answer(&mut self, request: &Request) -> Response {
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/") => {
                let state = if self.fault.is("unknown-state") { "Debugging" } else { self.state };
                let id = if self.fault.is("other-id") { "somebody" } else { self.id.as_str() };
                Response::json(&json!({ "app_name": "Firecracker", "id": id, "state": state, "vmm_version": "1.16.1" }))
            }
            ("GET", "/vm/config") => self.whole(),
            ("PUT", path) if self.state == "Not started" => match &request.body {
                Some(body) => self.put(path, body),
                None => refuse("Empty PUT request."),
            },
            ("PUT", _) => refuse("The requested operation is not supported after starting the microVM."),
            (method, path) => refuse(&format!("Invalid request method and/or path: {method} {}.", &path[1..])),
        }
    }

    fn whole(&self) -> Response {
        let mut all = json!(self.config);
        all["drives"] = json!(self.drives);
        all["network-interfaces"] = json!(self.interfaces);
        all["balloon"] = Value::Null;
        if self.fault.is("other-config") {
            all["boot-source"]["boot_args"] = json!("init=/bin/sh");
        }
        Response::json(&all)
    }

    fn put(&mut self, path: &str, body: &Value) -> Response {
        self.fault.hang_at(path.trim_matches('/').split('/').next().unwrap_or_default());
        let outcome = match path {
            "/machine-config" => known(body, &["vcpu_count", "mem_size_mib", "smt", "track_dirty_pages", "huge_pages"]),
            "/boot-source" => known(body, &["kernel_image_path", "initrd_path", "boot_args"])
                .and_then(|()| open(&body["kernel_image_path"], "kernel file"))
                .and_then(|()| open(&body["initrd_path"], "initrd file")),
            "/vsock" => known(body, &["guest_cid", "uds_path", "vsock_id"]),
            "/actions" => return self.act(body),
            _ if path.starts_with("/drives/") => return self.drive(body),
            _ if path.starts_with("/network-interfaces/") => return self.interface(body),
            _ => Err(format!("Invalid request method and/or path: PUT {}.", &path[1..])),
        };
        match outcome {
            Ok(()) => {
                self.config.insert(path[1..].to_owned(), body.clone());
                Response::none()
            }
            Err(fault) => refuse(&fault),
        }
    }

    fn drive(&mut self, body: &Value) -> Response {
        let fields = ["drive_id", "path_on_host", "is_root_device", "is_read_only", "cache_type", "io_engine"];
        match known(body, &fields).and_then(|()| open(&body["path_on_host"], "block device")) {
            Ok(()) => {
                let mut drive = body.clone();
                drive["partuuid"] = Value::Null;
                drive["cache_type"] = json!("Unsafe");
                self.drives.push(drive);
                Response::none()
            }
            Err(fault) => refuse(&fault),
        }
    }

    fn interface(&mut self, body: &Value) -> Response {
        let name = body["host_dev_name"].as_str().unwrap_or_default();
        let opened = known(body, &["iface_id", "host_dev_name", "guest_mac", "mtu", "rx_rate_limiter", "tx_rate_limiter"])
            .and_then(|()| {
                card::open(name).map_err(|error| format!("Cannot create network device. Open tap device failed: {error}"))
            });
        match opened {
            Ok(()) => {
                let mut interface = body.clone();
                interface["rx_rate_limiter"] = Value::Null;
                self.interfaces.push(interface);
                Response::none()
            }
            Err(fault) => refuse(&fault),
        }
    }

    fn act(&mut self, body: &Value) -> Response {
        if body["action_type"] != "InstanceStart" {
            return refuse("unknown action");
        }
        let Some(boot) = self.config.get("boot-source") else {
            return refuse("Cannot start microvm without kernel configuration.");
        };
        if let Err(fault) = kernel(boot["kernel_image_path"].as_str().unwrap()) {
            return refuse(&format!("Cannot load kernel due to invalid memory configuration or invalid kernel image: {fault}"));
        }
        if self.fault.is("refuses-start") {
            return refuse("Internal error while starting microVM:\n Cannot create KVM context");
        }
        if self.fault.is("started-and-gone") {
            // The answer is sent first.
            std::thread::spawn(|| {
                std::thread::sleep(Duration::from_millis(30));
                exit(0)
            });
            return Response::none();
        }
        if self.fault.is("started-in-words") {
            return Response::none();
        }
        self.state = "Running";
        let socket = self.config.get("vsock").map(|vsock| vsock["uds_path"].as_str().unwrap().to_owned());
        guest::run(&socket.unwrap(), &self.fault, |end| match end {
            // It has no power button: the process stays.
            End::PowerOff => say("reboot: Power down\nreboot: System halted"),
            End::Reboot => {
                say("reboot: Restarting system");
                exit(0);
            }
            End::Panic => {
                say("Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100");
                exit(0);
            }
            End::Crash => {
                say("[casemate:fc_vcpu 0] Received KVM_EXIT_INTERNAL_ERROR signal");
                exit(0);
            }
        });
        Response::none()
    }
}

fn refuse(fault: &str) -> Response {
    Response { status: 400, body: json!({ "fault_message": fault }).to_string() }
}

/// Unknown fields are refused by name.
fn known(body: &Value, names: &[&str]) -> Result<(), String> {
    let unknown = body.as_object().and_then(|fields| fields.keys().find(|name| !names.contains(&name.as_str())));
    unknown.map_or(Ok(()), |name| Err(format!("An error occurred when deserializing: unknown field `{name}`")))
}

/// Files are opened when they are named.
fn open(path: &Value, what: &str) -> Result<(), String> {
    let path = path.as_str().unwrap_or_default();
    File::open(path).map(drop).map_err(|error| format!("The {what} cannot be opened: {error}"))
}

/// It boots ELF files only.
pub(crate) fn kernel(path: &str) -> Result<(), String> {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    match read {
        Ok(()) if magic == *b"\x7fELF" => Ok(()),
        Ok(()) => Err("Invalid Elf magic number".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
