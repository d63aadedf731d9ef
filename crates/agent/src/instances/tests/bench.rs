//! A node of which everything but platform and machine is real, and what the platform and the tenant say to it.

use std::{path::Path, sync::atomic::AtomicBool, time::Duration};

use casemate_api::{
    assignment::{Body, Intent},
    canonical, receipt,
    workload::{Layer, Workload},
};
use casemate_attester::{quote_bundle, sim::SoftTpm};
use casemate_evidence::instance::{GuestKeys, InstanceEvidence, NODE_PCRS, Record as _};
use casemate_image::{Cache, Digest};
use casemate_lifecycle::Scope;
use casemate_sandbox::{
    Driver,
    fake::{FakeConfig, FakeDriver},
};
use casemate_seal::{HpkeSecret, KeyRelease, Record, RecordOpener, ReleaseContext, rand_core::UnwrapErr, seal_release};
use getrandom::SysRng;
use tempfile::TempDir;
use tokio::{
    sync::{Mutex, Notify, oneshot},
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::{
    assignment::{NodeCapacity, tests as signed},
    clock,
    config::{Config, File},
    context::Context,
    dedicated::Dedication,
    drivers::Drivers,
    evidence::Batcher,
    images::Images,
    measure::DigestCache,
    platform::Platform,
    simulated::SimulatedGuests,
    tpm::NodeQuote,
};

pub(super) const ROOT_HASH: [u8; 32] = [0xab; 32];

/// A node without a platform: the test says what the platform would.
pub(super) struct Node {
    pub(super) dir: TempDir,
    pub(super) driver: Arc<dyn Driver>,
    pub(super) layer: Layer,
    pub(super) registry: Registry,
    pub(super) tasks: Vec<JoinHandle<()>>,
    pub(super) tpm: Arc<NodeTpm>,
}

pub(super) struct NodeTpm {
    /// Whoever holds it keeps the node from quoting.
    pub(super) soft: Mutex<SoftTpm>,
    /// Somebody waits for a quote.
    pub(super) asked: Notify,
}

impl Node {
    pub(super) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut FakeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        guest_os(dir.path());
        let layer = layer(dir.path());
        let mut fake = FakeConfig::new(dir.path().join("machines"));
        change(&mut fake);
        let driver: Arc<dyn Driver> = Arc::new(FakeDriver::new(fake, Arc::new(SimulatedGuests::default())).unwrap());
        let tpm = Arc::new(NodeTpm { soft: Mutex::new(SoftTpm::new(&[3; 32])), asked: Notify::new() });
        let (registry, tasks) = agent(dir.path(), driver.clone(), tpm.clone()).await;
        Self { dir, driver, layer, registry, tasks, tpm }
    }

    /// What `kill -9` and a new start do: all tasks end where they are, the machines go on.
    pub(super) async fn restart(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
        (self.registry, self.tasks) = agent(self.dir.path(), self.driver.clone(), self.tpm.clone()).await;
    }

    pub(super) fn workload(&self, args: &[&str]) -> Workload {
        let mut workload = signed::workload();
        workload.image.layers = vec![self.layer.clone()];
        workload.process.args = args.iter().map(|arg| (*arg).to_owned()).collect();
        workload.tenant_key = hex::encode(tenant().public());
        workload
    }

    pub(super) async fn order(&self, workload: &Workload, generation: u64, intent: Intent) -> Vec<Told> {
        let body = body(workload, generation, intent);
        self.registry.apply(vec![signed::sign(&body)], Scope::Named).await
    }

    /// Runs a workload up to the moment when the guest answers challenges.
    pub(super) async fn boot(&self, args: &[&str]) -> (Workload, Handle) {
        let workload = self.workload(args);
        assert_eq!(self.order(&workload, 1, Intent::Run).await, []);
        let handle = self.registry.find("i-1").unwrap();
        until(&handle, |view| view.stages_ms.contains_key("configured")).await;
        (workload, handle)
    }

    pub(super) fn folder(&self) -> std::path::PathBuf {
        self.dir.path().join("instances/i-1")
    }
}

