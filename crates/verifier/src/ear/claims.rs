//! The claims of a token, as JSON; the CBOR form is a transliteration of it.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CLOCK_AHEAD_S, EarError, MAX_LIFETIME_S, MAX_SUBMODULES, Order, PROFILE, VerifiedEar};
use crate::{
    result::{Anchor, Kind, Silicon, Submodule, Tier, TrustVector},
    time::UnixTime,
};

/// Name of our claims: in the token itself and in `ear_verifier_claims` of each submodule. A name under a domain, so that it
/// collides with nobody's (RFC 7519, section 4.2).
pub const EXTENSION: &str = "https://casemate.example/ear/1";

/// What is said of the whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// `microvm` or `confidential`.
    pub platform: String,
    /// The instance.
    pub instance: String,
    /// Digest of the workload, hex.
    pub workload_digest: String,
    /// The guest OS of the reference values.
    pub guest_os: Option<String>,
    /// A simulator stood in for hardware.
    pub simulated: bool,
    /// When the evidence was judged.
    pub appraised_at: UnixTime,
    /// The check that failed, if one did.
    pub failed: Option<String>,
    /// Who made the nonce, where the verifier knows; older tokens do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freshness: Option<Freshness>,
}

/// Who made the nonce that the evidence answers: who may conclude from the token that the evidence is fresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Freshness {
    /// The verifier, for one use: fresh for everybody who believes the verifier (RFC 9334, passport model).
    Verifier,
    /// Whoever asked the verifier: fresh for those who know that nonce to be theirs (RFC 9334, background-check model).
    RelyingParty,
}

