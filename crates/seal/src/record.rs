//! Records: what a guest tells its tenant (output, result, exit status), in order, past everybody else.
//!
//! ```text
//! record 0:  enc (32) || AES-256-GCM ciphertext
//! record n:              AES-256-GCM ciphertext
//! ```
//!
//! One HPKE Auth context for all records of an instance, the guest being the sender; info `casemate/records/v1`; the
//! associated data binds instance and workload digest. HPKE counts messages, so a record that was altered, dropped,
//! doubled or moved does not open. [`Record::Exit`] is the last one: a stream that stops before it was cut.
//!
//! The plaintext: one byte for the kind (1 stdout, 2 stderr, 3 output, 4 exit), then its bytes (exit: i32, big endian).

use std::fmt;

use hpke::rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::{
    HpkeSecret, SealError,
    suite::{self, ENC_LEN, ReceiverContext, SenderContext, TAG_LEN},
};

/// Most bytes of one record before sealing.
pub const MAX_PLAINTEXT: usize = 256 << 10;
/// Largest sealed record, in bytes.
pub const MAX_SEALED: usize = ENC_LEN + 1 + MAX_PLAINTEXT + TAG_LEN;

/// One record.
#[derive(Clone, PartialEq, Eq)]
pub enum Record {
    /// Bytes from the workload's standard output.
    Stdout(Vec<u8>),
    /// Bytes from the workload's standard error.
    Stderr(Vec<u8>),
    /// The next bytes of the tar archive of the workload's output.
    Output(Vec<u8>),
    /// The workload ended; the last record.
    Exit {
        /// Its exit status; 128 + signal number after a signal.
        code: i32,
    },
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout(bytes) => write!(f, "Stdout({} bytes)", bytes.len()),
            Self::Stderr(bytes) => write!(f, "Stderr({} bytes)", bytes.len()),
            Self::Output(bytes) => write!(f, "Output({} bytes)", bytes.len()),
            Self::Exit { code } => write!(f, "Exit({code})"),
        }
    }
}

/// The guest's end. It is not made again for the same instance: the tenant opens one stream from its first record on.
pub struct RecordSealer {
    context: SenderContext,
    enc: [u8; ENC_LEN],
    aad: Vec<u8>,
    place: Place,
}

impl RecordSealer {
    /// A sender to the tenant whose public key is in the workload.
    pub fn new(
        guest: &HpkeSecret,
        tenant_public: &[u8; 32],
        instance: &str,
        workload_digest: &[u8; 32],
        rng: &mut impl CryptoRng,
    ) -> Result<Self, SealError> {
        let (enc, context) = suite::sender(guest, tenant_public, "tenant", INFO, rng)?;
        let aad = suite::associated_data(instance, workload_digest, &[]);
        Ok(Self { context, enc, aad, place: Place::default() })
    }

    /// Number of the next record, from 0.
    pub fn next_number(&self) -> u64 {
        self.place.next
    }

    /// Seals the next record. After [`Record::Exit`] there is none.
    pub fn seal(&mut self, record: &Record) -> Result<Vec<u8>, SealError> {
        self.place.before_exit()?;
        let plain = encode(record)?;
        let sealed = self.context.seal(&plain, &self.aad).map_err(|_| SealError::Cipher { what: "record" })?;
        let first = self.place.next == 0;
        self.place.passed(record);
        Ok(if first { [&self.enc[..], &sealed].concat() } else { sealed })
    }
}

impl fmt::Debug for RecordSealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordSealer").field("place", &self.place).finish_non_exhaustive()
    }
}

/// The tenant's end.
pub struct RecordOpener {
    tenant: HpkeSecret,
    guest_public: [u8; 32],
    aad: Vec<u8>,
    // From the first record on, which carries the encapsulated key.
    context: Option<ReceiverContext>,
    place: Place,
}

