//! Attestation results as EAR tokens (draft-ietf-rats-ear-04), JWT or CWT, signed with ES256.
//!
//! A token says what a verifier found, to parties that believe that verifier's key. It is short-lived, and it never yields
//! a [`VerifiedGuest`](crate::VerifiedGuest): keys are released after an appraisal of one's own.
//!
//! | claim | JSON name | CBOR label |
//! |---|---|---|
//! | profile of the format | `eat_profile` | 265 |
//! | issued, expires | `iat`, `exp` | 6, 4 |
//! | who appraised, with what | `ear_verifier_id` | 1004 |
//! | SHA-256 of the appraisal's nonce | `eat_nonce` | 10 |
//! | overall tier | `ear_status` | 1000 |
//! | the attesters | `submods` | 266 |
//! | of each: tier, trust vector, policies | `ear_status`, `ear_trustworthiness_vector`, `ear_appraisal_policy_ids` | 1000, 1001, 1003 |
//! | of each: its claims, what the verifier adds | `ear_attester_claims`, `ear_verifier_claims` | 1005, 1006 |
//! | instance, workload and the like | [`EXTENSION`] | same text |

pub(crate) mod claims;
mod cwt;
mod jwt;
pub(crate) mod labels;

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use p256::ecdsa::{Signature, SigningKey, VerifyingKey, signature::Signer as _};
use sha2::{Digest as _, Sha256};

use crate::{
    cbor::CborError,
    result::{AttestationResult, Submodule, Tier},
    signature::{self, Hash},
    time::UnixTime,
};

pub use claims::{EXTENSION, Extension, Freshness, VerifierAdds};
pub use cwt::{sign_cwt, verify_cwt};
pub use jwt::{sign_jwt, verify_jwt};

/// The profile that a token must name.
pub const PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";
/// Longest token, in bytes.
pub const MAX_TOKEN: usize = 256 << 10;
/// Lifetime where nothing else is asked for, in seconds.
pub const DEFAULT_LIFETIME_S: u32 = 300;
/// Longest lifetime, in seconds.
pub const MAX_LIFETIME_S: u32 = 3600;
/// How far the issuer's clock may be ahead, in seconds.
pub const CLOCK_AHEAD_S: u64 = 60;
/// Most submodules of a token.
pub const MAX_SUBMODULES: usize = 64;

/// Why a token was not issued, or is not believed.
#[derive(Debug, thiserror::Error)]
pub enum EarError {
    /// Not a key.
    #[error("the key of the verifier is not a P-256 key")]
    Key,
    /// A lifetime outside the limits.
    #[error("a lifetime of {0} s is not between 1 and {MAX_LIFETIME_S}")]
    Lifetime(u64),
    /// Nothing to say.
    #[error("a token has 1 to {MAX_SUBMODULES} submodules, here are {0}")]
    Submodules(usize),
    /// A name that the format needs.
    #[error("\"{0}\" must not be empty")]
    Empty(&'static str),
    /// Too many bytes.
    #[error("the token has {len} bytes, more than the limit of {MAX_TOKEN}")]
    TooLong {
        /// Found.
        len: usize,
    },
    /// Not a token of this kind.
    #[error("the token is not three parts of base64url")]
    Parts,
    /// JSON of another shape.
    #[error("the {part} of the token is not the expected JSON")]
    Json {
        /// `header` or `claims`.
        part: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// CBOR of another shape.
    #[error("read the token")]
    Cbor(#[source] CborError),
    /// A claim that is not what the format says.
    #[error("the claim {0} is not what the format says")]
    Claim(&'static str),
    /// Another algorithm or type than the only one that is accepted.
    #[error("the token's {field} is {seen}, expected {expected}")]
    Header {
        /// Which field.
        field: &'static str,
        /// Found.
        seen: String,
        /// The only one.
        expected: &'static str,
    },
    /// Signed by somebody else.
    #[error("the token names key {seen}, the pinned key is {pinned}")]
    OtherKey {
        /// Found.
        seen: String,
        /// Expected.
        pinned: String,
    },
    /// Not what was signed.
    #[error("the signature of the token is not that of the pinned key")]
    Signature,
    /// Another format.
    #[error("the token has profile \"{0}\", expected {PROFILE}")]
    Profile(String),
    /// From the future.
    #[error("the token was issued at {iat}, which is after {now}")]
    NotYet {
        /// As the token says.
        iat: UnixTime,
        /// The time of the relying party.
        now: UnixTime,
    },
    /// Too old.
    #[error("the token expired at {exp}, it is {now}")]
    Expired {
        /// As the token says.
        exp: UnixTime,
        /// The time of the relying party.
        now: UnixTime,
    },
    /// It says more good than its own parts.
    #[error("the status of {0} is better than what it is made of")]
    Status(String),
}

/// A verifier's signing key, and who it is.
pub struct VerifierKey {
    key: SigningKey,
    developer: String,
    build: String,
}

impl std::fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifierKey").field("kid", &self.public().kid()).finish_non_exhaustive()
    }
}

impl VerifierKey {
    /// A key from 32 secret bytes; `developer` is a URI, `build` names the software.
    pub fn new(secret: &[u8; 32], developer: &str, build: &str) -> Result<Self, EarError> {
        for (name, value) in [("developer", developer), ("build", build)] {
            if value.is_empty() {
                return Err(EarError::Empty(name));
            }
        }
        let key = SigningKey::from_slice(secret).map_err(|_| EarError::Key)?;
        Ok(Self { key, developer: developer.to_owned(), build: build.to_owned() })
    }

    /// The half that relying parties pin.
    pub fn public(&self) -> VerifierPublicKey {
        VerifierPublicKey(*self.key.verifying_key())
    }

    /// ES256; the random number is derived from key and message (RFC 6979).
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signature: Signature = self.key.sign(message);
        signature.to_bytes().to_vec()
    }
}

/// A verifier's public key, P-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierPublicKey(VerifyingKey);

impl VerifierPublicKey {
    /// From SEC 1 bytes, compressed or not.
    pub fn from_sec1(bytes: &[u8]) -> Result<Self, EarError> {
        VerifyingKey::from_sec1_bytes(bytes).map(Self).map_err(|_| EarError::Key)
    }

