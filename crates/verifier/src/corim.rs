//! Reference values as CoRIM (draft-ietf-rats-corim), in and out.
//!
//! A signed CoRIM is COSE_Sign1 with content type `application/rim+cbor`; here always with EdDSA by the same pinned Ed25519
//! key that signs the JSON form. In it is one unsigned CoRIM (tag 501) with CoMID tags (506), and in those the triples of
//! the table. What a reader here does not know it refuses: a manifest of which one believes only a part is none. The
//! decoder is strict, see [`CborError`].
//!
//! | values | class id (OID) | vendor, model | measurements |
//! |---|---|---|---|
//! | guest OS | `….59999.2.1` | Casemate, its name | `kernel`, `initrd`, `root-hash`: SHA-256; `command-line`: name |
//! | agent, VMM of a node | `….2.2`, `….2.3` | Casemate, `agent` or `vmm` | SHA-256, one triple for each |
//! | SNP launch | `….2.4` | AMD, name of the guest | `measurement`: SHA-384, one triple for each |
//! | TDX launch | `….2.5` | Intel, name of the guest | `mrtd`, `rtmr0` to `rtmr3`: SHA-384; a key again is an alternative |
//! | boot component | `….2.6` | Casemate, its name | SHA-256, one triple for each |
//! | file that IMA measures | `….2.7` | Casemate, its path | SHA-256, one triple for each |
//! | OCI runtime of a node | `….2.9` | Casemate, `container` or `sandbox` | SHA-256, one triple for each |
//! | process 1 of a container | `….2.10` | Casemate, `guest` | SHA-256, one triple for each |
//! | machine | `….2.8`, instance: EK digest | Casemate | *endorsed*: `ek`, `chip-id`, `platform-instance-id`: raw; `gpu`: serial number |

pub(crate) mod read;
mod write;

use ciborium::Value;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest as _, Sha256};
use x509_cert::der::asn1::ObjectIdentifier;

use crate::{
    cbor::{self, CborError, Fields, Sign1},
    references::{ReferenceError, ReferenceValues},
    time::UnixTime,
};

/// Longest signed CoRIM, in bytes.
pub const MAX_CORIM: usize = 2 << 20;

/// Why a CoRIM was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CorimError {
    /// Not CBOR of the right shape.
    #[error("read the CoRIM")]
    Cbor(#[source] CborError),
    /// Another algorithm or content type than the only one.
    #[error("the {field} of the CoRIM is not {expected}")]
    Header {
        /// Which.
        field: &'static str,
        /// The only one.
        expected: &'static str,
    },
    /// Names another key.
    #[error("the CoRIM is signed by another key than the pinned one")]
    OtherKey,
    /// The pinned key is none.
    #[error("the pinned key is not an Ed25519 public key")]
    PinnedKey,
    /// Not what was signed.
    #[error("the signature of the CoRIM is not that of the pinned key")]
    Signature,
    /// Not now.
    #[error("the CoRIM is valid from {from} to {until}, it is {now}")]
    Validity {
        /// First second.
        from: UnixTime,
        /// Last second.
        until: UnixTime,
        /// The time of the relying party.
        now: UnixTime,
    },
    /// Another profile of the format.
    #[error("the CoRIM has another profile than {PROFILE}")]
    Profile,
    /// A tag or triple that is not understood.
    #[error("the CoRIM has {0}, which is not understood")]
    Unknown(String),
    /// Values that do not fit each other.
    #[error("the CoRIM's values")]
    Values(#[source] ReferenceError),
}

/// What a CoRIM says of itself.
#[derive(Debug, Clone)]
pub struct CorimMeta {
    /// Identifier of this manifest.
    pub id: String,
    /// Who signs it, for people.
    pub signer: String,
    /// First second of its validity.
    pub not_before: UnixTime,
    /// Last second of its validity.
    pub not_after: UnixTime,
}

/// Signs reference values as CoRIM.
pub fn sign_corim(values: &ReferenceValues, meta: &CorimMeta, key: &SigningKey) -> Vec<u8> {
    let payload = cbor::encode(&write::unsigned(values, meta));
    let signer = cbor::map(vec![(0, Value::Text(meta.signer.clone()))]);
    let about = cbor::map(vec![(0, signer), (1, validity(meta))]);
    let headers = vec![
        (ALG, Value::from(EDDSA)),
        (CONTENT_TYPE, Value::Text(MEDIA_TYPE.to_owned())),
        (KID, Value::Bytes(kid(&key.verifying_key().to_bytes()))),
        (META, Value::Bytes(cbor::encode(&about))),
    ];
    Sign1::encode(headers, payload, |message| key.sign(message).to_bytes().to_vec())
}

/// Verifies a signed CoRIM against a pinned key. Validity is mandatory and judged at `now`, as well of the signature as of
/// the manifest.
pub fn verify_corim(bytes: &[u8], pinned_key: &[u8; 32], now: UnixTime) -> Result<ReferenceValues, CorimError> {
    let message = Sign1::decode(bytes, MAX_CORIM).map_err(CorimError::Cbor)?;
    let valid = headers(&message, pinned_key)?;
    let key = VerifyingKey::from_bytes(pinned_key).map_err(|_| CorimError::PinnedKey)?;
    let signature = Signature::from_slice(&message.signature).map_err(|_| CorimError::Signature)?;
    key.verify_strict(&message.signed_bytes(), &signature).map_err(|_| CorimError::Signature)?;
    valid.at(now)?;
    read::unsigned(&message.payload, now)
}

/// A period, both ends included.
struct Validity {
    from: UnixTime,
    until: UnixTime,
}

impl Validity {
    fn read(value: Value) -> Result<Self, CborError> {
        let mut fields = Fields::new(value, "a validity", &[0, 1])?;
        let time = |value| Ok(UnixTime(cbor::unsigned(&cbor::tagged(value, TAG_TIME, "a time")?, "a time")?));
        let from = fields.optional(0).map(time).transpose()?.unwrap_or(UnixTime(0));
        Ok(Self { from, until: time(fields.required(1)?)? })
    }

    fn at(&self, now: UnixTime) -> Result<(), CorimError> {
        if (self.from..=self.until).contains(&now) {
            return Ok(());
        }
        Err(CorimError::Validity { from: self.from, until: self.until, now })
    }
}

fn validity(meta: &CorimMeta) -> Value {
    let time = |at: UnixTime| Value::Tag(TAG_TIME, Box::new(at.0.into()));
    cbor::map(vec![(0, time(meta.not_before)), (1, time(meta.not_after))])
}

fn headers(message: &Sign1, pinned_key: &[u8; 32]) -> Result<Validity, CorimError> {
    let mut headers = message.headers(&[ALG, CONTENT_TYPE, KID, META]).map_err(CorimError::Cbor)?;
    let mut field = |label| headers.required(label).map_err(CorimError::Cbor);
    if field(ALG)? != Value::from(EDDSA) {
        return Err(CorimError::Header { field: "algorithm", expected: "EdDSA (-8)" });
    }
    if field(CONTENT_TYPE)? != Value::Text(MEDIA_TYPE.to_owned()) {
        return Err(CorimError::Header { field: "content type", expected: MEDIA_TYPE });
    }
    if field(KID)? != Value::Bytes(kid(pinned_key)) {
        return Err(CorimError::OtherKey);
    }
    meta(field(META)?).map_err(CorimError::Cbor)
}

/// corim-meta-map: the signer's name is for people.
fn meta(value: Value) -> Result<Validity, CborError> {
    let bytes = cbor::bytes(value, "corim-meta")?;
    let mut meta = Fields::new(cbor::decode(&bytes, bytes.len())?, "corim-meta", &[0, 1])?;
    let mut signer = Fields::new(meta.required(0)?, "the signer", &[0, 1])?;
    cbor::text(signer.required(0)?, "the signer's name")?;
    Validity::read(meta.required(1)?)
}

/// SHA-256 of the public key.
fn kid(key: &[u8; 32]) -> Vec<u8> {
    Sha256::digest(key).to_vec()
}

/// What an environment is, by the OID of its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    GuestOs,
    Agent,
    Vmm,
    Snp,
    Tdx,
    Boot,
    Ima,
    Machine,
    Runtime,
    ContainerGuest,
}

