//! Whole lives of instances, played by the fake driver: everything of the agent but platform and machine is real.

use std::{path::Path, time::Duration};

use casemate_api::{
    assignment::{Body, Intent},
    canonical, node, receipt,
    workload::{Layer, Workload, format_digest},
};
use casemate_attester::{quote_bundle, sim::SoftTpm};
use casemate_evidence::{
    instance::{GuestKeys, InstanceEvidence, LaunchRecord, NODE_PCRS, Record as _, instance_leaf},
    merkle,
};
use casemate_image::{Cache, Digest};
use casemate_lifecycle::{Hold, Scope, Step};
use casemate_sandbox::{
    Driver,
    fake::{FakeConfig, FakeDriver},
};
use casemate_seal::{HpkeSecret, KeyRelease, Record, RecordOpener, ReleaseContext, rand_core::UnwrapErr, seal_release};
use getrandom::SysRng;
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

use super::*;
use crate::{
    assignment::{NodeCapacity, tests as signed},
    clock,
    config::{Config, File},
    context::Context,
    drivers::Drivers,
    evidence::Batcher,
    images::Images,
    journal::{Journal, Machine},
    measure::DigestCache,
    platform::Platform,
    simulated::SimulatedGuests,
    tpm::NodeQuote,
};

const ROOT_HASH: [u8; 32] = [0xab; 32];

/// A node without a platform: the test says what the platform would.
struct Node {
    dir: TempDir,
    driver: Arc<dyn Driver>,
    layer: Layer,
    registry: Registry,
    tasks: Vec<JoinHandle<()>>,
}

impl Node {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut FakeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        guest_os(dir.path());
        let layer = layer(dir.path());
        let mut fake = FakeConfig::new(dir.path().join("machines"));
        change(&mut fake);
        let driver: Arc<dyn Driver> = Arc::new(FakeDriver::new(fake, Arc::new(SimulatedGuests::default())).unwrap());
        let (registry, tasks) = agent(dir.path(), driver.clone()).await;
        Self { dir, driver, layer, registry, tasks }
    }

    /// What `kill -9` and a new start do: all tasks end where they are, the machines go on.
    async fn restart(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
        (self.registry, self.tasks) = agent(self.dir.path(), self.driver.clone()).await;
    }

    fn workload(&self, args: &[&str]) -> Workload {
        let mut workload = signed::workload();
        workload.image.layers = vec![self.layer.clone()];
        workload.process.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        workload.tenant_key = hex::encode(tenant().public());
        workload
    }

    async fn order(&self, workload: &Workload, generation: u64, intent: Intent) -> Vec<Told> {
        let body = body(workload, generation, intent);
        self.registry.apply(vec![signed::sign(&body)], Scope::Named).await
    }

    /// Runs a workload up to the moment when the guest answers challenges.
    async fn boot(&self, args: &[&str]) -> (Workload, Handle) {
        let workload = self.workload(args);
        assert_eq!(self.order(&workload, 1, Intent::Run).await, []);
        let handle = self.registry.find("i-1").unwrap();
        until(&handle, |view| view.stages_ms.contains_key("configured")).await;
        (workload, handle)
    }

    fn folder(&self) -> std::path::PathBuf {
        self.dir.path().join("instances/i-1")
    }
}

async fn agent(dir: &Path, driver: Arc<dyn Driver>) -> (Registry, Vec<JoinHandle<()>>) {
    let tpm = Arc::new(std::sync::Mutex::new(SoftTpm::new(&[3; 32])));
    let (evidence, batcher) = Batcher::new(move |root| {
        let bundle = quote_bundle(&mut *tpm.lock().unwrap(), &root, &NODE_PCRS).unwrap();
        async move { Ok(NodeQuote { bundle, event_log: b"log".to_vec() }) }
    });
    let config = config(dir);
    let platform = Platform::unreachable(signed::key().verifying_key());
    let context = Context {
        images: Images { cache: Cache::open(dir.join("images")).unwrap(), registries: config.registries.clone() },
        node: "n-1".parse().unwrap(),
        drivers: Drivers::of(vec![driver]),
        digests: Arc::new(DigestCache::default()),
        evidence,
        receipt_key: signed::key(),
        capacity: NodeCapacity { memory_mib: 4096, cpus: 4, cpus_in_all: 8, disk_mib: 4096, instances: 4 },
        platform: watch::channel(Arc::new(platform)).1,
        config,
    };
    let (registry, task) = Registry::recover(Arc::new(context)).await.unwrap();
    (registry, vec![tokio::spawn(batcher), tokio::spawn(task)])
}

