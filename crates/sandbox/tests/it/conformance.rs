//! What every driver promises. The guests execute lines: `echo TEXT`, `off`, `fatal CHECK DETAIL`.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use casemate_lifecycle::InstanceId;
use casemate_sandbox::{
    Demand, Disk, Driver, DriverError, Exit, ExitCause, Isolation, Plan, Presence, Support, System, VtpmProvisioner, WipeEvidence,
};

use crate::guest::Line;

/// A driver under test.
pub(crate) struct Subject {
    pub(crate) driver: Arc<dyn Driver>,
    /// A plan for the id.
    pub(crate) plan: Box<dyn Fn(&InstanceId) -> Plan + Send + Sync>,
    /// How the things of an instance that has run are wiped.
    pub(crate) wiped: &'static [(&'static str, &'static str)],
    /// Panics when anything of any instance is left on the host.
    pub(crate) nothing_left: Box<dyn Fn() + Send + Sync>,
}

impl Subject {
    pub(crate) fn new_plan(&self) -> Plan {
        (self.plan)(&new_id())
    }

    async fn started(&self) -> Plan {
        let plan = self.new_plan();
        self.driver.prepare(&plan, &Startup).await.unwrap();
        self.driver.start(&plan).await.unwrap();
        plan
    }

    async fn wiped(&self, id: &InstanceId) -> WipeEvidence {
        let evidence = self.driver.wipe(id).await.unwrap();
        assert!(evidence.items.values().all(|item| item.verified), "{evidence:?}");
        self.driver.forget(id).await.unwrap();
        assert!(self.driver.list().await.unwrap().iter().all(|(found, _)| found != id));
        evidence
    }
}

/// Evidence of a wipe after which everything was gone.
pub(crate) const MACHINE_WIPED: &[(&str, &str)] = &[
    ("cgroup", "removed"),
    ("guest-ram", "overwritten"),
    ("jail", "removed"),
    ("scratch", "crypto-erased"),
    ("vtpm", "overwritten"),
];

/// The machine's end, which must come soon.
pub(crate) async fn ended(driver: &dyn Driver, id: &InstanceId) -> Exit {
    tokio::time::timeout(END_LIMIT, driver.wait(id)).await.expect("the machine ends in time").unwrap()
}

