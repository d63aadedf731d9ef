//! How Intel judges a TCB.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Status of a TCB, with Intel's names (PCS API version 4, TCB info and QE identity).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TcbStatus {
    /// Everything is at the latest level.
    UpToDate,
    /// Software in the domain must be hardened.
    #[serde(rename = "SWHardeningNeeded")]
    SwHardeningNeeded,
    /// The platform should be configured otherwise.
    ConfigurationNeeded,
    /// Both.
    #[serde(rename = "ConfigurationAndSWHardeningNeeded")]
    ConfigurationAndSwHardeningNeeded,
    /// The platform is up to date now, but was not when the domain was launched: launch it again.
    #[serde(rename = "TDRelaunchAdvised")]
    TdRelaunchAdvised,
    /// The same, and the platform should be configured otherwise.
    #[serde(rename = "TDRelaunchAdvisedConfigurationNeeded")]
    TdRelaunchAdvisedConfigurationNeeded,
    /// There are known holes.
    OutOfDate,
    /// The same, and the platform should be configured otherwise.
    OutOfDateConfigurationNeeded,
    /// Keys of this TCB may be known to others.
    Revoked,
}

impl TcbStatus {
    /// The status of a whole whose parts have these two. For the statuses that parts can have it is what Intel's verification
    /// library does ("converge" of the platform's status with that of TDX module or quoting enclave): out of date covers
    /// hardening, and revoked covers everything.
    #[must_use]
    pub fn with(self, part: Self) -> Self {
        self.needs().and(part.needs()).status()
    }

    /// The status where everything now is up to date, and only the launch was not.
    pub(super) fn relaunch(sgx: Self, domain: Self) -> Self {
        let configuration = sgx.needs().configuration || domain.needs().configuration;
        if configuration { Self::TdRelaunchAdvisedConfigurationNeeded } else { Self::TdRelaunchAdvised }
    }

    fn needs(self) -> Needs {
        let is = |these: &[Self]| these.contains(&self);
        Needs {
            replacement: is(&[Self::Revoked]),
            update: is(&[Self::OutOfDate, Self::OutOfDateConfigurationNeeded]),
            relaunch: is(&[Self::TdRelaunchAdvised, Self::TdRelaunchAdvisedConfigurationNeeded]),
            configuration: is(&[
                Self::ConfigurationNeeded,
                Self::ConfigurationAndSwHardeningNeeded,
                Self::OutOfDateConfigurationNeeded,
                Self::TdRelaunchAdvisedConfigurationNeeded,
            ]),
            hardening: is(&[Self::SwHardeningNeeded, Self::ConfigurationAndSwHardeningNeeded]),
        }
    }
}

impl fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UpToDate => "UpToDate",
            Self::SwHardeningNeeded => "SWHardeningNeeded",
            Self::ConfigurationNeeded => "ConfigurationNeeded",
            Self::ConfigurationAndSwHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            Self::TdRelaunchAdvised => "TDRelaunchAdvised",
            Self::TdRelaunchAdvisedConfigurationNeeded => "TDRelaunchAdvisedConfigurationNeeded",
            Self::OutOfDate => "OutOfDate",
            Self::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            Self::Revoked => "Revoked",
        })
    }
}

struct Needs {
    replacement: bool,
    update: bool,
    relaunch: bool,
    configuration: bool,
    hardening: bool,
}

impl Needs {
    fn and(&self, other: Self) -> Self {
        Self {
            replacement: self.replacement || other.replacement,
            update: self.update || other.update,
            relaunch: self.relaunch || other.relaunch,
            configuration: self.configuration || other.configuration,
            hardening: self.hardening || other.hardening,
        }
    }

    fn status(&self) -> TcbStatus {
        match self {
            Self { replacement: true, .. } => TcbStatus::Revoked,
            Self { update: true, configuration: true, .. } => TcbStatus::OutOfDateConfigurationNeeded,
            Self { update: true, .. } => TcbStatus::OutOfDate,
            Self { relaunch: true, configuration: true, .. } => TcbStatus::TdRelaunchAdvisedConfigurationNeeded,
            Self { relaunch: true, .. } => TcbStatus::TdRelaunchAdvised,
            Self { configuration: true, hardening: true, .. } => TcbStatus::ConfigurationAndSwHardeningNeeded,
            Self { configuration: true, .. } => TcbStatus::ConfigurationNeeded,
            Self { hardening: true, .. } => TcbStatus::SwHardeningNeeded,
            Self { .. } => TcbStatus::UpToDate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::TcbStatus::{self, *};

    const ALL: [TcbStatus; 9] = [
        UpToDate,
        SwHardeningNeeded,
        ConfigurationNeeded,
        ConfigurationAndSwHardeningNeeded,
        TdRelaunchAdvised,
        TdRelaunchAdvisedConfigurationNeeded,
        OutOfDate,
        OutOfDateConfigurationNeeded,
        Revoked,
    ];

    #[test]
    fn an_outdated_part_makes_the_whole_outdated() {
        assert_eq!(UpToDate.with(OutOfDate), OutOfDate);
        assert_eq!(SwHardeningNeeded.with(OutOfDate), OutOfDate);
        assert_eq!(ConfigurationNeeded.with(OutOfDate), OutOfDateConfigurationNeeded);
        assert_eq!(ConfigurationAndSwHardeningNeeded.with(OutOfDate), OutOfDateConfigurationNeeded);
        assert_eq!(OutOfDate.with(OutOfDate), OutOfDate);
    }

    #[test]
    fn revocation_covers_everything_and_being_up_to_date_nothing() {
        for status in ALL {
            assert_eq!(status.with(Revoked), Revoked);
            assert_eq!(Revoked.with(status), Revoked);
            assert_eq!(status.with(UpToDate), status);
            assert_eq!(UpToDate.with(status), status);
            assert_eq!(serde_json::to_string(&status).unwrap(), format!("\"{status}\""));
        }
    }
}
