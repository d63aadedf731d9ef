//! A TPM's quote that is judged alone: whose key, for which nonce, over which PCRs, and the logs that lead to them.

use std::collections::BTreeMap;

use casemate_evidence::tpm::{Digest, HashAlg, PcrSelection};
use serde::Deserialize;
use serde_json::json;

use super::{
    Judged, Pinned,
    devices::{Lone, value},
    wire,
};
use crate::{
    boot::{BOOT_CHECKS, appraise_boot},
    checks::{Check, CheckName, Finding, Ledger, Mismatch, Outcome, Stop},
    ima::{IMA_CHECKS, ImaState, appraise_ima},
    quote::{AttestationKey, AuthenticQuote, KeyError, QuotedBanks},
    result::{Kind, Submodule, TrustVector, claim},
    time::UnixTime,
};

/// The checks of a quote, in order; those of the firmware's log follow, and those of the kernel's list where there is one.
pub const TPM_CHECKS: &[CheckName] = &[CheckName::NodeAk, CheckName::NodeQuote, CheckName::EvidenceNonce, CheckName::NodePcrs];

/// Of kind `tpm`.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct TpmRequest(wire::Whole<wire::TpmEvidence, wire::Nothing, wire::TpmPolicy, wire::TpmExpectation>);

impl TpmRequest {
    pub(super) fn nonce(&self) -> Option<[u8; 32]> {
        self.0.expectation.nonce.0.as_slice().try_into().ok()
    }

    pub(super) fn judge(&self, pinned: &Pinned<'_>, now: UnixTime) -> Judged {
        let wire::Whole { endorsements: wire::Nothing {}, expectation, .. } = &self.0;
        let mut ledger = Ledger::new(TPM_CHECKS);
        let quoted = self.quoted(&mut ledger);
        let (mut checks, passed) = ledger.close();
        let logs = self.logs(quoted.as_ref().ok().filter(|_| passed));
        checks.extend(logs.checks);
        let verified = passed && checks.iter().all(|check| check.outcome == Outcome::Pass);
        let decoded = checks.iter().skip(1).any(|check| check.outcome != Outcome::NotReached);
        let trust = TrustVector {
            instance_identity: claim::TRUSTWORTHY_INSTANCE,
            executables: if logs.files { claim::APPROVED_RUNTIME } else { claim::APPROVED_BOOT },
            ..TrustVector::default()
        };
        let mut submodule = Submodule::judged(Kind::Node, verified, decoded, trust);
        submodule.claims = logs.claims.clone();
        let mut warnings = logs.warnings;
        if matches!(expectation.ak, wire::ExpectedAk::DangerAny) {
            warnings.push("the attestation key may be anybody's".to_owned());
        }
        let found = Lone {
            submodules: BTreeMap::from([("node".to_owned(), submodule)]),
            simulated: Vec::new(),
            anchors: Vec::new(),
            warnings,
            workload_digest: String::new(),
            answers: &expectation.nonce.0,
            checks,
            verified,
        };
        Judged::lone(found.close(pinned.simulated, now), logs.claims, pinned, 0)
    }

    fn quoted(&self, ledger: &mut Ledger) -> Result<QuotedBanks, Stop> {
        let wire::Whole { evidence, expectation, .. } = &self.0;
        let key = ledger.enter(CheckName::NodeAk, attestation_key(&evidence.ak_public.0, &expectation.ak))?;
        let quote = key.quote(&evidence.attest.0, &evidence.signature.0);
        let quote = ledger.enter(CheckName::NodeQuote, quote.map(|quote| Finding::new(quote, "signed by that key")))?;
        ledger.enter(CheckName::EvidenceNonce, fresh(&quote, &expectation.nonce.0))?;
        let selections: Vec<PcrSelection> = expectation.pcrs.iter().map(PcrSelection::from).collect();
        let listed = evidence.pcrs.iter().map(|(bank, values)| (bank.0, bank_values(values))).collect();
        let quoted = quote.banks(&selections, &listed);
        let count: usize = listed.values().map(BTreeMap::len).sum();
        ledger
            .enter(CheckName::NodePcrs, quoted.map(|quoted| Finding::new(quoted, format!("{count} values are the quoted ones"))))
    }

