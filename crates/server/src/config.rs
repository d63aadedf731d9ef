//! The configuration file, and what it means once checked.

mod limits;
mod store;
mod verifier;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
pub use casemate_verifier::Simulated;
use casemate_verifier::{Demand, NodePolicy, ReferenceValues, VendorRoot};
use serde::Deserialize;

use crate::{
    roles::{RoleName, Roles},
    store::{Quota, StoreAccess},
    webhooks::Reach,
};

pub use limits::{QuotaConfig, Rate, RateConfig, Rates, WebhookConfig};
pub use store::StoreConfig;
pub use verifier::{VerifierConfig, VerifierLimits, VerifierSettings};

/// `server.toml` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder of what this server keeps for itself.
    pub data_dir: PathBuf,
    /// Folder of keys, certificates and blobs, which all replicas have in common; the data folder where there is one server.
    pub shared_dir: Option<PathBuf>,
    /// The database.
    #[serde(default)]
    pub store: StoreConfig,
    /// What this server does: `api`, `nodes`, `verifier`.
    #[serde(default = "defaults::roles")]
    pub roles: Vec<String>,
    /// Where REST listens.
    pub rest_addr: String,
    /// Where nodes connect. Needed by the role `nodes`.
    pub node_addr: Option<String>,
    /// DNS names and addresses in the server's certificate.
    pub names: Vec<String>,
    /// Signed reference values. Needed by `api` and `nodes`; without them the verifier judges no instances.
    pub reference_values: Option<PathBuf>,
    /// The Ed25519 key that signed them, base64.
    pub reference_key: Option<String>,
    /// PEM files with the roots of TPM vendors. Needed by `nodes`.
    #[serde(default)]
    pub vendor_roots: Vec<PathBuf>,
    /// Whether a node with a simulated TPM may be trusted; visible in every verdict.
    #[serde(default)]
    pub allow_simulated: bool,
    /// The platform issues its own, empty revocation list and renews it. For development: nothing can be revoked.
    #[serde(default)]
    pub own_revocation_list: bool,
    /// File with what is demanded of a node's boot and files; without it, of every node but a simulated one, all, and nothing is good.
    pub node_policy: Option<PathBuf>,
    /// Name of the policy that has the last word over nodes.
    #[serde(default = "defaults::rules")]
    pub node_rules: String,
    /// Name of the policy that has the last word over instances.
    #[serde(default = "defaults::rules")]
    pub instance_rules: String,
    /// The role `verifier`.
    #[serde(default)]
    pub verifier: VerifierConfig,
    /// Life of a node certificate.
    #[serde(default = "defaults::certificate_s")]
    pub certificate_s: u64,
    /// Longest wait for evidence.
    #[serde(default = "defaults::challenge_timeout_ms")]
    pub challenge_timeout_ms: u64,
    /// Longest wait for keys after the platform's verdict.
    #[serde(default = "defaults::keys_timeout_ms")]
    pub keys_timeout_ms: u64,
    /// Longest silence of a node before its instances are given up.
    #[serde(default = "defaults::node_lost_ms")]
    pub node_lost_ms: u64,
    /// How long other replicas believe that this server lives after it was heard of.
    #[serde(default = "defaults::replica_life_ms")]
    pub replica_life_ms: u64,
    /// Longest wait of one long poll.
    #[serde(default = "defaults::long_poll_max_ms")]
    pub long_poll_max_ms: u64,
    /// Largest blob.
    #[serde(default = "defaults::max_blob_mib")]
    pub max_blob_mib: u64,
    /// Most bytes of records of one instance.
    #[serde(default = "defaults::max_records_mib")]
    pub max_records_mib: u64,
    /// Incidents after which a node is revoked: its certificate is worth nothing any more.
    #[serde(default = "defaults::strikes")]
    pub strikes: u32,
    /// What a project may have that has no limits of its own.
    #[serde(default)]
    pub quota: QuotaConfig,
    /// How many requests this server takes.
    #[serde(default)]
    pub rates: RateConfig,
    /// Calls to addresses that others named.
    #[serde(default)]
    pub webhooks: WebhookConfig,
}

