//! The bundle's `config.json`. Pure.

use serde_json::{Value, json};

use super::{spec::inside, syscalls};
use crate::{ContainerSystem, Demand, DriverError, GUEST_DIR, Plan, Shared, SharedKind};

/// What the runtime is told. Everything of the tenant in it is a path that [`check`] has passed, or a name.
pub(super) fn config(plan: &Plan, container: &ContainerSystem, files: u64) -> Value {
    let init = format!("{GUEST_DIR}/init");
    let args: Vec<&str> = std::iter::once(init.as_str()).chain(container.args.iter().map(String::as_str)).collect();
    // Who is connected joins the keeper's network namespace, over which it has no privilege.
    let kinds = ["pid", "ipc", "uts", "mount", "network", "cgroup"];
    let kinds = kinds.iter().filter(|kind| **kind != "network" || !is_connected(plan));
    let namespaces: Vec<Value> = kinds.map(|kind| json!({ "type": kind })).collect();
    json!({
        "ociVersion": "1.0.2",
        "root": { "path": inside::ROOTFS, "readonly": false },
        "hostname": plan.id.as_str().chars().take(MAX_HOST_NAME).collect::<String>(),
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": { "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES },
            "rlimits": [
                { "type": "RLIMIT_NOFILE", "hard": files, "soft": files },
                { "type": "RLIMIT_CORE", "hard": 0, "soft": 0 },
            ],
        },
        "mounts": mounts(plan, container),
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "seccomp": seccomp(),
        },
    })
}

fn is_connected(plan: &Plan) -> bool {
    plan.demands.contains(&Demand::Network)
}