    /// SEC 1, uncompressed, 65 bytes.
    pub fn to_sec1(&self) -> Vec<u8> {
        self.0.to_sec1_point(false).as_bytes().to_vec()
    }

    /// The key's identifier: its JWK thumbprint (RFC 7638), base64url.
    pub fn kid(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(self.members()))
    }

    /// The key as a JWK (RFC 7517), to be published.
    pub fn jwk(&self) -> serde_json::Value {
        let mut jwk: serde_json::Value = serde_json::from_str(&self.members()).expect("we wrote it");
        jwk["alg"] = "ES256".into();
        jwk["kid"] = self.kid().into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// The required members, in the order of RFC 7638, section 3.
    fn members(&self) -> String {
        let point = self.to_sec1();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), EarError> {
        let signature = Signature::from_slice(signature).map_err(|_| EarError::Signature)?;
        if signature::p256(&self.0, Hash::Sha256, message, &signature) { Ok(()) } else { Err(EarError::Signature) }
    }
}

/// A token that the pinned verifier signed, valid now. It cannot be made without the check.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct VerifiedEar {
    /// Never better than the worst submodule.
    pub status: Tier,
    /// When it was issued.
    pub issued_at: UnixTime,
    /// From when on it is not valid.
    pub expires_at: UnixTime,
    /// SHA-256 of the appraisal's nonce.
    pub nonce_sha256: [u8; 32],
    /// URI of who made the verifier.
    pub developer: String,
    /// Its build.
    pub build: String,
    /// What was appraised, by name. The claims are as in the result that the token was made of.
    pub submodules: BTreeMap<String, Submodule>,
    /// Policies that were applied, of all submodules together.
    pub policies: Vec<String>,
    /// Instance, workload and the like.
    pub extension: Extension,
}

/// What goes into a token. [`sign_jwt`] and [`sign_cwt`] are short for orders that say nothing of freshness.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// What was found.
    pub result: &'a AttestationResult,
    /// Who says so.
    pub key: &'a VerifierKey,
    /// The policy that was applied, see [`AppraisalPolicy::id`](crate::rego::AppraisalPolicy::id).
    pub policy: &'a str,
    /// When.
    pub now: UnixTime,
    /// For how long, in seconds: 1 to [`MAX_LIFETIME_S`].
    pub lifetime_s: u32,
    /// Who made the nonce, where the verifier knows.
    pub freshness: Option<Freshness>,
}

impl Order<'_> {
    /// The token as JWT.
    pub fn jwt(&self) -> Result<String, EarError> {
        jwt::sign(self)
    }

    /// The token as CWT.
    pub fn cwt(&self) -> Result<Vec<u8>, EarError> {
        cwt::sign(self)
    }

    fn claims(&self) -> Result<serde_json::Value, EarError> {
        if !(1..=MAX_LIFETIME_S).contains(&self.lifetime_s) {
            return Err(EarError::Lifetime(self.lifetime_s.into()));
        }
        if self.policy.is_empty() {
            return Err(EarError::Empty("policy"));
        }
        let submodules = self.result.submodules.len();
        if !(1..=MAX_SUBMODULES).contains(&submodules) {
            return Err(EarError::Submodules(submodules));
        }
        claims::of_order(self)
    }
}
