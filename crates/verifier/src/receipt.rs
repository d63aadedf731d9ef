//! Receipts: is it signed by the node that the platform vouched for when it wiped?

use ed25519_dalek::{Signature, VerifyingKey};
use serde::Deserialize;

use crate::{
    anchors::TrustAnchors,
    checks::CheckName,
    node_certificate::{NodeCertificate, NodeCertificateError},
    time::UnixTime,
};

/// Largest body, in bytes.
pub(crate) const MAX_BYTES: usize = 64 << 10;
/// How far the node's clock may be ahead of the verifier's, in seconds.
pub(crate) const CLOCK_AHEAD_S: u64 = 300;

/// Why a receipt is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptError {
    /// Too many bytes.
    #[error("the receipt has {len} bytes, more than the limit of {MAX_BYTES}")]
    TooLong {
        /// Found.
        len: usize,
    },
    /// Not JSON with a wipe time.
    #[error("read node and wipe time in the receipt")]
    Json(#[source] serde_json::Error),
    /// Wiped in the future.
    #[error("the receipt says that the wipe was done at {wiped_at}, which is after {now}")]
    Future {
        /// As the receipt says.
        wiped_at: UnixTime,
        /// The verifier's time.
        now: UnixTime,
    },
    /// Not a node of the platform, or not then.
    #[error("verify the node of the receipt")]
    Node(#[source] NodeCertificateError),
    /// The body names another node than the certificate.
    #[error("the receipt is of node \"{body}\", the certificate of \"{certificate}\"")]
    OtherNode {
        /// In the body.
        body: String,
        /// Common name of the certificate.
        certificate: String,
    },
    /// The signature is wrong.
    #[error("the receipt's signature is not that of the receipt key in the node certificate")]
    Signature,
}

impl ReceiptError {
    /// The check that failed.
    pub fn check(&self) -> &'static str {
        match self {
            Self::Future { .. } | Self::Node(_) | Self::OtherNode { .. } => CheckName::ReceiptNode.as_str(),
            Self::TooLong { .. } | Self::Json(_) | Self::Signature => CheckName::ReceiptSignature.as_str(),
        }
    }
}

/// A receipt that a node of the platform signed. What it says is the node's word.
#[derive(Debug)]
pub struct VerifiedReceipt {
    body: Vec<u8>,
    node: String,
    wiped_at: UnixTime,
}

impl VerifiedReceipt {
    /// The signed body, canonical JSON.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The node, as in its certificate.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// When the wipe was done; the time of the appraisal where there was none.
    pub fn wiped_at(&self) -> UnixTime {
        self.wiped_at
    }
}

/// Verifies a receipt: `signature` is Ed25519 over `"casemate/receipt/v1" || 0x00 || body` by the receipt key in the node
/// certificate.
///
/// Node certificates live for an hour, receipts for years. So the chain is judged *at the wipe time that the receipt
/// states*, which must not be in the future; at `now`, where nothing was ever started and the receipt states none. A node
/// that keeps an expired key could therefore date a receipt back into the key's time, but not forward. The common name of
/// the certificate must be the node that the body names.
pub fn verify_receipt(
    body: &[u8],
    signature: &[u8],
    node_chain: &[Vec<u8>],
    anchors: &TrustAnchors,
    now: UnixTime,
) -> Result<VerifiedReceipt, ReceiptError> {
    if body.len() > MAX_BYTES {
        return Err(ReceiptError::TooLong { len: body.len() });
    }
    let claims: Claims = serde_json::from_slice(body).map_err(ReceiptError::Json)?;
    let wiped_at = match claims.wiped_at_ms {
        0 => now,
        ms => UnixTime(ms / 1000),
    };
    if wiped_at.0 > now.0.saturating_add(CLOCK_AHEAD_S) {
        return Err(ReceiptError::Future { wiped_at, now });
    }
    let certificate = NodeCertificate::verify(node_chain, anchors, wiped_at).map_err(ReceiptError::Node)?;
    let node = certificate.common_name.unwrap_or_default();
    if node != claims.node {
        return Err(ReceiptError::OtherNode { body: claims.node, certificate: node });
    }
    let key = VerifyingKey::from_bytes(&certificate.receipt_key).map_err(|_| ReceiptError::Signature)?;
    let signature = Signature::from_slice(signature).map_err(|_| ReceiptError::Signature)?;
    key.verify_strict(&[SIGNATURE_DOMAIN, body].concat(), &signature).map_err(|_| ReceiptError::Signature)?;
    Ok(VerifiedReceipt { body: body.to_vec(), node, wiped_at })
}

/// What is needed of the body before its signature can be judged. The rest is for whoever reads the verified body.
#[derive(Deserialize)]
struct Claims {
    node: String,
    wiped_at_ms: u64,
}

const SIGNATURE_DOMAIN: &[u8] = b"casemate/receipt/v1\0";