/// A checked configuration.
#[derive(Debug)]
pub struct Settings {
    /// Folder of what this server keeps for itself.
    pub data_dir: PathBuf,
    /// Folder of what all replicas have in common.
    pub shared_dir: PathBuf,
    /// The database.
    pub store: StoreAccess,
    /// How long others believe that this server lives.
    pub replica_life: Duration,
    /// The roles that follow from the two options below; told to clients.
    pub roles: Roles,
    /// Where REST listens.
    pub rest_addr: SocketAddr,
    /// DNS names and addresses in the server's certificate.
    pub names: Vec<String>,
    /// Whether simulated TPMs may be trusted.
    pub simulated: Simulated,
    /// Who signs revocation lists.
    pub revocations: RevocationSource,
    /// What a project may have that has no limits of its own.
    pub quota: Quota,
    /// How many requests this server takes.
    pub rates: Rates,
    /// For `api` and `nodes`, if this server runs them.
    pub platform: Option<PlatformSettings>,
    /// For `verifier`, if this server runs it.
    pub verifier: Option<VerifierSettings>,
}

/// What `api` and `nodes` need.
#[derive(Debug)]
pub struct PlatformSettings {
    /// Where nodes connect.
    pub node_addr: SocketAddr,
    /// What good evidence looks like.
    pub references: ReferenceValues,
    /// Roots of TPM vendors.
    pub vendor_roots: Vec<VendorRoot>,
    /// What is demanded of nodes.
    pub node_policy: NodePolicy,
    /// Whose rules have the last word.
    pub last_word: LastWord,
    /// Where calls to webhooks may go.
    pub reach: Reach,
    /// Limits in time and size.
    pub limits: Limits,
}

/// Names of the policies that have the last word.
#[derive(Debug, Clone)]
pub struct LastWord {
    /// Over nodes that want a certificate.
    pub nodes: String,
    /// Over instances.
    pub instances: String,
}

/// Who signs revocation lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationSource {
    /// Nobody: what needs a list is refused.
    Nobody,
    /// Whoever has this Ed25519 key; the operator puts the lists.
    Pinned([u8; 32]),
    /// This server.
    Own,
}

/// Limits in time and size.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Life of a node certificate.
    pub certificate: Duration,
    /// Longest wait for evidence.
    pub challenge: Duration,
    /// Longest wait for keys after the platform's verdict.
    pub keys: Duration,
    /// Longest silence of a node.
    pub node_lost: Duration,
    /// Longest wait of one long poll.
    pub long_poll: Duration,
    /// Largest blob, in bytes.
    pub blob_bytes: u64,
    /// Most bytes of records of one instance.
    pub record_bytes: u64,
    /// Incidents after which a node is revoked.
    pub strikes: u32,
    /// What a project may have that has no limits of its own.
    pub quota: Quota,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} fault(s):\n  {}", .0.len(), .0.join("\n  "))]
pub struct Faults(pub Vec<String>);

impl Config {
    /// Checks all values and reads the files they name.
    pub fn check(self) -> Result<Settings, Faults> {
        let mut faults = Vec::new();
        let roles = keep(&mut faults, Roles::parse(&self.roles).map_err(|error| format!("roles: {error}")));
        let rest_addr = keep(&mut faults, address("rest_addr", &self.rest_addr));
        if self.names.is_empty() {
            faults.push("names: at least one name or address that clients use".into());
        }
        self.ranges(&mut faults);
        let pinned = self.pinned(&mut faults);
        let platform = roles.as_ref().is_some_and(Roles::platform).then(|| self.platform(&pinned, &mut faults));
        let verifier = roles.as_ref().is_some_and(Roles::verifier).then(|| self.verifier.check(&pinned, &mut faults));
        let alone = platform.is_none() && verifier.is_some();
        if alone && self.verifier.platform_ca.is_some() == self.vendor_roots.is_empty() {
            faults.push("verifier.platform_ca, vendor_roots: instances are judged by both; give both or none".into());
        }
        let store = self.store.check(&self.data_dir, &mut faults);
        if matches!(store, StoreAccess::Sqlite(_)) && self.shared_dir.is_some() {
            faults.push("shared_dir: replicas need store.url; a server with a database of its own has nothing to share".into());
        }
        let revocations = self.revocation_source(platform.is_some(), verifier.is_some(), &mut faults);
        // What a role lacks is among the faults.
        match (roles, rest_addr) {
            (Some(roles), Some(rest_addr)) if faults.is_empty() => Ok(Settings {
                shared_dir: self.shared_dir.unwrap_or_else(|| self.data_dir.clone()),
                data_dir: self.data_dir,
                store,
                replica_life: Duration::from_millis(self.replica_life_ms),
                roles,
                rest_addr,
                names: self.names,
                simulated: if self.allow_simulated { Simulated::Allow } else { Simulated::Refuse },
                revocations,
                quota: self.quota.into(),
                rates: self.rates.into(),
                platform: platform.flatten(),
                verifier: verifier.flatten(),
            }),
            _ => Err(Faults(faults)),
        }
    }

