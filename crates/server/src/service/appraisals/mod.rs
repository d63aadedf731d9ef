//! Appraisals for others: relying parties and attesters send evidence, and get a verdict and a signed token.
//!
//! ```text
//! passport          attester asks for a challenge -> evidence over it -> verdict and token, to show around
//! background check  relying party makes a nonce -> gets evidence over it -> sends both here -> verdict and token
//! ```
//!
//! Each nonce is good once: a challenge of ours is used up by the first request that names it, whatever comes of it; a nonce of
//! the caller is remembered. Anchors, reference values, revocations and policies are this verifier's, never the request's.

mod metrics;
mod policies;
mod signer;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use casemate_api::rest::{self, TokenForm};
use casemate_verifier::{
    Check, CheckName, Kind, ReferenceValues, Simulated, Submodule, Tier, TrustAnchors, TrustVector, UnixTime,
    ear::{EarError, Freshness, Order, VerifierKey},
    rego::AppraisalPolicy,
    request::{Pinned, Request, Response},
};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use metrics::MEDIA_TYPE as METRICS_MEDIA_TYPE;
pub use policies::{MAX_POLICY, Written};
pub use signer::SignerError;

use super::{
    Caller,
    challenges::NONCE_MEMORY_MS,
    random,
    rules::{Rules, STRICT_NAME, blocking},
};
use crate::{
    clock::now_ms,
    config::VerifierLimits,
    fault::{Fault, chain},
    revocations::Keeper,
    store::{Challenge, ChallengeTimes, Store},
};

/// Largest body of a request for an appraisal, in bytes: the longest request, and room around it.
pub const MAX_BODY: usize = 12 << 20;
/// Most values in it: commas and opening brackets. Evidence is base64, so honest requests have some hundred.
const MAX_VALUES: usize = 50_000;
/// Nonces of callers are remembered under this domain, apart from those of instances: evidence that was asked for through
/// this very platform can be judged here, too.
const NONCE_DOMAIN: &[u8] = b"casemate/appraisal-nonce/v1\0";

/// The role `verifier`; cheap to clone.
#[derive(Clone)]
pub struct Appraisals(Arc<Inner>);

/// What appraisals are made with.
#[derive(Debug)]
pub struct AppraisalParts {
    /// Everything durable.
    pub store: Store,
    /// Roots of platforms and TPM vendors; without them no instance is judged.
    pub anchors: Option<TrustAnchors>,
    /// Reference values; without them no instance is judged.
    pub references: Option<ReferenceValues>,
    /// Whether simulators may stand in for hardware.
    pub simulated: Simulated,
    /// The revocation list in force.
    pub revocations: Keeper,
    /// The operator's rules.
    pub rules: Rules,
    /// URI of who runs this verifier.
    pub developer: String,
    /// Limits in time and number.
    pub limits: VerifierLimits,
}

struct Inner {
    store: Store,
    anchors: Option<TrustAnchors>,
    references: Option<ReferenceValues>,
    simulated: Simulated,
    limits: VerifierLimits,
    signer: VerifierKey,
    rules: Rules,
    revocations: Keeper,
    metrics: metrics::Metrics,
    /// Requests under way.
    door: Arc<Semaphore>,
    /// Appraisals being computed.
    judges: Arc<Semaphore>,
}

