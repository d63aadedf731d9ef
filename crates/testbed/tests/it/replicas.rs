//! Three servers on one PostgreSQL, with a real node: any of them may be killed at any moment of a run, and the database, too. Nothing
//! is lost, nothing is started twice, and nothing is left.

use std::{fs, time::Instant};

use casemate_testbed::{Bed, BedOptions};

use crate::{
    deaths::{PATIENT_MS, kill, told_the_truth},
    support::{Background, prepare, run_args_at},
};

const SERVERS: [&str; 3] = ["server", "server-2", "server-3"];
/// After which something dies: what is under way then is the placement, the fetching, the start, the boot, both appraisals, the release
/// of keys and their opening, the work, the end and the receipt. (Their opening is told together with what follows, and no moment of its own.)
const MOMENTS: [&str; 10] = [
    "ok instance",
    "ok scheduled",
    "ok accepted",
    "ok prepared",
    "ok booted",
    "ok attested",
    "ok keys",
    "ok running",
    "ok exit",
    "ok wiped",
];
/// Enough to be on its way for a while.
const LARGE: usize = 24 << 20;

fn start() -> Bed {
    let server_config = vec![format!("keys_timeout_ms = {PATIENT_MS}"), "replica_life_ms = 2000".to_owned()];
    let bed = Bed::start(&BedOptions { server_config, replicas: 3, ..BedOptions::default() }).unwrap();
    prepare(&bed);
    // For a kill amid a download.
    fs::write(bed.work().join("large.bin"), vec![b'x'; LARGE]).unwrap();
    bed.casemate(&["asset", "encrypt", "--key", "large.key", "large.bin", "large.enc"]).expect_code(0);
    bed
}

const LARGE_ASSET: [&str; 4] = ["--asset", "large=./large.enc", "--key", "large=./large.key"];

/// A run in whose `moment` something happens; it must end as if nothing had.
#[track_caller]
fn survive(bed: &Bed, level: &str, moment: &str, disaster: impl FnOnce()) {
    let (before, began) = (bed.instances().len(), Instant::now());
    let extra: &[&str] = if moment == "ok accepted" { &LARGE_ASSET } else { &[] };
    let mut run = Background::start(bed, &run_args_at(level, extra, &["1"]));
    run.wait_for(moment);
    disaster();
    let outcome = run.finish().expect_code(0);
    eprintln!("{moment:<12} {:5.2} s", began.elapsed().as_secs_f32());
    told_the_truth(bed, moment, outcome);
    assert_eq!(bed.instances().len(), before + 1, "{moment}: an instance for each run");
}

fn agent_log(bed: &Bed) -> String {
    fs::read_to_string(bed.state().join("logs/agent.log")).unwrap()
}

/// Which of the three has the node's session, and so is asked for blobs, changes with the deaths: over three rounds each part is
/// played by each.
#[test]
fn any_of_three_replicas_may_be_killed_at_any_moment() {
    let bed = start();
    for moment in MOMENTS {
        for doomed in SERVERS {
            // Containers start fastest, and what dies here knows nothing of levels.
            survive(&bed, "container", moment, || kill(bed.pid(doomed).unwrap()));
            bed.restart(doomed).unwrap();
            bed.wait_connected().unwrap();
        }
    }
    let log = agent_log(&bed);
    assert!(log.contains("a download broke; it is taken up again"), "no server was killed amid a download:\n{log}");
    bed.finish();
}

#[test]
fn the_database_may_crash_at_any_moment() {
    let bed = start();
    for moment in MOMENTS {
        survive(&bed, "container", moment, || bed.crash_postgres().unwrap());
        bed.wait_connected().unwrap();
    }
    bed.finish();
}

/// All of it in the life of one machine.
#[test]
fn a_machine_outlives_each_replica_and_the_database() {
    let bed = start();
    let mut run = Background::start(&bed, &run_args_at("microvm", &LARGE_ASSET, &["8"]));
    for (moment, doomed) in ["ok accepted", "ok booted", "ok keys"].into_iter().zip(SERVERS) {
        run.wait_for(moment);
        kill(bed.pid(doomed).unwrap());
        bed.restart(doomed).unwrap();
    }
    run.wait_for("ok running");
    bed.crash_postgres().unwrap();
    let outcome = run.finish().expect_code(0);
    told_the_truth(&bed, "each", outcome);
    assert_eq!(bed.instances().len(), 1);
    bed.finish();
}