    /// The database alone, for who needs nothing else.
    pub fn store_access(&self) -> Result<StoreAccess, Faults> {
        let mut faults = Vec::new();
        let access = self.store.check(&self.data_dir, &mut faults);
        if faults.is_empty() { Ok(access) } else { Err(Faults(faults)) }
    }

    /// Reads the files that both the platform and the verifier believe in.
    fn pinned(&self, faults: &mut Vec<String>) -> Pinned {
        let references = match (&self.reference_values, &self.reference_key) {
            (Some(path), Some(key)) => keep(faults, references(path, key)),
            (None, None) => None,
            _ => {
                faults.push("reference_values, reference_key: one is of no use without the other".into());
                None
            }
        };
        Pinned { references, vendor_roots: keep(faults, vendor_roots(&self.vendor_roots)).unwrap_or_default() }
    }

    fn platform(&self, pinned: &Pinned, faults: &mut Vec<String>) -> Option<PlatformSettings> {
        let role = RoleName::Nodes.as_str();
        let node_addr = match &self.node_addr {
            Some(text) => keep(faults, address("node_addr", text)),
            None => {
                faults.push(format!("node_addr: the role {role:?} needs one"));
                None
            }
        };
        if self.reference_values.is_none() {
            faults.push(format!("reference_values: the role {role:?} needs them"));
        }
        if self.vendor_roots.is_empty() {
            faults.push("vendor_roots: at least one PEM file; without one no node can enrol".into());
        }
        let (references, vendor_roots) = (pinned.references.clone(), pinned.vendor_roots.clone());
        let node_policy = match &self.node_policy {
            None => Some(NodePolicy::strict()),
            Some(path) => keep(faults, node_policy(path)),
        };
        Some(PlatformSettings {
            node_addr: node_addr?,
            references: references?,
            vendor_roots,
            node_policy: node_policy?,
            last_word: LastWord { nodes: self.node_rules.clone(), instances: self.instance_rules.clone() },
            reach: self.webhooks.into(),
            limits: self.limits(),
        })
    }

    /// Nodes and instances are refused without a list, so a platform says where it comes from.
    fn revocation_source(&self, platform: bool, verifier: bool, faults: &mut Vec<String>) -> RevocationSource {
        match (&self.verifier.revocation_key, self.own_revocation_list) {
            (Some(_), true) => {
                faults.push("own_revocation_list, verifier.revocation_key: give one of them".into());
                RevocationSource::Nobody
            }
            (None, true) => RevocationSource::Own,
            (Some(_), false) if !verifier => {
                faults
                    .push("verifier.revocation_key: lists are put through the role \"verifier\", which this server lacks".into());
                RevocationSource::Nobody
            }
            (Some(text), false) => {
                let key = keep(faults, key("verifier.revocation_key", text));
                key.map_or(RevocationSource::Nobody, RevocationSource::Pinned)
            }
            (None, false) => {
                if platform {
                    faults.push(
                        "verifier.revocation_key: nodes are refused without a revocation list; give the key that signs it, or \
                         for development own_revocation_list = true"
                            .into(),
                    );
                }
                RevocationSource::Nobody
            }
        }
    }

    fn ranges(&self, faults: &mut Vec<String>) {
        let ranges = [
            ("certificate_s", self.certificate_s, 5, 7 * 24 * 3600),
            ("challenge_timeout_ms", self.challenge_timeout_ms, 100, 600_000),
            ("keys_timeout_ms", self.keys_timeout_ms, 100, 24 * 3_600_000),
            ("node_lost_ms", self.node_lost_ms, 100, 3_600_000),
            ("replica_life_ms", self.replica_life_ms, 500, 60_000),
            ("long_poll_max_ms", self.long_poll_max_ms, 1, 300_000),
            ("max_blob_mib", self.max_blob_mib, 1, 1 << 24),
            ("max_records_mib", self.max_records_mib, 1, 1 << 24),
            ("strikes", self.strikes.into(), 1, 1000),
        ];
        for (name, value, low, high) in ranges {
            within(faults, name, value, low, high);
        }
        self.rates.check(faults);
    }

