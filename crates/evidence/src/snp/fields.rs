//! Fields of the report that have a structure of their own.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Version of the report, with what only some versions have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Says nothing of the processor's model.
    V2,
    /// Names the processor.
    V3(Cpuid),
    /// And the mitigations.
    V5(Cpuid, Mitigations),
}

impl Version {
    /// The number in the report.
    pub const fn number(self) -> u32 {
        match self {
            Self::V2 => 2,
            Self::V3(_) => 3,
            Self::V5(..) => 5,
        }
    }

    /// The processor, if the report names it.
    pub const fn cpuid(self) -> Option<Cpuid> {
        match self {
            Self::V2 => None,
            Self::V3(cpuid) | Self::V5(cpuid, _) => Some(cpuid),
        }
    }

    /// The mitigations, if the report names them.
    pub const fn mitigations(self) -> Option<Mitigations> {
        match self {
            Self::V2 | Self::V3(_) => None,
            Self::V5(_, mitigations) => Some(mitigations),
        }
    }
}

/// CPUID Fn0000_0001_EAX, base and extended values combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cpuid {
    /// Combined family.
    pub family: u8,
    /// Combined model.
    pub model: u8,
    /// Stepping.
    pub stepping: u8,
}

/// LAUNCH_MIT_VECTOR and CURRENT_MIT_VECTOR: bit sets of the vulnerabilities that firmware has mitigated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mitigations {
    /// When the guest was launched.
    pub launch: u64,
    /// When the report was made.
    pub current: u64,
}

/// SIGNING_KEY: what signed the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SigningKey {
    /// The chip's own key at this TCB (versioned chip endorsement key).
    Vcek,
    /// A key that AMD gave to a cloud provider (versioned loaded endorsement key).
    Vlek,
    /// Nothing: the report is not signed.
    None,
}

/// Version of the SNP firmware. Greater is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareVersion {
    /// Of the ABI.
    pub major: u8,
    /// Of the ABI.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

impl fmt::Display for FirmwareVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.build)
    }
}

/// POLICY: what the guest's owner lets the platform do (56860, "Guest Policy").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestPolicy(pub u64);

impl GuestPolicy {
    /// Bit 16: the guest may run with simultaneous multithreading.
    pub const SMT: Self = Self(1 << 16);
    /// Bit 17: reserved, always one.
    pub const ALWAYS: Self = Self(1 << 17);
    /// Bit 18: a migration agent may be associated.
    pub const MIGRATE_MA: Self = Self(1 << 18);
    /// Bit 19: the host may read and change the guest's memory for debugging.
    pub const DEBUG: Self = Self(1 << 19);
    /// Bit 20: the guest may run on one socket only.
    pub const SINGLE_SOCKET: Self = Self(1 << 20);
    /// Bit 21: CXL memory and devices may be there.
    pub const CXL_ALLOW: Self = Self(1 << 21);
    /// Bit 22: memory must be encrypted with AES-256-XTS.
    pub const MEM_AES_256_XTS: Self = Self(1 << 22);
    /// Bit 23: power measurement (RAPL) must be off.
    pub const RAPL_DIS: Self = Self(1 << 23);
    /// Bit 24: the host must not see ciphertext in DRAM.
    pub const CIPHERTEXT_HIDING_DRAM: Self = Self(1 << 24);
    /// Bit 25: pages of the guest must not be moved or swapped by the host.
    pub const PAGE_SWAP_DISABLE: Self = Self(1 << 25);

    /// All bits of `bits` are set.
    pub const fn has(self, bits: Self) -> bool {
        self.0 & bits.0 == bits.0
    }

    /// Major and minor version of the ABI that firmware must have at least.
    pub const fn abi(self) -> (u8, u8) {
        let [minor, major, ..] = self.0.to_le_bytes();
        (major, minor)
    }

    /// Bits without a known meaning that are set.
    pub const fn unknown(self) -> u64 {
        self.0 >> 26 << 26
    }
}

/// PLATFORM_INFO: the state that the platform is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlatformInfo(pub u64);

impl PlatformInfo {
    /// Bit 0: simultaneous multithreading is on.
    pub const SMT_EN: Self = Self(1);
    /// Bit 1: all memory is encrypted, the host's too.
    pub const TSME_EN: Self = Self(1 << 1);
    /// Bit 2: memory has error correction.
    pub const ECC_EN: Self = Self(1 << 2);
    /// Bit 3: power measurement (RAPL) is off.
    pub const RAPL_DIS: Self = Self(1 << 3);
    /// Bit 4: ciphertext in DRAM is hidden from the host.
    pub const CIPHERTEXT_HIDING_DRAM_EN: Self = Self(1 << 4);
    /// Bit 5: since the last reset, memory was found to have no aliased addresses (the answer to CVE-2024-21944).
    pub const ALIAS_CHECK_COMPLETE: Self = Self(1 << 5);
    /// Bit 6: writes by devices through the IOMMU are safe. Only later revisions than 1.58 name it; Turin firmware sets it.
    pub const IOMMU_WRITE_SAFE: Self = Self(1 << 6);
    /// Bit 7: trusted I/O is on.
    pub const TIO_EN: Self = Self(1 << 7);

    /// All bits of `bits` are set.
    pub const fn has(self, bits: Self) -> bool {
        self.0 & bits.0 == bits.0
    }

    /// Bits without a known meaning that are set.
    pub const fn unknown(self) -> u64 {
        self.0 >> 8 << 8
    }
}
