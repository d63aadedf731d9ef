//! Whole lives of instances, played by the fake driver: everything of the agent but platform and machine is real.

use std::time::Duration;

use casemate_api::{
    assignment::{Body, Intent},
    node,
    workload::format_digest,
};
use casemate_evidence::{
    instance::{GuestKeys, LaunchRecord, Record as _, instance_leaf},
    merkle,
};
use casemate_image::{Cache, Digest};
use casemate_lifecycle::{Hold, Scope, Step};
use casemate_seal::Record;
use tokio::time::timeout;

use super::*;
use crate::{
    assignment::tests as signed,
    journal::{Journal, Machine},
};

mod bench;

use bench::*;
pub(crate) use bench::{config, guest_os};

#[tokio::test]
async fn the_score_card_shows_what_was_seen_and_survives_the_agent() {
    let mut node = Node::with(|fake| {
        fake.jail.seccomp = false;
        fake.vmm.memory_no_swap = Some(true);
    })
    .await;
    node.boot(&["sleep", "60000"]).await;
    let line = |handle: &Handle, item: &str| {
        let view = handle.view.borrow();
        view.observed.agent.iter().find(|seen| seen.item == item).map(|seen| seen.held)
    };
    let before = node.registry.find("i-1").unwrap();
    assert_eq!(line(&before, "jail-seccomp"), Some(false), "one thing is switched off");
    assert_eq!(line(&before, "jail-cgroup"), Some(true));
    assert_eq!(line(&before, "memory-no-swap"), Some(true));
    assert_eq!(line(&before, "memory-private"), None, "nobody looked");
    assert!(line(&before, "host-no-swap").is_some(), "this machine was looked at");
    assert!(before.view.borrow().observed.at_ms > 0);
    let seen = before.view.borrow().observed.clone();
    node.restart().await;
    assert_eq!(node.registry.find("i-1").unwrap().view.borrow().observed, seen);
}

#[tokio::test]
async fn a_workload_runs_to_its_end_and_leaves_nothing() {
    let node = Node::new().await;
    let (workload, handle) = node.boot(&["hello", "world"]).await;

    let evidence = challenge(&handle, [7; 32]).await.unwrap();
    let record = LaunchRecord::decode(&evidence.launch_record).unwrap();
    assert_eq!((record.workload_digest, record.root_hash), (workload.digest(), ROOT_HASH));
    assert_eq!(record.kernel, *Digest::of(b"vmlinux").bytes());
    let leaf = instance_leaf(&[7; 32], &evidence.launch_record, &evidence.guest_keys, &evidence.guest.attest);
    assert!(merkle::root_of(&leaf, &evidence.batch).is_some());
    assert_eq!(evidence.guest.ak_public, record.vtpm_ak_public, "the guest has the key that the record endorses");

    let keys = GuestKeys::decode(&evidence.guest_keys).unwrap();
    release(&handle, &workload, &keys, [7; 32]).await;
    let view = until(&handle, |view| view.receipt.is_some()).await;
    assert_eq!((view.actual.exit_code, view.actual.step, view.in_use), (Some(0), Step::Wiped, InUse::default()));
    let said = records(&handle, &workload, &keys).await;
    assert_eq!(said, [Record::Stdout(b"hello world\n".to_vec()), Record::Exit { code: 0 }]);
    let receipt = receipt_of(&view);
    assert_eq!((receipt.reason.as_str(), receipt.exit_code), ("exited", Some(0)));
    assert_eq!(receipt.launch_record_digest, Digest::of(&evidence.launch_record).hex());

    let mut directory = node.registry.directory.clone();
    handle.requests.send(Request::ReceiptStored).await.unwrap();
    timeout(Duration::from_secs(20), directory.wait_for(|directory| directory.is_empty())).await.unwrap().unwrap();
    assert!(!node.folder().exists());
    assert_eq!(node.driver.list().await.unwrap(), []);
    let told = node.order(&workload, 1, Intent::Run).await;
    assert_eq!(told[0].step, Step::Gone, "the old order starts nothing again");
}