    fn limits(&self) -> Limits {
        Limits {
            certificate: Duration::from_secs(self.certificate_s),
            challenge: Duration::from_millis(self.challenge_timeout_ms),
            keys: Duration::from_millis(self.keys_timeout_ms),
            node_lost: Duration::from_millis(self.node_lost_ms),
            long_poll: Duration::from_millis(self.long_poll_max_ms),
            blob_bytes: self.max_blob_mib.saturating_mul(1 << 20),
            record_bytes: self.max_records_mib.saturating_mul(1 << 20),
            strikes: self.strikes,
            quota: self.quota.into(),
        }
    }
}

/// What evidence is compared with.
struct Pinned {
    references: Option<ReferenceValues>,
    vendor_roots: Vec<VendorRoot>,
}

fn within(faults: &mut Vec<String>, name: &str, value: u64, low: u64, high: u64) {
    if !(low..=high).contains(&value) {
        faults.push(format!("{name}: must be {low} to {high}, got {value}"));
    }
}

fn keep<T>(faults: &mut Vec<String>, result: Result<T, String>) -> Option<T> {
    result.map_err(|fault| faults.push(fault)).ok()
}

fn address(name: &str, text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{name}: must be an address with a port like 0.0.0.0:7443, got {text:?}"))
}

fn key(name: &str, text: &str) -> Result<[u8; 32], String> {
    let key = STANDARD.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    key.ok_or_else(|| format!("{name}: must be the base64 of 32 bytes"))
}

fn references(path: &Path, key_text: &str) -> Result<ReferenceValues, String> {
    let key = key("reference_key", key_text)?;
    let json = std::fs::read(path).map_err(|e| format!("reference_values: read {}: {e}", path.display()))?;
    ReferenceValues::from_signed(&json, &key)
        .map_err(|e| format!("reference_values: {}: {}", path.display(), crate::fault::chain(&e)))
}

fn node_policy(path: &Path) -> Result<NodePolicy, String> {
    let json = std::fs::read(path).map_err(|e| format!("node_policy: read {}: {e}", path.display()))?;
    let policy: NodePolicy = serde_json::from_slice(&json).map_err(|e| format!("node_policy: {}: {e}", path.display()))?;
    if policy.boot == Demand::LeftToPlatform || policy.ima == Demand::LeftToPlatform {
        return Err(format!("node_policy: {}: \"left_to_platform\" is for others; this is the platform", path.display()));
    }
    Ok(policy)
}

fn vendor_roots(paths: &[PathBuf]) -> Result<Vec<VendorRoot>, String> {
    let mut roots = Vec::new();
    for path in paths {
        let pem = std::fs::read_to_string(path).map_err(|e| format!("vendor_roots: read {}: {e}", path.display()))?;
        roots.push(
            VendorRoot::from_pem(&pem).map_err(|e| format!("vendor_roots: {}: {}", path.display(), crate::fault::chain(&e)))?,
        );
    }
    Ok(roots)
}

mod defaults {
    pub(super) fn roles() -> Vec<String> {
        super::RoleName::ALL.map(|role| role.as_str().to_owned()).to_vec()
    }
    pub(super) fn rules() -> String {
        crate::service::STRICT_NAME.to_owned()
    }
    pub(super) fn certificate_s() -> u64 {
        3600
    }
    pub(super) fn challenge_timeout_ms() -> u64 {
        60_000
    }
    pub(super) fn keys_timeout_ms() -> u64 {
        600_000
    }
    pub(super) fn node_lost_ms() -> u64 {
        30_000
    }
    pub(super) fn replica_life_ms() -> u64 {
        10_000
    }
    pub(super) fn long_poll_max_ms() -> u64 {
        30_000
    }
    pub(super) fn max_blob_mib() -> u64 {
        16 << 10
    }
    pub(super) fn max_records_mib() -> u64 {
        4 << 10
    }
    pub(super) fn strikes() -> u32 {
        3
    }
}