impl RecordOpener {
    /// A receiver of what the guest with this *attested* public key sends.
    pub fn new(tenant: &HpkeSecret, guest_public: &[u8; 32], instance: &str, workload_digest: &[u8; 32]) -> Self {
        let aad = suite::associated_data(instance, workload_digest, &[]);
        Self { tenant: tenant.clone(), guest_public: *guest_public, aad, context: None, place: Place::default() }
    }

    /// Number of the next record, from 0.
    pub fn next_number(&self) -> u64 {
        self.place.next
    }

    /// Whether the exit record was opened: the stream is whole.
    pub fn is_complete(&self) -> bool {
        self.place.exited
    }

    /// Opens the next record. After an error the right record can still be opened.
    pub fn open(&mut self, bytes: &[u8]) -> Result<Record, SealError> {
        self.place.before_exit()?;
        if bytes.len() > MAX_SEALED {
            return Err(SealError::TooLong { what: "sealed record (bytes)", len: bytes.len(), limit: MAX_SEALED });
        }
        let refused = SealError::RecordNotAuthentic { number: self.place.next };
        let plain = match &mut self.context {
            Some(context) => context.open(bytes, &self.aad).map_err(|_| refused)?,
            None => {
                let (enc, sealed) = bytes.split_first_chunk().ok_or(malformed("it is cut short"))?;
                let opened = suite::receiver(&self.tenant, &self.guest_public, enc, INFO)
                    .and_then(|mut context| Ok((context.open(sealed, &self.aad)?, context)));
                let (plain, context) = opened.map_err(|_| refused)?;
                self.context = Some(context);
                plain
            }
        };
        let record = decode(&Zeroizing::new(plain))?;
        self.place.passed(&record);
        Ok(record)
    }
}

impl fmt::Debug for RecordOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordOpener").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Where a stream stands.
#[derive(Debug, Default)]
struct Place {
    next: u64,
    exited: bool,
}

impl Place {
    fn before_exit(&self) -> Result<(), SealError> {
        if self.exited { Err(SealError::AfterExit { number: self.next }) } else { Ok(()) }
    }

    fn passed(&mut self, record: &Record) {
        self.next += 1;
        self.exited = matches!(record, Record::Exit { .. });
    }
}

fn encode(record: &Record) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let code_bytes;
    let (kind, body) = match record {
        Record::Stdout(bytes) => (STDOUT, bytes.as_slice()),
        Record::Stderr(bytes) => (STDERR, bytes.as_slice()),
        Record::Output(bytes) => (OUTPUT, bytes.as_slice()),
        Record::Exit { code } => {
            code_bytes = code.to_be_bytes();
            (EXIT, code_bytes.as_slice())
        }
    };
    if body.len() > MAX_PLAINTEXT {
        return Err(SealError::TooLong { what: "record (bytes)", len: body.len(), limit: MAX_PLAINTEXT });
    }
    let mut out = Zeroizing::new(Vec::with_capacity(1 + body.len()));
    out.push(kind);
    out.extend_from_slice(body);
    Ok(out)
}

fn decode(plain: &[u8]) -> Result<Record, SealError> {
    let (kind, body) = plain.split_first().ok_or(malformed("it is empty"))?;
    match *kind {
        STDOUT => Ok(Record::Stdout(body.to_vec())),
        STDERR => Ok(Record::Stderr(body.to_vec())),
        OUTPUT => Ok(Record::Output(body.to_vec())),
        EXIT => match body.try_into() {
            Ok(code) => Ok(Record::Exit { code: i32::from_be_bytes(code) }),
            Err(_) => Err(malformed("the exit status has not 4 bytes")),
        },
        5.. | 0 => Err(malformed("its kind is unknown")),
    }
}

fn malformed(detail: &'static str) -> SealError {
    SealError::Malformed { what: "record", detail }
}

const INFO: &[u8] = b"casemate/records/v1";
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const OUTPUT: u8 = 3;
const EXIT: u8 = 4;

#[cfg(test)]
mod tests;
