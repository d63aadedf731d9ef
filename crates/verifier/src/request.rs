//! One question, whole: evidence with all that is needed to judge it, as one JSON document.
//!
//! ```text
//! {"version": 1, "kind": "snp", "evidence": {…}, "endorsements": {…}, "policy": {…}, "expectation": {…}}
//! ```
//!
//! The same document is judged by a service and by a program that reads it from its standard input; `docs/api/appraisal.md` tells
//! the form for each [`RequestKind`]. Evidence and endorsements may come from anybody. Policy and expectation are the asker's, and so
//! are `anchors`, `references` and `revocations`: a service that pins its own ([`Pinned`]) refuses requests that bring theirs.

mod devices;
mod platform;
mod tpm;
mod wire;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    anchors::{AnchorError, TrustAnchors},
    checks::{Check, CheckName, Outcome},
    policy::Simulated,
    references::{ReferenceError, ReferenceValues},
    rego::{AppraisalPolicy, PolicyOptions, apply_policy},
    result::{AttestationResult, Tier},
    revocation::{RevocationError, RevocationList},
    time::UnixTime,
};

pub use tpm::TPM_CHECKS;

/// Longest request, in bytes.
pub const MAX_REQUEST: usize = 8 << 20;

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestKind {
    /// A report of AMD SEV-SNP.
    Snp,
    /// A quote of Intel TDX.
    Tdx,
    /// Reports of NVIDIA GPUs and switches.
    Gpu,
    /// A quote of a TPM, with the logs that lead to it.
    Tpm,
    /// An instance of level `microvm`.
    Instance,
    /// A confidential VM.
    Confidential,
}

impl RequestKind {
    /// As in requests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::Gpu => "gpu",
            Self::Tpm => "tpm",
            Self::Instance => "instance",
            Self::Confidential => "confidential",
        }
    }
}