/// Why the role did not start.
#[derive(Debug, thiserror::Error)]
pub enum AppraisalStartError {
    /// The signing key.
    #[error(transparent)]
    Signer(#[from] SignerError),
}

/// A request that was let in; others wait outside until it is dropped.
#[derive(Debug)]
pub struct Entered(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl Appraisals {
    /// Opens what the data folder has.
    pub fn open(data_dir: &Path, parts: AppraisalParts) -> Result<Self, AppraisalStartError> {
        let AppraisalParts { store, anchors, references, simulated, revocations, rules, developer, limits } = parts;
        Ok(Self(Arc::new(Inner {
            signer: signer::open(data_dir, &developer)?,
            rules,
            metrics: metrics::Metrics::default(),
            door: Arc::new(Semaphore::new(limits.requests)),
            judges: Arc::new(Semaphore::new(limits.parallel)),
            store,
            anchors,
            references,
            simulated,
            limits,
            revocations,
        })))
    }

    /// Replaces the revocation list; see [`Keeper::put`].
    pub async fn put_revocations(&self, caller: &Caller, file: &[u8]) -> Result<rest::Revocations, Fault> {
        caller.must_operate("replace the revocation list; that needs an operator's token")?;
        self.0.revocations.put(file).await
    }

    /// The revocation list in force.
    pub async fn revocations(&self, _caller: &Caller) -> Result<rest::Revocations, Fault> {
        self.0.revocations.view().await
    }

    /// The store behind it.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    fn limits(&self) -> &VerifierLimits {
        &self.0.limits
    }

    /// A fresh nonce for the caller.
    pub async fn new_challenge(&self, caller: &Caller) -> Result<rest::AppraisalChallenge, Fault> {
        let (id, nonce) = (uuid::Uuid::new_v4().to_string(), random::<32>()?);
        let now_ms = now_ms();
        let life_ms = u64::try_from(self.limits().challenge.as_millis()).unwrap_or(u64::MAX);
        let times = ChallengeTimes { now_ms, expires_at_ms: now_ms.saturating_add(life_ms) };
        if !self.store().insert_challenge(&id, &nonce, &caller.account, times, self.limits().challenges).await? {
            return Err(Fault::Busy("challenges"));
        }
        Ok(rest::AppraisalChallenge { id, nonce: STANDARD.encode(nonce), expires_at_ms: times.expires_at_ms })
    }

    /// Lets a request in, before its body is read.
    pub fn enter(&self) -> Result<Entered, Fault> {
        let place = self.0.door.clone().try_acquire_owned();
        place.map(Entered).map_err(|_| Fault::Busy("appraisals")).inspect_err(|fault| self.0.metrics.refused(fault.name()))
    }

    /// Judges evidence. A refusal is a verdict, not a fault.
    pub async fn appraise(&self, caller: &Caller, _place: Entered, body: Bytes) -> Result<rest::Appraisal, Fault> {
        let judged = self.judged(caller, body).await;
        judged.inspect_err(|fault| self.0.metrics.refused(fault.name()))
    }

    /// Public keys, as a JWK set.
    pub fn keys(&self) -> rest::Jwks {
        rest::Jwks { keys: vec![self.0.signer.public().jwk()] }
    }

    /// Counters, for Prometheus.
    pub async fn metrics(&self) -> Result<String, Fault> {
        let challenges = self.store().outstanding_challenges(now_ms()).await?;
        let revocations = self.0.revocations.held().map(|held| (held.list.serial(), held.next_update));
        Ok(self.0.metrics.text(metrics::Gauges { challenges, revocations }))
    }

    async fn judged(&self, caller: &Caller, body: Bytes) -> Result<rest::Appraisal, Fault> {
        let limit = self.limits().appraisal;
        let question = blocking(limit, move || Question::parse(&body)).await??;
        let rules = self.0.rules.named(question.policy.as_deref().unwrap_or(STRICT_NAME), limit).await?;
        let freshness = self.use_nonce(caller, &question).await?;
        let Judgement { response, ear, took, policy_id } = self.judge(question, rules, freshness).await?;
        let failed = response.failed.as_ref().map(|check| check.name.as_str());
        self.0.metrics.judged(&response.kind, failed.or((!response.accepted).then_some("none")), took);
        tracing::info!(kind = %response.kind, accepted = response.accepted, failed, "evidence was judged");
        let ear = ear.map_err(|error| Fault::internal("sign a token")(error.into()))?;
        Ok(rest::Appraisal {
            accepted: response.accepted,
            failed: response.failed.map(check),
            checks: response.checks.into_iter().map(check).collect(),
            claims: response.claims,
            result: serde_json::to_value(response.result).expect("an attestation result always serialises"),
            ear,
            policy_id,
            freshness: freshness_name(freshness).to_owned(),
        })
    }

    /// Uses the nonce up, before anything is judged.
    async fn use_nonce(&self, caller: &Caller, question: &Question) -> Result<Freshness, Fault> {
        let now_ms = now_ms();
        match (&question.challenge, question.request.nonce()) {
            (Some(id), Some(nonce)) => match self.store().take_challenge(id, &caller.account, now_ms).await? {
                Challenge::Taken(ours) if ours == nonce => Ok(Freshness::Verifier),
                Challenge::Taken(_) => Err(Fault::Challenge("the request expects another nonce than that of the challenge")),
                Challenge::Used => Err(Fault::Challenge("the challenge was used before")),
                Challenge::Expired => Err(Fault::Challenge("the challenge has expired")),
                Challenge::Unknown => Err(Fault::Challenge("this caller has no such challenge")),
            },
            (Some(_), None) => Err(Fault::Invalid {
                what: "challenge",
                detail: format!("a request of kind \"{}\" expects no nonce of 32 bytes", question.request.kind()),
                hint: "leave the challenge out; what the evidence answers is then the caller's own",
            }),
            (None, Some(nonce)) => {
                let name: [u8; 32] = Sha256::new().chain_update(NONCE_DOMAIN).chain_update(nonce).finalize().into();
                match self.store().use_nonce(&name, now_ms.saturating_add(NONCE_MEMORY_MS)).await? {
                    true => Ok(Freshness::RelyingParty),
                    false => Err(Fault::NonceUsed),
                }
            }
            (None, None) => Ok(Freshness::RelyingParty),
        }
    }

    /// The judgement itself, on a thread that may be busy.
    async fn judge(&self, question: Question, rules: AppraisalPolicy, freshness: Freshness) -> Result<Judgement, Fault> {
        let limit = self.limits().appraisal;
        let waited = tokio::time::timeout(limit, self.0.judges.clone().acquire_owned()).await;
        let place = waited.map_err(|_| Fault::Busy("appraisals"))?.expect("the semaphore is never closed");
        let inner = self.0.clone();
        let held = self.0.revocations.in_force().await?;
        blocking(limit, move || {
            // Held until the work is done, also when nobody waits for it any more.
            let _place = place;
            let (started, now) = (Instant::now(), UnixTime(now_ms() / 1000));
            let pinned = Pinned {
                anchors: inner.anchors.as_ref(),
                references: inner.references.as_ref(),
                rules: &rules,
                revocations: held.as_ref().map(|held| &held.list),
                simulated: inner.simulated,
            };
            let mut response = question.request.judge(&pinned, now);
            let policy_id = applied_policy(&response, &rules, question.own_policy);
            let took = started.elapsed();
            if response.result.submodules.is_empty() {
                response.result.submodules.insert("node".to_owned(), nothing());
            }
            let lifetime_s = inner.limits.token_s;
            let order = Order {
                result: &response.result,
                key: &inner.signer,
                policy: &policy_id,
                now,
                lifetime_s,
                freshness: Some(freshness),
            };
            let ear = match question.token {
                TokenForm::None => Ok(None),
                TokenForm::Jwt => order.jwt().map(Some),
                TokenForm::Cwt => order.cwt().map(|token| Some(STANDARD.encode(token))),
            };
            Judgement { response, ear, took, policy_id }
        })
        .await
    }
}

impl std::fmt::Debug for Appraisals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Appraisals").field("signer", &self.0.signer).finish_non_exhaustive()
    }
}

