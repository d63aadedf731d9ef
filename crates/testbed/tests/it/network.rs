//! Workloads with a network, through the whole chain: what they reach and what not, what reaches them, and that nothing of it is left.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use casemate_testbed::{Bed, BedOptions, ImageBuilder, static_program};
use serde_json::Value;

use crate::{
    deaths::PATIENT_MS,
    support::{Background, MARKER},
};

/// `reach ADDRESS PORT` and `never ADDRESS PORT`, which is less patient, say what came of the attempt; `serve PORT COUNT` answers on all
/// addresses.
const PROGRAM: &str = r#"
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
static int reach(const char *address, const char *port, int patience_ms) {
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *at;
    if (getaddrinfo(address, port, &hints, &at)) return EINVAL;
    int fd = socket(at->ai_family, SOCK_STREAM, 0), error = 0;
    socklen_t size = sizeof error;
    if (fd < 0) return errno;
    struct pollfd wait = {.fd = fd, .events = POLLOUT};
    fcntl(fd, F_SETFL, O_NONBLOCK);
    if (!connect(fd, at->ai_addr, at->ai_addrlen)) goto read;
    if (errno != EINPROGRESS) { error = errno; close(fd); return error; }
    if (poll(&wait, 1, patience_ms) != 1) { close(fd); return ETIMEDOUT; }
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) { close(fd); return error; }
read:
    wait.events = POLLIN;
    char byte = 0;
    if (poll(&wait, 1, 20000) != 1 || read(fd, &byte, 1) != 1 || byte != '!') error = EPROTO;
    close(fd);
    return error;
}
static int serve(int port, int count) {
    struct sockaddr_in6 at = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = in6addr_any};
    int fd = socket(AF_INET6, SOCK_STREAM, 0), no = 0, yes = 1;
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(fd, (void *)&at, sizeof at) || listen(fd, 16)) { printf("cannot serve: %s\n", strerror(errno)); return 1; }
    printf("serving\n");
    for (; count != 0; count--) {
        int who = accept(fd, 0, 0);
        if (who >= 0) { if (write(who, "!", 1) != 1) return 1; close(who); }
    }
    return 0;
}
int main(int argc, char **argv) {
    setvbuf(stdout, 0, _IOLBF, 0);
    int at = 1, failed = 0;
    for (; at + 2 < argc && strcmp(argv[at], "serve"); at += 3) {
        int error = reach(argv[at + 1], argv[at + 2], strcmp(argv[at], "never") ? 20000 : 1000);
        printf("%s %s %s: %s\n", argv[at], argv[at + 1], argv[at + 2], error ? strerror(error) : "yes");
        failed |= error != 0;
    }
    char line[256];
    FILE *names = fopen("/etc/resolv.conf", "r");
    while (names && fgets(line, sizeof line, names)) printf("names: %s", line);
    int raw = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), packet = socket(AF_PACKET, SOCK_RAW, 0);
    printf("raw %d, packet %d\n", raw >= 0, packet >= 0);
    if (at + 2 < argc && !strcmp(argv[at], "serve")) failed = serve(atoi(argv[at + 1]), atoi(argv[at + 2]));
    printf("done\n");
    return failed;
}
"#;

const OUTSIDE: [&str; 2] = ["203.0.113.2", "2001:db8:77::2"];
const NODE: [&str; 2] = ["203.0.113.1", "2001:db8:77::1"];
const METADATA: &str = "169.254.169.254";
const LEVELS: [&str; 3] = ["container", "sandbox", "microvm"];

/// An outside, and the uplink that leads to it. Goes with this.
pub(crate) struct Outside {
    name: String,
    program: PathBuf,
    _dir: tempfile::TempDir,
    serving: Vec<Child>,
}

