//! The fake driver.

use std::{io, sync::Arc};

use async_trait::async_trait;
use casemate_lifecycle::InstanceId;
use casemate_sandbox::{
    Demand, Driver, ExitCause, Isolation, MachineSystem, Plan, Presence, System,
    fake::{FakeConfig, FakeDriver, FakeGuest, FakeMachine, Faults},
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

use crate::conformance::{self, Startup, Subject, new_id};

/// Plays the same guest that the test init is.
struct Player;

#[async_trait]
impl FakeGuest for Player {
    fn vtpm(&self, _: &InstanceId, command: &[u8]) -> io::Result<Vec<u8>> {
        assert!(command.len() >= 10);
        let mut answer = vec![0x80, 0x01, 0, 0, 0, 20, 0, 0, 0, 0];
        answer.extend([7; 10]);
        Ok(answer)
    }

    async fn run(&self, mut machine: FakeMachine) -> ExitCause {
        while let Some(stream) = machine.accept().await {
            if let Some(cause) = serve(stream, &machine).await {
                return cause;
            }
        }
        ExitCause::PoweredOff
    }

    fn forget(&self, _: &InstanceId) {}
}

async fn serve(stream: DuplexStream, machine: &FakeMachine) -> Option<ExitCause> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
            ("echo", text) => stream.write_all(format!("{text}\n").as_bytes()).await.ok()?,
            ("fatal", text) => {
                machine.print(&format!("CASEMATE-FATAL {text}"));
                let (check, detail) = text.split_once(' ')?;
                return Some(ExitCause::Guest { check: check.to_owned(), detail: detail.to_owned() });
            }
            _ => return Some(ExitCause::PoweredOff),
        }
    }
}

fn plan(id: &InstanceId) -> Plan {
    Plan {
        id: id.clone(),
        isolation: Isolation::Microvm,
        demands: vec![Demand::Vtpm],
        system: System::Machine(MachineSystem { kernel: "/none".into(), initrd: "/none".into(), command_line: String::new() }),
        disks: Vec::new(),
        cpus: 1,
        memory_mib: 128,
        scratch_mib: 16,
    }
}

struct Bench {
    subject: Subject,
    directory: tempfile::TempDir,
}

fn bench(faults: Faults) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let config = FakeConfig { faults, ..FakeConfig::new(directory.path().to_owned()) };
    let path = directory.path().to_owned();
    let subject = Subject {
        driver: Arc::new(FakeDriver::new(config, Arc::new(Player)).unwrap()),
        plan: Box::new(plan),
        wiped: conformance::MACHINE_WIPED,
        nothing_left: Box::new(move || assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0)),
    };
    Bench { subject, directory }
}

macro_rules! conforms {
    ($($name:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $name() {
                conformance::$name(&bench(Faults::default()).subject).await;
            }
        )*
    };
}

conforms!(
    runs_talks_and_is_wiped,
    a_second_wipe_says_the_same_until_it_is_forgotten,
    tells_what_the_guest_complained_of,
    kill_ends_a_machine_and_its_waiter,
    wipe_ends_a_running_machine,
    a_failed_preparation_leaves_nothing,
    a_preparation_cut_short_can_be_wiped_or_repeated,
    dropped_futures_leave_what_wipe_cleans,
    unknown_instances_are_named,
    what_is_not_supported_is_refused_before_anything_is_made,
);

#[tokio::test]
async fn remains_outlive_the_process_and_simulation_is_said() {
    let bench = bench(Faults::default());
    let plan = plan(&new_id());
    bench.subject.driver.prepare(&plan, &Startup).await.unwrap();
    bench.subject.driver.start(&plan).await.unwrap();
    let next = FakeDriver::new(FakeConfig::new(bench.directory.path().to_owned()), Arc::new(Player)).unwrap();
    assert_eq!(next.list().await.unwrap(), [(plan.id.clone(), Presence::Remains)]);
    assert!(matches!(next.wait(&plan.id).await.unwrap().cause, ExitCause::Vmm(_)));
    let evidence = next.wipe(&plan.id).await.unwrap();
    assert!(evidence.items.values().all(|item| item.detail.starts_with("simulated")));
    assert_eq!(next.capabilities().machine, "fake");
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let run = async || {
        let bench = bench(Faults { seed: 7, prepare_per_mille: 300, start_per_mille: 300 });
        let mut outcomes = Vec::new();
        for _ in 0..40 {
            let plan = plan(&new_id());
            let prepared = bench.subject.driver.prepare(&plan, &Startup).await.is_ok();
            outcomes.push((prepared, prepared && bench.subject.driver.start(&plan).await.is_ok()));
            bench.subject.driver.wipe(&plan.id).await.unwrap();
        }
        outcomes
    };
    let outcomes = run().await;
    assert_eq!(outcomes, run().await);
    let failed = outcomes.iter().filter(|(prepared, started)| !prepared || !started).count();
    assert!((5..35).contains(&failed), "{failed}");
}
