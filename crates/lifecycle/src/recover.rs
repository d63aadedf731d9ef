//! What becomes of an instance after its node's agent was restarted.

/// What the agent's journal says of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Recorded {
    /// How far its launch had come.
    pub launch: Launch,
    /// Whether its workload had ended by itself.
    pub exited: bool,
    /// Whether it was on its way down.
    pub ending: bool,
    /// Whether its receipt is signed.
    pub receipted: bool,
}

/// How far a launch had come, written ahead of each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Launch {
    /// The driver was not asked for anything.
    NotBegun,
    /// The driver was asked to prepare, or to start.
    Begun,
    /// The machine was started, and everything about it is recorded.
    Recorded,
}

/// What the driver has of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Machine {
    /// Nothing.
    Absent,
    /// Files, mounts, cgroups or the like, but nothing that runs.
    Remains,
    /// It runs.
    Running,
}

/// What to do with an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// Its machine runs and everything about it is known: go on with it.
    Adopt,
    /// Its machine was started and is gone: ask the driver why, then wipe.
    Inquire,
    /// Wipe it. The journal says why it ends, or else this does.
    Finish(Option<Interrupted>),
    /// It is wiped, only its receipt (and records) are still to be sent. The driver should have nothing of it.
    Linger,
}

/// What the restart interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Interrupted {
    /// Image or assets were on their way.
    Gathering,
    /// The machine was being prepared or started.
    Starting,
}

/// Decides from the journal and from what the driver has. Never starts anything: a launch that was interrupted is ended, so that nothing
/// can be started twice.
pub fn recover(recorded: Recorded, machine: Machine) -> Recovery {
    match recorded {
        Recorded { receipted: true, .. } => Recovery::Linger,
        Recorded { ending: true, .. } => Recovery::Finish(None),
        Recorded { launch: Launch::Recorded, .. } if machine == Machine::Running => Recovery::Adopt,
        Recorded { launch: Launch::Recorded, exited: true, .. } => Recovery::Finish(None),
        Recorded { launch: Launch::Recorded, .. } => Recovery::Inquire,
        Recorded { launch: Launch::Begun, .. } => Recovery::Finish(Some(Interrupted::Starting)),
        Recorded { launch: Launch::NotBegun, .. } => Recovery::Finish(Some(Interrupted::Gathering)),
    }
}
