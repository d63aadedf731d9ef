use std::{fs, net::TcpListener, os::unix::fs::symlink, path::Path};

use super::*;

/// A machine with one of everything.
fn machine() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("proc/cmdline", "root=/dev/vda1 mitigations=off quiet\n");
    write("proc/modules", "kvm 1 0 - Live 0x0\ndccp 2 0 - Live 0x0\n");
    write("proc/sys/kernel/kptr_restrict", "0\n");
    write("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n");
    let header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
    write(
        "proc/net/tcp",
        &format!(
            "{header}   0: 00000000:1538 00000000:0000 0A 0\n   1: 0100007F:0019 00000000:0000 0A 0\n   2: 0100007F:0016 0100007F:9C40 01 0\n"
        ),
    );
    write(
        "proc/net/tcp6",
        &format!("{header}   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0\n"),
    );
    write("proc/net/udp", &format!("{header}   0: 00000000:0044 00000000:0000 07 0\n   1: 0A00000A:A000 08080808:0035 01 0\n"));
    for file in ["udp6", "raw", "raw6"] {
        write(&format!("proc/net/{file}"), header);
    }
    for (pid, group) in [("1", "/init.scope"), ("77", "/system.slice/x"), ("78", "/casemate-0011aabb/i-1"), ("79", "/")] {
        write(&format!("proc/{pid}/cgroup"), &format!("0::{group}\n"));
    }
    for (pid, path) in [("1", "/usr/lib/systemd/systemd"), ("77", "/usr/bin/redis (deleted)"), ("78", "/usr/bin/qemu")] {
        symlink(path, root.path().join("proc").join(pid).join("exe")).unwrap();
    }
    write("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n");
    write("sys/bus/pci/devices/0000:01:00.0/device", "0x2330\n");
    symlink("../../drivers/nouveau", root.path().join("sys/bus/pci/devices/0000:01:00.0/driver")).unwrap();
    root
}

fn policy(text: &str) -> Result<Policy, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dedicated.toml");
    fs::write(&path, text).unwrap();
    load(&path)
        .map_err(|error| std::error::Error::source(&error).map_or(error.to_string(), |source| format!("{error}: {source}")))
}

const STRICT: &str = r#"
version = 1
on_finding = "hold"
parameters = { "kernel.kptr_restrict" = ["1", "2"], "kernel.none" = ["0"] }
programs.allowed = ["/usr/lib/systemd/*"]
sockets.allowed = ["tcp/22", "loopback"]
modules.allowed = ["kvm*"]
command_line = { required = ["lockdown=integrity"], forbidden = ["mitigations=off"] }
devices = [{ id = "10de:*", drivers = ["vfio-pci"] }]
"#;

fn found(root: &Path, text: &str) -> Vec<String> {
    let policy = policy(text).unwrap();
    let facts = look(root, &policy).unwrap();
    judge(&policy, &facts).iter().map(|finding| format!("{} {}", finding.kind, finding.subject)).collect()
}

#[test]
fn everything_that_is_not_allowed_is_found() {
    let expected = [
        "command-line lockdown=integrity",
        "command-line mitigations=off",
        "device 0000:01:00.0 (10de:2330)",
        "module dccp",
        "parameter kernel.kptr_restrict",
        "parameter kernel.none",
        "program /usr/bin/redis (deleted)",
        "socket tcp 0.0.0.0:5432",
        "socket udp 0.0.0.0:68",
    ];
    assert_eq!(found(machine().path(), STRICT), expected);
}

#[test]
fn what_is_allowed_or_not_asked_for_is_no_finding() {
    let root = machine();
    assert_eq!(found(root.path(), "version = 1"), [""; 0]);
    let lenient = r#"
version = 1
parameters = { "kernel.kptr_restrict" = ["0"], "net.ipv4.tcp_rmem" = ["4096 131072 6291456"] }
programs.allowed = ["/usr/lib/systemd/systemd", "/usr/bin/redis*"]
sockets.allowed = ["tcp/*", "udp/68"]
modules.allowed = ["kvm", "dccp"]
command_line = { required = ["quiet"], forbidden = ["mitigation=off"] }
devices = [{ id = "10de:2330", drivers = ["nouveau", ""] }, { id = "8086:*", drivers = ["x"] }]
"#;
    assert_eq!(found(root.path(), lenient), [""; 0]);
}