#[tokio::test]
async fn a_stop_ends_the_workload_gracefully() {
    let node = Node::new().await;
    let (workload, handle) = node.boot(&["sleep", "600000"]).await;
    let evidence = challenge(&handle, [7; 32]).await.unwrap();
    release(&handle, &workload, &GuestKeys::decode(&evidence.guest_keys).unwrap(), [7; 32]).await;
    until(&handle, |view| view.actual.step == Step::Running).await;
    node.order(&workload, 1, Intent::Stop).await;
    assert_eq!(handle.view.borrow().hold, Hold::Live, "an order that is not newer changes nothing");
    node.order(&workload, 2, Intent::Stop).await;
    let view = until(&handle, |view| view.receipt.is_some()).await;
    assert_eq!((receipt_of(&view).reason.as_str(), view.actual.exit_code), ("stopped", Some(143)));
}

#[tokio::test]
async fn what_the_platform_does_not_want_any_more_is_ended() {
    let node = Node::new().await;
    let (_, handle) = node.boot(&["x"]).await;
    node.registry.apply(vec![], Scope::Whole).await;
    let view = until(&handle, |view| view.receipt.is_some()).await;
    assert_eq!(receipt_of(&view).reason, "stopped");
    assert_eq!(challenge(&handle, [1; 32]).await.unwrap_err(), "evidence.collect");
}

#[tokio::test]
async fn forged_orders_start_nothing_and_end_nothing() {
    let node = Node::new().await;
    let workload = node.workload(&["x"]);
    let mut forged = signed::sign(&body(&workload, 1, Intent::Run));
    forged.signature[5] ^= 1;
    let told = node.registry.apply(vec![forged.clone()], Scope::Whole).await;
    assert_eq!(told[0].failure.as_ref().unwrap().check, "assignment.signature");
    assert!(node.registry.find("i-1").is_none());

    let (_, handle) = node.boot(&["x"]).await;
    assert_eq!(node.registry.apply(vec![forged], Scope::Whole).await, []);
    let unsigned = node::Assignment { signature: vec![], ..signed::sign(&body(&workload, 9, Intent::Stop)) };
    node.registry.apply(vec![unsigned], Scope::Named).await;
    assert!(challenge(&handle, [1; 32]).await.is_ok());
}

#[tokio::test]
async fn a_layer_with_another_root_is_refused_before_a_machine_exists() {
    let node = Node::new().await;
    let mut workload = node.workload(&["x"]);
    workload.image.layers[0].root_hash = hex::encode([9; 32]);
    node.order(&workload, 1, Intent::Run).await;
    let view = until(&node.registry.find("i-1").unwrap(), |view| view.receipt.is_some()).await;
    let failure = view.actual.failure.as_ref().unwrap();
    assert_eq!((failure.check.as_str(), failure.step), ("image.layer-root", Step::Prepared));
    let receipt = receipt_of(&view);
    assert_eq!((receipt.reason.as_str(), receipt.launch_record_digest.as_str()), ("failed: image.layer-root", ""));
    assert_eq!(receipt.started_at_ms, 0);
}

#[tokio::test]
async fn an_unreachable_blob_is_a_named_failure() {
    let node = Node::new().await;
    let mut workload = node.workload(&["x"]);
    workload.image.layers[0].blob = format_digest(&[8; 32]);
    node.order(&workload, 1, Intent::Run).await;
    let view = until(&node.registry.find("i-1").unwrap(), |view| view.receipt.is_some()).await;
    assert_eq!(view.actual.failure.unwrap().check, "image.fetch");
}

#[tokio::test]
async fn orders_that_are_late_or_stop_the_unknown_leave_a_receipt() {
    let node = Node::new().await;
    let workload = node.workload(&["x"]);
    let late = Body { start_before_ms: 1, ..body(&workload, 1, Intent::Run) };
    node.registry.apply(vec![signed::sign(&late)], Scope::Named).await;
    let view = until(&node.registry.find("i-1").unwrap(), |view| view.receipt.is_some()).await;
    assert_eq!(receipt_of(&view).reason, "failed: assignment.stale");

    let stop = Body { instance: "i-2".into(), ..body(&workload, 4, Intent::Stop) };
    node.registry.apply(vec![signed::sign(&stop)], Scope::Named).await;
    let view = until(&node.registry.find("i-2").unwrap(), |view| view.receipt.is_some()).await;
    assert_eq!(receipt_of(&view).reason, "stopped");
}

#[tokio::test]
async fn altered_keys_end_the_guest_with_its_reason() {
    let node = Node::new().await;
    let (_, handle) = node.boot(&["x"]).await;
    challenge(&handle, [7; 32]).await.unwrap();
    handle.requests.send(Request::Deliver(vec![0; 200])).await.unwrap();
    let view = until(&handle, |view| view.receipt.is_some()).await;
    assert_eq!(view.actual.failure.unwrap().check, "keys.authentic");
}

