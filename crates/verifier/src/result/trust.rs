//! Trust tiers, trust vectors and submodules: the vocabulary of AR4SI (draft-ietf-rats-ar4si, section 2.3).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Anchor;
use crate::checks::{Appraised, Outcome};

/// The verdict (trust tiers of AR4SI, section 2.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Every check passed. What that means, and what not, is the platform kind's and the warnings' to say.
    Affirming,
    /// Nothing is wrong, but something is not as good as it should be.
    Warning,
    /// A check failed.
    Contraindicated,
    /// There was nothing to judge: no policy for this platform, or no evidence that decodes.
    None,
}

impl Tier {
    /// The one of less trust. Something that was not judged is worse than something with a warning.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        if other.distrust() > self.distrust() { other } else { self }
    }

    /// The tier that one claim of a trust vector is in (AR4SI, section 2.3.2): the number's range decides.
    pub const fn of_claim(claim: i8) -> Self {
        match claim {
            -1..=1 => Self::None,
            -32..=-2 | 2..=31 => Self::Affirming,
            -96..=-33 | 32..=95 => Self::Warning,
            -128..=-97 | 96..=127 => Self::Contraindicated,
        }
    }

    /// The number of the tier in CBOR (AR4SI, section 2.3.2).
    pub const fn number(self) -> i8 {
        match self {
            Self::None => 0,
            Self::Affirming => 2,
            Self::Warning => 32,
            Self::Contraindicated => 96,
        }
    }

    /// The tier with that [number](Self::number).
    pub const fn from_number(number: i8) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            2 => Some(Self::Affirming),
            32 => Some(Self::Warning),
            96 => Some(Self::Contraindicated),
            _ => None,
        }
    }

    const fn distrust(self) -> u8 {
        match self {
            Self::Affirming => 0,
            Self::Warning => 1,
            Self::None => 2,
            Self::Contraindicated => 3,
        }
    }
}

/// The names of AR4SI.
impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Affirming => "affirming",
            Self::Warning => "warning",
            Self::Contraindicated => "contraindicated",
            Self::None => "none",
        })
    }
}

/// A trust vector (AR4SI, section 2.3.5): one number for each category, 0 where nothing is claimed. See [`claim`] for
/// the numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TrustVector {
    /// Which thing is this, and is it in good standing?
    #[serde(skip_serializing_if = "is_zero")]
    pub instance_identity: i8,
    /// Is its configuration approved?
    #[serde(skip_serializing_if = "is_zero")]
    pub configuration: i8,
    /// Is what runs on it approved?
    #[serde(skip_serializing_if = "is_zero")]
    pub executables: i8,
    /// Are its files approved?
    #[serde(skip_serializing_if = "is_zero")]
    pub file_system: i8,
    /// Is the hardware genuine and sound?
    #[serde(skip_serializing_if = "is_zero")]
    pub hardware: i8,
    /// Can others see its memory?
    #[serde(skip_serializing_if = "is_zero")]
    pub runtime_opaque: i8,
    /// Can others read what it stores?
    #[serde(skip_serializing_if = "is_zero")]
    pub storage_opaque: i8,
    /// Are data from elsewhere to be trusted?
    #[serde(skip_serializing_if = "is_zero")]
    pub sourced_data: i8,
}

impl TrustVector {
    /// The categories with their names, in the order of their labels 0 to 7 (AR4SI, section 3.1).
    pub fn claims(&self) -> [(&'static str, i8); 8] {
        [
            ("instance-identity", self.instance_identity),
            ("configuration", self.configuration),
            ("executables", self.executables),
            ("file-system", self.file_system),
            ("hardware", self.hardware),
            ("runtime-opaque", self.runtime_opaque),
            ("storage-opaque", self.storage_opaque),
            ("sourced-data", self.sourced_data),
        ]
    }

    /// The vector with these claims, in the order of [`claims`](Self::claims).
    pub fn from_claims(claims: [i8; 8]) -> Self {
        let [instance_identity, configuration, executables, file_system, hardware, runtime_opaque, storage_opaque, sourced_data] =
            claims;
        Self {
            instance_identity,
            configuration,
            executables,
            file_system,
            hardware,
            runtime_opaque,
            storage_opaque,
            sourced_data,
        }
    }

    /// The worst tier of what is claimed; [`Tier::Affirming`] where nothing is.
    pub fn tier(&self) -> Tier {
        let claimed = self.claims().into_iter().filter(|(_, claim)| *claim != claim::NONE);
        claimed.fold(Tier::Affirming, |worst, (_, claim)| worst.worst(Tier::of_claim(claim)))
    }
}

/// What kind of attester a submodule is: decides which rules of a policy are for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The host, by its TPM.
    Node,
    /// A guest without a kernel of its own: container launch.
    ContainerGuest,
    /// A guest without hardware memory encryption: launch record and vTPM.
    MicrovmGuest,
    /// A guest in AMD SEV-SNP.
    SnpGuest,
    /// A guest in Intel TDX.
    TdxGuest,
    /// A GPU in confidential mode, or a switch between such.
    Gpu,
}

