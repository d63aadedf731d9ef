//! The node's side: journals that survive, an agent that may die at any moment, and the order of its owner's steps.

use std::collections::{BTreeMap, VecDeque};

use casemate_lifecycle::{
    Action, Actual, Event, Held, Hold, InstanceId, Intent, Interrupted, Launch, Machine, Recorded, Recovery, Reported, Scope,
    Step, Wanted, apply, reconcile, recover,
};

use super::{FromNode, ToNode, failure};

/// A node: what its disk, its agent and its driver have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    disk: Option<Journal>,
    /// The generation of the instance that is gone.
    tombstone: Option<u64>,
    /// `None` while the agent is down.
    agent: Option<Agent>,
    pub(crate) machine: Machine,
    /// How often a machine was started.
    pub(crate) starts: u8,
    pub(crate) guest: Guest,
}

/// What runs in the machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Guest {
    /// Whether its evidence will be found good.
    pub(crate) good: bool,
    booted: bool,
    /// Whether it opened the keys.
    pub(crate) keyed: bool,
    exited: bool,
}

/// The agent's memory: the journal as the owner has it, and what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Agent {
    journal: Option<Journal>,
    /// Whether the driver was asked to start the machine.
    started: bool,
    stop: bool,
    keys: bool,
    receipt_stored: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Journal {
    generation: u64,
    intent: Intent,
    actual: Actual,
    launch: Launch,
    ending: bool,
    receipted: bool,
}

impl Node {
    /// It has heard of nothing yet.
    pub(super) fn new(good: bool) -> Self {
        Self {
            disk: None,
            tombstone: None,
            agent: Some(Agent::fresh(None)),
            machine: Machine::Absent,
            starts: 0,
            guest: Guest { good, booted: false, keyed: false, exited: false },
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.agent.is_some()
    }

    /// Whether nothing is left but the memory that it was here.
    pub(super) fn is_empty(&self) -> bool {
        let forgotten = self.disk.is_none() && self.agent.as_ref().is_some_and(|agent| agent.journal.is_none());
        self.machine == Machine::Absent && forgotten
    }

    /// What a session begins with; `None` while the agent is down.
    pub(super) fn whole_picture(&self) -> Option<Vec<FromNode>> {
        let journal = &self.agent.as_ref()?.journal;
        let receipt = journal.as_ref().filter(|journal| journal.receipted).map(|_| FromNode::Receipt);
        Some([FromNode::Report(journal.as_ref().map(Journal::reported))].into_iter().chain(receipt).collect())
    }

    pub(super) fn hear(&mut self, message: ToNode, out: &mut VecDeque<FromNode>) {
        match message {
            ToNode::Desired(wanted) => self.obey(wanted, Scope::Whole, out),
            ToNode::Assignment(generation, intent) => self.obey(Some((generation, intent)), Scope::Named, out),
            ToNode::Challenge => {
                let asked = self.machine == Machine::Running && self.guest.booted;
                if asked && self.agent.as_ref().is_some_and(Agent::is_serving) {
                    out.push_back(FromNode::Evidence(self.guest.good));
                }
            }
            ToNode::Deliver => {
                if let Some(agent) = self.agent.as_mut().filter(|agent| agent.is_serving()) {
                    agent.keys = true;
                }
            }
            ToNode::ReceiptStored => {
                if let Some(agent) = &mut self.agent {
                    agent.receipt_stored = agent.journal.as_ref().is_some_and(|journal| journal.receipted);
                }
            }
        }
    }

    fn obey(&mut self, wanted: Option<(u64, Intent)>, scope: Scope, out: &mut VecDeque<FromNode>) {
        let Some(agent) = &mut self.agent else { return };
        let here = agent
            .journal
            .as_ref()
            .map(|journal| Held { generation: journal.generation, hold: if journal.ending { Hold::Ending } else { Hold::Live } });
        let gone = self.tombstone.map(|generation| Held { generation, hold: Hold::Forgotten });
        let held: BTreeMap<InstanceId, Held> = here.or(gone).map(|held| (id(), held)).into_iter().collect();
        let orders = wanted.map(|(generation, intent)| (id(), Wanted { generation, intent })).into_iter().collect();
        for action in reconcile(&held, &orders, scope) {
            let order = wanted.unwrap_or((0, Intent::Stop));
            match action {
                Action::Start(_) => agent.journal = Some(Journal::new(order)),
                Action::RecordEnd(_) => {
                    agent.journal = Some(Journal::new(order));
                    agent.stop = true;
                }
                Action::Note(_) | Action::Stop(_) => agent.take_order(order),
                Action::StopUnwanted(_) => agent.stop = true,
                Action::TellGone(_) => {
                    out.push_back(FromNode::Instance(Reported { step: Some(Step::Gone), ..Reported::default() }))
                }
            }
        }
    }

    /// Launch, serve, wipe, receipt: each step is on disk before the next.
    pub(super) fn owner_goes_on(&mut self, out: &mut VecDeque<FromNode>) -> bool {
        let machine_ended = self.machine_ended();
        let Some(agent) = &mut self.agent else { return false };
        let Some(journal) = &mut agent.journal else { return false };
        if journal.receipted {
            return agent.receipt_stored && self.forget();
        }
        if journal.ending {
            if self.machine != Machine::Absent {
                self.machine = Machine::Absent;
                return true;
            }
            journal.receipted = true;
            journal.actual = apply(journal.actual.clone(), Event::Reached(Step::Wiped));
            out.extend([FromNode::Instance(journal.reported()), FromNode::Receipt]);
        } else if agent.stop || machine_ended {
            let died = !agent.stop && !self.guest.exited;
            agent.end(died.then_some("vmm.exit"), &mut self.disk);
            return true;
        } else {
            match journal.launch {
                Launch::NotBegun if self.disk.is_none() => journal.reach(Step::Accepted),
                Launch::NotBegun => journal.launch = Launch::Begun,
                Launch::Begun if self.machine == Machine::Absent => {
                    self.machine = Machine::Remains;
                    journal.reach(Step::Prepared);
                }
                Launch::Begun if !agent.started => {
                    (agent.started, self.machine) = (true, Machine::Running);
                    self.starts += 1;
                    // The agent may die before it has recorded that.
                    return true;
                }
                Launch::Begun => journal.launch = Launch::Recorded,
                Launch::Recorded => return false,
            }
            out.push_back(FromNode::Instance(journal.reported()));
        }
        self.disk = Some(journal.clone());
        true
    }

    fn machine_ended(&self) -> bool {
        let Some(journal) = self.agent.as_ref().and_then(|agent| agent.journal.as_ref()) else { return false };
        journal.launch == Launch::Recorded && (self.machine != Machine::Running || self.guest.exited)
    }

    fn forget(&mut self) -> bool {
        let journal = self.disk.take();
        self.tombstone = journal.map(|journal| journal.generation);
        self.agent = Some(Agent::fresh(None));
        true
    }

    pub(super) fn guest_goes_on(&mut self, out: &mut VecDeque<FromNode>) -> bool {
        if self.machine != Machine::Running {
            return false;
        }
        let Some(agent) = self.agent.as_mut().filter(|agent| agent.is_serving()) else { return false };
        let Some(journal) = &mut agent.journal else { return false };
        let guest = &mut self.guest;
        // A guest that is adopted says again how far it is.
        if journal.actual.step < Step::Booted {
            guest.booted = true;
            journal.reach(Step::Booted);
        } else if journal.actual.step < Step::Keyed && (guest.keyed || agent.keys) {
            guest.keyed = true;
            journal.reach(Step::Keyed);
        } else if guest.keyed && journal.actual.step < Step::Running {
            journal.reach(Step::Running);
        } else if guest.keyed && !guest.exited {
            guest.exited = true;
            self.machine = Machine::Remains;
            journal.actual = apply(journal.actual.clone(), Event::Exited(0));
        } else {
            return false;
        }
        out.push_back(FromNode::Instance(journal.reported()));
        true
    }

    pub(super) fn machine_dies(&mut self) -> bool {
        let ran = self.machine == Machine::Running;
        if ran {
            self.machine = Machine::Remains;
        }
        ran
    }

    pub(super) fn agent_dies(&mut self) -> bool {
        self.agent.take().is_some()
    }

    pub(super) fn agent_starts(&mut self) -> bool {
        if self.agent.is_some() {
            return false;
        }
        let mut agent = Agent::fresh(self.disk.clone());
        if let Some(journal) = &self.disk {
            agent.stop = journal.intent != Intent::Run;
            match recover(journal.recorded(), self.machine) {
                Recovery::Adopt | Recovery::Linger => {}
                Recovery::Inquire => agent.end(Some("vmm.exit"), &mut self.disk),
                Recovery::Finish(None) => agent.end(None, &mut self.disk),
                Recovery::Finish(Some(Interrupted::Gathering | Interrupted::Starting)) => {
                    agent.end(Some("launch.start"), &mut self.disk)
                }
            }
        } else {
            // A machine that no journal knows is wiped.
            self.machine = Machine::Absent;
        }
        self.agent = Some(agent);
        true
    }
}

impl Agent {
    fn fresh(journal: Option<Journal>) -> Self {
        Self { journal, started: false, stop: false, keys: false, receipt_stored: false }
    }