#[tokio::test]
async fn a_panic_of_the_guests_kernel_is_named() {
    let node = Node::new().await;
    let (workload, handle) = node.boot(&["panic"]).await;
    let evidence = challenge(&handle, [7; 32]).await.unwrap();
    release(&handle, &workload, &GuestKeys::decode(&evidence.guest_keys).unwrap(), [7; 32]).await;
    let view = until(&handle, |view| view.receipt.is_some()).await;
    assert_eq!(receipt_of(&view).reason, "failed: guest.panic");
}

#[tokio::test]
async fn a_killed_vmm_is_named() {
    let node = Node::new().await;
    let (_, handle) = node.boot(&["x"]).await;
    node.driver.kill(&"i-1".parse().unwrap()).await.unwrap();
    let view = until(&handle, |view| view.receipt.is_some()).await;
    assert_eq!(view.actual.failure.unwrap().check, "launch.vmm");
}

/// Its evidence was on the way: the guest had answered, the node's TPM had not.
#[tokio::test]
async fn whoever_waits_for_evidence_of_a_killed_vmm_is_told_of_its_end() {
    let node = Node::new().await;
    let (_, handle) = node.boot(&["x"]).await;
    let quoting = node.tpm.soft.lock().await;
    let waiting = challenge(&handle, [7; 32]);
    let killing = async {
        node.tpm.asked.notified().await;
        node.driver.kill(&"i-1".parse().unwrap()).await.unwrap();
    };
    let (evidence, ()) = tokio::join!(waiting, killing);
    assert_eq!(evidence, Err("launch.vmm".to_owned()));
    drop(quoting);
}

#[tokio::test]
async fn a_new_agent_adopts_a_running_instance() {
    let mut node = Node::new().await;
    let (workload, handle) = node.boot(&["adopted"]).await;
    let before = challenge(&handle, [7; 32]).await.unwrap();
    node.restart().await;
    let handle = node.registry.find("i-1").unwrap();
    node.registry.apply(vec![signed::sign(&body(&workload, 1, Intent::Run))], Scope::Whole).await;
    let after = challenge(&handle, [8; 32]).await.unwrap();
    assert_eq!((&after.guest_keys, &after.launch_record), (&before.guest_keys, &before.launch_record), "the same machine");
    let keys = GuestKeys::decode(&after.guest_keys).unwrap();
    release(&handle, &workload, &keys, [8; 32]).await;
    let view = until(&handle, |view| view.receipt.is_some()).await;
    assert_eq!(records(&handle, &workload, &keys).await.len(), 2);
    assert_eq!(receipt_of(&view).reason, "exited");

    // And once more, with nothing left but the receipt.
    node.restart().await;
    let handle = node.registry.find("i-1").unwrap();
    assert_eq!(until(&handle, |view| view.receipt.is_some()).await.receipt, view.receipt);
    assert_eq!(records(&handle, &workload, &keys).await.len(), 2);
}

#[tokio::test]
async fn a_machine_that_ended_while_nobody_looked_is_wiped_with_a_reason() {
    let mut node = Node::new().await;
    node.boot(&["x"]).await;
    for task in node.tasks.drain(..) {
        task.abort();
    }
    node.driver.kill(&"i-1".parse().unwrap()).await.unwrap();
    node.restart().await;
    let view = until(&node.registry.find("i-1").unwrap(), |view| view.receipt.is_some()).await;
    assert_eq!(receipt_of(&view).reason, "failed: launch.vmm");
    assert_eq!(node.driver.list().await.unwrap(), []);
}

#[tokio::test]
async fn a_drained_node_has_no_machine_and_keeps_the_receipts() {
    let mut node = Node::new().await;
    node.boot(&["x"]).await;
    node.restart().await;
    assert_eq!(timeout(Duration::from_secs(20), node.registry.drain()).await.unwrap(), 1);
    assert_eq!(node.driver.list().await.unwrap(), []);
    assert_eq!(timeout(Duration::from_secs(20), node.registry.drain()).await.unwrap(), 0, "a second time there is nothing to do");
    node.restart().await;
    let view = until(&node.registry.find("i-1").unwrap(), |view| view.receipt.is_some()).await;
    assert_eq!(receipt_of(&view).reason, "stopped");
}