impl Kind {
    /// As in JSON and in policies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::ContainerGuest => "container-guest",
            Self::MicrovmGuest => "microvm-guest",
            Self::SnpGuest => "snp-guest",
            Self::TdxGuest => "tdx-guest",
            Self::Gpu => "gpu",
        }
    }
}

/// The processor family that trust rests on, and how far a report of it can be believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Silicon {
    /// `milan`, `genoa`, `turin`; `hopper`, `blackwell`; for TDX, whose evidence has no name for it, the FMSPC in hex.
    pub generation: String,
    /// [`Tier::Affirming`]: no known way to forge its reports. [`Tier::Warning`]: known, fixed by a newer TCB.
    /// [`Tier::Contraindicated`]: its keys were taken out by software alone; a report proves nothing.
    pub trust: Tier,
}

/// One attester of the composite: the node, the guest, a processor, a GPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submodule {
    /// What it is.
    pub kind: Kind,
    /// Never better than `trust` and `silicon` allow.
    pub status: Tier,
    /// What the status is made of.
    pub trust: TrustVector,
    /// What its evidence says: a JSON object; `null` where the evidence did not decode. True only under an affirming status.
    pub claims: serde_json::Value,
    /// Which pinned root proved what.
    pub anchors: Vec<Anchor>,
    /// Seconds since the vendor published the TCB level that it runs, where that is known.
    pub tcb_age_s: Option<u64>,
    /// The silicon that it rests on, where that is known.
    pub silicon: Option<Silicon>,
    /// A simulator stood in for hardware.
    pub simulated: bool,
}

impl Submodule {
    /// From the appraisal of a device. `good` is the trust vector that full success earns; without it every claim in it turns
    /// into [`claim::CRYPTO_FAILED`] on the category `instance-identity`. Anchors, age and silicon are the caller's to add.
    pub fn of<T, C: Serialize>(kind: Kind, appraised: &Appraised<T, C>, good: TrustVector) -> Self {
        let claims = appraised.claims().map(|claims| serde_json::to_value(claims).expect("claims are plain data"));
        let decoded = claims.is_some();
        let verified = appraised.verified().is_some() && appraised.checks().iter().all(|check| check.outcome == Outcome::Pass);
        let mut submodule = Self::judged(kind, verified, decoded, good);
        submodule.claims = claims.unwrap_or_default();
        submodule
    }

    /// A submodule of which is known whether every check passed, and whether there was anything to judge.
    pub(crate) fn judged(kind: Kind, verified: bool, decoded: bool, good: TrustVector) -> Self {
        let refused = TrustVector { instance_identity: claim::CRYPTO_FAILED, ..TrustVector::default() };
        let (status, trust) = match (verified, decoded) {
            (true, _) => (good.tier(), good),
            (false, true) => (Tier::Contraindicated, refused),
            (false, false) => (Tier::None, TrustVector::default()),
        };
        Self {
            kind,
            status,
            trust,
            claims: serde_json::Value::Null,
            anchors: Vec::new(),
            tcb_age_s: None,
            silicon: None,
            simulated: false,
        }
    }

    /// Whatever good it says is taken back: what it belongs to was refused.
    pub(crate) fn refuse(&mut self) {
        if matches!(self.status, Tier::Affirming | Tier::Warning) {
            self.status = Tier::Contraindicated;
            self.trust = TrustVector { instance_identity: claim::CRYPTO_FAILED, ..TrustVector::default() };
        }
    }

    /// Its status, or worse where the trust vector or the silicon say so.
    pub fn tier(&self) -> Tier {
        let silicon = self.silicon.as_ref().map_or(Tier::Affirming, |silicon| silicon.trust);
        self.status.worst(self.trust.tier()).worst(silicon)
    }
}

