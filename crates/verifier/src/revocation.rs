//! Revocation lists of the relying party: chips, attestation keys, images and whole processor generations.
//!
//! The file is signed JSON like the reference values, under its own domain (`"casemate/revocations/v1" || 0x00`). The payload:
//!
//! ```json
//! {"version": 1, "serial": 17, "issued_at": 1790000000, "next_update": 1790086400,
//!  "chips": ["<hex>"], "aks": ["<TPM name, hex>"], "images": ["<SHA-256, hex>"], "silicon_generations": ["milan"]}
//! ```
//!
//! A revocation that does not arrive revokes nothing. So there is no appraisal without a list: an absent, expired or older
//! list than one that was seen before is a refusal by the check `policy.revoked`, not a warning.

use std::collections::BTreeSet;

use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use crate::{
    checks::Finding,
    envelope::{self, EnvelopeError},
    references::{Processor, ReferenceValues},
    time::UnixTime,
};

/// How far the issuer's clock may be ahead, in seconds.
pub const CLOCK_AHEAD_S: u64 = 300;
/// Longest time that a list may claim to be fresh, in seconds: 30 days.
pub const MAX_FRESH_S: u64 = 30 * 86_400;

/// Why a list was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// Not signed by the pinned key.
    #[error("open the signed revocation list")]
    Envelope(#[source] EnvelopeError),
    /// Not the expected JSON.
    #[error("the payload of the revocation list is not the expected JSON")]
    Json(#[source] serde_json::Error),
    /// A version that this code does not know.
    #[error("the revocation list has version {0}, only 1 is known")]
    Version(u16),
    /// An entry that could match nothing, or everything.
    #[error("entry \"{entry}\" of \"{list}\" in the revocation list is not {expected}")]
    Entry {
        /// Which list.
        list: &'static str,
        /// The entry.
        entry: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A period that makes no sense.
    #[error("the revocation list is fresh from {issued_at} to {next_update}, which is no period of at most 30 days")]
    Period {
        /// As the list says.
        issued_at: UnixTime,
        /// As the list says.
        next_update: UnixTime,
    },
}

/// Why evidence is refused by the check `policy.revoked`.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no list.
    #[error("there is no revocation list; without one nothing is accepted")]
    Absent,
    /// From the future.
    #[error("the revocation list was issued at {issued_at}, which is after {now}")]
    NotYet {
        /// As the list says.
        issued_at: UnixTime,
        /// The time of the relying party.
        now: UnixTime,
    },
    /// Too old.
    #[error("the revocation list was to be renewed at {next_update}, it is {now}")]
    Expired {
        /// As the list says.
        next_update: UnixTime,
        /// The time of the relying party.
        now: UnixTime,
    },
    /// Older than one that was seen.
    #[error("the revocation list has serial {serial}, but {floor} was seen before")]
    RolledBack {
        /// As the list says.
        serial: u64,
        /// The highest one that was seen.
        floor: u64,
    },
    /// It names something that the evidence rests on.
    #[error("{what} {value} is revoked (list {serial})")]
    Revoked {
        /// What it is.
        what: &'static str,
        /// Which one.
        value: String,
        /// Of the list.
        serial: u64,
    },
}

/// A list as it is written. Hexadecimal digits are lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocations {
    /// Format; 1.
    pub version: u16,
    /// Grows with each list.
    pub serial: u64,
    /// When it was made.
    pub issued_at: UnixTime,
    /// When the next one is there at the latest.
    pub next_update: UnixTime,
    /// Identities of processors, GPUs and TPMs, hex: CHIP_ID (of Turin also without its zeros), platform instance id or PPID, SHA-256
    /// of a GPU's key, SHA-256 of a TPM's EK certificate. A node falls with each part that the reference values enrolled with its TPM.
    pub chips: BTreeSet<String>,
    /// TPM names of attestation keys, hex.
    pub aks: BTreeSet<String>,
    /// Digests of images: kernel, initrd, root hash, launch and run-time measurements, VMM, agent; hex.
    pub images: BTreeSet<String>,
    /// Generations, as in [`Silicon`](crate::Silicon); of GPUs also the chip (`gh100`).
    pub silicon_generations: BTreeSet<String>,
}

impl Revocations {
    /// The file that [`RevocationList::from_signed`] reads.
    pub fn to_signed(&self, key: &SigningKey) -> String {
        envelope::sign(serde_json::to_string(self).expect("a list is plain data"), key, DOMAIN)
    }

    fn well_formed(self) -> Result<Self, RevocationError> {
        if self.version != 1 {
            return Err(RevocationError::Version(self.version));
        }
        let period = self.next_update.0.saturating_sub(self.issued_at.0);
        if !(1..=MAX_FRESH_S).contains(&period) {
            return Err(RevocationError::Period { issued_at: self.issued_at, next_update: self.next_update });
        }
        let hex =
            |entry: &str| (16..=256).contains(&entry.len()) && entry.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let word =
            |entry: &str| (1..=64).contains(&entry.len()) && entry.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'z' | b'-'));
        let lists = [("chips", &self.chips), ("aks", &self.aks), ("images", &self.images)];
        for (list, entries) in lists {
            if let Some(entry) = entries.iter().find(|entry| !hex(entry)) {
                return Err(RevocationError::Entry { list, entry: entry.clone(), expected: "16 to 256 hexadecimal digits" });
            }
        }
        if let Some(entry) = self.silicon_generations.iter().find(|entry| !word(entry)) {
            let expected = "a name of lower case letters, digits and hyphens";
            return Err(RevocationError::Entry { list: "silicon_generations", entry: entry.clone(), expected });
        }
        Ok(self)
    }
}

/// A list whose signature was verified; whether it is fresh is judged each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList(Revocations);

