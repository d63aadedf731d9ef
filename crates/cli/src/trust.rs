//! The tenant's own judgement: pinned anchors, own nonce, own appraisal.

use std::fs;

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_api::{
    rest::EvidenceBundle,
    workload::{Isolation, Workload},
};
use casemate_verifier::{
    AttestationResult, ContainerLevel, Endorsements, Expectation, Outcome, Policy, ReferenceValues, RelyingParty, Simulated,
    TrustAnchors, UnixTime, VendorRoot,
    container::{ContainerExpectation, appraise},
    rego::{AppraisalPolicy, PolicyOptions, apply_policy},
    revocation::RevocationList,
};
use serde::{Deserialize, Serialize};

use crate::{context::ContextFile, exit::Refused, printer::Printer};

/// Everything pinned, parsed once.
pub(crate) struct Trust {
    anchors: TrustAnchors,
    references: ReferenceValues,
    simulated: Simulated,
    rules: AppraisalPolicy,
    revocation_key: Option<[u8; 32]>,
}

/// Evidence with the question it answers, to be judged again at any time.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SavedEvidence {
    /// The nonce that was asked, hex.
    pub(crate) nonce: String,
    /// The workload digest that was asked for, hex.
    pub(crate) workload_digest: String,
    /// When it was received; seconds since 1970.
    pub(crate) received_at: u64,
    /// What the platform relayed.
    pub(crate) bundle: EvidenceBundle,
    /// The canonical workload that was asked for; what was saved before there were containers has none, and is judged as a micro VM's.
    #[serde(default)]
    pub(crate) workload: Option<String>,
    /// The signed revocation list of that time.
    #[serde(default)]
    pub(crate) revocations: Option<String>,
}

impl Trust {
    pub(crate) fn load(context: &ContextFile) -> anyhow::Result<Self> {
        // A vendor root says of itself that it is a simulator's; the verifier looks.
        let roots: Vec<VendorRoot> = context
            .vendor_roots
            .iter()
            .map(|pem| VendorRoot::from_pem(pem))
            .collect::<Result<_, _>>()
            .context("read vendor_roots of the context")?;
        let anchors = TrustAnchors::new(&context.platform_ca, &roots).context("read the trust anchors of the context")?;
        let path = &context.reference_values;
        let signed = fs::read(path).with_context(|| format!("read reference values {}", path.display()))?;
        let references = ReferenceValues::from_signed(&signed, &context.reference_key()?)
            .with_context(|| format!("check reference values {}", path.display()))?;
        let simulated = if context.allow_simulated { Simulated::Allow } else { Simulated::Refuse };
        let revocation_key = context.revocation_key()?;
        Ok(Self { anchors, references, simulated, rules: AppraisalPolicy::strict(), revocation_key })
    }

    /// The same with other rules than the built-in ones as the last word.
    pub(crate) fn with_rules(self, rules: AppraisalPolicy) -> Self {
        Self { rules, ..self }
    }

    /// The last word.
    pub(crate) fn rules(&self) -> &AppraisalPolicy {
        &self.rules
    }

    /// The anchors, for receipts.
    pub(crate) fn anchors(&self) -> &TrustAnchors {
        &self.anchors
    }

    /// The list that came with the evidence. Where there is none, or no pinned key, the check `policy.revoked` refuses.
    fn revocations(&self, saved: &SavedEvidence) -> anyhow::Result<Option<RevocationList>> {
        let (Some(file), Some(key)) = (&saved.revocations, &self.revocation_key) else { return Ok(None) };
        let refused = |error| Refused { check: "policy.revoked".into(), detail: crate::printer::clean(&format!("{error:#}")) };
        let list = RevocationList::from_signed(file.as_bytes(), key).map_err(anyhow::Error::from).map_err(refused)?;
        Ok(Some(list))
    }