/// Names and paths that a hostile plan could hold.
pub(super) fn check(plan: &Plan, container: &ContainerSystem) -> Result<(), DriverError> {
    let refuse = |what: String, reason: &str| Err(DriverError::Unsupported { what, reason: reason.to_owned() });
    let layers = container.layers.len();
    if layers == 0 || layers > MOST_LAYERS {
        return refuse(format!("{layers} layers"), "1 to 127");
    }
    if container.shared.len() > MOST_SHARED {
        return refuse(format!("{} shared files and directories", container.shared.len()), "at most 32");
    }
    if container.args.iter().any(|arg| arg.contains('\0')) {
        return refuse("an argument with NUL".to_owned(), "arguments are C strings");
    }
    let mut names: Vec<&str> = Vec::new();
    for Shared { name, path, .. } in &container.shared {
        let plain =
            (1..=MOST_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !plain || names.contains(&name.as_str()) {
            return refuse(format!("the shared name {name:?}"), "each one's own, of 1 to 32 letters, digits and hyphens");
        }
        names.push(name);
        if !is_clean(path) {
            return refuse(
                format!("the path {path:?}"),
                "absolute, without empty, '.' or '..' parts, not a directory of the system",
            );
        }
    }
    let serials: Vec<&str> = plan.disks.iter().map(|disk| disk.serial.as_str()).collect();
    match (1..serials.len()).find(|at| serials[..*at].contains(&serials[*at])) {
        Some(at) => refuse(format!("the disk serial {:?} twice", serials[at]), "each one's own"),
        None => Ok(()),
    }
}

/// Not below what the runtime mounts, which would hide or shadow it.
fn is_clean(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let taken = |first: &&str| ["proc", "sys", "dev", GUEST_DIR.trim_start_matches('/')].contains(first);
    path.starts_with('/')
        && path.len() <= MOST_PATH
        && !path.contains('\0')
        && parts.iter().all(|part| !matches!(*part, "" | "." | ".."))
        && !parts.first().is_some_and(taken)
}

fn mounts(plan: &Plan, container: &ContainerSystem) -> Vec<Value> {
    let own = |kind: &str, target: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let mut mounts = vec![
        own("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        own("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
        own("tmpfs", "/dev", &["nosuid", "noexec", "strictatime", "mode=755", "size=64k"]),
        own("devpts", "/dev/pts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        // On scratch, so that a wipe finds it. Programs may run from /tmp: execution in memory is a feature.
        bind(&format!("{}/shm", inside::SCRATCH), "/dev/shm", &["noexec"]),
        bind(&format!("{}/tmp", inside::SCRATCH), "/tmp", &[]),
        bind(inside::INIT, &format!("{GUEST_DIR}/init"), &["ro"]),
    ];
    mounts.extend(plan.disks.iter().map(|disk| {
        bind(&format!("{}/{}", inside::DISKS, disk.serial), &format!("{GUEST_DIR}/disks/{}", disk.serial), &["ro", "noexec"])
    }));
    if is_connected(plan) {
        mounts.push(bind(&format!("{}/{NAMES}", inside::SCRATCH), "/etc/resolv.conf", &["ro", "noexec"]));
    }
    for shared in &container.shared {
        let source = format!("{}/shared/{}", inside::SCRATCH, shared.name);
        mounts.push(bind(&source, &format!("{GUEST_DIR}/shared/{}", shared.name), &["noexec"]));
        let options: &[&str] = match shared.kind {
            SharedKind::ReadOnlyFile => &["ro", "noexec"],
            SharedKind::WritableDir => &[],
        };
        mounts.push(bind(&source, &shared.path, options));
    }
    mounts
}

/// The flags of the source are among them: a user namespace may add restrictions to a mount, not take them off.
fn bind(source: &str, target: &str, options: &[&str]) -> Value {
    let options: Vec<&str> = ["bind", "nosuid", "nodev"].iter().chain(options).copied().collect();
    json!({ "destination": target, "type": "bind", "source": source, "options": options })
}

/// Everything is refused but a list; namespaces cannot be made, and of sockets only those that libraries use.
fn seccomp() -> Value {
    let allowed: Vec<&str> = syscalls::ALLOWED.split_whitespace().collect();
    let at = |index: u32, value: u64, op: &str| json!([{ "index": index, "value": value, "op": op }]);
    let allow = |name: &str, args: Value| json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": args });
    let mut rules = vec![
        json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" }),
        json!({ "names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }] }),
        // The flags of clone3 are in memory, where a filter cannot look: "not implemented" makes libraries use clone.
        json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }),
    ];
    rules.extend([0, 0xffff_ffff].map(|normal| allow("personality", at(0, normal, "SCMP_CMP_EQ"))));
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
    rules.extend(families.map(|family| allow("socket", at(0, family.unsigned_abs().into(), "SCMP_CMP_EQ"))));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": rules,
    })
}

/// For process 1 alone, in the container's user namespace: it gives files to the workload's user, becomes that user for the
/// workload, and ends it. The workload has none.
const CAPABILITIES: [&str; 7] =
    ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID"];

const MASKED: [&str; 15] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// All of `CLONE_NEW*`.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

/// On scratch: who is asked for names.
pub(super) const NAMES: &str = "names";

const MOST_LAYERS: usize = 127;

const MOST_SHARED: usize = 32;

const MOST_NAME: usize = 32;

const MOST_PATH: usize = 4000;

const MAX_HOST_NAME: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Disk, Isolation, LayerFile, System};

    fn plan(change: fn(&mut ContainerSystem)) -> Plan {
        let mut container = ContainerSystem {
            init: "/guest".into(),
            args: vec!["--container".to_owned()],
            layers: vec![LayerFile { path: "/layer".into() }],
            shared: vec![
                Shared { name: "asset0".to_owned(), path: "/data/data".to_owned(), kind: SharedKind::ReadOnlyFile },
                Shared { name: "output".to_owned(), path: "/out".to_owned(), kind: SharedKind::WritableDir },
            ],
        };
        change(&mut container);
        Plan {
            id: "i-1".parse().unwrap(),
            isolation: Isolation::Container,
            demands: vec![],
            system: System::Container(container),
            disks: vec![Disk { serial: "asset0".to_owned(), path: "/a".into() }],
            cpus: 1,
            memory_mib: 256,
            scratch_mib: 64,
        }
    }

    fn made(change: fn(&mut ContainerSystem)) -> Value {
        let plan = plan(change);
        config(&plan, plan.container().unwrap(), 1024)
    }

    #[test]
    fn nothing_of_the_host_is_mounted_but_files_that_were_named() {
        let config = made(|_| {});
        let binds: Vec<&Value> = config["mounts"].as_array().unwrap().iter().filter(|mount| mount["type"] == "bind").collect();
        for mount in &binds {
            let source = mount["source"].as_str().unwrap();
            assert!(source.starts_with("/scratch/") || source.starts_with("/guest/"), "{source}");
            let options = mount["options"].as_array().unwrap();
            assert!(options.contains(&json!("nosuid")) && options.contains(&json!("nodev")), "{mount}");
        }
        let read_only: Vec<&str> = binds
            .iter()
            .filter(|mount| mount["options"].as_array().unwrap().contains(&json!("ro")))
            .map(|mount| mount["destination"].as_str().unwrap())
            .collect();
        assert_eq!(read_only, ["/casemate/init", "/casemate/disks/asset0", "/data/data"]);
    }

    #[test]
    fn the_process_gains_nothing_and_unlisted_calls_fail() {
        let config = made(|_| {});
        assert_eq!(config["process"]["noNewPrivileges"], true);
        for held in config["process"]["capabilities"].as_object().unwrap().values() {
            for dangerous in
                ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_NET_ADMIN", "CAP_MKNOD", "CAP_DAC_READ_SEARCH", "CAP_SYS_CHROOT"]
            {
                assert!(!held.as_array().unwrap().contains(&json!(dangerous)));
            }
        }
        let seccomp = &config["linux"]["seccomp"];
        assert_eq!(seccomp["defaultAction"], "SCMP_ACT_ERRNO");
        let allowed = seccomp["syscalls"][0]["names"].as_array().unwrap();
        for dangerous in [
            "mount",
            "unshare",
            "setns",
            "ptrace",
            "bpf",
            "io_uring_setup",
            "keyctl",
            "add_key",
            "userfaultfd",
            "perf_event_open",
            "kexec_load",
            "init_module",
            "finit_module",
            "mknod",
            "mknodat",
            "pivot_root",
            "chroot",
            "open_by_handle_at",
            "clone",
            "clone3",
            "socket",
            "personality",
            "process_vm_readv",
            "pidfd_getfd",
            "reboot",
            "swapon",
            "fsopen",
            "move_mount",
        ] {
            assert!(!allowed.contains(&json!(dangerous)), "{dangerous}");
        }
    }

    #[test]
    fn hostile_names_and_paths_are_refused() {
        let refused = |change: fn(&mut ContainerSystem)| {
            let plan = plan(change);
            check(&plan, plan.container().unwrap()).unwrap_err().to_string()
        };
        let fine = plan(|_| {});
        check(&fine, fine.container().unwrap()).unwrap();
        for path in
            ["", "/", "x", "/a/../b", "/a//b", "/a/.", "/..", "/proc/1/root", "/sys/x", "/dev/mem", "/casemate/init", "/a\0b"]
        {
            let mut plan = plan(|_| {});
            if let System::Container(container) = &mut plan.system {
                container.shared[0].path = path.to_owned();
            }
            assert!(check(&plan, plan.container().unwrap()).is_err(), "{path:?}");
        }
        assert!(refused(|container| container.shared[0].name = "../up".to_owned()).contains("../up"));
        assert!(refused(|container| container.shared[1].name = "asset0".to_owned()).contains("each one's own"));
        assert!(refused(|container| container.shared[0].name.clear()).contains("shared name"));
        assert!(refused(|container| container.layers.clear()).contains("0 layers"));
        assert!(refused(|container| container.args.push("a\0b".to_owned())).contains("NUL"));
        let mut twice = plan(|_| {});
        twice.disks.push(twice.disks[0].clone());
        assert!(check(&twice, twice.container().unwrap()).is_err());
    }

    #[test]
    fn texts_stay_texts() {
        let config = made(|container| container.args = vec!["\",\"root\":{\"path\":\"/\"}".to_owned()]);
        let text = config.to_string();
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["root"]["path"], "/rootfs");
        assert_eq!(read["process"]["args"][1], "\",\"root\":{\"path\":\"/\"}");
    }
}
