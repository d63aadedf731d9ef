//! The exact words to the API.

use serde_json::json;

use super::*;
use crate::{Demand, Disk, MachineSystem, System};

fn plan() -> Plan {
    Plan {
        id: "i-1".parse().unwrap(),
        isolation: Isolation::Microvm,
        demands: Vec::new(),
        system: System::Machine(MachineSystem {
            kernel: "/k".into(),
            initrd: "/i".into(),
            command_line: "console=ttyS0 reboot=k".to_owned(),
        }),
        disks: vec![Disk { serial: "layer-0".to_owned(), path: "/host/layer".into() }],
        cpus: 2,
        memory_mib: 512,
        scratch_mib: 64,
    }
}

#[test]
fn a_plan_becomes_exactly_this() {
    let expected = json!({
        "machine-config": { "vcpu_count": 2, "mem_size_mib": 512, "smt": false, "track_dirty_pages": false },
        "boot-source": {
            "kernel_image_path": "/vm/kernel", "initrd_path": "/vm/initrd", "boot_args": "console=ttyS0 reboot=k",
        },
        "drives": [
            { "drive_id": "layer_0", "path_on_host": "/vm/disk-layer-0", "is_root_device": false, "is_read_only": true },
            { "drive_id": "scratch", "path_on_host": "/vm/disk-scratch", "is_root_device": false, "is_read_only": false },
        ],
        "network-interfaces": [],
        "vsock": { "guest_cid": 3, "uds_path": "/vm/sockets/vsock" },
    });
    assert_eq!(json!(machine(&plan())), expected);
    let connected = Plan { demands: vec![Demand::Network], ..plan() };
    let card = json!({ "iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": Mac::of(&connected.id).to_string() });
    assert_eq!(json!(machine(&connected))["network-interfaces"], json!([card]));
    assert_eq!(arguments().join(" "), "--id casemate --api-sock /vm/sockets/api --level Warning");
}

#[test]
fn what_it_has_not_is_refused_by_reason() {
    let program = std::env::current_exe().unwrap();
    let capabilities = Capabilities { digest: [0; 32], ..of(&program) };
    let refused = |demand| {
        let plan = Plan { demands: vec![demand], ..plan() };
        capabilities.admit(&plan).unwrap_err().to_string()
    };
    assert!(refused(Demand::Gpus(1)).contains("a GPU: Firecracker has no PCI pass-through"));
    assert!(refused(Demand::Vtpm).contains("Firecracker has no TPM device"));
    assert!(refused(Demand::SevSnp).contains("confidential"));
    let confidential = Plan { isolation: Isolation::Confidential, ..plan() };
    assert!(capabilities.admit(&confidential).unwrap_err().to_string().contains("gives level microvm"));
    capabilities.admit(&plan()).unwrap();
}

/// Any program with a version will do.
fn of(program: &Path) -> Capabilities {
    let shell = Path::new("/bin/bash");
    capabilities(if shell.exists() { shell } else { program }, String::new(), Support::Yes).unwrap()
}
