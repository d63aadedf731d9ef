//! `casemate dev down` also ends what a dead agent left.

use std::time::Duration;

use casemate_testbed::{Bed, BedOptions};

use crate::{
    deaths::{kill, machines},
    support::{Background, prepare, run_args},
};

#[test]
fn dev_down_wipes_what_a_dead_agent_left() {
    let mut bed = Bed::start(&BedOptions::default()).unwrap();
    prepare(&bed);
    // Once with a platform that could tell, once with nobody left at all.
    for dead in [&["agent"][..], &["agent", "server"]] {
        let mut run = Background::start(&bed, &run_args(&[], &["600"]));
        let instance = run.instance();
        run.wait_for("ok running");
        dead.iter().for_each(|part| kill(bed.pid(part).unwrap()));
        assert_eq!(machines(&instance).len(), 1, "the machine outlives its agent");
        let down = bed.down().expect_code(0);
        assert!(down.stderr.contains("wiping") && down.stderr.contains("1 machine(s)"), "{}", down.stderr);
        bed.assert_nothing_runs(&instance);
        run.kill();

        bed.up(&BedOptions::default()).unwrap();
        let ended = bed.wait_instance(Duration::from_secs(30), |i| i["id"] == instance.as_str() && i["has_receipt"] == true);
        assert_eq!(ended["exit_code"], serde_json::Value::Null, "{ended}");
        bed.casemate(&["receipt", "verify", &instance]).expect_code(0);
        bed.assert_no_instance_remains();
    }
    bed.casemate(&run_args(&[], &[])).expect_code(0);
    let quiet = bed.down().expect_code(0);
    assert!(!quiet.stderr.contains("wiping"), "there was nothing to wipe:\n{}", quiet.stderr);
}
