//! Load: one server, as a process of its own on SQLite, under thousands of played nodes that speak the real protocol (gRPC, mutual TLS).
//!
//! ```text
//! cargo bench -p casemate-server --bench load -- [NODES...] [--window SECONDS]
//! ```
//!
//! For each number of nodes, on a fresh database: they enrol (TPM, certificate, quote, all verified), connect, and send heartbeats every 15 s.
//! While they do, the API is asked at a fixed pace, whether or not it keeps up (so a slow answer delays no question); then all nodes renew their
//! certificates at once, each with a fresh quote that is appraised. Times are of the client, the server's processor time and memory of the kernel. Both
//! share this machine's processors, as they would not elsewhere.

#![allow(clippy::unwrap_used, reason = "a measurement that cannot go on ends there")]
#![allow(dead_code, reason = "the modules serve the tests as well")]

#[path = "../../tests/it/evidence.rs"]
mod evidence;
mod fleet;
#[path = "../../tests/it/node.rs"]
mod node;
#[path = "../../tests/it/platform.rs"]
mod platform;
#[path = "../../tests/it/postgres.rs"]
mod postgres;
mod process;
#[path = "../../tests/it/soft_ek.rs"]
mod soft_ek;

use std::time::{Duration, Instant};

use casemate_server::store::Role;
use fleet::Fleet;
use platform::{Client, Platform, new_instance, workload};
use postgres::Engine;
use process::Process;
use tokio::{task::JoinSet, time::interval};

const ENGINE: Engine = Engine::Sqlite;

/// The limits for one address are not what is measured here: all clients have the same. Quotas are those of a large tenant.
const CONFIG: &str = "[rates]\ntoken_per_s = 1000\ntoken_burst = 10000\naddress_per_s = 10000\naddress_burst = 20000\n\
                      [quota]\ninstances = 100000\ncpus = 100000\nmemory_mib = 100000000\n";

/// Questions in a second: three that read for one that places an instance.
const PACE: u32 = 40;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let window = args.iter().position(|arg| arg == "--window").map_or(60, |at| args[at + 1].parse().expect("seconds"));
    let counts: Vec<usize> = args.iter().take_while(|arg| *arg != "--window").map(|arg| arg.parse().expect("a number")).collect();
    let counts = if counts.is_empty() { vec![100, 1000, 10_000] } else { counts };
    process::raise_limit();
    println!(
        "nodes | enrolled/s | connected/s | KiB per node | heartbeats: CPU ms/s | reads: median, p99 | placements: median, p99 | all renewed in | \
         renewals/s | reads meanwhile: median, p99"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for count in counts {
        runtime.block_on(measure(count, Duration::from_secs(window)));
    }
}

async fn measure(count: usize, window: Duration) {
    let platform = Platform::with(CONFIG).await;
    let (dir, vendor, ca) = (platform.dir.clone(), platform.vendor.clone(), platform.ca_pem());
    let tenant = platform.token(Role::Tenant).await.token;
    let mut tokens = Vec::new();
    for _ in 0..count {
        tokens.push(platform.bootstrap_token().await);
    }
    platform.stop().await;
    let process = Process::start(dir.path()).await;
    let api = process.client(&ca, tenant);
    assert!(api.put_blob(platform::LAYER).await.status.is_success());
    assert!(api.put_blob(platform::ASSET).await.status.is_success());

    let begin = Instant::now();
    let mut fleet = Fleet::enrol(process.node_port, &ca, &vendor, tokens).await;
    let enrolled = per_second(count, begin.elapsed());
    let (begin, before) = (Instant::now(), process.memory_kib());
    fleet.connect().await;
    let connected = per_second(count, begin.elapsed());
    let memory = process.memory_kib().saturating_sub(before) as f64 / count as f64;

    let cpu = process.cpu();
    tokio::time::sleep(window).await;
    let beating = (process.cpu() - cpu).as_secs_f64() * 1000.0 / window.as_secs_f64();
    let [reads, placements] = asked(&api, tokio::time::sleep(window), true).await;
    let begin = Instant::now();
    let (meanwhile, renewed) = {
        let mut renewed = Duration::ZERO;
        let storm = async {
            fleet.renew().await;
            renewed = begin.elapsed();
        };
        let [reads, _] = asked(&api, storm, false).await;
        (reads, renewed)
    };
    println!(
        "{count} | {enrolled:.0} | {connected:.0} | {memory:.0} | {beating:.0} | {} | {} | {renewed:.1?} | {:.0} | {}",
        told(reads),
        told(placements),
        per_second(count, renewed),
        told(meanwhile),
    );
}

/// Asks while `until` goes on, at a fixed pace: times of reads, and of placements where it is to place.
async fn asked(api: &Client, until: impl Future<Output = ()>, places: bool) -> [Vec<Duration>; 2] {
    let mut asking = JoinSet::new();
    let mut pace = interval(Duration::from_secs(1) / PACE);
    let mut count = 0_usize;
    let mut until = std::pin::pin!(until);
    loop {
        tokio::select! {
            () = &mut until => break,
            _ = pace.tick() => {
                let (api, question) = (api.clone(), count % 4);
                count += 1;
                asking.spawn(async move {
                    let begin = Instant::now();
                    let answer = match question {
                        3 if places => api.post("/instances", &new_instance(&workload())).await,
                        2 => api.get("/me").await,
                        _ => api.get("/instances?limit=20").await,
                    };
                    assert!(answer.status.is_success(), "{}", String::from_utf8_lossy(&answer.body));
                    (question == 3 && places, begin.elapsed())
                });
            }
        }
    }
    let mut times = [Vec::new(), Vec::new()];
    for (placed, time) in asking.join_all().await {
        times[usize::from(placed)].push(time);
    }
    times
}

fn told(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |part: f64| times.get(((times.len().max(1) - 1) as f64 * part) as usize).copied().unwrap_or_default();
    format!("{:.1?}, {:.1?} of {}", at(0.5), at(0.99), times.len())
}

fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
