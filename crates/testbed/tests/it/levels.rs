//! The same workload at every level: what is alike, what is said to differ, and that no level is taken for another.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use casemate_testbed::{Bed, BedOptions, ImageBuilder, static_program};
use serde_json::Value;

use crate::{
    deaths::{PATIENT_MS, kill, processes_of, start, told_the_truth},
    support::{Background, MARKER, guest_os_copy, prepare, run_args_at},
};

/// Says what a workload can see of its place, so that differences between levels show.
const PROGRAM: &str = r#"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
static int can(const char *path, int flags) { int fd = open(path, flags, 0600); if (fd >= 0) close(fd); return fd >= 0; }
int main(int argc, char **argv) {
    setvbuf(stdout, 0, _IOLBF, 0);
    char line[256] = "", cwd[256] = "";
    struct stat st;
    printf("user %d group %d, arguments", getuid(), getgid());
    for (int i = 0; i < argc; i++) printf(" %s", argv[i]);
    printf("\ndirectory %s, GREETING %s, HOME %s\n", getcwd(cwd, sizeof cwd), getenv("GREETING"), getenv("HOME"));
    FILE *in = fopen("/data/data", "r");
    if (in && fgets(line, sizeof line, in)) printf("data: %zu bytes in its first line\n", strlen(line));
    if (!stat("/data/data", &st)) printf("data: mode %o of user %d, writable %d\n", st.st_mode & 0777, st.st_uid, can("/data/data", O_WRONLY));
    FILE *out = fopen("/out/result.txt", "w");
    if (out) { fprintf(out, "result %zu\n", strlen(line)); fclose(out); }
    printf("image %s, temporary files %d, shared memory %d\n", can("/etc/base", O_RDONLY) ? "there" : "missing",
        can("/tmp/x", O_CREAT | O_WRONLY), can("/dev/shm/x", O_CREAT | O_WRONLY));
    printf("no new privileges %d, filter %d, capability %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), prctl(PR_GET_SECCOMP, 0, 0, 0, 0),
        prctl(PR_CAPBSET_READ, 0, 0, 0, 0));
    printf("memory of process 1 %d, its files %d, the host's devices %d\n", can("/proc/1/mem", O_RDWR) && getpid() != 1,
        can("/casemate/shared/asset0", O_RDONLY), can("/dev/vda", O_RDONLY));
    printf("standard input %s\n", read(0, line, 1) == 0 ? "is empty" : "is something");
    if (fork() == 0) { printf("a child\n"); _exit(5); }
    int status; wait(&status);
    printf("it ended with %d\n", WEXITSTATUS(status));
    if (fork() == 0) { sleep(100); _exit(0); }
    fprintf(stderr, "a word on standard error\n");
    printf("done\n");
    return 4;
}
"#;

const LEVELS: [&str; 3] = ["container", "sandbox", "microvm"];

fn prepare_place(bed: &Bed) {
    let program = static_program(PROGRAM).unwrap();
    let image = ImageBuilder::new()
        .layer(&[("etc/base", b"base"), ("etc/passwd", b"app:x:1234:1235::/srv:/app\n"), ("data/.keep", b"")])
        .layer(&[("app", &program)])
        .entrypoint(&["/app", "one"]);
    image.write(&bed.work().join("image")).unwrap();
    fs::write(bed.work().join("data.txt"), format!("{MARKER}\n")).unwrap();
    bed.casemate(&["asset", "encrypt", "--key", "data.key", "data.txt", "data.enc"]).expect_code(0);
    let workload = "version: 1\nname: place\nimage: oci:./image\nuser: app\nworkdir: /srv/work\nenv: {GREETING: hello}\n\
        assets:\n  - {name: data, file: ./data.enc, key: ./data.key}\n\
        resources: {cpus: 1, memory_mib: 256, scratch_mib: 64}\noutput: {path: /out}\n";
    fs::write(bed.work().join("workload.yaml"), workload).unwrap();
}