    /// Judges evidence as of `now`.
    pub(crate) fn appraise(&self, saved: &SavedEvidence, now: UnixTime) -> anyhow::Result<AttestationResult> {
        let bundle = &saved.bundle;
        let evidence = BASE64.decode(&bundle.evidence).context("decode the evidence")?;
        let (node_chain, ek_chain) = (decode_all(&bundle.node_chain)?, decode_all(&bundle.ek_chain)?);
        let expectation = Expectation {
            instance: &bundle.instance,
            workload_digest: hex32(&saved.workload_digest)?,
            nonce: hex32(&saved.nonce)?,
        };
        let endorsements = Endorsements { node_chain: &node_chain, ek_chain: &ek_chain };
        let Asked { level, layers } = saved.asked()?;
        let policy = match level {
            Isolation::Container => Policy::container(ContainerLevel::Container, self.simulated),
            Isolation::Sandbox => Policy::container(ContainerLevel::Sandbox, self.simulated),
            Isolation::Microvm => Policy::microvm(self.simulated),
            Isolation::Confidential => Policy::confidential(self.simulated),
        };
        let expectation = ContainerExpectation { instance: expectation, layers: &layers };
        let revocations = self.revocations(saved)?;
        let believes = RelyingParty {
            references: &self.references,
            anchors: &self.anchors,
            policy: &policy,
            revocations: revocations.as_ref(),
        };
        let result = appraise(&evidence, &endorsements, &believes, &expectation, now);
        // An instance of this level is promised no GPU.
        Ok(apply_policy(result, &self.rules, PolicyOptions::from(self.simulated), 0))
    }
}

/// What is to be judged.
struct Asked {
    level: Isolation,
    layers: Vec<[u8; 32]>,
}

impl SavedEvidence {
    /// The workload's own minimum decides what may be accepted. The platform says at which level it placed the instance; that chooses the
    /// appraisal, and below the minimum there is none.
    fn asked(&self) -> Result<Asked, Refused> {
        let refused = |detail: String| Refused { check: "policy.platform".into(), detail };
        let said = &self.bundle.level;
        let level: Isolation = said.parse().map_err(|error| refused(format!("the platform names no level: {error}")))?;
        let Some(text) = &self.workload else {
            return match level {
                Isolation::Microvm => Ok(Asked { level, layers: Vec::new() }),
                _ => Err(refused(format!("without the workload evidence of level {said} cannot be judged"))),
            };
        };
        let workload = Workload::from_canonical(text.as_bytes()).map_err(|error| refused(format!("the workload: {error}")))?;
        if hex::encode(workload.digest()) != self.workload_digest {
            return Err(refused("the workload is not the one that was asked for".into()));
        }
        if level < workload.isolation {
            let least = workload.isolation.as_str();
            return Err(refused(format!("the workload asks for level {least} at least, and the platform placed it at {said}")));
        }
        Ok(Asked { level, layers: workload.layer_roots() })
    }
}

/// Says in words what the level does not protect from.
pub(crate) fn print_limits(printer: &Printer, by: &str, result: &AttestationResult) {
    for limit in result.warnings.iter().filter(|warning| warning.starts_with("level ")) {
        printer.note(by, limit);
    }
}

/// Prints each check by name, then the verdict.
pub(crate) fn print_checks(printer: &Printer, by: &str, result: &AttestationResult) {
    for check in &result.checks {
        let text = format!("{:<20} {}", check.name, check.detail);
        match check.outcome {
            Outcome::Pass => printer.done(by, &text),
            Outcome::Fail => printer.failed(by, &text),
            Outcome::NotReached => printer.note(by, &format!("{:<20} not reached", check.name)),
        }
    }
}

/// The first failed check as a refusal; `Ok` for what holds as much as it can at the level that was asked for.
pub(crate) fn require_accepted(result: &AttestationResult) -> Result<(), Refused> {
    if result.is_accepted() {
        return Ok(());
    }
    Err(match result.failed() {
        Some(check) => Refused { check: check.name.to_string(), detail: crate::printer::clean(&check.detail) },
        None => Refused { check: "evidence.format".into(), detail: format!("the result is {}", result.status) },
    })
}

/// Seconds since 1970.
pub(crate) fn now() -> UnixTime {
    UnixTime(time::OffsetDateTime::now_utc().unix_timestamp().max(0).unsigned_abs())
}

/// Base64 DER certificates.
pub(crate) fn decode_all(chain: &[String]) -> anyhow::Result<Vec<Vec<u8>>> {
    chain.iter().map(|der| BASE64.decode(der).context("decode a certificate")).collect()
}

fn hex32(text: &str) -> anyhow::Result<[u8; 32]> {
    casemate_api::workload::parse_hex32(text).with_context(|| format!("expected 64 hex digits, got {text:?}"))
}
