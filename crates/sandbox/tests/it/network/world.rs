//! A host, the router that a network makes of it, the outside and instances: each a network namespace of this test's own.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use casemate_lifecycle::{InstanceId, network::Policy};
use casemate_sandbox::network::{Link, Network, NetworkConfig, Place, Uplink, make_router};

/// How long something that must happen may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long something that must not happen is waited for; the filter's counters say whether it was stopped or only slow.
pub(crate) const DENIED: Duration = Duration::from_millis(700);
pub(crate) const OUTSIDE: [&str; 2] = ["203.0.113.2", "2001:db8:77::2"];
pub(crate) const NODE: [&str; 2] = ["203.0.113.1", "2001:db8:77::1"];
/// What the router sends everything to: of the outside, and nobody's business.
pub(crate) const GATEWAY: [&str; 2] = ["203.0.113.254", "2001:db8:77::fe"];
/// The host's own, which are public; the outside would answer on them as well.
pub(crate) const HOST: [&str; 2] = ["192.0.2.99", "2001:db8:99::99"];
/// Addresses that the outside would answer on, if anybody let a packet through to them.
pub(crate) const NEVER: [&str; 6] =
    ["10.9.9.9", "169.254.169.254", "192.168.77.1", "fd00:ec2::254", "100.100.100.200", "168.63.129.16"];

/// Everything goes with it.
pub(crate) struct World {
    pub(crate) host: String,
    pub(crate) router: String,
    pub(crate) outside: String,
    pub(crate) state: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let [host, router, outside] = ["host", "router", "out"].map(|kind| format!("cmtest-{kind}-{}", unique()));
        let world = Self { host, router, outside, state: tempfile::tempdir().unwrap() };
        let World { host, outside, .. } = &world;
        ip(&format!("netns add {host}\nnetns add {outside}"));
        ip(&format!("-n {host} link add up9 type veth peer name up0 netns {outside}"));
        for namespace in [host, outside] {
            ip(&format!("-n {namespace} link set lo up"));
        }
        ip(&format!("-n {outside} link set up0 up"));
        for [v4, v6] in [OUTSIDE, GATEWAY] {
            ip(&format!("-n {outside} addr add {v4}/24 dev up0"));
            ip(&format!("-n {outside} addr add {v6}/64 dev up0 nodad"));
        }
        for address in HOST {
            ip(&format!("-n {host} addr add {address} dev lo"));
        }
        for address in NEVER.iter().chain(&HOST) {
            ip(&format!("-n {outside} addr add {address} dev lo"));
        }
        world
    }

    /// Who is outside knows where the instances are, and tries.
    pub(crate) fn route_to_instances(&self) {
        for (range, by) in [("100.127.0.0/16", NODE[0]), ("fdca:5e3a:7e00::/64", NODE[1])] {
            ip(&format!("-n {} route add {range} via {by}", self.outside));
        }
    }

    /// Everything would arrive, if it were not for the rules.
    pub(crate) fn uplink(&self) -> Uplink {
        Uplink {
            interface: "up9".to_owned(),
            addresses: vec![(NODE[0].parse().unwrap(), 24), (NODE[1].parse().unwrap(), 64)],
            gateways: GATEWAY.map(|gateway| gateway.parse().unwrap()).into(),
        }
    }

    pub(crate) fn network(&self) -> Network {
        self.network_asking(&[])
    }

    pub(crate) fn network_asking(&self, resolvers: &[SocketAddr]) -> Network {
        let host = Place::named(&self.host).unwrap();
        let router = make_router(&host, &self.router, &self.uplink()).unwrap();
        let config = NetworkConfig { state_dir: self.state.path().to_owned(), host, router, resolvers: resolvers.to_vec() };
        Network::open(config).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for namespace in [&self.router, &self.host, &self.outside] {
            Command::new("ip").args(["netns", "del", namespace]).output().ok();
        }
    }
}

