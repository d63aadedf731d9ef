//! Evidence of one micro VM instance: node quote + launch record + guest quote.
//!
//! Encoding: CBOR (RFC 8949), maps with text keys in declaration order. Inner records travel as byte strings so that a
//! digest always covers the exact bytes that were sent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use crate::{Sha256Digest, merkle};

/// Media type of [`InstanceEvidence`].
pub const INSTANCE_EVIDENCE: &str = "application/vnd.casemate.instance-evidence+cbor";
/// Largest accepted encoding of [`InstanceEvidence`], in bytes.
pub const MAX_BYTES: usize = 1 << 20;

/// PCRs of the guest's vTPM and what the launcher (or the guest) extended into each, once, from zero:
/// `PCR = SHA-256(0^32 || SHA-256(bytes))`.
pub mod guest_pcr {
    /// SHA-256 of the kernel file.
    pub const KERNEL: u32 = 4;
    /// SHA-256 of the kernel command line's bytes (without a final NUL).
    pub const COMMAND_LINE: u32 = 8;
    /// SHA-256 of the initrd file.
    pub const INITRD: u32 = 9;
    /// The verity root hash of the guest OS image, extended as it is (it is a digest already).
    pub const ROOT_HASH: u32 = 11;
    /// The workload digest, extended by the guest before anything of the workload is opened.
    pub const WORKLOAD: u32 = 12;
    /// The selection that a guest quote covers, in ascending order.
    pub const QUOTED: [u32; 5] = [KERNEL, COMMAND_LINE, INITRD, ROOT_HASH, WORKLOAD];
}

/// The PCRs that a node quote covers, in ascending order: the firmware's and boot loader's with the kernel's command line (12), 10 for
/// the files that the kernel opened, and 14 for the node's own
/// software (agent, VMM), extended at node start with an event log entry each.
pub const NODE_PCRS: [u32; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14];

/// All that an agent sends for one nonce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceEvidence {
    /// Format version; 1.
    pub version: u16,
    /// The nonce it answers.
    #[serde(with = "serde_bytes32")]
    pub nonce: [u8; 32],
    /// Encoded [`LaunchRecord`].
    #[serde(with = "serde_blob")]
    pub launch_record: Vec<u8>,
    /// Encoded [`GuestKeys`].
    #[serde(with = "serde_blob")]
    pub guest_keys: Vec<u8>,
    /// The node TPM's quote; its qualifying data is the root of `batch`.
    pub node: QuoteBundle,
    /// The node's TCG event log (crypto-agile), replayed against the quoted PCRs.
    #[serde(with = "serde_blob")]
    pub node_event_log: Vec<u8>,
    /// Where this instance's leaf stands in the batch that the node quote covers.
    pub batch: merkle::InclusionPath,
    /// The guest vTPM's quote; its qualifying data is [`guest_binding`].
    pub guest: QuoteBundle,
}

/// A TPM quote with what is needed to check it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuoteBundle {
    /// TPMS_ATTEST as signed.
    #[serde(with = "serde_blob")]
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    #[serde(with = "serde_blob")]
    pub signature: Vec<u8>,
    /// TPMT_PUBLIC of the attestation key.
    #[serde(with = "serde_blob")]
    pub ak_public: Vec<u8>,
    /// SHA-256 PCR values, by index, that the quote's digest covers.
    pub pcrs: BTreeMap<u32, Pcr>,
}

/// One PCR value of the SHA-256 bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pcr(#[serde(with = "serde_bytes32")] pub Sha256Digest);

