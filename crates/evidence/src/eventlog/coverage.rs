//! Which part of an event a digest covers.

use super::{EventType, Variable, content::grub_text};
use crate::tpm::HashAlg;

/// How much of an event's data is proven by a matching replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage<'a> {
    /// Nothing was extended: hearsay.
    Nothing,
    /// The digest is that of something else (a binary, a table); the data is a label.
    DigestOnly,
    /// The digest is that of this part of the data: the value of a boot variable, the text of a boot loader without its prefix.
    Part(&'a [u8]),
    /// The digest is that of all data.
    Whole(&'a [u8]),
}

impl<'a> Coverage<'a> {
    /// The proven bytes.
    pub fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Nothing | Self::DigestOnly => None,
            Self::Part(bytes) | Self::Whole(bytes) => Some(bytes),
        }
    }

    /// Whether all data is proven.
    pub fn is_whole(self) -> bool {
        matches!(self, Self::Whole(_))
    }

    pub(super) fn of(kind: EventType, data: &'a [u8], alg: HashAlg, measured: Option<&[u8]>) -> Self {
        let Some(measured) = measured else {
            return Self::Nothing;
        };
        let is = |bytes: &[u8]| alg.digest(&[bytes]).as_slice() == measured;
        // The convention of the type first, so that most events cost one hash.
        match part(kind, data) {
            Some(part) if is(part) => Self::Part(part),
            Some(_) | None if is_digest_of_data_possible(kind) && is(data) => Self::Whole(data),
            Some(_) | None => Self::DigestOnly,
        }
    }
}

fn part(kind: EventType, data: &[u8]) -> Option<&[u8]> {
    match kind {
        EventType::EFI_VARIABLE_BOOT => Variable::parse(data).map(|variable| variable.value),
        EventType::IPL => grub_text(data).map(|(_, text)| text),
        _ => None,
    }
}

/// These types' digests are never those of their data; no need to look.
fn is_digest_of_data_possible(kind: EventType) -> bool {
    !matches!(
        kind,
        EventType::EFI_BOOT_SERVICES_APPLICATION
            | EventType::EFI_BOOT_SERVICES_DRIVER
            | EventType::EFI_RUNTIME_SERVICES_DRIVER
            | EventType::EFI_PLATFORM_FIRMWARE_BLOB
            | EventType::EFI_PLATFORM_FIRMWARE_BLOB2
            | EventType::EFI_HANDOFF_TABLES
            | EventType::EFI_HANDOFF_TABLES2
    )
}