#[test]
fn the_same_workload_file_runs_at_every_level_with_the_same_output() {
    let bed = Bed::start(&BedOptions::default()).unwrap();
    prepare_place(&bed);
    let nodes = bed.casemate(&["nodes"]).expect_code(0);
    assert!(nodes.stdout.contains("container, sandbox, microvm"), "{}", nodes.stdout);
    let mut outputs = Vec::new();
    for level in LEVELS {
        let results = format!("out-{level}");
        let run = bed.casemate(&["run", "--isolation", level, "workload.yaml", "--output", &results]).expect_code(3);
        assert!(run.stderr.contains("the workload ended with status 4"), "{}", run.stderr);
        assert_eq!(
            fs::read_to_string(bed.work().join(&results).join("result.txt")).unwrap(),
            format!("result {}\n", MARKER.len() + 1)
        );
        says_what_it_does_not_protect_from(level, &run.stderr);
        let instance = run.instance();
        let inspected = bed.casemate(&["inspect", &instance]).expect_code(0);
        assert!(inspected.stdout.lines().any(|line| line.starts_with("level ") && line.contains(level)), "{}", inspected.stdout);
        bed.casemate(&["receipt", "verify", &instance]).expect_code(0);
        bed.assert_no_instance_remains();
        outputs.push(run.stdout);
    }
    assert!(outputs[0].contains("user 1234 group 1235, arguments /app one\n"), "{}", outputs[0]);
    assert!(outputs[0].contains("data: mode 400 of user 1234, writable 0\n"), "{}", outputs[0]);
    assert!(outputs[0].contains("memory of process 1 0, its files 0, the host's devices 0\n"), "{}", outputs[0]);
    assert!(outputs[0].contains("no new privileges 1, filter 2, capability 0\n"), "{}", outputs[0]);
    assert_eq!(outputs[0], outputs[2], "container and microvm");
    assert_eq!(outputs[1], outputs[2], "sandbox and microvm");
    bed.finish();
}

fn says_what_it_does_not_protect_from(level: &str, stderr: &str) {
    let said = |words: &str| stderr.lines().any(|line| line.contains(&format!("level {level}: ")) && line.contains(words));
    match level {
        "microvm" => assert!(said("is not stopped by it") && !stderr.contains("container.jail"), "{stderr}"),
        "sandbox" => assert!(said("does NOT protect you from the host") && said("a kernel in user space"), "{stderr}"),
        _ => assert!(said("does NOT protect you from the host") && said("shares the host's kernel"), "{stderr}"),
    }
    for by in ["platform", "you"] {
        let check = if level == "microvm" { "vmm.jail" } else { "container.jail" };
        assert!(stderr.lines().any(|line| line.contains(&format!("ok {by} ")) && line.contains(check)), "{stderr}");
    }
}