impl fmt::Display for RequestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why bytes are not a request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Too long.
    #[error("the request has {len} bytes, more than the limit of {MAX_REQUEST}")]
    TooLong {
        /// Found.
        len: usize,
    },
    /// Another version.
    #[error("the request is of version {version}, expected 1")]
    Version {
        /// Found.
        version: u16,
    },
    /// Not the expected JSON.
    #[error("the request is not the expected JSON")]
    Json(#[source] serde_json::Error),
    /// The trust anchors that it brings.
    #[error("use the anchors of the request")]
    Anchors(#[source] AnchorError),
    /// The reference values that it brings.
    #[error("use the reference values of the request")]
    References(#[source] ReferenceError),
    /// The revocation list that it brings.
    #[error("use the revocation list of the request")]
    Revocations(#[source] RevocationError),
}

/// A request that is whole and well-formed. Nothing of it was judged.
#[derive(Debug)]
pub struct Request {
    at: Option<UnixTime>,
    subject: Subject,
}

#[derive(Debug)]
enum Subject {
    Snp(Box<devices::SnpRequest>),
    Tdx(Box<devices::TdxRequest>),
    Gpu(Box<devices::GpuRequest>),
    Tpm(Box<tpm::TpmRequest>),
    Instance(Box<platform::InstanceRequest>),
    Confidential(Box<platform::ConfidentialRequest>),
}

/// What the judging side itself holds to be true, whatever a request says.
#[derive(Debug, Clone, Copy)]
pub struct Pinned<'a> {
    /// Roots of the platform and of TPM vendors. Without them each request must bring its own.
    pub anchors: Option<&'a TrustAnchors>,
    /// Reference values. Without them each request must bring its own.
    pub references: Option<&'a ReferenceValues>,
    /// The last word. The built-in rules are about whole attesters, so they have no say in a lone device or quote; other rules do.
    pub rules: &'a AppraisalPolicy,
    /// Without one each request must bring its own; lone devices and quotes are not judged by it.
    pub revocations: Option<&'a RevocationList>,
    /// Whether simulators may stand in for hardware. A request must also say so itself, in its policy.
    pub simulated: Simulated,
}

/// The answer to a request.
#[derive(Debug, Clone, Serialize)]
pub struct Response {
    /// Format version; 1.
    pub version: u16,
    /// The request's.
    pub kind: String,
    /// The verdict: [`AttestationResult::is_affirming`].
    pub accepted: bool,
    /// The check that failed. There is one in each refusal.
    pub failed: Option<Check>,
    /// Every check, in order.
    pub checks: Vec<Check>,
    /// What the evidence says: of a device its claims, of all others their submodules' claims by name. `null` if it did not decode.
    pub claims: Value,
    /// The result, for storing and signing.
    pub result: AttestationResult,
}

impl Request {
    /// Parses a request.
    pub fn from_json(bytes: &[u8]) -> Result<Self, RequestError> {
        if bytes.len() > MAX_REQUEST {
            return Err(RequestError::TooLong { len: bytes.len() });
        }
        let head: wire::Head = serde_json::from_slice(bytes).map_err(RequestError::Json)?;
        if head.version != 1 {
            return Err(RequestError::Version { version: head.version });
        }
        let subject = match head.kind {
            RequestKind::Snp => Subject::Snp(parse(bytes)?),
            RequestKind::Tdx => Subject::Tdx(parse(bytes)?),
            RequestKind::Gpu => Subject::Gpu(parse(bytes)?),
            RequestKind::Tpm => Subject::Tpm(parse(bytes)?),
            RequestKind::Instance => Subject::Instance(Box::new(platform::InstanceRequest::from_json(bytes)?)),
            RequestKind::Confidential => Subject::Confidential(Box::new(platform::ConfidentialRequest::from_json(bytes)?)),
        };
        Ok(Self { at: head.at, subject })
    }

    /// What it is about.
    pub fn kind(&self) -> RequestKind {
        match self.subject {
            Subject::Snp(_) => RequestKind::Snp,
            Subject::Tdx(_) => RequestKind::Tdx,
            Subject::Gpu(_) => RequestKind::Gpu,
            Subject::Tpm(_) => RequestKind::Tpm,
            Subject::Instance(_) => RequestKind::Instance,
            Subject::Confidential(_) => RequestKind::Confidential,
        }
    }

    /// The nonce that it expects, where its kind has one of 32 bytes: for whoever issues nonces and takes each only once.
    pub fn nonce(&self) -> Option<[u8; 32]> {
        match &self.subject {
            Subject::Snp(_) | Subject::Tdx(_) => None,
            Subject::Gpu(request) => Some(request.nonce()),
            Subject::Tpm(request) => request.nonce(),
            Subject::Instance(request) => Some(request.nonce()),
            Subject::Confidential(request) => Some(request.nonce()),
        }
    }

    /// The time that it asks to be judged at. Whether that is honoured is for the judging side.
    pub fn at(&self) -> Option<UnixTime> {
        self.at
    }

    /// Whether it brings anchors, reference values or a revocation list of its own.
    pub fn brings_trust(&self) -> bool {
        match &self.subject {
            Subject::Snp(_) | Subject::Tdx(_) | Subject::Gpu(_) | Subject::Tpm(_) => false,
            Subject::Instance(request) => request.brings_trust(),
            Subject::Confidential(request) => request.brings_trust(),
        }
    }

    /// Judges it at time `now`.
    pub fn judge(&self, pinned: &Pinned<'_>, now: UnixTime) -> Response {
        let judged = match &self.subject {
            Subject::Snp(request) => request.judge(pinned, now),
            Subject::Tdx(request) => request.judge(pinned, now),
            Subject::Gpu(request) => request.judge(pinned, now),
            Subject::Tpm(request) => request.judge(pinned, now),
            Subject::Instance(request) => request.judge(pinned, now),
            Subject::Confidential(request) => request.judge(pinned, now),
        };
        let result = with_reason(judged.result);
        Response {
            version: 1,
            kind: self.kind().to_string(),
            accepted: result.is_affirming(),
            failed: result.failed().cloned(),
            checks: result.checks.clone(),
            claims: judged.claims,
            result,
        }
    }
}

/// How a request came out.
struct Judged {
    result: AttestationResult,
    claims: Value,
}

impl Judged {
    /// Of a device or a quote that is judged alone.
    fn lone(result: AttestationResult, claims: Value, pinned: &Pinned<'_>, gpus: u32) -> Self {
        if pinned.rules.is_built_in() {
            return Self { result, claims };
        }
        Self { result: apply_policy(result, pinned.rules, PolicyOptions::from(pinned.simulated), gpus), claims }
    }

    /// Of a whole attester.
    fn composite(result: AttestationResult) -> Self {
        let claims = result.submodules.iter().map(|(name, submodule)| (name.clone(), submodule.claims.clone())).collect();
        Self { result, claims: Value::Object(claims) }
    }
}

/// A refusal that no check gives a reason for is given one: a submodule may be worth less than its checks say, for example where its
/// silicon is known to be broken.
fn with_reason(mut result: AttestationResult) -> AttestationResult {
    if result.is_affirming() || result.failed().is_some() {
        return result;
    }
    let bad = result.submodules.iter().find(|(_, submodule)| submodule.tier() != Tier::Affirming);
    let detail = match bad {
        Some((name, submodule)) => match &submodule.silicon {
            Some(silicon) if silicon.trust != Tier::Affirming => {
                format!("the silicon of {name} is not to be trusted: {}", silicon.generation)
            }
            _ => format!("{name} is worth no more than {:?}", submodule.tier()),
        },
        None => format!("the result is {:?}", result.status),
    };
    let name = CheckName::PolicyAppraisal.to_string();
    result.checks.retain(|check| check.name != name);
    result.checks.push(Check { name, outcome: Outcome::Fail, detail });
    result.status = result.status.worst(Tier::Contraindicated);
    result
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<Box<T>, RequestError> {
    serde_json::from_slice(bytes).map(Box::new).map_err(RequestError::Json)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{devices::Lone, *};
    use crate::{Kind, Silicon, Submodule, TrustVector, claim};

    fn reason(silicon: Tier) -> Check {
        let trust = TrustVector { hardware: claim::UNSAFE_HARDWARE, ..TrustVector::default() };
        let mut part = Submodule::judged(Kind::SnpGuest, true, true, trust);
        part.silicon = Some(Silicon { generation: "milan".to_owned(), trust: silicon });
        let check = Check { name: "snp.format".to_owned(), outcome: Outcome::Pass, detail: String::new() };
        let found = Lone {
            submodules: BTreeMap::from([("guest".to_owned(), part)]),
            simulated: Vec::new(),
            warnings: Vec::new(),
            workload_digest: String::new(),
            answers: &[],
            checks: vec![check.clone()],
            verified: true,
        };
        let result = with_reason(found.close(Simulated::Refuse, UnixTime(0)));
        assert_eq!((result.status, &result.checks[0]), (Tier::Contraindicated, &check), "what passed is still told");
        result.failed().cloned().expect("it is given a reason")
    }

    #[test]
    fn a_part_of_less_worth_is_given_the_reason_that_it_has() {
        assert!(reason(Tier::Contraindicated).detail.contains("the silicon of guest"));
        assert_eq!(reason(Tier::Affirming).detail, "guest is worth no more than Warning");
    }
}
