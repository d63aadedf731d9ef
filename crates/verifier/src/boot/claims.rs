//! What a replayed log says about a boot.

mod read;
mod secure;

use serde::{Deserialize, Serialize};

pub(super) use self::read::read;

/// A boot, as the log tells it. Digests are proven by the quote; a `label` is the log's own word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootClaims {
    /// The bank that was read: `sha256`.
    pub bank: String,
    /// The PCRs that the quote covers.
    pub pcrs: Vec<u32>,
    /// Measured events in those PCRs.
    pub events: u64,
    /// Measured events of types that the specification does not know.
    pub unknown_events: u64,
    /// The variable `SecureBoot` was 1 when the firmware measured it, with a platform key installed.
    pub secure_boot: bool,
    /// Entries in the firmware's list of revoked signatures and images.
    pub dbx_entries: u64,
    /// SecureBoot, PK, KEK, db, dbx and others that the firmware measured with them.
    pub variables: Vec<SecureVariable>,
    /// What let images start.
    pub authorities: Vec<Authority>,
    /// Version of the first code that measures, where the digest covers it.
    pub firmware_version: Option<String>,
    /// Firmware, settings, drivers from adapters: before the hand-over, but for PCR 7.
    pub firmware: Vec<Measured>,
    /// Images started: boot loader, kernel. Their digests are Authenticode digests.
    pub images: Vec<Image>,
    /// Kernel command lines.
    pub command_lines: Vec<CommandLine>,
    /// Files and sections that the boot loader measured (PCRs 9, 11, 12, 13, 15).
    pub loader: Vec<Measured>,
    /// Commands that the boot loader carried out (PCR 8).
    pub loader_commands: u64,
    /// shim's variables (PCR 14).
    pub shim: Vec<Measured>,
    /// Events after the hand-over that cannot be the firmware's.
    pub late: Vec<Measured>,
    /// What makes the log unfit for any policy.
    pub problems: Vec<String>,
    /// Options of the policy that weaken it.
    pub warnings: Vec<String>,
}

/// A variable of secure boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecureVariable {
    /// `SecureBoot`, `PK`, `KEK`, `db`, `dbx`, …
    pub name: String,
    /// As measured, hex.
    pub digest: String,
    /// Signatures in it, of a list.
    pub entries: Option<u64>,
}

/// Something that let an image start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// The variable that it is from: `db`, `vendor_db`, `MokList`, `SbatLevel`, …
    pub variable: String,
    /// SHA-256 of the certificate, or of the whole value where it is none; hex.
    pub sha256: String,
}

/// A measurement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Where.
    pub pcr: u32,
    /// The type, as the log says: `EV_…`, or a number.
    pub kind: String,
    /// As extended, hex.
    pub digest: String,
    /// What the log says that it is. Not covered by the quote.
    pub label: String,
}

/// An image that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Where.
    pub pcr: u32,
    /// Authenticode digest, hex.
    pub digest: String,
    /// Device path, as the log says. Not covered by the quote.
    pub label: String,
}

/// A command line for a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandLine {
    /// Who measured it: `grub`, `systemd-stub`, `efi-stub`.
    pub source: String,
    /// As extended, hex.
    pub digest: String,
    /// The text, where the digest covers it.
    pub text: Option<String>,
}
