//! A device that is judged alone.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Judged, Pinned, wire};
use crate::{
    checks::{Check, CheckName, Ledger, Outcome},
    confidential::devices::{gpu_submodule, snp_anchor, snp_submodule, tdx_anchor, tdx_submodule},
    gpu::{self, GpuPolicy, Manifest, ManifestDocument, Revocation, appraise_gpus},
    instance::simulated,
    policy::Simulated,
    result::{Anchor, AttestationResult, Submodule, Tier},
    snp::{self, SnpPolicy, VerifiedSnp, appraise_snp},
    tdx::{self, TdxPolicy, VerifiedTdx, appraise_tdx},
    time::UnixTime,
};

/// Of kind `snp`.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct SnpRequest(wire::Whole<wire::SnpEvidence, wire::SnpEndorsements, SnpPolicy, wire::SnpExpectation>);

impl SnpRequest {
    pub(super) fn judge(&self, pinned: &Pinned<'_>, now: UnixTime) -> Judged {
        let wire::Whole { evidence, endorsements, policy, expectation, .. } = &self.0;
        let chain = wire::all(&endorsements.chain);
        let (measurements, revoked) = (wire::plain(&expectation.measurements), wire::plain(&expectation.revoked_chips));
        let expected = snp::Expectation {
            measurements: &measurements,
            host_data: expectation.host_data.0,
            report_data: expectation.report_data.0,
            vmpl: expectation.vmpl,
            identity: (&expectation.identity).into(),
            revoked_chips: &revoked,
        };
        let endorsed = snp::Endorsements::new(&chain, endorsements.crl.as_ref().map(|crl| crl.0.as_slice()));
        let appraised = appraise_snp(&evidence.report.0, &endorsed, policy, &expected, now);
        let found = Lone {
            submodules: BTreeMap::from([("guest".to_owned(), snp_submodule(&appraised))]),
            simulated: named(appraised.verified().is_some_and(VerifiedSnp::simulated), AMD),
            anchors: appraised.verified().map(snp_anchor).into_iter().collect(),
            warnings: appraised.claims().map(|claims| claims.warnings.clone()).unwrap_or_default(),
            workload_digest: hex::encode(expectation.host_data.0),
            answers: &expectation.report_data.0,
            checks: appraised.checks().to_vec(),
            verified: appraised.verified().is_some(),
        };
        Judged::lone(found.close(pinned.simulated, now), value(appraised.claims()), pinned, 0)
    }
}

/// Of kind `tdx`.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct TdxRequest(wire::Whole<wire::TdxEvidence, wire::TdxEndorsements, TdxPolicy, wire::TdxExpectation>);

impl TdxRequest {
    pub(super) fn judge(&self, pinned: &Pinned<'_>, now: UnixTime) -> Judged {
        let wire::Whole { evidence, endorsements, policy, expectation, .. } = &self.0;
        let mrtd = wire::plain(&expectation.mrtd);
        let rules = expectation.rtmrs.each_ref().map(Register::new);
        let expected = tdx::Expectation {
            mrtd: &mrtd,
            rtmrs: rules.each_ref().map(Register::as_rule),
            config_id: expectation.config_id.0,
            owner: expectation.owner.0,
            owner_config: expectation.owner_config.0,
            service_td: expectation.service_td.0,
            report_data: expectation.report_data.0,
        };
        let log = evidence.event_log.as_ref().map(|log| log.0.as_slice());
        let appraised = appraise_tdx(&evidence.quote.0, log, &endorsements.as_input(), policy, &expected, now);
        let found = Lone {
            submodules: BTreeMap::from([("guest".to_owned(), tdx_submodule(&appraised, now))]),
            simulated: named(appraised.verified().is_some_and(VerifiedTdx::is_simulated), INTEL),
            anchors: appraised.verified().map(tdx_anchor).into_iter().collect(),
            warnings: appraised.claims().map(|claims| claims.warnings.clone()).unwrap_or_default(),
            workload_digest: hex::encode(&expectation.config_id.0[..32]),
            answers: &expectation.report_data.0,
            checks: appraised.checks().to_vec(),
            verified: appraised.verified().is_some(),
        };
        Judged::lone(found.close(pinned.simulated, now), value(appraised.claims()), pinned, 0)
    }
}

/// The rule for one register.
enum Register {
    OneOf(Vec<[u8; 48]>),
    Events { required: Vec<[u8; 48]>, allowed: Vec<[u8; 48]> },
    DangerAny,
}

impl Register {
    fn new(wire: &wire::Rtmr) -> Self {
        match wire {
            wire::Rtmr::OneOf(values) => Self::OneOf(wire::plain(values)),
            wire::Rtmr::Events { required, allowed } => {
                Self::Events { required: wire::plain(required), allowed: wire::plain(allowed) }
            }
            wire::Rtmr::DangerAny => Self::DangerAny,
        }
    }

    fn as_rule(&self) -> tdx::Rtmr<'_> {
        match self {
            Self::OneOf(values) => tdx::Rtmr::OneOf(values),
            Self::Events { required, allowed } => tdx::Rtmr::Events { required, allowed },
            Self::DangerAny => tdx::Rtmr::DangerAny,
        }
    }
}