#[test]
fn nobody_is_told_to_set_what_the_kernel_does_not_have() {
    let policy = policy(STRICT).unwrap();
    let findings = judge(&policy, &look(machine().path(), &policy).unwrap());
    let hint = |name: &str| findings.iter().find(|finding| finding.subject == name).unwrap().hint.clone();
    assert!(hint("kernel.kptr_restrict").contains("set it to 1 or 2"));
    assert!(hint("kernel.none").contains("boot a kernel that has it"));
}

#[test]
fn only_loopback_itself_is_loopback() {
    let address = |text: &str| Socket { protocol: "tcp", address: text.parse().unwrap() };
    let policy = policy("version = 1\nsockets.allowed = [\"loopback\"]").unwrap();
    let sockets = ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "10.0.0.1:1", "[::]:1", "[::ffff:10.0.0.1]:1"].map(address);
    let facts = Facts { sockets: sockets.into(), ..Facts::default() };
    assert_eq!(judge(&policy, &facts).len(), 3);
}

#[test]
fn a_machine_that_cannot_be_looked_at_does_not_pass() {
    let root = machine();
    let strict = policy(STRICT).unwrap();
    let look_again = || look(root.path(), &strict);
    look_again().unwrap();
    fs::write(root.path().join("proc/net/tcp"), "header\n   0: 0100007F 00000000:0000 0A\n").unwrap();
    assert!(look_again().unwrap_err().to_string().contains("tcp: "));
    fs::remove_file(root.path().join("proc/net/tcp")).unwrap();
    assert!(look_again().unwrap_err().to_string().contains("net/tcp"));
}

#[test]
fn control_groups_of_instances_are_ours_and_services_are_not() {
    assert!(host::is_instance("/casemate-0011aabb/i-1"));
    assert!(host::is_instance("/guarded/casemate-0011aabb/i-1"));
    assert!(!host::is_instance("/system.slice/casemate-agent.service"));
    assert!(!host::is_instance("/system.slice/ssh.service"));
}

#[test]
fn the_example_is_a_policy() {
    let policy = policy(include_str!("../../../../docs/dedicated-node.example.toml")).unwrap();
    assert_eq!(policy.on_finding, OnFinding::Report);
    assert!(policy.programs.is_some() && policy.sockets.is_some() && !policy.devices.is_empty());
}

#[test]
fn nonsense_is_named() {
    for (text, words) in [
        ("version = 2", "version: must be 1"),
        ("version = 1\nprogram = 1", "program"),
        ("version = 1\nprograms.allowed = [\"*\"]", "leave the section out"),
        ("version = 1\nprograms.allowed = [\"/usr/*/x\"]", "at the end of a name only"),
        ("version = 1\nprograms.allowed = [\"sshd\"]", "not an absolute path"),
        ("version = 1\nprograms.allowed = [\"\"]", "1 to 512 bytes"),
        ("version = 1\nparameters = { \"../../etc/shadow\" = [\"1\"] }", "not the name of a kernel parameter"),
        ("version = 1\nparameters = { \"kernel.x\" = [] }", "no value that would do"),
        ("version = 1\non_finding = \"panic\"", "on_finding"),
    ] {
        let error = policy(text).unwrap_err();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn this_machine_can_be_looked_at() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let policy = policy(&format!("version = 1\nsockets.allowed = [\"tcp/{}\"]\nprograms.allowed = [\"/\"]", port ^ 1)).unwrap();
    let facts = look(Path::new("/"), &policy).unwrap();
    let findings = judge(&policy, &facts);
    let own = std::env::current_exe().unwrap();
    assert!(findings.iter().any(|finding| finding.subject == format!("tcp 127.0.0.1:{port}")), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.subject == own.to_string_lossy()), "{findings:?}");
}