/// The exact inputs of a launch, as the launcher measured them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchRecord {
    /// Format version; 1.
    pub version: u16,
    /// The instance.
    pub instance: String,
    /// Digest of the canonical workload.
    #[serde(with = "serde_bytes32")]
    pub workload_digest: Sha256Digest,
    /// SHA-256 of the kernel file's bytes as given to the VMM.
    #[serde(with = "serde_bytes32")]
    pub kernel: Sha256Digest,
    /// SHA-256 of the initrd file's bytes as given to the VMM.
    #[serde(with = "serde_bytes32")]
    pub initrd: Sha256Digest,
    /// The kernel command line, whole.
    pub command_line: String,
    /// The dm-verity root hash of the guest OS root image, as on the command line.
    #[serde(with = "serde_bytes32")]
    pub root_hash: Sha256Digest,
    /// The VMM.
    pub vmm: Vmm,
    /// The machine's shape.
    pub machine: Machine,
    /// What holds the VMM, observed from outside after its start.
    pub jail: Jail,
    /// TPMT_PUBLIC of the guest vTPM's attestation key: this record endorses it.
    #[serde(with = "serde_blob")]
    pub vtpm_ak_public: Vec<u8>,
    /// The monitor that guarded the instance from its start on; absent: none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<Monitor>,
}

/// The node's security monitor, by its own word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    /// What it can do on the node's kernel: `enforcing`, `enforcing_without`, `observe_and_kill` or `detect_only`.
    pub class: String,
    /// Groups of hooks that the class does without.
    #[serde(deserialize_with = "serde_list::deserialize")]
    pub without: Vec<String>,
}

/// The virtual machine monitor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vmm {
    /// `qemu` or `fake`.
    pub name: String,
    /// As it says itself.
    pub version: String,
    /// SHA-256 of its binary.
    #[serde(with = "serde_bytes32")]
    pub digest: Sha256Digest,
}

/// Shape of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// e.g. `microvm`.
    pub kind: String,
    /// `kvm` or `tcg`.
    pub accel: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Guest memory.
    pub memory_mib: u64,
}

/// The jail around the VMM, from observation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jail {
    /// User id that the VMM's threads run as.
    pub uid: u32,
    /// Every thread has `NoNewPrivs`.
    pub no_new_privs: bool,
    /// Every thread has a seccomp filter (mode 2).
    pub seccomp: bool,
    /// Effective and permitted capabilities, all threads or-ed.
    pub capabilities: u64,
    /// Namespaces that differ from the agent's, sorted: of `cgroup ipc mnt net pid uts`.
    #[serde(deserialize_with = "serde_list::deserialize")]
    pub namespaces: Vec<String>,
    /// The VMM is in a cgroup of its own with memory and pids limits.
    pub cgroup: bool,
}

/// Public keys that the guest made for this boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestKeys {
    /// Format version; 1.
    pub version: u16,
    /// X25519 public key for HPKE (RFC 9180, DHKEM(X25519, HKDF-SHA256)): keys are sealed to it, and the guest's records
    /// are authenticated by it.
    #[serde(with = "serde_bytes32")]
    pub hpke: [u8; 32],
    /// Ed25519 public key of the guest's TLS identity; it also signs the exit report.
    #[serde(with = "serde_bytes32")]
    pub tls: [u8; 32],
}

/// Why bytes are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Longer than the limit.
    #[error("{what} has {len} bytes, more than the limit of {limit}")]
    TooLong {
        /// What was decoded.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// Not the CBOR of this type.
    #[error("{what} is not well-formed: {detail}")]
    Malformed {
        /// What was decoded.
        what: &'static str,
        /// What the decoder said.
        detail: String,
    },
    /// A version that this code does not know.
    #[error("{what} has version {version}, only 1 is known")]
    Version {
        /// What was decoded.
        what: &'static str,
        /// The version found.
        version: u16,
    },
}

/// A record with a CBOR encoding, a name and a version.
pub trait Record: Serialize + DeserializeOwned {
    /// What it is called in errors.
    const NAME: &'static str;
    /// The version field.
    fn version(&self) -> u16;

