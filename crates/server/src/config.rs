//! The configuration file, and what it means once checked.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
pub use casemate_verifier::Simulated;
use casemate_verifier::{ReferenceValues, VendorRoot};
use serde::Deserialize;

/// `server.toml` as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder of everything the server keeps.
    pub data_dir: PathBuf,
    /// Where REST listens.
    pub rest_addr: String,
    /// Where nodes connect.
    pub node_addr: String,
    /// DNS names and addresses in the server's certificate.
    pub names: Vec<String>,
    /// Signed reference values.
    pub reference_values: PathBuf,
    /// The Ed25519 key that signed them, base64.
    pub reference_key: String,
    /// PEM files with the roots of TPM vendors.
    pub vendor_roots: Vec<PathBuf>,
    /// Whether a node with a simulated TPM may be trusted; visible in every verdict.
    #[serde(default)]
    pub allow_simulated: bool,
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
    /// Longest wait of one long poll.
    #[serde(default = "defaults::long_poll_max_ms")]
    pub long_poll_max_ms: u64,
    /// Largest blob.
    #[serde(default = "defaults::max_blob_mib")]
    pub max_blob_mib: u64,
    /// Most bytes of records of one instance.
    #[serde(default = "defaults::max_records_mib")]
    pub max_records_mib: u64,
}

/// A checked configuration.
#[derive(Debug)]
pub struct Settings {
    /// Folder of everything the server keeps.
    pub data_dir: PathBuf,
    /// Where REST listens.
    pub rest_addr: SocketAddr,
    /// Where nodes connect.
    pub node_addr: SocketAddr,
    /// DNS names and addresses in the server's certificate.
    pub names: Vec<String>,
    /// What good evidence looks like.
    pub references: ReferenceValues,
    /// Roots of TPM vendors.
    pub vendor_roots: Vec<VendorRoot>,
    /// Whether simulated TPMs may be trusted.
    pub simulated: Simulated,
    /// Limits in time and size.
    pub limits: Limits,
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
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} fault(s):\n  {}", .0.len(), .0.join("\n  "))]
pub struct Faults(pub Vec<String>);

impl Config {
    /// Checks all values and reads the files they name.
    pub fn check(self) -> Result<Settings, Faults> {
        let mut faults = Vec::new();
        let rest_addr = keep(&mut faults, address("rest_addr", &self.rest_addr));
        let node_addr = keep(&mut faults, address("node_addr", &self.node_addr));
        let references = keep(&mut faults, references(&self.reference_values, &self.reference_key));
        let vendor_roots = keep(&mut faults, vendor_roots(&self.vendor_roots));
        if self.names.is_empty() {
            faults.push("names: at least one name or address that clients use".into());
        }
        let ranges = [
            ("certificate_s", self.certificate_s, 5, 7 * 24 * 3600),
            ("challenge_timeout_ms", self.challenge_timeout_ms, 100, 600_000),
            ("keys_timeout_ms", self.keys_timeout_ms, 100, 24 * 3_600_000),
            ("node_lost_ms", self.node_lost_ms, 100, 3_600_000),
            ("long_poll_max_ms", self.long_poll_max_ms, 1, 300_000),
            ("max_blob_mib", self.max_blob_mib, 1, 1 << 24),
            ("max_records_mib", self.max_records_mib, 1, 1 << 24),
        ];
        for (name, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                faults.push(format!("{name}: must be {low} to {high}, got {value}"));
            }
        }
        let limits = self.limits();
        match (rest_addr, node_addr, references, vendor_roots) {
            (Some(rest_addr), Some(node_addr), Some(references), Some(vendor_roots)) if faults.is_empty() => Ok(Settings {
                data_dir: self.data_dir,
                rest_addr,
                node_addr,
                names: self.names,
                references,
                vendor_roots,
                simulated: if self.allow_simulated { Simulated::Allow } else { Simulated::Refuse },
                limits,
            }),
            _ => Err(Faults(faults)),
        }
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
        }
    }
}

fn keep<T>(faults: &mut Vec<String>, result: Result<T, String>) -> Option<T> {
    result.map_err(|fault| faults.push(fault)).ok()
}

fn address(name: &str, text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{name}: must be an address with a port like 0.0.0.0:7443, got {text:?}"))
}

fn references(path: &Path, key: &str) -> Result<ReferenceValues, String> {
    let key = STANDARD.decode(key).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let key = key.ok_or("reference_key: must be the base64 of 32 bytes")?;
    let json = std::fs::read(path).map_err(|e| format!("reference_values: read {}: {e}", path.display()))?;
    ReferenceValues::from_signed(&json, &key)
        .map_err(|e| format!("reference_values: {}: {}", path.display(), crate::fault::chain(&e)))
}

fn vendor_roots(paths: &[PathBuf]) -> Result<Vec<VendorRoot>, String> {
    if paths.is_empty() {
        return Err("vendor_roots: at least one PEM file; without one no node can enrol".into());
    }
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
    pub(super) fn long_poll_max_ms() -> u64 {
        30_000
    }
    pub(super) fn max_blob_mib() -> u64 {
        16 << 10
    }
    pub(super) fn max_records_mib() -> u64 {
        4 << 10
    }
}
