//! The documents that Intel signs: TCB info and the identity of the quoting enclave (PCS API version 4, "Get TDX TCB Info" and
//! "Get TDX Quoting Enclave Identity"). Fields that are not known are not refused: the signer may add some within a version.

use serde::{Deserialize, Deserializer, de::Error as _};
use x509_cert::der::DateTime;

use super::status::TcbStatus;
use crate::time::UnixTime;

/// Levels of the TCB of a processor family, best first.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TcbInfo {
    /// `TDX`, or `SGX` for enclaves.
    pub(super) id: String,
    pub(super) version: u32,
    pub(super) issue_date: Date,
    pub(super) next_update: Date,
    pub(super) fmspc: Hex<6>,
    pub(super) pce_id: Hex<2>,
    /// How levels are compared; 0 is the only one there is.
    pub(super) tcb_type: u32,
    pub(super) tcb_evaluation_data_number: u32,
    /// Of TDX modules of version 0.
    pub(super) tdx_module: Option<ModuleSigner>,
    /// Of all others.
    #[serde(default)]
    pub(super) tdx_module_identities: Vec<ModuleIdentity>,
    pub(super) tcb_levels: Vec<Level<PlatformTcb>>,
}

/// Identity of Intel's quoting enclave, with its levels, best first.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct QeIdentity {
    /// `TD_QE`, or `QE` for enclaves.
    pub(super) id: String,
    pub(super) version: u32,
    pub(super) issue_date: Date,
    pub(super) next_update: Date,
    pub(super) tcb_evaluation_data_number: u32,
    pub(super) miscselect: Hex<4>,
    pub(super) miscselect_mask: Hex<4>,
    pub(super) attributes: Hex<16>,
    pub(super) attributes_mask: Hex<16>,
    pub(super) mrsigner: Hex<32>,
    pub(super) isvprodid: u16,
    pub(super) tcb_levels: Vec<Level<SoftwareTcb>>,
}

/// A level: who has at least `tcb` has this status.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Level<T> {
    pub(super) tcb: T,
    pub(super) tcb_date: Date,
    pub(super) tcb_status: TcbStatus,
    #[serde(default, rename = "advisoryIDs")]
    pub(super) advisories: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct PlatformTcb {
    pub(super) sgxtcbcomponents: [Component; 16],
    pub(super) pcesvn: u16,
    pub(super) tdxtcbcomponents: Option<[Component; 16]>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Component {
    pub(super) svn: u8,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct SoftwareTcb {
    pub(super) isvsvn: u16,
}

/// Who signs a TDX module, and with which attributes.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ModuleSigner {
    pub(super) mrsigner: Hex<48>,
    pub(super) attributes: Hex<8>,
    pub(super) attributes_mask: Hex<8>,
}

/// A major version of the TDX module.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ModuleIdentity {
    /// `TDX_` and two hex digits.
    pub(super) id: String,
    #[serde(flatten)]
    pub(super) signer: ModuleSigner,
    pub(super) tcb_levels: Vec<Level<SoftwareTcb>>,
}

/// Bytes in hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hex<const N: usize>(pub(super) [u8; N]);

impl<const N: usize> Hex<N> {
    /// `seen` has the value of this where `mask` has ones.
    pub(super) fn equals(&self, seen: &[u8; N], mask: &Self) -> bool {
        (0..N).all(|at| (self.0[at] ^ seen[at]) & mask.0[at] == 0)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; N];
        hex::decode_to_slice(&text, &mut bytes).map_err(|error| D::Error::custom(format!("hex of {N} bytes: {error}")))?;
        Ok(Self(bytes))
    }
}

/// A date as in `2025-06-19T10:16:03Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Date(pub(super) UnixTime);

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let date: DateTime = text.parse().map_err(|_| D::Error::custom("a date is not of the form 2025-06-19T10:16:03Z"))?;
        Ok(Self(UnixTime(date.unix_duration().as_secs())))
    }
}