/// Of this process, and of this test in it.
pub(crate) fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// One `ip` command per line.
pub(crate) fn ip(lines: &str) {
    for line in lines.lines() {
        let output = Command::new("ip")
            .args(line.split(' '))
            .output()
            .unwrap_or_else(|error| panic!("ip: {error}; hint: apt-get install iproute2 nftables"));
        assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Does `work` on a thread of its own in a namespace.
pub(crate) fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    Place::named(namespace).unwrap().within(|| Ok(work())).unwrap()
}

/// Answers on all addresses of a namespace: a byte for each connection.
pub(crate) fn serve(namespace: &str, port: u16) {
    let listener = within(namespace, || TcpListener::bind(("::", port)).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            stream.and_then(|mut stream| stream.write_all(b"!")).ok();
        }
    });
}

pub(crate) fn reaches(namespace: &str, to: SocketAddr, patience: Duration) -> bool {
    within(namespace, || {
        let Ok(mut stream) = TcpStream::connect_timeout(&to, patience) else { return false };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).is_ok()
    })
}

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// One with a namespace of its own, which plays the container.
pub(crate) struct Instance<'a> {
    pub(crate) network: &'a Network,
    pub(crate) id: InstanceId,
    pub(crate) link: Link,
    pub(crate) namespace: String,
}

impl<'a> Instance<'a> {
    pub(crate) fn new(network: &'a Network, name: &str, policy: &Policy) -> Self {
        let id: InstanceId = format!("i-net-{}-{name}", unique()).parse().unwrap();
        let namespace = format!("cmtest-{id}");
        ip(&format!("netns add {namespace}"));
        let link = network.attach(&id, policy).unwrap();
        let instance = Self { network, id, link, namespace };
        network.plug(&instance.id, &Place::named(&instance.namespace).unwrap()).unwrap();
        instance
    }

    pub(crate) fn may_reach(&self, to: SocketAddr) {
        assert!(reaches(&self.namespace, to, PATIENCE), "{} must reach {to}", self.id);
    }

    /// It does not, and that is the filter's doing.
    pub(crate) fn may_not_reach(&self, to: SocketAddr) {
        let before = self.dropped();
        assert!(!reaches(&self.namespace, to, DENIED), "{} must not reach {to}", self.id);
        assert!(self.dropped() > before, "nothing to {to} was dropped: it was only slow");
    }

    /// It does not reach the node itself, which is not a matter of forwarding and therefore not counted with it.
    pub(crate) fn may_not_reach_the_node(&self, to: SocketAddr) {
        assert!(!reaches(&self.namespace, to, DENIED), "{} must not reach {to}", self.id);
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.network.statistics(&self.id).unwrap().send_dropped.packets
    }

    /// What the resolver says to a question.
    pub(crate) fn ask(&self, question: &[u8]) -> Option<Vec<u8>> {
        let (own, node) = (IpAddr::from(self.link.instance4), SocketAddr::new(self.link.node4.into(), 53));
        within(&self.namespace, || {
            let socket = UdpSocket::bind((own, 0)).unwrap();
            socket.connect(node).unwrap();
            let begin = Instant::now();
            let mut answer = [0; 4096];
            while begin.elapsed() < PATIENCE {
                socket.send(question).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                if let Ok(length) = socket.recv(&mut answer) {
                    return Some(answer[..length].to_vec());
                }
            }
            None
        })
    }
}

impl Drop for Instance<'_> {
    fn drop(&mut self) {
        Command::new("ip").args(["netns", "del", &self.namespace]).output().ok();
    }
}

pub(crate) fn allowing(rules: &[&str]) -> Policy {
    Policy { egress: rules.iter().map(|rule| rule.parse().unwrap()).collect(), ..Policy::default() }
}

/// Rules, links and records of the node.
pub(crate) fn traces(world: &World) -> (String, Vec<String>, Vec<String>) {
    let told = |program: &str, arguments: &[&str]| {
        let output = Command::new("ip").args(["netns", "exec", &world.router, program]).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let links = told("ip", &["-br", "link"]);
    let links = links.lines().filter(|line| line.starts_with("cm")).map(str::to_owned).collect();
    let records = std::fs::read_dir(&world.state).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // Ranges are listed as they were first merged; their number is what counts.
    let rules = told("nft", &["list", "ruleset"]);
    (rules, links, records.collect())
}