impl RevocationList {
    /// Verifies and parses a file.
    pub fn from_signed(file: &[u8], pinned_key: &[u8; 32]) -> Result<Self, RevocationError> {
        let payload = envelope::open(file, pinned_key, DOMAIN).map_err(RevocationError::Envelope)?;
        parse(&payload).map(Self)
    }

    /// The list's serial: whoever saw it accepts no lower one from then on.
    pub fn serial(&self) -> u64 {
        self.0.serial
    }
}

/// What a list says, without its signature.
pub(crate) fn parse(payload: &str) -> Result<Revocations, RevocationError> {
    let list: Revocations = serde_json::from_str(payload).map_err(RevocationError::Json)?;
    list.well_formed()
}

/// Judges freshness: the list must be there, of the present, and not older than the highest serial that was seen (`floor`,
/// 0 where none was). Only the returned value can be asked what is revoked.
pub fn judge(list: Option<&RevocationList>, now: UnixTime, floor: u64) -> Result<FreshList<'_>, Refused> {
    let RevocationList(list) = list.ok_or(Refused::Absent)?;
    if list.serial < floor {
        return Err(Refused::RolledBack { serial: list.serial, floor });
    }
    if list.issued_at.0 > now.0.saturating_add(CLOCK_AHEAD_S) {
        return Err(Refused::NotYet { issued_at: list.issued_at, now });
    }
    if list.next_update <= now {
        return Err(Refused::Expired { next_update: list.next_update, now });
    }
    Ok(FreshList(list))
}

/// A list that is fresh now.
#[derive(Debug, Clone, Copy)]
pub struct FreshList<'a>(&'a Revocations);

/// What evidence rests on, to be looked up. Each field is mandatory; a part that has none says so with an empty list.
#[derive(Debug, Clone, Copy)]
pub struct RestsOn<'a> {
    /// Identities of processors, GPUs and TPMs.
    pub chips: &'a [&'a [u8]],
    /// TPM names of attestation keys.
    pub aks: &'a [&'a [u8]],
    /// Digests of images.
    pub images: &'a [&'a [u8]],
    /// Generations of silicon.
    pub silicon_generations: &'a [&'a str],
}

impl FreshList<'_> {
    /// Nothing that the evidence rests on is revoked.
    pub fn require_absent(&self, rests_on: &RestsOn<'_>) -> Result<(), Refused> {
        let lists = [
            ("the chip", rests_on.chips, &self.0.chips),
            ("the attestation key", rests_on.aks, &self.0.aks),
            ("the image", rests_on.images, &self.0.images),
        ];
        for (what, values, revoked) in lists {
            if let Some(value) = values.iter().map(hex::encode).find(|value| revoked.contains(value)) {
                return Err(Refused::Revoked { what, value, serial: self.0.serial });
            }
        }
        let mut generations = rests_on.silicon_generations.iter().map(|name| name.to_ascii_lowercase());
        match generations.find(|name| self.0.silicon_generations.contains(name)) {
            Some(value) => Err(Refused::Revoked { what: "silicon of generation", value, serial: self.0.serial }),
            None => Ok(()),
        }
    }
}

/// The check `policy.revoked`, for a ledger.
pub(crate) fn finding(
    list: Option<&RevocationList>,
    rests_on: &RestsOn<'_>,
    now: UnixTime,
    floor: u64,
) -> Result<Finding<u64>, Refused> {
    let fresh = judge(list, now, floor)?;
    fresh.require_absent(rests_on)?;
    let (serial, until) = (fresh.0.serial, fresh.0.next_update);
    Ok(Finding::new(serial, format!("nothing of it is in revocation list {serial}, fresh until {until}")))
}

/// What a node and the software on it rest on.
pub(crate) struct NodeRests<'a> {
    /// TPM name of its attestation key.
    pub(crate) ak_name: &'a [u8],
    /// SHA-256 of its TPM's EK certificate.
    pub(crate) ek: &'a [u8; 32],
    /// They say which processor and GPUs were enrolled with that TPM.
    pub(crate) references: &'a ReferenceValues,
    /// Agent, VMM, and what a guest was started from.
    pub(crate) images: &'a [[u8; 32]],
}

/// The check `policy.revoked` of a node and of a guest without hardware evidence of its own.
pub(crate) fn node_finding(
    list: Option<&RevocationList>,
    rests: &NodeRests<'_>,
    now: UnixTime,
    floor: u64,
) -> Result<Finding<u64>, Refused> {
    let machine = rests.references.machine(rests.ek);
    let gpus: Vec<Vec<u8>> =
        machine.into_iter().flat_map(|machine| &machine.gpus).filter_map(|gpu| hex::decode(gpu).ok()).collect();
    let processor = match machine.and_then(|machine| machine.processor.as_ref()) {
        // A list may name a Turin by its eight bytes alone; of other generations the rest is not zero.
        Some(Processor::SnpChip(chip)) if chip[8..] == [0; 56] => vec![&chip[..], &chip[..8]],
        Some(Processor::SnpChip(chip)) => vec![&chip[..]],
        Some(Processor::TdxPlatform(platform)) => vec![&platform[..]],
        None => Vec::new(),
    };
    let tpm: [&[u8]; 1] = [rests.ek];
    let chips: Vec<&[u8]> = tpm.into_iter().chain(processor).chain(gpus.iter().map(Vec::as_slice)).collect();
    let images: Vec<&[u8]> = rests.images.iter().map(<[u8; 32]>::as_slice).collect();
    finding(list, &RestsOn { chips: &chips, aks: &[rests.ak_name], images: &images, silicon_generations: &[] }, now, floor)
}

const DOMAIN: &[u8] = b"casemate/revocations/v1\0";