    fn logs(&self, quoted: Option<&QuotedBanks>) -> Logs {
        let wire::Whole { evidence, policy, .. } = &self.0;
        let mut logs = Logs::default();
        let with_ima = policy.ima.is_some() || evidence.ima.is_some();
        let Some(quoted) = quoted else {
            logs.not_reached(BOOT_CHECKS);
            if with_ima {
                logs.not_reached(IMA_CHECKS);
            }
            return logs;
        };
        let boot = appraise_boot(&evidence.event_log.0, quoted, &policy.boot);
        logs.checks.extend_from_slice(boot.checks());
        logs.claims = json!({ "boot": value(boot.claims()), "ima": null });
        if !with_ima {
            logs.warnings.push("nothing is known of what was executed after the boot".to_owned());
            return logs;
        }
        if boot.verified().is_none() {
            logs.not_reached(IMA_CHECKS);
            return logs;
        }
        match (&policy.ima, &evidence.ima) {
            (Some(rules), Some(ima)) => {
                let bank = quoted.strongest().map_or(HashAlg::Sha256, |(bank, _)| bank);
                let appraised = appraise_ima(&ima.list.0, ima.format.into(), &ImaState::start(bank), quoted, rules);
                logs.checks.extend_from_slice(appraised.checks());
                logs.claims["ima"] = value(appraised.claims());
                logs.files = appraised.verified().is_some();
            }
            (rules, _) => {
                let problem = if rules.is_some() { ImaPartError::List } else { ImaPartError::Policy };
                let mut ledger = Ledger::new(IMA_CHECKS);
                let _refused = ledger.enter(CheckName::NodeIma, Err::<Finding<()>, _>(problem));
                logs.checks.extend(ledger.close().0);
            }
        }
        logs
    }
}

/// What the logs say.
#[derive(Default)]
struct Logs {
    checks: Vec<Check>,
    claims: serde_json::Value,
    warnings: Vec<String>,
    /// Each file that was opened is known.
    files: bool,
}

impl Logs {
    fn not_reached(&mut self, list: &'static [CheckName]) {
        self.checks.extend(Ledger::new(list).close().0);
    }
}

#[derive(Debug, thiserror::Error)]
enum AkError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the TPM name of the attestation key")]
    Name(#[source] Mismatch),
}

#[derive(Debug, thiserror::Error)]
enum ImaPartError {
    #[error("the policy has rules for an IMA list, but there is none")]
    List,
    #[error("there is an IMA list, but no rules for it in the policy")]
    Policy,
}

fn attestation_key(public: &[u8], expected: &wire::ExpectedAk) -> Result<Finding<AttestationKey>, AkError> {
    let key = AttestationKey::from_public(public)?;
    let seen = hex::encode(key.name());
    match expected {
        wire::ExpectedAk::Name(name) if name.0 != key.name() => Err(AkError::Name(Mismatch::new(hex::encode(&name.0), seen))),
        wire::ExpectedAk::Name(_) => Ok(Finding::new(key, format!("the expected key, {seen}"))),
        wire::ExpectedAk::DangerAny => Ok(Finding::new(key, format!("ANY KEY, as the expectation allows: {seen}"))),
    }
}

fn fresh(quote: &AuthenticQuote, nonce: &[u8]) -> Result<Finding<()>, Mismatch> {
    if quote.is_for(nonce) {
        return Ok(Finding::new((), "answers the nonce of this challenge"));
    }
    Err(Mismatch::new(hex::encode(nonce), hex::encode(quote.qualifying())))
}

fn bank_values(listed: &BTreeMap<u32, crate::boot::HexDigest>) -> BTreeMap<u32, Digest> {
    listed.iter().map(|(pcr, digest)| (*pcr, digest.0)).collect()
}
