//! What can go wrong between here and the TPM.

use std::{fmt, io};

use casemate_evidence::tpm::TpmDecodeError;

/// Why a TPM did not do something.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// The command or its response did not get through.
    #[error("send {command} to the TPM")]
    Transport {
        /// The command.
        command: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The TPM answered with a failure.
    #[error("the TPM refused {command} with response code {code}")]
    Refused {
        /// The command.
        command: &'static str,
        /// What it answered.
        code: ResponseCode,
    },
    /// The response is not one to this command.
    #[error("response of the TPM to {command} is malformed")]
    Malformed {
        /// The command.
        command: &'static str,
        /// Where.
        #[source]
        source: TpmDecodeError,
    },
    /// The response is well-formed and makes no sense.
    #[error("response of the TPM to {command} does not fit: {detail}")]
    Unexpected {
        /// The command.
        command: &'static str,
        /// What does not fit.
        detail: &'static str,
    },
    /// Something given to be sent is larger than the command allows.
    #[error("{what} for {command} has {len} bytes, more than the limit of {limit}")]
    TooLong {
        /// The command.
        command: &'static str,
        /// The argument.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// The TPM has no SHA-256 bank or no such PCR.
    #[error("the TPM has no PCR {pcr} in a SHA-256 bank")]
    NoSuchPcr {
        /// The PCR.
        pcr: u32,
    },
    /// Others extended PCRs at every attempt to read them together.
    #[error("PCRs changed during each of {attempts} attempts to read them")]
    PcrsChanging {
        /// How often it was tried.
        attempts: u32,
    },
    /// The manufacturer left no certificate of the endorsement key in the TPM.
    #[error("the TPM holds no RSA endorsement key certificate (NV index {index:#010x})")]
    NoEkCertificate {
        /// Where it should be.
        index: u32,
    },
    /// A TPM that should be fresh is not.
    #[error("PCR {pcr} of the fresh vTPM is not zero")]
    NotFresh {
        /// The first PCR with another value.
        pcr: u32,
    },
}

/// TPM_RC (Part 2, section 6.6).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ResponseCode(pub u32);

impl ResponseCode {
    /// TPM_RC_INITIALIZE: TPM2_Startup was sent before.
    pub const INITIALIZE: Self = Self(0x100);

    /// The code without the number of the handle, session or parameter that it is about.
    pub fn base(self) -> u32 {
        match self.0 & FORMAT_ONE {
            0 => self.0,
            _ => self.0 & (FORMAT_ONE | 0x3f),
        }
    }

    /// TPM_RC_YIELDED, TPM_RC_TESTING, TPM_RC_RETRY: nothing was done yet.
    pub(crate) fn asks_to_retry(self) -> bool {
        matches!(self.0, 0x908 | 0x90a | 0x922)
    }

    fn meaning(self) -> &'static str {
        match self.base() {
            0x081 => "TPM_RC_ASYMMETRIC",
            0x082 => "TPM_RC_ATTRIBUTES",
            0x083 => "TPM_RC_HASH",
            0x084 => "TPM_RC_VALUE",
            0x085 => "TPM_RC_HIERARCHY: the hierarchy is disabled",
            0x08b => "TPM_RC_HANDLE: there is no such object",
            0x08e => "TPM_RC_AUTH_FAIL: the hierarchy has a password",
            0x092 => "TPM_RC_SCHEME",
            0x095 => "TPM_RC_SIZE",
            0x09d => "TPM_RC_POLICY_FAIL",
            0x09f => "TPM_RC_INTEGRITY: made for another key or altered",
            0x0a2 => "TPM_RC_BAD_AUTH: the hierarchy has a password",
            0x100 => "TPM_RC_INITIALIZE: TPM2_Startup is missing, or was sent twice",
            0x101 => "TPM_RC_FAILURE: the TPM is in failure mode",
            0x143 => "TPM_RC_COMMAND_CODE: not implemented",
            0x902 => "TPM_RC_OBJECT_MEMORY: too many keys are loaded",
            0x903 => "TPM_RC_SESSION_MEMORY: too many sessions are open",
            0x908 => "TPM_RC_YIELDED: busy for too long",
            0x90a => "TPM_RC_TESTING: busy for too long",
            0x921 => "TPM_RC_LOCKOUT",
            0x922 => "TPM_RC_RETRY: busy for too long",
            _ => "see Part 2, section 6.6",
        }
    }
}

impl fmt::Display for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#05x} ({})", self.0, self.meaning())
    }
}

impl fmt::Debug for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResponseCode({self})")
    }
}

/// RC_FMT1: the low six bits are the error, the rest says what it is about.
const FORMAT_ONE: u32 = 0x80;