#[test]
fn no_level_is_taken_for_another_and_a_changed_program_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let guest_os = guest_os_copy(scratch.path());
    let bed = Bed::start(&BedOptions { guest_os: Some(guest_os.clone()), ..BedOptions::default() }).unwrap();
    prepare(&bed);
    let mut run = Background::start(&bed, &run_args_at("container", &[], &["60"]));
    let instance = run.instance();
    run.wait_for("ok running");
    let judged = bed.casemate(&["verify", &instance, "--save", "evidence.json"]).expect_code(0);
    assert!(judged.stdout.contains("verdict: warning, the best that level container can have"), "{}", judged.stdout);
    assert!(judged.stdout.contains("does NOT protect you from the host"), "{}", judged.stdout);
    let saved: Value = serde_json::from_slice(&fs::read(bed.work().join("evidence.json")).unwrap()).unwrap();
    let refused = |check: &str, change: &dyn Fn(&mut Value)| {
        let mut altered = saved.clone();
        change(&mut altered);
        fs::write(bed.work().join("altered.json"), altered.to_string()).unwrap();
        bed.casemate(&["verify", "--evidence", "altered.json"]).expect_refusal(check);
    };
    // The platform says that the container is a micro VM, or a sandbox, or something else.
    refused("evidence.format", &|saved| saved["bundle"]["level"] = "microvm".into());
    refused("container.level", &|saved| saved["bundle"]["level"] = "sandbox".into());
    refused("policy.platform", &|saved| saved["bundle"]["level"] = "confidential".into());
    refused("policy.platform", &|saved| saved["bundle"]["level"] = "bare metal".into());
    // Another nonce, another workload, none.
    refused("evidence.nonce", &|saved| saved["nonce"] = "ab".repeat(32).into());
    refused("policy.platform", &|saved| saved["workload"] = Value::Null);
    refused("policy.platform", &|saved| {
        saved["workload"] = saved["workload"].as_str().unwrap().replace("\"container\"", "\"microvm\"").into();
    });
    bed.casemate(&["stop", &instance]).expect_code(0);
    assert_ne!(run.finish().code, 0, "a stopped run has not succeeded");

    // The platform places a workload below its minimum: the tenant's own command line finds it out.
    let mut run = Background::start(&bed, &run_args_at("microvm", &[], &["60"]));
    let instance = run.instance();
    run.wait_for("ok running");
    bed.casemate(&["verify", &instance, "--save", "machine.json"]).expect_code(0);
    let mut machine: Value = serde_json::from_slice(&fs::read(bed.work().join("machine.json")).unwrap()).unwrap();
    machine["bundle"]["level"] = "container".into();
    fs::write(bed.work().join("machine.json"), machine.to_string()).unwrap();
    bed.casemate(&["verify", "--evidence", "machine.json"]).expect_refusal("policy.platform");
    bed.casemate(&["stop", &instance]).expect_code(0);
    assert_ne!(run.finish().code, 0, "a stopped run has not succeeded");

    // Another program as process 1, which would have had the keys.
    let program = guest_os.join("casemate-guest");
    let mut bytes = fs::read(&program).unwrap();
    bytes.push(0);
    fs::write(&program, bytes).unwrap();
    let run = bed.casemate(&run_args_at("container", &[], &[])).expect_refusal("container.guest");
    assert!(!run.stderr.contains("ok keys"), "a key was released:\n{}", run.stderr);
    assert!(!run.stdout.contains("hello"), "the workload ran:\n{}", run.stdout);
    bed.assert_no_instance_remains();
    bed.finish();
}

#[test]
fn a_node_offers_what_it_has_and_says_why_it_has_no_more() {
    let bed = Bed::start(&BedOptions::default()).unwrap();
    prepare(&bed);
    // A runtime that is not there, and no VMM: what a node without virtualisation would be configured as.
    kill(bed.pid("agent").unwrap());
    bed.configure_agent("drivers", Some("[\"crun\"]")).unwrap();
    bed.restart("agent").unwrap();
    bed.wait_connected().unwrap();
    bed.casemate(&run_args_at("microvm", &[], &[])).expect_refusal("schedule.no-node");
    bed.casemate(&run_args_at("sandbox", &[], &[])).expect_refusal("schedule.no-node");
    bed.casemate(&run_args_at("container", &[], &[])).expect_code(0);
    // A workload may run at a stronger level than its minimum, and then it is judged as that.
    kill(bed.pid("agent").unwrap());
    bed.configure_agent("drivers", Some("[\"qemu\"]")).unwrap();
    bed.restart("agent").unwrap();
    bed.wait_connected().unwrap();
    let run = bed.casemate(&run_args_at("container", &[], &[])).expect_code(0);
    assert!(run.stderr.contains("guest.binding") && !run.stderr.contains("container.jail"), "{}", run.stderr);
    bed.finish();
}

/// As entries of a list of sockets: all ports of TCP but one.
fn all_but(port: u16) -> String {
    let own = port.to_string();
    let shorter = (1..own.len()).map(|length| own[..length].to_owned());
    let other = (0..own.len()).flat_map(|at| {
        let own = own.clone();
        (0..=9)
            .map(move |digit| format!("{}{digit}", &own[..at]))
            .filter(move |begin| !port.to_string().starts_with(begin.as_str()))
    });
    let entries = shorter.chain(other.map(|begin| format!("{begin}*"))).map(|name| format!("\"tcp/{name}\""));
    let others = ["udp", "raw"].into_iter().flat_map(|protocol| (0..=9).map(move |digit| format!("\"{protocol}/{digit}*\"")));
    entries.chain(others).collect::<Vec<_>>().join(", ")
}