pub(crate) fn new_id() -> InstanceId {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("i-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)).parse().unwrap()
}

/// Asks the fresh vTPM for its capabilities, and returns the first bytes of the answer.
pub(crate) struct Startup;

impl VtpmProvisioner for Startup {
    fn provision(&self, transact: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        // TPM2_GetRandom of 8 bytes.
        let answer = transact(&[0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 8])?;
        assert_eq!(answer[6..10], [0; 4], "the vTPM has been started");
        Ok(answer[10..].to_vec())
    }
}

struct Refuses;

impl VtpmProvisioner for Refuses {
    fn provision(&self, _: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        Err(io::Error::other("no"))
    }
}

/// Stands for a crash of the caller in the middle of a preparation.
struct Dies;

impl VtpmProvisioner for Dies {
    fn provision(&self, _: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        panic!("the caller dies here, on purpose")
    }
}

pub(crate) async fn runs_talks_and_is_wiped(subject: &Subject) {
    let driver = &*subject.driver;
    let plan = subject.new_plan();
    let prepared = driver.prepare(&plan, &Startup).await.unwrap();
    let not_started = ExitCause::Vmm("the machine was not started".to_owned());
    assert_eq!(ended(driver, &plan.id).await.cause, not_started);
    let has_vtpm = driver.capabilities().features.vtpm == Support::Yes;
    assert_eq!(prepared.vtpm_ak_public.map(|public| public.len()), has_vtpm.then_some(10));
    assert_eq!(driver.list().await.unwrap(), [(plan.id.clone(), Presence::Remains)]);
    let started = driver.start(&plan).await.unwrap();
    assert!(started.jail.no_new_privs && started.jail.seccomp && started.jail.cgroup && started.jail.uid != 0);
    let user_namespace = started.jail.namespaces.iter().any(|name| name == "user");
    assert!(started.jail.capabilities == 0 || user_namespace, "capabilities over the host: {:?}", started.jail);
    let namespaces: Vec<_> = started.jail.namespaces.iter().filter(|name| *name != "user").collect();
    assert_eq!(namespaces, ["cgroup", "ipc", "mnt", "net", "pid", "uts"]);
    assert_eq!(driver.list().await.unwrap(), [(plan.id.clone(), Presence::Running)]);
    let mut line = Line::connect(driver, &plan.id).await;
    assert_eq!(line.ask("echo one").await, "one");
    drop(line);
    let mut line = Line::connect(driver, &plan.id).await;
    assert_eq!(line.ask("echo again").await, "again");
    assert_eq!(driver.start(&plan).await.unwrap().jail, started.jail, "starting again changes nothing");
    assert_eq!(line.ask("echo still").await, "still");
    line.tell("off").await;
    assert_eq!(ended(driver, &plan.id).await.cause, ExitCause::PoweredOff);
    assert_eq!(driver.list().await.unwrap(), [(plan.id.clone(), Presence::Remains)]);
    assert!(driver.start(&plan).await.is_err(), "an ended machine does not run twice");
    let evidence = subject.wiped(&plan.id).await;
    let methods: Vec<_> = evidence.items.iter().map(|(name, item)| (*name, item.method)).collect();
    assert_eq!(methods, subject.wiped);
    (subject.nothing_left)();
}

pub(crate) async fn a_second_wipe_says_the_same_until_it_is_forgotten(subject: &Subject) {
    let plan = subject.new_plan();
    subject.driver.prepare(&plan, &Startup).await.unwrap();
    subject.driver.forget(&plan.id).await.unwrap();
    let words = |evidence: &WipeEvidence| -> Vec<_> {
        evidence.items.iter().map(|(name, item)| (*name, item.method, item.verified, item.detail.clone())).collect()
    };
    let first = subject.driver.wipe(&plan.id).await.unwrap();
    assert_eq!(first.items["cgroup"].method, "removed", "what is not wiped cannot be forgotten");
    assert_eq!(subject.driver.list().await.unwrap(), [(plan.id.clone(), Presence::Remains)]);
    assert_eq!(words(&subject.driver.wipe(&plan.id).await.unwrap()), words(&first));
    assert!(subject.driver.start(&plan).await.is_err(), "what is wiped does not run");
    subject.wiped(&plan.id).await;
    let after = subject.wiped(&plan.id).await;
    assert_eq!(after.items.len(), subject.wiped.len());
    assert!(after.items.values().all(|item| item.method == "never-existed" && item.bytes == 0), "{after:?}");
    (subject.nothing_left)();
}

pub(crate) async fn tells_what_the_guest_complained_of(subject: &Subject) {
    let plan = subject.started().await;
    let mut line = Line::connect(&*subject.driver, &plan.id).await;
    line.tell("fatal guest.tpm no such device").await;
    let exit = ended(&*subject.driver, &plan.id).await;
    let expected = ExitCause::Guest { check: "guest.tpm".to_owned(), detail: "no such device".to_owned() };
    assert_eq!(exit.cause, expected);
    assert!(exit.console_tail.contains("CASEMATE-FATAL guest.tpm"), "{}", exit.console_tail);
    subject.wiped(&plan.id).await;
    (subject.nothing_left)();
}

pub(crate) async fn kill_ends_a_machine_and_its_waiter(subject: &Subject) {
    let plan = subject.started().await;
    let waiter = tokio::spawn({
        let (driver, id) = (Arc::clone(&subject.driver), plan.id.clone());
        async move { ended(&*driver, &id).await }
    });
    subject.driver.kill(&plan.id).await.unwrap();
    subject.driver.kill(&plan.id).await.unwrap();
    assert_eq!(waiter.await.unwrap().cause, ExitCause::Vmm("killed by signal 9".to_owned()));
    assert!(subject.driver.connect(&plan.id).await.is_err());
    subject.wiped(&plan.id).await;
    (subject.nothing_left)();
}

pub(crate) async fn wipe_ends_a_running_machine(subject: &Subject) {
    let plan = subject.started().await;
    subject.wiped(&plan.id).await;
    (subject.nothing_left)();
}

pub(crate) async fn a_failed_preparation_leaves_nothing(subject: &Subject) {
    let mut plan = subject.new_plan();
    if subject.driver.capabilities().features.vtpm == Support::Yes {
        assert!(matches!(subject.driver.prepare(&plan, &Refuses).await, Err(DriverError::Process { .. })));
    } else {
        match &mut plan.system {
            System::Machine(machine) => machine.kernel = "/nowhere".into(),
            System::Container(container) => container.init = "/nowhere".into(),
        }
        assert!(matches!(subject.driver.prepare(&plan, &Startup).await, Err(DriverError::Io { .. })));
    }
    assert_eq!(subject.driver.list().await.unwrap(), []);
    (subject.nothing_left)();
}

/// Of drivers whose preparation asks the caller for something in its middle.
pub(crate) async fn a_preparation_cut_short_can_be_wiped_or_repeated(subject: &Subject) {
    assert_eq!(subject.driver.capabilities().features.vtpm, Support::Yes, "the cut is made where a vTPM is provisioned");
    let plan = subject.new_plan();
    for _ in 0..2 {
        let (driver, cut) = (Arc::clone(&subject.driver), plan.clone());
        let crashed = tokio::spawn(async move { driver.prepare(&cut, &Dies).await.map(drop) }).await;
        assert!(crashed.is_err_and(|error| error.is_panic()));
        assert_eq!(subject.driver.list().await.unwrap(), [(plan.id.clone(), Presence::Remains)]);
    }
    subject.driver.prepare(&plan, &Startup).await.unwrap();
    subject.wiped(&plan.id).await;
    (subject.nothing_left)();
}

/// Futures are dropped after ever more polls, so that each of their waits is hit once.
pub(crate) async fn dropped_futures_leave_what_wipe_cleans(subject: &Subject) {
    for polls in 1..=6 {
        let plan = subject.new_plan();
        let driver = Arc::clone(&subject.driver);
        let whole = async {
            driver.prepare(&plan, &Startup).await.unwrap();
            driver.start(&plan).await.unwrap();
        };
        dropped_after(polls, whole).await;
        subject.driver.wipe(&plan.id).await.unwrap();
        subject.driver.forget(&plan.id).await.unwrap();
        assert_eq!(subject.driver.list().await.unwrap(), []);
        (subject.nothing_left)();
    }
}

async fn dropped_after(polls: u32, future: impl Future<Output = ()>) {
    let mut future = Box::pin(future);
    let mut left = polls;
    std::future::poll_fn(|context| {
        left = left.saturating_sub(1);
        if future.as_mut().poll(context).is_ready() || left == 0 {
            return std::task::Poll::Ready(());
        }
        std::task::Poll::Pending
    })
    .await;
}

/// Whatever the capabilities rule out is refused by name before anything is made.
pub(crate) async fn what_is_not_supported_is_refused_before_anything_is_made(subject: &Subject) {
    let capabilities = subject.driver.capabilities();
    let refused = async |change: &dyn Fn(&mut Plan)| {
        let mut plan = subject.new_plan();
        change(&mut plan);
        let answer = subject.driver.prepare(&plan, &Startup).await;
        assert!(matches!(answer, Err(DriverError::Unsupported { .. })), "{answer:?}");
        assert_eq!(subject.driver.list().await.unwrap(), []);
    };
    let every = [
        Demand::Vtpm,
        Demand::Gpus(1),
        Demand::Network,
        Demand::SevSnp,
        Demand::Tdx,
        Demand::Pause,
        Demand::Snapshot,
        Demand::HotPlug,
    ];
    for demand in every {
        if let Support::No(reason) = capabilities.features.of(demand) {
            assert!(!reason.is_empty(), "{demand} is refused for a reason");
            refused(&|plan| plan.demands.push(demand)).await;
        }
    }
    for level in [Isolation::Container, Isolation::Sandbox, Isolation::Microvm, Isolation::Confidential] {
        if level > capabilities.isolation {
            refused(&|plan| plan.isolation = level).await;
        }
    }
    refused(&|plan| plan.cpus = capabilities.max_cpus + 1).await;
    refused(&|plan| plan.memory_mib = capabilities.memory_mib.end() + 1).await;
    refused(&|plan| plan.scratch_mib = capabilities.scratch_mib.end() + 1).await;
    refused(&|plan| plan.disks = vec![Disk { serial: "../up".to_owned(), path: "/dev/null".into() }]).await;
    (subject.nothing_left)();
}

pub(crate) async fn unknown_instances_are_named(subject: &Subject) {
    let id = new_id();
    let driver = &*subject.driver;
    let unknown = |result: Result<(), DriverError>| {
        assert!(matches!(&result, Err(DriverError::NoSuchInstance(named)) if *named == id), "{result:?}");
    };
    unknown(driver.wait(&id).await.map(drop));
    unknown(driver.connect(&id).await.map(drop));
    unknown(driver.kill(&id).await);
    unknown(driver.start(&(subject.plan)(&id)).await.map(drop));
    assert!(driver.wipe(&id).await.is_ok());
}

/// A guest powers off in a moment, later on a loaded machine.
const END_LIMIT: Duration = Duration::from_secs(90);
