//! What the relying party insists on. Never read from evidence.

use casemate_evidence::container::ContainerLevel;

use crate::{boot::BootPolicy, node::Demand};

/// The isolation that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlatformKind {
    /// Namespaces of the host's kernel; [`appraise_container`](crate::container::appraise_container) judges it.
    Container,
    /// A kernel in user space; the same.
    Sandbox,
    /// Own kernel in a jailed VMM on a host whose boot chain its TPM attests.
    Microvm,
    /// Hardware memory encryption: [`appraise_confidential`](crate::confidential::appraise_confidential) judges it; the appraisal
    /// of a micro VM refuses such a policy.
    Confidential,
}

/// Whether a simulator may stand in for hardware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Simulated {
    /// A simulator is a rejection.
    Refuse,
    /// For development only: a simulator proves nothing about hardware. The result is marked.
    Allow,
}

impl PlatformKind {
    /// As in workloads and results.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Sandbox => "sandbox",
            Self::Microvm => "microvm",
            Self::Confidential => "confidential",
        }
    }
}

/// A relying party's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    platform: PlatformKind,
    simulated: Simulated,
    boot: Demand<BootPolicy>,
    revocation_floor: u64,
}

impl Policy {
    /// For instances of level `microvm`.
    pub fn microvm(simulated: Simulated) -> Self {
        Self { platform: PlatformKind::Microvm, simulated, boot: Demand::LeftToPlatform, revocation_floor: 0 }
    }

    /// For instances of level `container` or `sandbox`.
    pub fn container(level: ContainerLevel, simulated: Simulated) -> Self {
        let platform = match level {
            ContainerLevel::Container => PlatformKind::Container,
            ContainerLevel::Sandbox => PlatformKind::Sandbox,
        };
        Self { platform, ..Self::microvm(simulated) }
    }

    /// For instances of level `confidential`.
    pub fn confidential(simulated: Simulated) -> Self {
        Self { platform: PlatformKind::Confidential, ..Self::microvm(simulated) }
    }

    /// The same with a demand of the node's boot. Without one it is left to the platform, and the result says so.
    #[must_use]
    pub fn with_boot(self, boot: Demand<BootPolicy>) -> Self {
        Self { boot, ..self }
    }

    /// The same with the highest serial of a revocation list that was seen: an older list is refused.
    #[must_use]
    pub fn with_revocation_floor(self, revocation_floor: u64) -> Self {
        Self { revocation_floor, ..self }
    }

    /// The isolation that is asked for.
    pub fn platform(&self) -> PlatformKind {
        self.platform
    }

    /// Whether a simulator may stand in for hardware.
    pub fn simulated(&self) -> Simulated {
        self.simulated
    }

    /// What is demanded of the node's boot.
    pub fn boot(&self) -> &Demand<BootPolicy> {
        &self.boot
    }

    /// The highest serial of a revocation list that was seen.
    pub fn revocation_floor(&self) -> u64 {
        self.revocation_floor
    }
}