#[test]
fn a_node_that_its_owner_holds_back_gets_no_work_until_the_reason_is_gone() {
    let bed = Bed::start(&BedOptions::default()).unwrap();
    prepare(&bed);
    let forgotten = TcpListener::bind("127.0.0.1:0").unwrap();
    let policy = bed.work().join("dedicated.toml");
    let allowed = all_but(forgotten.local_addr().unwrap().port());
    fs::write(&policy, format!("version = 1\non_finding = \"hold\"\nsockets.allowed = [{allowed}]\n")).unwrap();
    let doctor = ["doctor", "--policy", policy.to_str().unwrap()];
    assert!(bed.casemate(&doctor).expect_code(1).stdout.contains("ss -tulpn"));
    kill(bed.pid("agent").unwrap());
    bed.configure_agent("dedicated", Some(&format!("{{ policy = {policy:?}, every_s = 1 }}"))).unwrap();
    bed.restart("agent").unwrap();
    bed.wait_connected().unwrap();
    let refused = bed.casemate(&run_args_at("container", &[], &[])).expect_refusal("schedule.no-node");
    assert!(refused.stderr.contains("1 held back by their owners"), "{}", refused.stderr);
    assert!(bed.casemate(&["nodes"]).expect_code(0).stdout.contains("held back by its owner (1 findings)"));
    drop(forgotten);
    let begin = Instant::now();
    while bed.casemate(&["nodes"]).expect_code(0).stdout.contains("held back") {
        assert!(begin.elapsed() < Duration::from_secs(60), "it is held back for ever");
    }
    let run = bed.casemate(&run_args_at("container", &[], &[])).expect_code(0);
    let card = bed.casemate(&["inspect", &run.instance()]).expect_code(0).stdout;
    let dedicated = card.lines().find(|line| line.contains("what its owner's policy allows")).unwrap_or_default();
    assert!(dedicated.contains(" held "), "{card}");
    bed.finish();
}

/// The first process of a namespace right below the host's.
fn is_keeper(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    matches!(numbers.split_whitespace().collect::<Vec<_>>()[..], [_, "1"])
}

#[test]
fn whatever_of_a_container_is_killed_nothing_is_left() {
    let bed = start(PATIENT_MS);
    for step in ["ok booted", "ok attested", "ok running"] {
        let mut run = Background::start(&bed, &run_args_at("container", &[], &["30"]));
        let instance = run.instance();
        run.wait_for(step);
        // With the keeper all others go.
        let all = processes_of(&instance);
        let keeper = all.iter().map(|(pid, _)| *pid).find(|pid| is_keeper(*pid));
        kill(keeper.unwrap_or_else(|| panic!("{step}: no keeper among {all:?}")));
        let outcome = run.finish();
        assert!(!outcome.stdout.contains("done\n"), "{}", outcome.stdout);
        told_the_truth(&bed, step, outcome.expect_refusal("launch.vmm"));
        assert_eq!(processes_of(&instance), []);
    }
    // The agent dies beside a running container; the next one adopts it.
    let mut run = Background::start(&bed, &run_args_at("container", &[], &["3"]));
    run.wait_for("ok running");
    kill(bed.pid("agent").unwrap());
    bed.restart("agent").unwrap();
    told_the_truth(&bed, "adopted", run.finish().expect_code(0));
    // What it would not have: a program that nobody may execute.
    let mode = fs::metadata(casemate_testbed::guest_os_dir().join("casemate-guest")).unwrap().permissions().mode();
    assert_eq!(mode & 0o005, 0o005, "users of a container must be able to execute process 1");
    bed.finish();
}
