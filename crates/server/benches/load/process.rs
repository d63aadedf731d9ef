//! The server's process, and what the kernel says of it.

use std::{
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use crate::platform::Client;

/// Ends with this.
pub(crate) struct Process {
    child: Child,
    rest: String,
    pub(crate) node_port: u16,
}

impl Process {
    /// On a folder that has its configuration.
    pub(crate) async fn start(dir: &Path) -> Self {
        let run = dir.join("data/run.json");
        let _ = std::fs::remove_file(&run);
        let child = Command::new(env!("CARGO_BIN_EXE_casemate-server"))
            .args(["serve", "--config"])
            .arg(dir.join("server.toml"))
            .stderr(std::fs::File::create(dir.join("server.log")).unwrap())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        let told: serde_json::Value = loop {
            if let Some(told) = std::fs::read(&run).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
                break told;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "the server did not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let address = |name: &str| told[name].as_str().unwrap().to_owned();
        let node_port = address("node").rsplit_once(':').unwrap().1.parse().unwrap();
        Self { child, rest: address("rest"), node_port }
    }

    pub(crate) fn client(&self, ca_pem: &str, token: String) -> Client {
        Client::new(&self.rest, ca_pem.as_bytes(), token)
    }

    pub(crate) fn memory_kib(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Processor time since its start.
    pub(crate) fn cpu(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = [11, 12].map(|at| fields[at].parse::<u64>().unwrap()).iter().sum();
        // Linux shows these in hundredths of a second on every architecture that is served here.
        Duration::from_millis(ticks * 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection is a descriptor, here and in the server, which inherits the limit.
pub(crate) fn raise_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}