#[tokio::test]
async fn an_interrupted_launch_is_ended_and_not_begun_again() {
    let mut node = Node::new().await;
    let workload = node.workload(&["x"]);
    let order = signed::order(&body(&workload, 1, Intent::Run));
    for (machine, check) in [(Machine::None, "launch.prepare"), (Machine::Begun, "launch.start")] {
        let _ = std::fs::remove_dir_all(node.folder());
        std::fs::create_dir_all(node.folder()).unwrap();
        Journal { machine, ..Journal::new(order.clone(), 1) }.save(&node.folder()).unwrap();
        node.restart().await;
        node.registry.apply(vec![signed::sign(&body(&workload, 1, Intent::Run))], Scope::Whole).await;
        let view = until(&node.registry.find("i-1").unwrap(), |view| view.receipt.is_some()).await;
        assert_eq!(view.actual.failure.unwrap().check, check);
    }
}

#[tokio::test]
async fn a_workload_whose_guest_lets_its_time_pass_is_ended_also_by_the_next_agent() {
    let mut node = Node::new().await;
    let (workload, handle) = node.boot(&["sleep", "3600000"]).await;
    let evidence = challenge(&handle, [7; 32]).await.unwrap();
    release(&handle, &workload, &GuestKeys::decode(&evidence.guest_keys).unwrap(), [7; 32]).await;
    until(&handle, |view| view.actual.step == Step::Running).await;
    let load = || Journal::load(&node.folder()).unwrap().unwrap();
    // Seen first, and then on disk.
    let begun_ms = timeout(Duration::from_secs(30), async {
        loop {
            match load().keyed_at_ms {
                Some(begun_ms) => break begun_ms,
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    });
    let begun_ms = begun_ms.await.expect("its time to live has begun");
    for task in node.tasks.drain(..) {
        task.abort();
    }
    let mut journal = Journal::load(&node.folder()).unwrap().unwrap();
    journal.keyed_at_ms = Some(begun_ms - workload.ttl_s * 1000 - casemate_lifecycle::AGENT_PATIENCE_MS);
    journal.save(&node.folder()).unwrap();
    node.restart().await;
    let view = until(&node.registry.find("i-1").unwrap(), |view| view.receipt.is_some()).await;
    assert_eq!((receipt_of(&view).reason.as_str(), view.actual.failure), ("expired", None));
    assert_eq!(node.driver.list().await.unwrap(), []);
}

#[tokio::test]
async fn orphans_are_wiped_and_unreadable_journals_are_given_up() {
    let mut node = Node::new().await;
    node.boot(&["x"]).await;
    std::fs::write(node.folder().join("agent.json"), "{").unwrap();
    node.restart().await;
    assert_eq!(node.driver.list().await.unwrap(), []);
    assert!(node.registry.find("i-1").is_none());
    let told = node.order(&node.workload(&["x"]), 5, Intent::Run).await;
    assert_eq!(told[0].step, Step::Gone, "nothing is started twice");

    std::fs::write(node.dir.path().join("machines/i-9.fake"), "").unwrap();
    node.restart().await;
    assert_eq!(node.driver.list().await.unwrap(), []);
}

#[tokio::test]
async fn layers_stay_for_an_instance_whatever_is_collected_and_no_longer() {
    let mut node = Node::new().await;
    let cache = Cache::open(node.dir.path().join("images")).unwrap();
    let blob: Digest = node.layer.blob.parse().unwrap();
    let (_, handle) = node.boot(&["x"]).await;
    cache.collect(0).unwrap();
    assert!(cache.converted_layer(&blob).is_some());
    // Nor while no agent is there, nor by the next one, which also ends leases that nobody needs.
    cache.lease("instance-i-forgotten", &[blob]).unwrap();
    node.restart().await;
    assert_eq!(cache.leases().unwrap(), ["instance-i-1"]);
    cache.collect(0).unwrap();
    assert!(cache.converted_layer(&blob).is_some());
    drop(handle);
    node.registry.apply(vec![], Scope::Whole).await;
    until(&node.registry.find("i-1").unwrap(), |view| view.receipt.is_some()).await;
    let ended = async {
        while !cache.leases().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), ended).await.unwrap();
    cache.collect(0).unwrap();
    assert_eq!(cache.converted_layer(&blob), None);
}
