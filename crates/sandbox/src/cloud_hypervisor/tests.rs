//! The exact words to the API.

use serde_json::json;

use super::*;
use crate::{Demand, MachineSystem, System};

fn plan() -> Plan {
    Plan {
        id: "i-1".parse().unwrap(),
        isolation: Isolation::Microvm,
        demands: vec![Demand::Vtpm],
        system: System::Machine(MachineSystem {
            kernel: "/k".into(),
            initrd: "/i".into(),
            command_line: "console=ttyS0 panic=-1".to_owned(),
        }),
        disks: vec![crate::Disk { serial: "root".to_owned(), path: "/host/root".into() }],
        cpus: 2,
        memory_mib: 512,
        scratch_mib: 64,
    }
}

#[test]
fn a_plan_becomes_exactly_this() {
    let expected = json!({
        "cpus": { "boot_vcpus": 2, "max_vcpus": 2, "nested": false },
        "memory": {
            "size": 0,
            "zones": [{ "id": "ram", "size": 536_870_912, "file": "/vm/ram", "shared": true, "mergeable": false }],
        },
        "payload": { "kernel": "/vm/kernel", "initramfs": "/vm/initrd", "cmdline": "console=ttyS0 panic=-1" },
        "disks": [
            { "path": "/vm/disk-root", "readonly": true, "serial": "root", "image_type": "Raw" },
            { "path": "/vm/disk-scratch", "readonly": false, "serial": "scratch", "image_type": "Raw" },
        ],
        "rng": { "src": "/dev/urandom" },
        "serial": { "mode": "Tty" },
        "console": { "mode": "Off" },
        "vsock": { "cid": 3, "socket": "/vm/sockets/vsock" },
        "tpm": { "socket": "/vm/vtpm" },
        "landlock_enable": true,
        "landlock_rules": [{ "path": "/vm/sockets", "access": "rw" }],
    });
    assert_eq!(json!(machine(&plan())), expected);
    assert_eq!(arguments().join(" "), "--api-socket fd=4 --seccomp true");
}
