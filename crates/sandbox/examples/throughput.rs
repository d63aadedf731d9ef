//! What the router costs: TCP through an instance's link, its rules and the uplink, against a plain veth pair, alternating in one run.
//!
//! `cargo run --release --example throughput [ROUNDS]`, as root. Everything is in network namespaces that it makes and takes away.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use casemate_lifecycle::network::Policy;
use casemate_sandbox::network::{Network, NetworkConfig, Place, Uplink, make_router};

const ROUND: Duration = Duration::from_millis(1500);
const PORT: u16 = 5201;
const OUTSIDE: &str = "203.0.113.2";
const GATEWAY: &str = "203.0.113.254";
const PLAIN: [&str; 2] = ["198.51.100.1", "198.51.100.2"];

fn main() {
    let rounds = std::env::args().nth(1).map_or(5, |text| text.parse().expect("a number of rounds"));
    let names = Names::new();
    let network = names.make();
    let id = "i-throughput".parse().expect("an id");
    let rules = ["0.0.0.0/0", "::/0", "example.org:tcp/443"].map(|rule| rule.parse().expect("a rule"));
    network.attach(&id, &Policy { egress: rules.into(), ..Policy::default() }).expect("a link");
    network.plug(&id, &place(&names.instance)).expect("a plug");
    for namespace in [&names.outside, &names.plain] {
        serve(namespace);
    }
    let ways = [("plain veth", &names.peer, PLAIN[1]), ("instance", &names.instance, OUTSIDE)];
    for (direction, byte) in [("sending", b's'), ("receiving", b'r')] {
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for ((_, from, to), rates) in ways.iter().zip(&mut rates) {
                rates.push(measure(from, SocketAddr::new(to.parse().expect("an address"), PORT), byte));
            }
        }
        let medians = rates.map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        });
        for ((name, ..), rate) in ways.iter().zip(&medians) {
            println!("{direction:9}  {name:10}  {rate:6.2} Gbit/s");
        }
        println!("{direction:9}  ratio       {:6.2}", medians[1] / medians[0]);
    }
    network.detach(&id).expect("a clean end");
}

/// Gigabits per second of one connection.
fn measure(from: &str, to: SocketAddr, direction: u8) -> f64 {
    let work = || {
        let mut stream = TcpStream::connect(to)?;
        stream.write_all(&[direction])?;
        let mut buffer = vec![0; 1 << 20];
        let (begin, mut bytes) = (Instant::now(), 0);
        while begin.elapsed() < ROUND {
            bytes += if direction == b's' { stream.write(&buffer)? } else { stream.read(&mut buffer)? };
        }
        Ok(bytes as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e9)
    };
    place(from).within(work).expect("a connection")
}

/// Takes, or gives, as fast as it can.
fn serve(namespace: &str) {
    let listener = place(namespace).within(|| TcpListener::bind(("0.0.0.0", PORT))).expect("a listener");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut buffer = vec![0; 1 << 20];
            let mut direction = [0];
            if stream.read_exact(&mut direction).is_err() {
                continue;
            }
            if direction == [b's'] {
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
            } else {
                while stream.write_all(&buffer).is_ok() {}
            }
        }
    });
}

fn place(name: &str) -> Place {
    Place::named(name).expect("a namespace")
}

struct Names {
    host: String,
    router: String,
    outside: String,
    instance: String,
    peer: String,
    plain: String,
    state: tempfile::TempDir,
}

impl Names {
    fn new() -> Self {
        let name = |kind: &str| format!("cmbench-{kind}-{}", std::process::id());
        let [host, router, outside] = ["host", "router", "out"].map(name);
        let [instance, peer, plain] = ["instance", "peer", "plain"].map(name);
        Self { host, router, outside, instance, peer, plain, state: tempfile::tempdir().expect("a directory") }
    }

    fn make(&self) -> Network {
        for namespace in [&self.host, &self.outside, &self.instance, &self.peer, &self.plain] {
            ip(&format!("netns add {namespace}"));
            ip(&format!("-n {namespace} link set lo up"));
        }
        ip(&format!("-n {} link add up9 type veth peer name up0 netns {}", self.host, self.outside));
        ip(&format!("-n {} addr add {OUTSIDE}/24 dev up0", self.outside));
        ip(&format!("-n {} addr add {GATEWAY}/24 dev up0", self.outside));
        ip(&format!("-n {} link set up0 up", self.outside));
        ip(&format!("-n {} link add eth0 type veth peer name eth0 netns {}", self.peer, self.plain));
        for (namespace, address) in [(&self.peer, PLAIN[0]), (&self.plain, PLAIN[1])] {
            ip(&format!("-n {namespace} addr add {address}/24 dev eth0"));
            ip(&format!("-n {namespace} link set eth0 up"));
        }
        let gateways = vec![GATEWAY.parse().expect("an address")];
        let addresses = vec![("203.0.113.1".parse().expect("an address"), 24)];
        let uplink = Uplink { interface: "up9".to_owned(), addresses, gateways };
        let host = place(&self.host);
        let router = make_router(&host, &self.router, &uplink).expect("a router");
        let config = NetworkConfig { state_dir: self.state.path().to_owned(), host, router, resolvers: Vec::new() };
        Network::open(config).expect("a network")
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        for namespace in [&self.router, &self.host, &self.outside, &self.instance, &self.peer, &self.plain] {
            Command::new("ip").args(["netns", "del", namespace]).status().ok();
        }
    }
}

fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().expect("ip; hint: apt-get install iproute2");
    assert!(status.success(), "ip {line}");
}
