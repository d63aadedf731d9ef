//! Figures: what unlabelled acts cost beside the monitor, and how fast an end follows a forbidden act. Meant for a guest whose clock counts
//! instructions: there a nanosecond is one instruction, whatever the machine below is busy with.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    process::setpriority_process,
    time::{ClockId, clock_gettime},
};
use serde_json::{Value, json};

use crate::{
    acts::Target,
    agent::Ask,
    drills::records,
    node::{self, MEMORY, Node, PLAYER},
};

const OPENS: u64 = 4000;
const CONNECTS: u64 = 1000;
const SPAWNS: u64 = 40;
const UNITS: u64 = 20;
const REPEATS: usize = 5;
/// How many instances there are, and how often they are ended.
const CROWDS: [(u32, usize); 2] = [(1, 100), (50, 20)];
const SOCKET: &str = "/tmp/figures.socket";
/// What noise there is, and how much.
const NOISE: &str = "ptrace.inspect";
const CALLS: u64 = 200_000;
/// What one unit of a build reads.
const HEADERS: &str = "/tmp/headers";
const HEADER_FILES: usize = 50;
const HEADER_BYTES: usize = 2048;
/// How often it looks at each byte of it: a compiler looks much more often.
const PASSES: usize = 20;

/// Measures and says so on the console.
pub(crate) fn run() -> Result<()> {
    let _place = node::make_all()?;
    // Before those who never rest; whoever is started for that gives it up.
    setpriority_process(None, -20).context("go before others")?;
    make_headers()?;
    let off = costs()?;
    fs::write(node::CONFIG, node::CONFIGURATION)?;
    let mut node = Node::start()?;
    node.target("instance")?;
    // The canary's rounds are counted with whatever they fall into.
    let on = costs()?;
    let ratio = |name: &str| on[name].as_u64().unwrap_or(0) as f64 / off[name].as_u64().unwrap_or(1) as f64;
    let ratios = ["open_close", "spawn", "connect", "build"].map(|name| (name.to_owned(), json!(ratio(name))));
    println!("COSTS {}", json!({"off_ns": off, "on_ns": on, "ratio": Value::Object(ratios.into_iter().collect())}));
    for (crowd, rounds) in CROWDS {
        println!("ENDS {}", ends(&mut node, crowd, rounds)?);
    }
    println!("FLOOD {}", flood(&mut node)?);
    Ok(())
}

/// Nanoseconds for each act, the least of some repeats: a tick or a canary falls into the others.
fn costs() -> Result<Value> {
    let least = |times: u64, act: &dyn Fn() -> Result<()>| -> Result<u64> {
        let mut best = u64::MAX;
        for _ in 0..REPEATS {
            let start = now();
            (0..times).try_for_each(|_| act())?;
            best = best.min((now() - start) / times);
        }
        Ok(best)
    };
    let own = |word: &str| {
        ensure!(Command::new(PLAYER).arg(word).status()?.success(), "{word} fails");
        Ok(())
    };
    let nobodys = Path::new(HEADERS).join("0");
    let _ = fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET).context("listen for oneself")?;
    Ok(json!({
        "open_close": least(OPENS, &|| Ok(File::open(&nobodys).map(drop)?))?,
        "spawn": least(SPAWNS, &|| own("nothing"))?,
        "connect": least(CONNECTS, &|| {
            let ours = UnixStream::connect(SOCKET)?;
            drop((listener.accept()?, ours));
            Ok(())
        })?,
        "build": least(UNITS, &|| own("compile"))?,
    }))
}

fn make_headers() -> Result<()> {
    fs::create_dir_all(HEADERS)?;
    (0..HEADER_FILES).try_for_each(|number| Ok(fs::write(Path::new(HEADERS).join(number.to_string()), [7; HEADER_BYTES])?))
}

/// Does with files what a compiler does: reads many, writes one under another name, and thinks little in between.
pub(crate) fn compile() -> Result<()> {
    let mut sum = 0_u64;
    for number in 0..HEADER_FILES {
        let text = fs::read(Path::new(HEADERS).join(number.to_string()))?;
        for pass in 0..PASSES {
            sum = text.iter().fold(sum, |sum, byte| sum.rotate_left(5) ^ (u64::from(*byte) + pass as u64));
        }
    }
    let (new, whole) = ("/tmp/object.new", "/tmp/object");
    File::create(new)?.write_all(&sum.to_le_bytes().repeat(HEADER_BYTES))?;
    Ok(fs::rename(new, whole)?)
}