/// Of kind `gpu`.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct GpuRequest(wire::Whole<wire::GpuEvidence, wire::GpuEndorsements, GpuPolicy, wire::GpuExpectation>);

impl GpuRequest {
    pub(super) fn nonce(&self) -> [u8; 32] {
        self.0.expectation.nonce.0
    }

    pub(super) fn judge(&self, pinned: &Pinned<'_>, now: UnixTime) -> Judged {
        let wire::Whole { evidence, endorsements, policy, expectation, .. } = &self.0;
        let expected = gpu::GpuExpectation { nonce: expectation.nonce.0, claimed: expectation.claimed, seen: expectation.seen };
        let devices: Vec<_> = evidence.devices.iter().map(wire::Device::to_evidence).collect();
        let appraised = with_gpu_endorsements(endorsements, |endorsed| appraise_gpus(&devices, endorsed, policy, &expected, now));
        let verified = appraised.verified().is_some();
        let claims = appraised.claims().map(Vec::as_slice).unwrap_or_default();
        let mut found = Lone {
            submodules: BTreeMap::new(),
            simulated: Vec::new(),
            anchors: Vec::new(),
            warnings: Vec::new(),
            workload_digest: String::new(),
            answers: &expectation.nonce.0,
            checks: appraised.checks().to_vec(),
            verified,
        };
        for (index, claims) in claims.iter().enumerate() {
            found.submodules.insert(format!("gpu{index}"), gpu_submodule(claims, verified));
            found.simulated.extend(named(claims.simulated, &format!("{}{index}: a root is not NVIDIA's", claims.kind)));
            found.warnings.extend(claims.warnings.iter().map(|warning| format!("{}{index}: {warning}", claims.kind)));
        }
        Judged::lone(found.close(pinned.simulated, now), value(appraised.claims()), pinned, expected.claimed.gpus)
    }
}

/// Manifests and answers about revocation, as they are borrowed by an appraisal.
pub(super) fn with_gpu_endorsements<T>(wire: &wire::GpuEndorsements, appraise: impl FnOnce(&gpu::GpuEndorsements<'_>) -> T) -> T {
    let (ocsp, crls) = (wire::all(&wire.ocsp), wire::all(&wire.crls));
    let manifests: Vec<Manifest<'_>> =
        wire.manifests.iter().map(|wire| Manifest { id: &wire.id, document: ManifestDocument::Xml(&wire.document.0) }).collect();
    appraise(&gpu::GpuEndorsements { chains: &[], manifests: &manifests, revocation: Revocation { ocsp: &ocsp, crls: &crls } })
}

/// What was found of something that is no whole attester.
pub(super) struct Lone<'a> {
    pub(super) submodules: BTreeMap<String, Submodule>,
    pub(super) simulated: Vec<String>,
    pub(super) anchors: Vec<Anchor>,
    pub(super) warnings: Vec<String>,
    pub(super) workload_digest: String,
    /// What the evidence had to answer: the nonce, or what binds it.
    pub(super) answers: &'a [u8],
    pub(super) checks: Vec<Check>,
    pub(super) verified: bool,
}

impl Lone<'_> {
    /// The result. The last check is whether a simulator may be believed.
    pub(super) fn close(self, allowed: Simulated, now: UnixTime) -> AttestationResult {
        let Self { submodules, simulated: found, anchors, mut warnings, workload_digest, answers, mut checks, verified } = self;
        let mut ledger = Ledger::new(&[CheckName::PolicySimulated]);
        let mut passed = verified && checks.iter().all(|check| check.outcome == Outcome::Pass);
        if passed {
            passed = ledger.enter::<(), _>(CheckName::PolicySimulated, simulated(&found, allowed)).is_ok();
        }
        checks.extend(ledger.close().0);
        let nothing = checks.first().is_none_or(|check| check.outcome == Outcome::Fail);
        warnings.push(LONE.to_owned());
        warnings.extend(found.iter().map(|what| format!("simulated: {what}; it proves nothing about real hardware")));
        AttestationResult {
            version: 1,
            status: match (passed, nothing) {
                (true, _) => Tier::Affirming,
                (false, true) => Tier::None,
                (false, false) => Tier::Contraindicated,
            },
            platform: "device".to_owned(),
            simulated: !found.is_empty(),
            instance: String::new(),
            workload_digest,
            nonce_sha256: hex::encode(Sha256::digest(answers)),
            launch_record_digest: None,
            guest_os: None,
            at: now,
            checks,
            anchors,
            warnings,
            submodules,
            guest: None,
        }
    }
}

fn named(simulated: bool, what: &str) -> Vec<String> {
    if simulated { vec![what.to_owned()] } else { Vec::new() }
}

pub(super) fn value(claims: Option<&impl serde::Serialize>) -> Value {
    claims.map(|claims| serde_json::to_value(claims).expect("claims are plain data")).unwrap_or_default()
}

const AMD: &str = "the processor's chain does not lead to AMD's root";
const INTEL: &str = "the processor's chain does not lead to Intel's root";
const LONE: &str = "judged alone: nothing says which machine or instance it belongs to";
