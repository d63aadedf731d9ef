//! What the relying party insists on. Never read from evidence.

/// The isolation that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlatformKind {
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

/// A relying party's policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    platform: PlatformKind,
    simulated: Simulated,
}

impl Policy {
    /// For instances of level `microvm`.
    pub fn microvm(simulated: Simulated) -> Self {
        Self { platform: PlatformKind::Microvm, simulated }
    }

    /// For instances of level `confidential`.
    pub fn confidential(simulated: Simulated) -> Self {
        Self { platform: PlatformKind::Confidential, simulated }
    }

    /// The isolation that is asked for.
    pub fn platform(&self) -> PlatformKind {
        self.platform
    }

    /// Whether a simulator may stand in for hardware.
    pub fn simulated(&self) -> Simulated {
        self.simulated
    }
}