async fn agent(dir: &Path, driver: Arc<dyn Driver>, tpm: Arc<NodeTpm>) -> (Registry, Vec<JoinHandle<()>>) {
    let (evidence, batcher) = Batcher::new(move |root| {
        let tpm = tpm.clone();
        async move {
            tpm.asked.notify_one();
            let bundle = quote_bundle(&mut *tpm.soft.lock().await, &root, &NODE_PCRS).unwrap();
            Ok(NodeQuote { bundle, event_log: b"log".to_vec() })
        }
    });
    let context = Context {
        monitor: None,
        dedicated: Dedication::start(None).unwrap(),
        leaving: AtomicBool::new(false),
        images: Images::open(&config(dir)).unwrap(),
        node: "n-1".parse().unwrap(),
        drivers: Drivers::of(vec![driver]),
        digests: Arc::new(DigestCache::default()),
        evidence,
        receipt_key: signed::key(),
        capacity: NodeCapacity { memory_mib: 4096, cpus: 4, cpus_in_all: 8, disk_mib: 4096, instances: 4 },
        platform: watch::channel(Arc::new(Platform::unreachable(signed::key().verifying_key()))).1,
        config: config(dir),
    };
    let (registry, task) = Registry::recover(Arc::new(context)).await.unwrap();
    (registry, vec![tokio::spawn(batcher), tokio::spawn(task)])
}

pub(crate) fn config(dir: &Path) -> Config {
    Config::check(File {
        cgroup: None,
        state_dir: dir.to_owned(),
        run_dir: "/run/casemate-test".into(),
        platform: vec!["https://127.0.0.1:1".into()],
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
        runtime: Vec::new(),
        accel: "tcg".into(),
        boot_timeout_ms: 10_000,
        max_instances: 4,
        memory_reserve_mib: 0,
        registries: None,
        network: None,
        placement: None,
        dedicated: None,
        mirrors: std::collections::BTreeMap::new(),
        registry_auth_file: None,
        image_cache_mib: 1000,
        layers_at_once: None,
        failpoint: None,
    })
    .unwrap()
}

pub(crate) fn guest_os(dir: &Path) {
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
    Layer { blob: digest.to_string(), root_hash: hex::encode(converted.root_hash), data_blocks: converted.data_blocks, key: None }
}

pub(super) fn tenant() -> HpkeSecret {
    HpkeSecret::from_seed([42; 32])
}

pub(super) fn body(workload: &Workload, generation: u64, intent: Intent) -> Body {
    Body {
        generation,
        intent,
        workload: String::from_utf8(workload.to_canonical()).unwrap(),
        start_before_ms: clock::now_ms() + 60_000,
        ..signed::body()
    }
}

pub(super) async fn until(handle: &Handle, wanted: impl FnMut(&View) -> bool) -> View {
    let mut view = handle.view.clone();
    let result = timeout(Duration::from_secs(20), view.wait_for(wanted)).await.map(|view| view.expect("the owner lives").clone());
    result.unwrap_or_else(|_| panic!("still {:?}", handle.view.borrow()))
}

pub(super) async fn challenge(handle: &Handle, nonce: [u8; 32]) -> Result<InstanceEvidence, String> {
    let (reply, answer) = oneshot::channel();
    handle.requests.send(Request::Challenge { nonce, reply }).await.unwrap();
    let answer = timeout(Duration::from_secs(20), answer).await.unwrap().unwrap();
    answer.map(|answer| InstanceEvidence::decode(&answer.bytes).unwrap()).map_err(|failure| failure.check)
}

/// What the tenant does after verifying.
pub(super) async fn release(handle: &Handle, workload: &Workload, keys: &GuestKeys, nonce: [u8; 32]) {
    let context = ReleaseContext { instance: "i-1".into(), workload_digest: workload.digest(), nonce };
    let sealed = seal_release(&tenant(), &keys.hpke, &context, &KeyRelease::default(), &mut UnwrapErr(SysRng)).unwrap();
    handle.requests.send(Request::Deliver(sealed)).await.unwrap();
}

pub(super) async fn records(handle: &Handle, workload: &Workload, keys: &GuestKeys) -> Vec<Record> {
    let (reply, answer) = oneshot::channel();
    handle.requests.send(Request::Read { from: 0, reply }).await.unwrap();
    let mut opener = RecordOpener::new(&tenant(), &keys.hpke, "i-1", &workload.digest());
    answer.await.unwrap().1.iter().map(|sealed| opener.open(sealed).unwrap()).collect()
}

pub(super) fn receipt_of(view: &View) -> receipt::Body {
    canonical::from_slice(&view.receipt.as_ref().unwrap().body, 1 << 20).unwrap()
}