/// Numbers of claims (AR4SI, section 2.3.4), as far as they are used here.
pub mod claim {
    /// Nothing is claimed.
    pub const NONE: i8 = 0;
    /// Any category: the cryptographic validation of the evidence failed.
    pub const CRYPTO_FAILED: i8 = 99;
    /// Instance identity: recognized, and not known to be compromised.
    pub const TRUSTWORTHY_INSTANCE: i8 = 2;
    /// Instance identity: recognized, and not to be trusted.
    pub const UNTRUSTWORTHY_INSTANCE: i8 = 96;
    /// Instance identity: not recognized.
    pub const UNRECOGNIZED_INSTANCE: i8 = 97;
    /// Configuration: approved.
    pub const APPROVED_CONFIGURATION: i8 = 2;
    /// Configuration: known to be unsafe.
    pub const UNSAFE_CONFIGURATION: i8 = 32;
    /// Configuration: unacceptable.
    pub const UNSUPPORTABLE_CONFIGURATION: i8 = 96;
    /// Executables: approved, at boot and at run time.
    pub const APPROVED_RUNTIME: i8 = 2;
    /// Executables: approved at boot.
    pub const APPROVED_BOOT: i8 = 3;
    /// Executables: some are not recognized.
    pub const UNRECOGNIZED_RUNTIME: i8 = 33;
    /// Executables: unacceptable.
    pub const CONTRAINDICATED_RUNTIME: i8 = 96;
    /// File system: approved files.
    pub const APPROVED_FILES: i8 = 2;
    /// Hardware: genuine.
    pub const GENUINE_HARDWARE: i8 = 2;
    /// Hardware: genuine, but with known weaknesses.
    pub const UNSAFE_HARDWARE: i8 = 32;
    /// Hardware: not to be trusted.
    pub const CONTRAINDICATED_HARDWARE: i8 = 96;
    /// Runtime opaque: memory is encrypted by hardware.
    pub const ENCRYPTED_MEMORY: i8 = 2;
    /// Runtime opaque: memory is isolated, but not encrypted.
    pub const ISOLATED_MEMORY: i8 = 32;
    /// Runtime opaque: memory can be read from outside.
    pub const VISIBLE_MEMORY: i8 = 96;
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands in a reference")]
fn is_zero(claim: &i8) -> bool {
    *claim == claim::NONE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_claims_are_those_of_the_draft() {
        let expected = |claim: i8| match i16::from(claim) {
            -1..=1 => Tier::None,
            -32..=31 => Tier::Affirming,
            -96..=95 => Tier::Warning,
            _ => Tier::Contraindicated,
        };
        for claim in i8::MIN..=i8::MAX {
            assert_eq!(Tier::of_claim(claim), expected(claim), "{claim}");
        }
        for tier in [Tier::None, Tier::Affirming, Tier::Warning, Tier::Contraindicated] {
            assert_eq!(Tier::from_number(tier.number()), Some(tier));
            assert_eq!(Tier::of_claim(tier.number()), tier);
        }
        assert_eq!(Tier::from_number(1), None);
    }

    #[test]
    fn a_status_is_never_better_than_its_worst_claim_or_its_silicon() {
        let good = TrustVector { hardware: claim::GENUINE_HARDWARE, ..TrustVector::default() };
        let mut submodule = Submodule::judged(Kind::SnpGuest, true, true, good);
        assert_eq!(submodule.tier(), Tier::Affirming);
        submodule.silicon = Some(Silicon { generation: "milan".into(), trust: Tier::Contraindicated });
        assert_eq!(submodule.tier(), Tier::Contraindicated);
        let unsafe_hardware = TrustVector { hardware: claim::UNSAFE_HARDWARE, ..good };
        assert_eq!(Submodule::judged(Kind::SnpGuest, true, true, unsafe_hardware).status, Tier::Warning);
        assert_eq!(Submodule::judged(Kind::SnpGuest, false, true, good).tier(), Tier::Contraindicated);
        assert_eq!(Submodule::judged(Kind::SnpGuest, false, false, good).tier(), Tier::None);
        assert_eq!(Tier::Warning.worst(Tier::None).worst(Tier::Affirming), Tier::None);
    }

    #[test]
    fn kinds_have_one_name_everywhere() {
        for kind in [Kind::Node, Kind::ContainerGuest, Kind::MicrovmGuest, Kind::SnpGuest, Kind::TdxGuest, Kind::Gpu] {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn claims_and_their_order_fit_each_other() {
        let vector = TrustVector::from_claims([1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(vector.claims().map(|(_, claim)| claim), [1, 2, 3, 4, 5, 6, 7, 8]);
        let json = serde_json::to_value(vector).unwrap();
        for (name, claim) in vector.claims() {
            assert_eq!(json[name], claim);
        }
    }
}