    fn is_serving(&self) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.launch == Launch::Recorded && !journal.ending)
    }

    fn take_order(&mut self, (generation, intent): (u64, Intent)) {
        if let Some(journal) = self.journal.as_mut().filter(|journal| generation > journal.generation) {
            (journal.generation, journal.intent) = (generation, intent);
            self.stop |= intent != Intent::Run;
        }
    }

    /// The end is on disk before anything is done about it.
    fn end(&mut self, check: Option<&str>, disk: &mut Option<Journal>) {
        let Some(journal) = &mut self.journal else { return };
        if let Some(check) = check {
            journal.actual = apply(journal.actual.clone(), Event::Failed(failure(check)));
        }
        journal.actual = apply(journal.actual.clone(), Event::Reached(Step::Stopping));
        journal.ending = true;
        *disk = Some(journal.clone());
    }
}

impl Journal {
    fn new((generation, intent): (u64, Intent)) -> Self {
        let actual = Actual { step: Step::Scheduled, exit_code: None, failure: None };
        Self { generation, intent, actual, launch: Launch::NotBegun, ending: false, receipted: false }
    }

    fn reach(&mut self, step: Step) {
        self.actual = apply(self.actual.clone(), Event::Reached(step));
    }

    fn reported(&self) -> Reported {
        Reported { step: Some(self.actual.step), exit_code: self.actual.exit_code, failure: self.actual.failure.clone() }
    }

    fn recorded(&self) -> Recorded {
        Recorded { launch: self.launch, exited: self.actual.exit_code.is_some(), ending: self.ending, receipted: self.receipted }
    }
}

fn id() -> InstanceId {
    "i-1".parse().expect("a label")
}