fn config(dir: &Path) -> Config {
    Config::check(File {
        state_dir: dir.to_owned(),
        run_dir: "/run/casemate-test".into(),
        platform: "https://127.0.0.1:1".into(),
        platform_ca: "/none".into(),
        bootstrap_token_file: None,
        tpm: "unix:/none".into(),
        ek_intermediates: vec![],
        event_log: "/none".into(),
        software_log: None,
        ima_log: None,
        guest_os: dir.join("guest-os"),
        driver: Some("fake".into()),
        drivers: None,
        accel: "tcg".into(),
        boot_timeout_ms: 10_000,
        max_instances: 4,
        memory_reserve_mib: 0,
        registries: None,
        network: None,
        failpoint: None,
    })
    .unwrap()
}

fn guest_os(dir: &Path) {
    let folder = dir.join("guest-os");
    std::fs::create_dir(&folder).unwrap();
    for name in ["vmlinux", "initrd.cpio", "root.img"] {
        std::fs::write(folder.join(name), name).unwrap();
    }
    let line = format!("console=ttyS0 tsc_early_khz={{tsc_khz}} casemate.root={}:00:1:2", hex::encode(ROOT_HASH));
    let manifest = serde_json::json!({
        "version": 1, "command_lines": { "tcg": line },
        "kernel": { "file": "vmlinux" }, "initrd": { "file": "initrd.cpio" }, "root": { "file": "root.img" },
    });
    std::fs::write(folder.join("guest-os.json"), manifest.to_string()).unwrap();
}

/// The smallest layer: an empty archive.
fn layer(dir: &Path) -> Layer {
    let blob = [0; 1024];
    let digest = Digest::of(&blob);
    let cache = Cache::open(dir.join("images")).unwrap();
    cache.add_blob_from_reader(&digest, Some(1024), &blob[..]).unwrap();
    let converted = cache.convert_layer(&digest, "").unwrap();
    Layer { blob: digest.to_string(), root_hash: hex::encode(converted.root_hash), data_blocks: converted.data_blocks }
}

fn tenant() -> HpkeSecret {
    HpkeSecret::from_seed([42; 32])
}

fn body(workload: &Workload, generation: u64, intent: Intent) -> Body {
    Body {
        generation,
        intent,
        workload: String::from_utf8(workload.to_canonical()).unwrap(),
        start_before_ms: clock::now_ms() + 60_000,
        ..signed::body()
    }
}

async fn until(handle: &Handle, wanted: impl FnMut(&View) -> bool) -> View {
    let mut view = handle.view.clone();
    let result = timeout(Duration::from_secs(20), view.wait_for(wanted)).await.map(|view| view.expect("the owner lives").clone());
    result.unwrap_or_else(|_| panic!("still {:?}", handle.view.borrow()))
}

async fn challenge(handle: &Handle, nonce: [u8; 32]) -> Result<InstanceEvidence, String> {
    let (reply, answer) = oneshot::channel();
    handle.requests.send(Request::Challenge { nonce, reply }).await.unwrap();
    let answer = timeout(Duration::from_secs(20), answer).await.unwrap().unwrap();
    answer.map(|answer| InstanceEvidence::decode(&answer.bytes).unwrap()).map_err(|failure| failure.check)
}

/// What the tenant does after verifying.
async fn release(handle: &Handle, workload: &Workload, keys: &GuestKeys, nonce: [u8; 32]) {
    let context = ReleaseContext { instance: "i-1".into(), workload_digest: workload.digest(), nonce };
    let sealed = seal_release(&tenant(), &keys.hpke, &context, &KeyRelease::default(), &mut UnwrapErr(SysRng)).unwrap();
    handle.requests.send(Request::Deliver(sealed)).await.unwrap();
}

async fn records(handle: &Handle, workload: &Workload, keys: &GuestKeys) -> Vec<Record> {
    let (reply, answer) = oneshot::channel();
    handle.requests.send(Request::Read { from: 0, reply }).await.unwrap();
    let mut opener = RecordOpener::new(&tenant(), &keys.hpke, "i-1", &workload.digest());
    answer.await.unwrap().1.iter().map(|sealed| opener.open(sealed).unwrap()).collect()
}

fn receipt_of(view: &View) -> receipt::Body {
    canonical::from_slice(&view.receipt.as_ref().unwrap().body, 1 << 20).unwrap()
}

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
