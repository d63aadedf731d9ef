//! TCB versions, whose layout depends on the processor's generation (56860, TCB_VERSION).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Cpuid, SnpDecodeError};

/// A generation of processors: one vendor root, one TCB layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Generation {
    /// EPYC 7003, family 19h models 00h to 0Fh.
    Milan,
    /// EPYC 9004 and 8004 with Bergamo and Siena, family 19h models 10h to 1Fh and A0h to AFh.
    Genoa,
    /// EPYC 9005, family 1Ah models 00h to 1Fh.
    Turin,
}

impl Generation {
    /// The generation of a processor.
    pub fn of(cpuid: Cpuid) -> Result<Self, SnpDecodeError> {
        match (cpuid.family, cpuid.model) {
            (0x19, 0x00..=0x0f) => Ok(Self::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Ok(Self::Genoa),
            (0x1a, 0x00..=0x1f) => Ok(Self::Turin),
            (family, model) => Err(SnpDecodeError::Processor { family, model }),
        }
    }

    /// AMD's name, as in certificates.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// TCB_VERSION as it is in the report. What the bytes mean depends on the generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TcbBytes(pub [u8; 8]);

/// Security patch levels of the parts of the TCB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tcb {
    /// Of the FMC firmware: zero before Turin, which do not have it.
    #[serde(default)]
    pub fmc: u8,
    /// Of the boot loader of the security processor.
    pub bootloader: u8,
    /// Of its operating system.
    pub tee: u8,
    /// Of the SNP firmware.
    pub snp: u8,
    /// Lowest patch level of the microcode of all cores.
    pub microcode: u8,
}

impl Tcb {
    /// `bytes` in the layout of `generation`.
    pub fn decode(bytes: TcbBytes, generation: Generation) -> Result<Self, SnpDecodeError> {
        let b = bytes.0;
        let (tcb, offset, reserved) = match generation {
            Generation::Milan | Generation::Genoa => {
                (Self { fmc: 0, bootloader: b[0], tee: b[1], snp: b[6], microcode: b[7] }, 2, &b[2..6])
            }
            Generation::Turin => (Self { fmc: b[0], bootloader: b[1], tee: b[2], snp: b[3], microcode: b[7] }, 4, &b[4..7]),
        };
        match reserved.iter().all(|byte| *byte == 0) {
            true => Ok(tcb),
            false => Err(SnpDecodeError::Reserved { field: "TCB_VERSION", offset }),
        }
    }

    /// The layout of `generation`. Before Turin there is no place for [`fmc`](Self::fmc), it is left out.
    pub fn encode(self, generation: Generation) -> TcbBytes {
        let Self { fmc, bootloader, tee, snp, microcode } = self;
        TcbBytes(match generation {
            Generation::Milan | Generation::Genoa => [bootloader, tee, 0, 0, 0, 0, snp, microcode],
            Generation::Turin => [fmc, bootloader, tee, snp, 0, 0, 0, microcode],
        })
    }

    /// The first part that is below that of `floor`, with both levels.
    pub fn below(self, floor: Self) -> Option<(&'static str, u8, u8)> {
        let parts = [
            ("fmc", self.fmc, floor.fmc),
            ("bootloader", self.bootloader, floor.bootloader),
            ("tee", self.tee, floor.tee),
            ("snp", self.snp, floor.snp),
            ("microcode", self.microcode, floor.microcode),
        ];
        parts.into_iter().find(|(_, level, least)| level < least)
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fmc, bootloader, tee, snp, microcode } = self;
        write!(f, "fmc {fmc} bootloader {bootloader} tee {tee} snp {snp} microcode {microcode}")
    }
}
