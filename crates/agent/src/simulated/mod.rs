//! Guests that are played within the agent's process, for nodes with `driver = "fake"`: demonstrations and tests of all that is
//! above a machine.
//!
//! Real are the protocol, the vTPM's structures and quotes, the keys and what is sealed by them. Not real is everything else:
//! nothing of the image runs and no asset is opened. The workload's words choose what is played:
//!
//! | `process.args` | what happens |
//! |---|---|
//! | `sleep MS` | runs for that many milliseconds, then exits with 0; SIGTERM ends it with 143 |
//! | `exit N` | exits with N |
//! | `panic` | the guest's kernel panics instead of starting it |
//! | anything else | prints the words on stdout and exits with 0 |

mod guest;
mod life;

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use casemate_attester::{Transport as _, sim::SoftTpm};
use casemate_lifecycle::InstanceId;
use casemate_sandbox::{
    ExitCause,
    fake::{FakeGuest, FakeMachine},
};

use crate::clock;

/// Plays all guests of a fake driver.
#[derive(Default)]
pub(crate) struct SimulatedGuests {
    /// vTPMs between preparation and start.
    tpms: Mutex<HashMap<InstanceId, SoftTpm>>,
}

impl SimulatedGuests {
    fn tpms(&self) -> MutexGuard<'_, HashMap<InstanceId, SoftTpm>> {
        self.tpms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl FakeGuest for SimulatedGuests {
    fn vtpm(&self, id: &InstanceId, command: &[u8]) -> io::Result<Vec<u8>> {
        self.tpms().entry(id.clone()).or_insert_with(|| SoftTpm::new(&clock::random())).transact(command)
    }

    async fn run(&self, machine: FakeMachine) -> ExitCause {
        let tpm = self.tpms().remove(&machine.plan().id);
        match tpm {
            Some(tpm) => guest::play(machine, tpm).await,
            None => ExitCause::Vmm("the machine has no vTPM".into()),
        }
    }

    fn forget(&self, id: &InstanceId) {
        self.tpms().remove(id);
    }
}
