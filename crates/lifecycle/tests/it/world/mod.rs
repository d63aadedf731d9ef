//! One instance between a platform, a node and a network that breaks: the states that they can be in together, and what can happen next.
//!
//! All decisions are those of the library, the ones that server and agent run. What is modelled here is only what carries them: journals
//! that survive, memories and connections that do not, and the order of an owner's steps on the node.

mod node;

use std::collections::VecDeque;

use casemate_lifecycle::{Admission, Course, Event, Failure, Intent, Reported, Request, Step, admit, believed, wiped};

use node::Node;

/// Most happenings until a world without troubles is at rest.
const MAX_FAIR: usize = 200;

/// What the platform ordered first.
const FIRST: (u64, Intent) = (1, Intent::Run);

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) platform: Platform,
    pub(crate) node: Node,
    to_node: VecDeque<ToNode>,
    from_node: VecDeque<FromNode>,
    /// Troubles that may still come; what bounds the search.
    troubles: u8,
}

/// The platform's store. Its processes keep nothing else, so that their death is no more than a broken connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Platform {
    pub(crate) course: Course,
    /// Whether the node is trusted.
    pub(crate) trusted: bool,
    receipt: bool,
    session: Session,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Session {
    Closed,
    /// The node's report has not come yet.
    Opened,
    Running,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum ToNode {
    /// The whole picture; the instance may be missing from it.
    Desired(Option<(u64, Intent)>),
    Assignment(u64, Intent),
    Challenge,
    Deliver,
    ReceiptStored,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum FromNode {
    /// The whole picture.
    Report(Option<Reported>),
    Instance(Reported),
    /// Whether it is good.
    Evidence(bool),
    Receipt,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Happening {
    /// The connection comes up, and the node says all that it has.
    Connect,
    /// The connection breaks; what was on its way is lost.
    Break,
    /// The platform takes the next message.
    PlatformHears,
    /// The node takes the next message.
    NodeHears,
    /// The platform asks for evidence.
    Ask,
    /// A tenant gives sealed keys, whatever it knows.
    Seal,
    /// A tenant wants it to end.
    StopAsked,
    /// The node fails its appraisal.
    Distrust,
    /// The platform has not heard of the node for too long.
    GiveUp,
    /// No keys came for too long.
    KeysAreLate,
    /// Somebody sends the first order to the node once more; it is signed, after all.
    Replay,
    /// The owner on the node takes its next step.
    OwnerGoesOn,
    /// The guest says that it has booted, opens its keys, or its workload ends.
    GuestGoesOn,
    /// The machine ends without a word.
    MachineDies,
    /// The agent is killed; the machine runs on.
    AgentDies,
    /// The agent comes back.
    AgentStarts,
}

impl Happening {
    /// All of them.
    pub(crate) const ALL: [Self; 16] = [
        Self::Connect,
        Self::Break,
        Self::PlatformHears,
        Self::NodeHears,
        Self::Ask,
        Self::Seal,
        Self::StopAsked,
        Self::Distrust,
        Self::GiveUp,
        Self::KeysAreLate,
        Self::Replay,
        Self::OwnerGoesOn,
        Self::GuestGoesOn,
        Self::MachineDies,
        Self::AgentDies,
        Self::AgentStarts,
    ];

    /// What happens by itself, sooner or later, in a world without further troubles.
    const FAIR: [Self; 8] = [
        Self::AgentStarts,
        Self::Connect,
        Self::PlatformHears,
        Self::NodeHears,
        Self::OwnerGoesOn,
        Self::GuestGoesOn,
        Self::Ask,
        Self::KeysAreLate,
    ];

    fn is_trouble(self) -> bool {
        use Happening::{AgentDies, Break, Distrust, GiveUp, MachineDies, Replay, StopAsked};
        matches!(self, Break | Distrust | GiveUp | MachineDies | AgentDies | StopAsked | Replay)
    }
}

impl World {
    /// The instance is scheduled, the node knows nothing of it.
    pub(crate) fn new(good: bool, troubles: u8) -> Self {
        let mut course = Course::new();
        course.happen(Event::Reached(Step::Scheduled));
        Self {
            platform: Platform { course, trusted: true, receipt: false, session: Session::Closed },
            node: Node::new(good),
            to_node: VecDeque::new(),
            from_node: VecDeque::new(),
            troubles,
        }
    }

    /// The world after something happened; `None` where it cannot happen, or changes nothing.
    pub(crate) fn after(&self, happening: Happening) -> Option<Self> {
        let mut next = self.clone();
        if happening.is_trouble() {
            next.troubles = next.troubles.checked_sub(1)?;
        }
        let happened = match happening {
            Happening::Connect => next.connect(),
            Happening::Break => next.broke(),
            Happening::PlatformHears => next.platform_hears(),
            Happening::NodeHears => next.node_hears(),
            Happening::Ask => next.ask(),
            Happening::Seal => next.seal(),
            Happening::StopAsked => next.stop_asked(),
            Happening::Distrust => next.distrust(),
            Happening::GiveUp => next.give_up(),
            Happening::KeysAreLate => next.keys_are_late(),
            Happening::Replay => next.replay(),
            Happening::OwnerGoesOn => next.node.owner_goes_on(&mut next.from_node),
            Happening::GuestGoesOn => next.node.guest_goes_on(&mut next.from_node),
            Happening::MachineDies => next.node.machine_dies(),
            Happening::AgentDies => next.agent_dies(),
            Happening::AgentStarts => next.node.agent_starts(),
        };
        (happened && next != *self).then_some(next)
    }

    /// Lets everything that is on its way arrive, and everything that goes on by itself go on. `None` where that has no end.
    pub(crate) fn settled(&self) -> Option<Self> {
        let mut world = self.clone();
        for _ in 0..MAX_FAIR {
            match Happening::FAIR.into_iter().find_map(|happening| world.after(happening)) {
                Some(next) => world = next,
                None => return Some(world),
            }
        }
        None
    }

    /// Whether nothing is left on the node, and the platform knows that, by a receipt.
    pub(crate) fn is_over(&self) -> bool {
        self.node.is_empty() && self.platform.course.actual.step == Step::Gone && self.platform.receipt
    }

    fn connect(&mut self) -> bool {
        let Some(picture) = self.node.whole_picture() else { return false };
        if self.platform.session != Session::Closed {
            return false;
        }
        self.platform.session = Session::Opened;
        self.from_node.extend(picture);
        true
    }

    fn broke(&mut self) -> bool {
        self.to_node.clear();
        self.from_node.clear();
        std::mem::replace(&mut self.platform.session, Session::Closed) != Session::Closed
    }

    fn agent_dies(&mut self) -> bool {
        self.broke();
        self.node.agent_dies()
    }

    fn platform_hears(&mut self) -> bool {
        let Some(message) = self.from_node.pop_front() else { return false };
        match message {
            FromNode::Report(report) => {
                self.platform.take_report(report);
                if std::mem::replace(&mut self.platform.session, Session::Running) == Session::Opened {
                    self.to_node.push_back(ToNode::Desired(self.platform.desired()));
                    self.deliver();
                }
            }
            FromNode::Instance(reported) => self.change(|platform| platform.believe(reported)),
            FromNode::Evidence(good) => self.change(|platform| platform.conclude(good)),
            FromNode::Receipt => {
                self.change(Platform::take_receipt);
                self.to_node.push_back(ToNode::ReceiptStored);
            }
        }
        true
    }

    /// A change of the store; the node hears of a new generation.
    fn change(&mut self, edit: impl FnOnce(&mut Platform)) {
        let before = self.platform.course.generation;
        edit(&mut self.platform);
        let Course { generation, intent, .. } = self.platform.course;
        if generation != before && self.platform.session == Session::Running && !self.platform.receipt {
            self.to_node.push_back(ToNode::Assignment(generation, intent));
        }
    }

    fn deliver(&mut self) {
        if self.platform.session == Session::Running && self.platform.course.is_due_for_delivery() {
            self.to_node.push_back(ToNode::Deliver);
        }
    }

    fn ask(&mut self) -> bool {
        let due = self.platform.session == Session::Running && self.platform.course.is_due_for_appraisal();
        if due && !self.to_node.contains(&ToNode::Challenge) && !self.from_node.iter().any(|m| matches!(m, FromNode::Evidence(_)))
        {
            self.to_node.push_back(ToNode::Challenge);
            return true;
        }
        false
    }

    fn seal(&mut self) -> bool {
        let Course { actual, intent, .. } = &self.platform.course;
        if admit(actual, *intent, Request::ReleaseKeys) != Admission::Accept || self.platform.course.keys_wait {
            return false;
        }
        self.platform.course.keys_wait = true;
        self.deliver();
        true
    }

    fn stop_asked(&mut self) -> bool {
        let Course { actual, intent, .. } = &self.platform.course;
        let accepted = admit(actual, *intent, Request::Stop) == Admission::Accept;
        if accepted {
            self.change(|platform| platform.course.intend(Intent::Stop));
        }
        accepted
    }

    fn distrust(&mut self) -> bool {
        let trusted = std::mem::replace(&mut self.platform.trusted, false);
        self.change(|platform| {
            platform.fail("node.quote");
            platform.course.intend(Intent::Stop);
        });
        trusted
    }

    fn give_up(&mut self) -> bool {
        let silent = self.platform.session == Session::Closed;
        if silent {
            self.change(|platform| platform.fail("node.lost"));
        }
        silent
    }

    fn replay(&mut self) -> bool {
        self.to_node.push_back(ToNode::Assignment(FIRST.0, FIRST.1));
        self.node.is_up()
    }

    fn keys_are_late(&mut self) -> bool {
        let late = self.platform.course.actual.step == Step::Attested;
        if late {
            self.change(|platform| platform.fail("keys.timeout"));
        }
        late
    }

    fn node_hears(&mut self) -> bool {
        let Some(message) = self.to_node.pop_front() else { return false };
        self.node.hear(message, &mut self.from_node);
        true
    }
}

impl Platform {
    fn desired(&self) -> Option<(u64, Intent)> {
        (!self.receipt).then_some((self.course.generation, self.course.intent))
    }

    fn take_report(&mut self, report: Option<Reported>) {
        match report {
            Some(reported) => self.believe(reported),
            None if (Step::Accepted..Step::Wiped).contains(&self.course.actual.step) => {
                self.fail("node.lost");
                self.course.intend(Intent::Stop);
            }
            None => {}
        }
    }

    fn believe(&mut self, reported: Reported) {
        self.follow(believed(&self.course.actual, reported));
    }

    fn conclude(&mut self, good: bool) {
        match (self.course.is_due_for_appraisal(), good) {
            (false, _) => {}
            (true, true) => self.course.happen(Event::Reached(Step::Attested)),
            (true, false) => self.fail("guest.kernel"),
        }
    }

    fn take_receipt(&mut self) {
        self.follow(wiped(&self.course.actual));
        self.course.happen(Event::Reached(Step::Gone));
        self.receipt = true;
    }

    fn follow(&mut self, events: Vec<Event>) {
        events.into_iter().for_each(|event| self.course.happen(event));
    }

    fn fail(&mut self, check: &str) {
        self.course.happen(Event::Failed(failure(check)));
    }
}

fn failure(check: &str) -> Failure {
    Failure { step: Step::Running, check: check.into(), detail: String::new() }
}