/// What the verifier adds to the claims of a submodule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifierAdds {
    kind: Kind,
    simulated: bool,
    tcb_age_s: Option<u64>,
    silicon: Option<Silicon>,
    anchors: Vec<Anchor>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Token {
    eat_profile: String,
    iat: u64,
    exp: u64,
    ear_verifier_id: VerifierId,
    eat_nonce: String,
    ear_status: Tier,
    submods: BTreeMap<String, Appraisal>,
    #[serde(rename = "https://casemate.example/ear/1")]
    extension: Extension,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifierId {
    developer: String,
    build: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Appraisal {
    ear_status: Tier,
    #[serde(default, skip_serializing_if = "is_empty")]
    ear_trustworthiness_vector: TrustVector,
    ear_appraisal_policy_ids: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ear_attester_claims: Option<serde_json::Map<String, Value>>,
    ear_verifier_claims: Added,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Added {
    #[serde(rename = "https://casemate.example/ear/1")]
    ours: VerifierAdds,
}

/// The claims of a token, valid from `now` on.
pub(super) fn of_order(order: &Order<'_>) -> Result<Value, EarError> {
    let result = order.result;
    let nonce = hex::decode(&result.nonce_sha256).map_err(|_| EarError::Claim("eat_nonce"))?;
    let submods = result.submodules.iter().map(|(name, part)| Ok((name.clone(), appraisal(part, order.policy)?)));
    let token = Token {
        eat_profile: PROFILE.to_owned(),
        iat: order.now.0,
        exp: order.now.0.saturating_add(order.lifetime_s.into()),
        ear_verifier_id: VerifierId { developer: order.key.developer.clone(), build: order.key.build.clone() },
        eat_nonce: URL_SAFE_NO_PAD.encode(nonce),
        ear_status: result.worst(),
        submods: submods.collect::<Result<_, EarError>>()?,
        extension: Extension {
            platform: result.platform.clone(),
            instance: result.instance.clone(),
            workload_digest: result.workload_digest.clone(),
            guest_os: result.guest_os.clone(),
            simulated: result.simulated,
            appraised_at: result.at,
            failed: result.failed().map(|check| check.name.clone()),
            freshness: order.freshness,
        },
    };
    Ok(serde_json::to_value(token).expect("claims are plain data"))
}

fn appraisal(part: &Submodule, policy: &str) -> Result<Appraisal, EarError> {
    let claims = match part.claims.clone() {
        Value::Null => None,
        Value::Object(claims) => Some(claims),
        _ => return Err(EarError::Claim("ear_attester_claims")),
    };
    Ok(Appraisal {
        ear_status: part.tier(),
        ear_trustworthiness_vector: part.trust,
        ear_appraisal_policy_ids: vec![policy.to_owned()],
        ear_attester_claims: claims,
        ear_verifier_claims: Added {
            ours: VerifierAdds {
                kind: part.kind,
                simulated: part.simulated,
                tcb_age_s: part.tcb_age_s,
                silicon: part.silicon.clone(),
                anchors: part.anchors.clone(),
            },
        },
    })
}

/// Judges the claims of a token whose signature was verified.
pub(crate) fn judge(claims: &[u8], now: UnixTime) -> Result<VerifiedEar, EarError> {
    // The profile first: who reads another version should hear that, not of a field that it does not know.
    #[derive(Deserialize)]
    struct Profile {
        eat_profile: String,
    }
    let json = |source| EarError::Json { part: "claims", source };
    let profile: Profile = serde_json::from_slice(claims).map_err(json)?;
    if profile.eat_profile != PROFILE {
        return Err(EarError::Profile(profile.eat_profile));
    }
    let token: Token = serde_json::from_slice(claims).map_err(json)?;
    let (iat, exp) = (UnixTime(token.iat), UnixTime(token.exp));
    if iat.0 > now.0.saturating_add(CLOCK_AHEAD_S) {
        return Err(EarError::NotYet { iat, now });
    }
    if exp <= now {
        return Err(EarError::Expired { exp, now });
    }
    let lifetime = exp.0.saturating_sub(iat.0);
    if !(1..=u64::from(MAX_LIFETIME_S)).contains(&lifetime) {
        return Err(EarError::Lifetime(lifetime));
    }
    let nonce = URL_SAFE_NO_PAD.decode(&token.eat_nonce).ok().and_then(|nonce| nonce.try_into().ok());
    let nonce_sha256 = nonce.ok_or(EarError::Claim("eat_nonce"))?;
    if !(1..=MAX_SUBMODULES).contains(&token.submods.len()) {
        return Err(EarError::Submodules(token.submods.len()));
    }
    let mut policies: Vec<String> = Vec::new();
    let mut submodules = BTreeMap::new();
    let mut worst = Tier::Affirming;
    for (name, appraisal) in token.submods {
        if appraisal.ear_appraisal_policy_ids.is_empty() {
            return Err(EarError::Claim("ear_appraisal_policy_ids"));
        }
        policies.extend(appraisal.ear_appraisal_policy_ids.iter().cloned());
        let part = submodule(appraisal);
        if part.tier() != part.status {
            return Err(EarError::Status(name));
        }
        worst = worst.worst(part.status);
        submodules.insert(name, part);
    }
    if token.ear_status.worst(worst) != token.ear_status {
        return Err(EarError::Status("the whole".to_owned()));
    }
    policies.sort_unstable();
    policies.dedup();
    Ok(VerifiedEar {
        status: token.ear_status,
        issued_at: iat,
        expires_at: exp,
        nonce_sha256,
        developer: token.ear_verifier_id.developer,
        build: token.ear_verifier_id.build,
        submodules,
        policies,
        extension: token.extension,
    })
}

fn submodule(appraisal: Appraisal) -> Submodule {
    let VerifierAdds { kind, simulated, tcb_age_s, silicon, anchors } = appraisal.ear_verifier_claims.ours;
    Submodule {
        kind,
        status: appraisal.ear_status,
        trust: appraisal.ear_trustworthiness_vector,
        claims: appraisal.ear_attester_claims.map_or(Value::Null, Value::Object),
        anchors,
        tcb_age_s,
        silicon,
        simulated,
    }
}

fn is_empty(vector: &TrustVector) -> bool {
    *vector == TrustVector::default()
}
