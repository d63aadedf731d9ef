//! Who this node is: its certificate with the TLS key, and its receipt key. Files of mode 0600.

use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_api::node::NodeCredential;
use casemate_lifecycle::NodeId;
use ed25519_dalek::{SigningKey, VerifyingKey};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::{Deserialize, Serialize};

use crate::{
    clock,
    files::{self, FileError},
};

/// Largest file, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Most certificates of a chain.
const MAX_CHAIN: usize = 8;

/// Why there is no usable credential.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CredentialError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its content, or the platform's answer.
    #[error("node credential: {0}")]
    Malformed(String),
    /// Making a key or a request.
    #[error("make a key and a certificate request")]
    Request(#[source] rcgen::Error),
}

/// The node certificate, its key, and what came with it. A fresh key for every certificate; both in one file, so that they
/// always belong together.
#[derive(Clone)]
pub(crate) struct Credential {
    pub(crate) node: NodeId,
    /// DER, leaf first.
    chain: Vec<Vec<u8>>,
    tls_key_pem: String,
    pub(crate) renew_at_ms: u64,
    pub(crate) platform_key: VerifyingKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u16,
    node: String,
    chain: Vec<String>,
    tls_key: String,
    renew_at_ms: u64,
    platform_key: String,
}

impl Credential {
    /// Joins the platform's answer with the key of the request.
    pub(crate) fn new(answer: NodeCredential, request: &CertificateRequest) -> Result<Self, CredentialError> {
        let malformed = |what: &str| CredentialError::Malformed(what.to_owned());
        if answer.chain.is_empty() || answer.chain.len() > MAX_CHAIN {
            return Err(malformed("the chain has no certificate, or too many"));
        }
        let key: [u8; 32] =
            answer.platform_key.as_slice().try_into().map_err(|_| malformed("the platform's key is not 32 bytes long"))?;
        Ok(Self {
            node: answer.node.parse().map_err(|error| CredentialError::Malformed(format!("{error}")))?,
            chain: answer.chain,
            tls_key_pem: request.key.serialize_pem(),
            renew_at_ms: answer.renew_at_ms,
            platform_key: VerifyingKey::from_bytes(&key).map_err(|_| malformed("the platform's key is no Ed25519 key"))?,
        })
    }

    /// Reads it; `None` where the node is not enrolled.
    pub(crate) fn load(state_dir: &Path) -> Result<Option<Self>, CredentialError> {
        let Some(bytes) = files::read(&path(state_dir), MAX_BYTES)? else { return Ok(None) };
        let malformed = |error: String| CredentialError::Malformed(error);
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        let chain: Result<_, _> = stored.chain.iter().map(hex::decode).collect();
        let key = casemate_api::workload::parse_hex32(&stored.platform_key).ok_or_else(|| malformed("platform key".into()))?;
        Ok(Some(Self {
            node: stored.node.parse().map_err(|error| malformed(format!("{error}")))?,
            chain: chain.map_err(|error| malformed(error.to_string()))?,
            tls_key_pem: stored.tls_key,
            renew_at_ms: stored.renew_at_ms,
            platform_key: VerifyingKey::from_bytes(&key).map_err(|error| malformed(error.to_string()))?,
        }))
    }

    pub(crate) fn save(&self, state_dir: &Path) -> Result<(), CredentialError> {
        let stored = Stored {
            version: 1,
            node: self.node.to_string(),
            chain: self.chain.iter().map(hex::encode).collect(),
            tls_key: self.tls_key_pem.clone(),
            renew_at_ms: self.renew_at_ms,
            platform_key: hex::encode(self.platform_key.as_bytes()),
        };
        let bytes = serde_json::to_vec(&stored).expect("texts and numbers always serialise");
        Ok(files::replace(&path(state_dir), &bytes)?)
    }

    pub(crate) fn chain_pem(&self) -> String {
        self.chain.iter().map(|der| pem("CERTIFICATE", der)).collect()
    }

    pub(crate) fn tls_key_pem(&self) -> &str {
        &self.tls_key_pem
    }
}

/// A fresh TLS key (P-256) and the request for its certificate. The platform names the node; the request says nothing.
pub(crate) struct CertificateRequest {
    key: KeyPair,
    pub(crate) der: Vec<u8>,
}

impl CertificateRequest {
    pub(crate) fn new() -> Result<Self, CredentialError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CredentialError::Request)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "casemate node");
        let der = params.serialize_request(&key).map_err(CredentialError::Request)?.der().to_vec();
        Ok(Self { key, der })
    }
}

/// The key that signs receipts; made once, its public half is in every node certificate.
pub(crate) fn receipt_key(state_dir: &Path) -> Result<SigningKey, CredentialError> {
    let path = state_dir.join("receipt.key");
    if let Some(bytes) = files::read(&path, 32)? {
        let seed = bytes.try_into().map_err(|_| CredentialError::Malformed("receipt.key has not 32 bytes".into()))?;
        return Ok(SigningKey::from_bytes(&seed));
    }
    let key = SigningKey::from_bytes(&clock::random());
    files::replace(&path, key.as_bytes())?;
    Ok(key)
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("credential.json")
}

fn pem(label: &str, der: &[u8]) -> String {
    const LINE: usize = 64;
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(LINE).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn answer() -> NodeCredential {
        let platform_key = SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes().to_vec();
        NodeCredential { node: "n-1".into(), chain: vec![vec![1, 2, 3, 4], vec![5]], renew_at_ms: 9, platform_key }
    }

    #[test]
    fn certificate_and_key_are_kept_together_and_private() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Credential::load(dir.path()).unwrap().is_none());
        let request = CertificateRequest::new().unwrap();
        let credential = Credential::new(answer(), &request).unwrap();
        credential.save(dir.path()).unwrap();
        let loaded = Credential::load(dir.path()).unwrap().unwrap();
        assert_eq!((loaded.node.as_str(), loaded.renew_at_ms), ("n-1", 9));
        assert_eq!(loaded.tls_key_pem(), request.key.serialize_pem());
        assert_eq!(loaded.chain_pem(), credential.chain_pem());
        let mode = std::fs::metadata(path(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn refuses_answers_that_are_no_credential() {
        let request = CertificateRequest::new().unwrap();
        let broken = [
            NodeCredential { chain: vec![], ..answer() },
            NodeCredential { node: "../x".into(), ..answer() },
            NodeCredential { platform_key: vec![0; 31], ..answer() },
        ];
        for answer in broken {
            assert!(Credential::new(answer, &request).is_err());
        }
    }

    #[test]
    fn the_receipt_key_stays_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let key = receipt_key(dir.path()).unwrap();
        assert_eq!(receipt_key(dir.path()).unwrap().to_bytes(), key.to_bytes());
    }

    #[test]
    fn writes_pem_as_others_do() {
        assert_eq!(pem("X", b"foo"), "-----BEGIN X-----\nZm9v\n-----END X-----\n");
    }
}
