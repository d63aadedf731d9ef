//! How much a project may have, how often one may ask, and where webhooks may be.

use serde::Deserialize;

use super::within;
use crate::{store::Quota, webhooks::Reach};

/// `[quota]` as written: what a project may have that has no limits of its own. What is absent is not limited.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuotaConfig {
    /// Live instances.
    pub instances: Option<u64>,
    /// Their virtual CPUs.
    pub cpus: Option<u64>,
    /// Their memory.
    pub memory_mib: Option<u64>,
}

impl From<QuotaConfig> for Quota {
    fn from(config: QuotaConfig) -> Self {
        Self { instances: config.instances, cpus: config.cpus, memory_mib: config.memory_mib }
    }
}

/// `[rates]` as written: requests per second, and how many may come at once after a silence. Each server counts for itself.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateConfig {
    /// Of one token.
    pub token_per_s: u32,
    /// See `token_per_s`.
    pub token_burst: u32,
    /// Of one address; of IPv6, of one network of 64 bits.
    pub address_per_s: u32,
    /// See `address_per_s`.
    pub address_burst: u32,
}

impl Default for RateConfig {
    fn default() -> Self {
        Self { token_per_s: 100, token_burst: 500, address_per_s: 500, address_burst: 2000 }
    }
}

impl RateConfig {
    pub(super) fn check(&self, faults: &mut Vec<String>) {
        let each = [
            ("rates.token_per_s", self.token_per_s),
            ("rates.token_burst", self.token_burst),
            ("rates.address_per_s", self.address_per_s),
            ("rates.address_burst", self.address_burst),
        ];
        for (name, value) in each {
            within(faults, name, value.into(), 1, 1_000_000);
        }
    }
}

/// `[webhooks]` as written.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebhookConfig {
    /// For trials: this machine's own address may be called, without TLS. Whoever may have a webhook then reaches what listens there.
    pub insecure_loopback: bool,
}

impl From<WebhookConfig> for Reach {
    fn from(config: WebhookConfig) -> Self {
        if config.insecure_loopback { Self::InsecureLoopback } else { Self::Public }
    }
}

/// A rate and a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests per second.
    pub per_s: u32,
    /// How many at once after a silence.
    pub burst: u32,
}

/// How many requests a server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Of one token.
    pub token: Rate,
    /// Of one address.
    pub address: Rate,
}

impl From<RateConfig> for Rates {
    fn from(config: RateConfig) -> Self {
        Self {
            token: Rate { per_s: config.token_per_s, burst: config.token_burst },
            address: Rate { per_s: config.address_per_s, burst: config.address_burst },
        }
    }
}