fn now() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// From the forbidden call to the decision that refuses it, to the signal that ends the last instance (the write to `cgroup.kill` is
/// over), to the last process gone, and to the record on the disk.
fn ends(node: &mut Node, crowd: u32, rounds: usize) -> Result<Value> {
    let (mut refused, mut noticed, mut stopped) = (Vec::new(), Vec::new(), Vec::new());
    let (mut gone, mut recorded) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        node.target("instance")?;
        node.ask::<()>(&Ask::Crowd { count: crowd - 1 })?;
        let lines = records()?.len();
        let bytes = || Ok::<u64, anyhow::Error>(fs::metadata(node::SPOOL)?.len());
        let before = bytes()?;
        let (mut last, mut written) = (0, 0);
        let start = now();
        ensure!(File::open(MEMORY).is_err(), "it was not refused");
        while last == 0 || written == 0 {
            if written == 0 && bytes()? > before {
                written = now() - start;
            }
            if last == 0 && fs::read_to_string("/sys/fs/cgroup/casemate/cgroup.events")?.contains("populated 0") {
                last = now() - start;
            }
            // Short: it is added to what is measured.
            thread::sleep(Duration::from_micros(100));
        }
        gone.push(last);
        recorded.push(written);
        let new = records()?.split_off(lines);
        let end = new.iter().find(|event| event["kind"] == "instances_ended").context("the end is not on record")?;
        let at =
            |what: &str| Ok::<u64, anyhow::Error>(end[what].as_u64().with_context(|| what.to_owned())?.saturating_sub(start));
        refused.push(at("tripped_at_ns")?);
        noticed.push(at("noticed_at_ns")?);
        stopped.push(at("killed_at_ns")?);
    }
    Ok(json!({"instances": crowd, "rounds": rounds, "refused_us": spread(refused),
        "noticed_us": spread(noticed), "stopped_us": spread(stopped),
        "gone_us": spread(gone), "recorded_us": spread(recorded)}))
}

/// A violation while others make reports as fast as they can.
fn flood(node: &mut Node) -> Result<Value> {
    let target = node.target("agent")?;
    let text = serde_json::to_string(&Target { on: CALLS.to_string(), ..target })?;
    let count = |seen: &Value, name: &str, what: &str| seen[name]["count"][what].as_u64().unwrap_or(0);
    let (before, lines, start) = (node.seen()?, records()?.len(), now());
    let mut noisy = Command::new(PLAYER).args(["act", "compare_often", &text]).spawn()?;
    let seen = |node: &mut Node| Ok::<u64, anyhow::Error>(count(&node.seen()?, NOISE, "seen") - count(&before, NOISE, "seen"));
    node::until("the flood has begun", || Ok(seen(node)? > CALLS / 10))?;
    let act = now();
    ensure!(File::open(MEMORY).is_err(), "it was not refused");
    node::until("the instance is ended", || Ok(!node.ask::<bool>(&Ask::Alive)?))?;
    let during = seen(node)?;
    ensure!(noisy.wait()?.success(), "not every call of the flood was refused");
    let (after, took) = (node.seen()?, now() - start);
    let more = |name, what| count(&after, name, what) - count(&before, name, what);
    let new = records()?.split_off(lines);
    let end = new.iter().find(|event| event["kind"] == "instances_ended").context("the end is not on record")?;
    ensure!(new.iter().any(|event| event["detector"] == "memory.open"), "the violation is not on record");
    ensure!(more(NOISE, "seen") == CALLS && during < CALLS, "it was no flood, or the counters lost some");
    let stopped = end["killed_at_ns"].as_u64().context("the record says when")?.saturating_sub(act) / 1000;
    Ok(json!({"reports": CALLS, "per_second": CALLS * 1_000_000_000 / took.max(1), "lost": more(NOISE, "lost"),
        "stopped_us": stopped, "lines": new.len()}))
}

fn spread(mut values: Vec<u64>) -> Value {
    values.sort_unstable();
    let rank = |percent: usize| values[(values.len() * percent).div_ceil(100).max(1) - 1] / 1000;
    json!({"median": rank(50), "p99": rank(99)})
}