struct Judgement {
    response: Response,
    ear: Result<Option<String>, EarError>,
    took: Duration,
    policy_id: String,
}

/// A body that is a question to this verifier.
struct Question {
    challenge: Option<String>,
    policy: Option<String>,
    token: TokenForm,
    request: Request,
    /// Identifier of the policy that the request itself brings.
    own_policy: String,
}

impl Question {
    fn parse(body: &[u8]) -> Result<Self, Fault> {
        // A parsed value takes some dozen times the memory of its comma.
        if body.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count() > MAX_VALUES {
            return Err(invalid("body", format!("it has more than {MAX_VALUES} values")));
        }
        let new: rest::NewAppraisal = serde_json::from_slice(body).map_err(|error| invalid("body", error.to_string()))?;
        let rest::NewAppraisal { challenge, request, policy, token } = new;
        let own_policy = format!("request@sha256:{}", hex::encode(Sha256::digest(request["policy"].to_string())));
        let request = serde_json::to_vec(&request).expect("what was parsed serialises");
        let request = Request::from_json(&request).map_err(|error| invalid("request", chain(&error)))?;
        if request.at().is_some() {
            return Err(invalid("request", "it asks to be judged at a time of its own; this verifier judges now".into()));
        }
        if request.brings_trust() {
            let detail = "it brings anchors, reference values or revocations; this verifier judges by its own";
            return Err(invalid("request", detail.into()));
        }
        Ok(Self { challenge, policy, token, request, own_policy })
    }
}

/// The policy that had the last word. The built-in rules have no say in a lone device or quote: there it was the request's own
/// policy, and a token must not say that anything stricter was asked for.
fn applied_policy(response: &Response, rules: &AppraisalPolicy, own_policy: String) -> String {
    let applied = response.checks.iter().any(|check| check.name == CheckName::PolicyAppraisal.as_str());
    if applied { rules.id().to_owned() } else { own_policy }
}

fn invalid(what: &'static str, detail: String) -> Fault {
    Fault::Invalid { what, detail, hint: "docs/verifier-service.md and docs/api/appraisal.md tell the form" }
}

/// A token speaks of something; of evidence that did not decode it says that nothing is known.
fn nothing() -> Submodule {
    Submodule {
        kind: Kind::Node,
        status: Tier::None,
        trust: TrustVector::default(),
        claims: serde_json::Value::Null,
        anchors: Vec::new(),
        tcb_age_s: None,
        silicon: None,
        simulated: false,
    }
}

fn check(check: Check) -> rest::AppraisalCheck {
    let outcome = serde_json::to_value(check.outcome).expect("an outcome always serialises");
    let outcome = outcome.as_str().unwrap_or_default().to_owned();
    rest::AppraisalCheck { name: check.name, outcome, detail: check.detail }
}

fn freshness_name(freshness: Freshness) -> &'static str {
    match freshness {
        Freshness::Verifier => "verifier",
        Freshness::RelyingParty => "relying-party",
    }
}