impl Outside {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cmb{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, static_program(PROGRAM).unwrap()).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let outside = Self { name, program, _dir: dir, serving: Vec::new() };
        let name = &outside.name;
        ip(&format!("netns add {name}"));
        ip(&format!("link add {name} type veth peer name out0 netns {name}"));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} link set out0 up"));
        for address in [OUTSIDE[0], "203.0.113.254"] {
            ip(&format!("-n {name} addr add {address}/24 dev out0"));
        }
        for address in [OUTSIDE[1], "2001:db8:77::fe"] {
            ip(&format!("-n {name} addr add {address}/64 dev out0 nodad"));
        }
        // It would answer, if anybody let a packet through to it.
        ip(&format!("-n {name} addr add {METADATA} dev lo"));
        outside
    }

    /// The agent's configuration, in one line.
    pub(crate) fn settings(&self) -> String {
        let Self { name, .. } = self;
        format!(
            "network = {{ uplink = \"{name}\", router = \"{}\", addresses = [\"{}/24\", \"{}/64\"], \
             gateways = [\"203.0.113.254\", \"2001:db8:77::fe\"], resolvers = [\"127.0.53.99\"] }}",
            self.router(),
            NODE[0],
            NODE[1]
        )
    }

    fn router(&self) -> String {
        format!("{}r", self.name)
    }

    fn serve(&mut self, port: u16) {
        let arguments = ["netns", "exec", &self.name, self.program.to_str().unwrap(), "serve", &port.to_string(), "-1"];
        self.serving.push(Command::new("ip").args(arguments).stdout(Stdio::null()).spawn().unwrap());
    }

    /// Until it does.
    fn reaches(&self, address: &str, port: u16) {
        let deadline = Instant::now() + Duration::from_secs(90);
        let program = self.program.to_str().unwrap();
        let arguments = ["netns", "exec", &self.name, program, "never", address, &port.to_string()];
        while !Command::new("ip").args(arguments).output().unwrap().status.success() {
            assert!(Instant::now() < deadline, "the outside never reached {address} port {port}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Nothing of any instance is in the router.
    #[track_caller]
    pub(crate) fn assert_no_instance_remains(&self) {
        let told = |arguments: &[&str]| {
            let output = Command::new("ip").args(["netns", "exec", &self.router()]).args(arguments).output().unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let (rules, links) = (told(&["nft", "list", "ruleset"]), told(&["ip", "-br", "link"]));
        assert!(rules.contains("chain forward") && links.contains("up0"), "the router is not there: {rules} {links}");
        // Everything of an instance is named by its direction or purpose and its interface; the shared rules have a pattern, "cm*".
        assert!(!rules.contains("_cm"), "{rules}");
        assert!(!links.lines().any(|line| line.starts_with("cm")), "{links}");
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for child in &mut self.serving {
            child.kill().ok();
            child.wait().ok();
        }
        for namespace in [&self.router(), &self.name] {
            Command::new("ip").args(["netns", "del", namespace]).output().ok();
        }
        Command::new("ip").args(["link", "del", &self.name]).output().ok();
    }
}

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output();
    let output = output.unwrap_or_else(|error| panic!("ip: {error}; hint: apt-get install iproute2 nftables"));
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A platform whose node has this network, and an image with the program.
pub(crate) fn start(outside: Option<&Outside>) -> Bed {
    let server_config = vec![format!("keys_timeout_ms = {PATIENT_MS}")];
    let agent_config = outside.map(Outside::settings).into_iter().collect();
    let bed = Bed::start(&BedOptions { server_config, agent_config, ..BedOptions::default() }).unwrap();
    let image =
        ImageBuilder::new().layer(&[("data/.keep", b""), ("app", &static_program(PROGRAM).unwrap())]).entrypoint(&["/app"]);
    image.write(&bed.work().join("image")).unwrap();
    fs::write(bed.work().join("data.txt"), format!("{MARKER}\n")).unwrap();
    bed.casemate(&["asset", "encrypt", "--key", "data.key", "data.txt", "data.enc"]).expect_code(0);
    bed
}

/// A run at a level, with rules and words for the program.
pub(crate) fn run_args<'a>(level: &'a str, extra: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [crate::support::run_args_at(level, extra, &[]), vec!["--", "/app"], command.to_vec()].concat()
}

#[test]
fn a_workload_reaches_what_its_rules_allow_at_every_level_and_nothing_is_left() {
    let mut outside = Outside::new();
    outside.serve(8000);
    outside.serve(8001);
    let bed = start(Some(&outside));
    let nodes = bed.casemate(&["nodes"]).expect_code(0);
    assert!(nodes.stdout.contains("container, sandbox, microvm, network"), "{}", nodes.stdout);
    let rules = ["203.0.113.2:tcp/8000", "[2001:db8:77::2]:tcp/8000", "169.254.169.254/32:tcp/80", "example.org"];
    let refused = bed.casemate(&run_args("container", &["--egress", rules[2]], &[]));
    assert!(refused.code != 0 && refused.stderr.contains("no instance may reach"), "{}", refused.stderr);
    for level in LEVELS {
        let flags = ["--egress", rules[0], "--egress", rules[1], "--egress", rules[3], "--publish", "8080:tcp/80"];
        let mut words = Vec::new();
        for outside in OUTSIDE {
            words.extend(["reach", outside, "8000"]);
        }
        for (address, port) in [(OUTSIDE[0], "8001"), (METADATA, "8000"), (NODE[0], "8080")] {
            words.extend(["never", address, port]);
        }
        words.extend(["serve", "80", "2"]);
        let mut run = Background::start(&bed, &run_args(level, &flags, &words));
        run.wait_for("ok running");
        for node in NODE {
            outside.reaches(node, 8080);
        }
        let outcome = run.finish().expect_code(0);
        let said = &outcome.stdout;
        for allowed in OUTSIDE {
            assert!(said.contains(&format!("reach {allowed} 8000: yes\n")), "{level}: {said}");
        }
        for denied in [format!("{} 8001", OUTSIDE[0]), format!("{METADATA} 8000"), format!("{} 8080", NODE[0])] {
            assert!(
                said.contains(&format!("never {denied}: ")) && !said.contains(&format!("never {denied}: yes")),
                "{level}: {said}"
            );
        }
        assert!(said.contains("names: nameserver 100.127.0.0\n") && said.contains("raw 0, packet 0\n"), "{level}: {said}");
        let instance = outcome.instance();
        let receipt = bed.casemate(&["receipt", "verify", &instance]).expect_code(0);
        assert!(receipt.stdout.contains("network"), "{}", receipt.stdout);
        let counted: Value = serde_json::from_str(&bed.casemate(&["inspect", &instance, "--output", "json"]).stdout).unwrap();
        let counted = |name: &str| counted["network"][name].as_u64().unwrap_or_else(|| panic!("{name} in {counted}"));
        // Two connections that were made and two that were published, each of several packets; the ones that no rule allows.
        assert!(counted("sent_packets") >= 8 && counted("received_bytes") > 500 && counted("sent_dropped") >= 2, "{level}");
        assert_eq!(counted("names_asked"), 0);
        bed.assert_no_instance_remains();
        outside.assert_no_instance_remains();
    }
    bed.finish();
}

#[test]
fn a_workload_with_a_network_goes_to_no_node_without_one() {
    let bed = start(None);
    let outcome = bed.casemate(&run_args("container", &["--egress", "203.0.113.2"], &[])).expect_refusal("schedule.no-node");
    assert!(outcome.stderr.contains("without a network for instances"), "{}", outcome.stderr);
    bed.finish();
}
