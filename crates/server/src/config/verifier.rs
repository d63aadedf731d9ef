//! The table `[verifier]`.

use std::{path::PathBuf, time::Duration};

use casemate_verifier::{ReferenceValues, VendorRoot, ear::MAX_LIFETIME_S};
use serde::Deserialize;

use super::{Pinned, keep, within};

/// The role `verifier`, as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifierConfig {
    /// PEM file with the CA of a platform whose nodes this verifier judges. A server that also runs `nodes` believes its own.
    pub platform_ca: Option<PathBuf>,
    /// Ed25519 key of whoever signs revocation lists, base64.
    pub revocation_key: Option<String>,
    /// URI of who runs this verifier, as tokens say it.
    pub developer: String,
    /// Life of a challenge.
    pub challenge_s: u64,
    /// Life of a token.
    pub token_s: u64,
    /// Longest appraisal.
    pub timeout_ms: u64,
    /// Most appraisals computed at the same time.
    pub parallel: u64,
    /// Most requests under way at the same time, bodies that still arrive included; more are refused with status 429.
    pub max_requests: u64,
    /// Most challenges outstanding at the same time.
    pub max_challenges: u64,
}

impl Default for VerifierConfig {
    fn default() -> Self {
        Self {
            platform_ca: None,
            revocation_key: None,
            developer: "https://casemate.example".to_owned(),
            challenge_s: 300,
            token_s: 300,
            timeout_ms: 10_000,
            parallel: 4,
            max_requests: 16,
            max_challenges: 10_000,
        }
    }
}

/// The role `verifier`, checked.
#[derive(Debug)]
pub struct VerifierSettings {
    /// CA certificates of platforms, PEM; empty where there is none.
    pub platform_ca: String,
    /// Roots of TPM vendors.
    pub vendor_roots: Vec<VendorRoot>,
    /// What good evidence looks like.
    pub references: Option<ReferenceValues>,
    /// URI of who runs it.
    pub developer: String,
    /// Limits in time and number.
    pub limits: VerifierLimits,
}

/// Limits of the verifier in time and number.
#[derive(Debug, Clone)]
pub struct VerifierLimits {
    /// Life of a challenge.
    pub challenge: Duration,
    /// Life of a token, in seconds.
    pub token_s: u32,
    /// Longest appraisal.
    pub appraisal: Duration,
    /// Most appraisals computed at the same time.
    pub parallel: usize,
    /// Most requests under way.
    pub requests: usize,
    /// Most challenges outstanding.
    pub challenges: u64,
}

impl VerifierConfig {
    pub(super) fn check(&self, pinned: &Pinned, faults: &mut Vec<String>) -> Option<VerifierSettings> {
        let platform_ca = match &self.platform_ca {
            None => Some(String::new()),
            Some(path) => {
                let text = std::fs::read_to_string(path);
                keep(faults, text.map_err(|e| format!("verifier.platform_ca: read {}: {e}", path.display())))
            }
        };
        if self.developer.is_empty() {
            faults.push("verifier.developer: must not be empty".into());
        }
        let ranges = [
            ("verifier.challenge_s", self.challenge_s, 1, 3600),
            ("verifier.token_s", self.token_s, 1, MAX_LIFETIME_S.into()),
            ("verifier.timeout_ms", self.timeout_ms, 1, 300_000),
            ("verifier.parallel", self.parallel, 1, 1024),
            ("verifier.max_requests", self.max_requests, 1, 1024),
            ("verifier.max_challenges", self.max_challenges, 1, 10_000_000),
        ];
        for (name, value, low, high) in ranges {
            within(faults, name, value, low, high);
        }
        Some(VerifierSettings {
            platform_ca: platform_ca?,
            vendor_roots: pinned.vendor_roots.clone(),
            references: pinned.references.clone(),
            developer: self.developer.clone(),
            limits: self.limits(),
        })
    }

    fn limits(&self) -> VerifierLimits {
        let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        VerifierLimits {
            challenge: Duration::from_secs(self.challenge_s),
            token_s: u32::try_from(self.token_s).unwrap_or(MAX_LIFETIME_S),
            appraisal: Duration::from_millis(self.timeout_ms),
            parallel: count(self.parallel),
            requests: count(self.max_requests),
            challenges: self.max_challenges,
        }
    }
}