    /// The encoding.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        ciborium::into_writer(self, &mut out).expect("writing CBOR to a Vec cannot fail");
        out
    }

    /// The record in `bytes`, at most [`MAX_BYTES`], nothing after it.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_BYTES {
            return Err(DecodeError::TooLong { what: Self::NAME, len: bytes.len(), limit: MAX_BYTES });
        }
        let mut rest = bytes;
        let malformed = |detail: String| DecodeError::Malformed { what: Self::NAME, detail };
        let record: Self =
            ciborium::de::from_reader_with_recursion_limit(&mut rest, 16).map_err(|error| malformed(words(&error)))?;
        if !rest.is_empty() {
            return Err(malformed(format!("{} bytes after the end", rest.len())));
        }
        match record.version() {
            1 => Ok(record),
            version => Err(DecodeError::Version { what: Self::NAME, version }),
        }
    }
}

/// The library's own text has the names of its variants in it.
fn words(error: &ciborium::de::Error<std::io::Error>) -> String {
    use ciborium::de::Error;
    match error {
        Error::Io(_) => "it ends too early".to_owned(),
        Error::Syntax(at) => format!("byte {at} is no CBOR"),
        Error::Semantic(_, what) => what.clone(),
        Error::RecursionLimitExceeded => "it is nested too deeply".to_owned(),
    }
}

impl Record for InstanceEvidence {
    const NAME: &'static str = "instance evidence";
    fn version(&self) -> u16 {
        self.version
    }
}

impl Record for LaunchRecord {
    const NAME: &'static str = "launch record";
    fn version(&self) -> u16 {
        self.version
    }
}

impl Record for GuestKeys {
    const NAME: &'static str = "guest keys";
    fn version(&self) -> u16 {
        self.version
    }
}

/// The leaf that stands for one instance under the node's quote.
///
/// `SHA-256(0x00 || "casemate/instance-leaf/v1" || nonce || SHA-256(launch record) || SHA-256(guest keys) ||
/// SHA-256(guest attest))`; the launch record carries instance id and workload digest.
pub fn instance_leaf(nonce: &[u8; 32], launch_record: &[u8], guest_keys: &[u8], guest_attest: &[u8]) -> Sha256Digest {
    let mut hash = Sha256::new();
    hash.update([0x00]);
    hash.update(b"casemate/instance-leaf/v1");
    hash.update(nonce);
    hash.update(Sha256::digest(launch_record));
    hash.update(Sha256::digest(guest_keys));
    hash.update(Sha256::digest(guest_attest));
    hash.finalize().into()
}

/// Qualifying data of the guest's quote.
///
/// `SHA-256("casemate/guest-binding/v1" || nonce || SHA-256(guest keys) || workload digest || SHA-256(instance id))`.
pub fn guest_binding(nonce: &[u8; 32], guest_keys: &[u8], workload_digest: &Sha256Digest, instance: &str) -> Sha256Digest {
    let mut hash = Sha256::new();
    hash.update(b"casemate/guest-binding/v1");
    hash.update(nonce);
    hash.update(Sha256::digest(guest_keys));
    hash.update(workload_digest);
    hash.update(Sha256::digest(instance.as_bytes()));
    hash.finalize().into()
}

/// 32 bytes as a CBOR byte string.
pub(crate) mod serde_bytes32 {
    use serde::{Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let bytes = super::serde_blob::deserialize(deserializer)?;
        let len = bytes.len();
        bytes.try_into().map_err(|_| D::Error::invalid_length(len, &"32 bytes"))
    }
}

/// Any number of bytes as a CBOR byte string.
pub(crate) mod serde_blob {
    use serde::{Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

/// A list. It may say how long it is, but no room is made before its entries are there.
pub(crate) mod serde_list {
    use std::{fmt, marker::PhantomData};

    use serde::{
        Deserialize, Deserializer,
        de::{SeqAccess, Visitor},
    };

    struct List<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(entry) = entries.next_element()? {
                list.push(entry);
            }
            Ok(list)
        }
    }

    pub(crate) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(List(PhantomData))
    }
}

#[cfg(test)]
mod tests;
