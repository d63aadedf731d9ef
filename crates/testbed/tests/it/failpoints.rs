//! The agent dies at every point that its code names, as if killed, and the next one makes the best of it.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use casemate_testbed::Bed;

use crate::{
    deaths::{PATIENT_MS, kill, running_machines, start, start_with, told_the_truth},
    handover,
    network::Outside,
    support::{Background, run_args, run_args_at},
};

/// Every failpoint but those beside a monitor, in the order of an instance's life, and what the tenant must be told: the refused check, or nothing where
/// the run succeeds all the same. Before the machine runs nothing is tried twice; once it runs it is adopted; after the end of
/// its workload only the wipe is left to do.
const POINTS: [(&str, Option<&str>); 19] = [
    ("accepted", Some("launch.prepare")),
    ("fetched", Some("launch.prepare")),
    ("converted", Some("launch.prepare")),
    ("preparing", Some("launch.start")),
    ("prepared", Some("launch.start")),
    ("started", Some("launch.start")),
    ("recorded", None),
    ("booted", None),
    ("configured", None),
    ("evidence", None),
    ("delivered", None),
    ("keyed", None),
    ("running", None),
    ("spooled", None),
    ("exited", None),
    ("wiping", None),
    ("wiped", None),
    ("receipted", None),
    ("forgetting", None),
];

#[test]
fn the_list_has_every_failpoint() {
    let source = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../agent/src/failpoint.rs")).unwrap();
    let names: Vec<&str> = source.lines().filter_map(|line| line.trim().split_once(" = \"")?.1.strip_suffix("\",")).collect();
    let (of_monitors, others): (Vec<&str>, Vec<&str>) = names.into_iter().partition(|name| handover::POINTS.contains(name));
    assert_eq!((of_monitors, others), (handover::POINTS.to_vec(), POINTS.map(|(name, _)| name).to_vec()));
}

#[test]
fn the_agent_may_die_at_every_failpoint() {
    let bed = start(PATIENT_MS);
    for (point, refused) in POINTS {
        let begin = Instant::now();
        die_at(&bed, "microvm", &[], point, refused);
        eprintln!("failpoint {point:<11} {:5.2} s", begin.elapsed().as_secs_f32());
    }
    bed.casemate(&run_args(&[], &[])).expect_code(0);
    bed.finish();
}

/// Of the points those around what the driver does; the others know nothing of drivers.
#[test]
fn the_agent_may_die_around_everything_that_a_container_needs() {
    let bed = start(PATIENT_MS);
    let beside_a_driver = ["preparing", "prepared", "started", "recorded", "evidence", "running", "exited", "wiping", "wiped"];
    for (point, refused) in POINTS.into_iter().filter(|(point, _)| beside_a_driver.contains(point)) {
        die_at(&bed, "container", &[], point, refused);
    }
    bed.casemate(&run_args_at("container", &[], &[])).expect_code(0);
    bed.finish();
}

/// The same for links and their rules, which outlive an agent.
#[test]
fn the_agent_may_die_around_everything_that_a_network_needs() {
    let outside = Outside::new();
    let bed = start_with(PATIENT_MS, vec![outside.settings()]);
    let rules = ["--egress", "203.0.113.2", "--publish", "8080:tcp/80"];
    let with_a_link = ["preparing", "prepared", "started", "running", "wiping", "wiped"];
    for (point, refused) in POINTS.into_iter().filter(|(point, _)| with_a_link.contains(point)) {
        die_at(&bed, "container", &rules, point, refused);
        outside.assert_no_instance_remains();
    }
    for (point, refused) in POINTS.into_iter().filter(|(point, _)| ["prepared", "running"].contains(point)) {
        die_at(&bed, "microvm", &rules, point, refused);
        outside.assert_no_instance_remains();
    }
    bed.finish();
}

fn die_at(bed: &Bed, level: &str, extra: &[&str], point: &str, refused: Option<&str>) {
    kill(bed.pid("agent").unwrap());
    bed.configure_agent("failpoint", Some(&format!("{point:?}"))).unwrap();
    bed.restart("agent").unwrap();
    bed.wait_connected().unwrap();
    let doomed = bed.pid("agent").unwrap();
    // Where the agent dies beside a running workload, that lives until the next agent is there.
    let seconds = if matches!(point, "keyed" | "running" | "spooled") { "1" } else { "0" };
    let mut run = Background::start(bed, &run_args_at(level, extra, &[seconds]));
    let instance = run.instance();
    let census = Census::start(&instance);
    wait_for_death(doomed, point);
    bed.configure_agent("failpoint", None).unwrap();
    bed.restart("agent").unwrap();
    let outcome = run.finish();
    match refused {
        Some(check) => drop(outcome.clone().expect_refusal(check)),
        None => drop(outcome.clone().expect_code(0)),
    }
    told_the_truth(bed, point, outcome);
    let seen = census.finish();
    assert!(seen.len() <= 1, "{point}: machines {seen:?} were started for one instance");
    // Every receipt here is one that a tenant takes.
    bed.casemate(&["receipt", "verify", &instance]).expect_code(0);
    bed.wait_connected().unwrap();
}

fn wait_for_death(pid: i32, point: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "the agent never came to failpoint {point}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Counts the machines of one instance for as long as it lives.
struct Census {
    done: Arc<AtomicBool>,
    thread: thread::JoinHandle<BTreeSet<i32>>,
}

impl Census {
    fn start(instance: &str) -> Self {
        let (done, instance) = (Arc::new(AtomicBool::new(false)), instance.to_owned());
        let stop = Arc::clone(&done);
        let thread = thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !stop.load(Ordering::Relaxed) {
                seen.extend(running_machines(&instance));
                thread::sleep(Duration::from_millis(50));
            }
            seen
        });
        Self { done, thread }
    }

    fn finish(self) -> BTreeSet<i32> {
        self.done.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