impl Class {
    const ALL: [(Self, ObjectIdentifier, &'static str); 10] = [
        (Self::GuestOs, ObjectIdentifier::new_unwrap("1.3.6.1.4.1.59999.2.1"), "Casemate"),
        (Self::Agent, ObjectIdentifier::new_unwrap("1.3.6.1.4.1.59999.2.2"), "Casemate"),
        (Self::Vmm, ObjectIdentifier::new_unwrap("1.3.6.1.4.1.59999.2.3"), "Casemate"),
        (Self::Snp, ObjectIdentifier::new_unwrap("1.3.6.1.4.1.59999.2.4"), "AMD"),
        (Self::Tdx, ObjectIdentifier::new_unwrap("1.3.6.1.4.1.59999.2.5"), "Intel"),
        (Self::Boot, ObjectIdentifier::new_unwrap("1.3.6.1.4.1.59999.2.6"), "Casemate"),
        (Self::Ima, ObjectIdentifier::new_unwrap("1.3.6.1.4.1.59999.2.7"), "Casemate"),
        (Self::Machine, ObjectIdentifier::new_unwrap("1.3.6.1.4.1.59999.2.8"), "Casemate"),
        (Self::Runtime, ObjectIdentifier::new_unwrap("1.3.6.1.4.1.59999.2.9"), "Casemate"),
        (Self::ContainerGuest, ObjectIdentifier::new_unwrap("1.3.6.1.4.1.59999.2.10"), "Casemate"),
    ];

    /// The content of a tagged OID (RFC 9090): BER without tag and length.
    fn oid(self) -> &'static [u8] {
        let (_, oid, _) = Self::ALL.iter().find(|(class, _, _)| *class == self).expect("all classes are listed");
        oid.as_bytes()
    }

    fn vendor(self) -> &'static str {
        Self::ALL.iter().find(|(class, _, _)| *class == self).expect("all classes are listed").2
    }

    fn of(oid: &[u8], vendor: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, of)| known.as_bytes() == oid && *of == vendor).map(|(class, _, _)| *class)
    }
}

/// COSE header parameters (RFC 9052, section 3.1; corim-meta: draft-ietf-rats-corim, section 4.2).
const ALG: i64 = 1;
const CONTENT_TYPE: i64 = 3;
const KID: i64 = 4;
const META: i64 = 8;
/// COSE algorithm (RFC 9053, section 2.2).
const EDDSA: i64 = -8;
const MEDIA_TYPE: &str = "application/rim+cbor";
const PROFILE: &str = "https://casemate.example/corim/1";
const TAG_TIME: u64 = 1;
const TAG_URI: u64 = 32;
const TAG_OID: u64 = 111;
const TAG_CORIM: u64 = 501;
const TAG_COMID: u64 = 506;
const TAG_BYTES: u64 = 560;
/// Named Information hash algorithms (RFC 6920).
const SHA_256: u64 = 1;
const SHA_384: u64 = 7;
