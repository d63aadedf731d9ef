//! Places where a test lets the agent die as if killed.
//!
//! A failpoint is set by `failpoint = "<name>"` in the configuration file and by nothing else. It only ever aborts the
//! process, which an agent must survive anyway, so it weakens no check. It is for tests; leave it out of a real node.

use std::{fmt, str::FromStr};

macro_rules! points {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Where the agent dies.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Failpoint { $($(#[$doc])* $variant,)* }

        impl Failpoint {
            /// All of them, in the order of an instance's life.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in the configuration file.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

points! {
    /// The assignment is in the journal.
    Accepted = "accepted",
    /// All blobs are fetched.
    Fetched = "fetched",
    /// All layers are converted.
    Converted = "converted",
    /// The journal says that the machine is being prepared.
    Preparing = "preparing",
    /// The driver prepared the machine.
    Prepared = "prepared",
    /// The monitor is asked to guard the machine; only under a monitor.
    Handing = "handing",
    /// The monitor guards it; only under a monitor.
    Guarded = "guarded",
    /// The driver started the machine; the journal does not have the launch record yet.
    Started = "started",
    /// The launch record is in the journal.
    Recorded = "recorded",
    /// The guest said that it booted.
    Booted = "booted",
    /// The guest took the launch message.
    Configured = "configured",
    /// Evidence was made; it is not sent yet.
    Evidence = "evidence",
    /// Sealed keys went to the guest.
    Delivered = "delivered",
    /// The guest opened the keys.
    Keyed = "keyed",
    /// The workload's process runs.
    Running = "running",
    /// Records are on disk; the guest does not know it yet.
    Spooled = "spooled",
    /// The exit status is in the journal.
    Exited = "exited",
    /// The journal says that the instance is being wiped.
    Wiping = "wiping",
    /// The driver wiped; the receipt is not in the journal yet.
    Wiped = "wiped",
    /// The receipt is in the journal.
    Receipted = "receipted",
    /// The platform has the receipt; the instance's folder is still there.
    Forgetting = "forgetting",
}

impl FromStr for Failpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|point| point.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|point| point.as_str()).collect();
            format!("no failpoint {text:?}; known are {}", names.join(", "))
        })
    }
}

impl fmt::Display for Failpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The failpoint of this process, if any.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Failpoints(pub(crate) Option<Failpoint>);

impl Failpoints {
    /// Ends the process, without any clean-up, if `point` is the one that was set.
    pub(crate) fn pass(self, point: Failpoint) {
        if self.0 == Some(point) {
            eprintln!("casemate-agent: failpoint {point} reached, aborting");
            std::process::abort();
        }
    }
}
