//! Reference manifests (RIM): which measurements a version of the driver or of the VBIOS has.

use std::borrow::Cow;

use super::{
    chain::{ChainError, MANIFEST_ROOT, PinnedChain},
    dsig::{DsigError, SignedDocument},
    policy::{Fingerprint, GpuPolicy},
    status::{Revocation, StatusError, StatusWindow},
    swid::{Swid, SwidError},
};
use crate::time::UnixTime;

/// Why a manifest is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Its form or its signature.
    #[error("verify the signature of the manifest")]
    Signature(#[source] DsigError),
    /// Who signed it.
    #[error("verify who signed the manifest")]
    Chain(#[source] ChainError),
    /// Whether that is revoked.
    #[error("the revocation of who signed the manifest")]
    Status(#[source] StatusError),
    /// What it says.
    #[error("read the signed content of the manifest")]
    Content(#[source] SwidError),
    /// There is none.
    #[error("no manifest \"{id}\" is given")]
    Missing {
        /// The vendor's id.
        id: String,
    },
    /// None can be named.
    #[error("the report does not say which manifests are for it: {problem}")]
    Unnamed {
        /// What is missing.
        problem: &'static str,
    },
}

/// A manifest under the id that the vendor publishes it by.
#[derive(Debug, Clone, Copy)]
pub struct Manifest<'a> {
    /// Such as `NV_GPU_DRIVER_GH100_550.144.03`. Only used to find it: what it is for is in its signed content.
    pub id: &'a str,
    /// Itself.
    pub document: ManifestDocument<'a>,
}

/// A manifest, before or after it was verified.
#[derive(Debug, Clone, Copy)]
pub enum ManifestDocument<'a> {
    /// As it was published: XML.
    Xml(&'a [u8]),
    /// Verified before, by the same caller.
    Verified(&'a VerifiedManifest),
}

/// A manifest that the vendor signed. Its dates and the age of what is known about revocation are judged at each use.
#[derive(Debug, Clone)]
pub struct VerifiedManifest {
    pub(crate) content: Swid,
    chain: PinnedChain,
    status: Option<StatusWindow>,
}

impl VerifiedManifest {
    /// Verifies a manifest, the chain in it, and the revocation of that.
    pub fn verify(xml: &[u8], revocation: &Revocation<'_>, policy: &GpuPolicy, now: UnixTime) -> Result<Self, ManifestError> {
        let document = SignedDocument::parse(xml).map_err(ManifestError::Signature)?;
        let chain =
            PinnedChain::verify(document.chain(), &pinned(policy), LEAST_CERTIFICATES, now).map_err(ManifestError::Chain)?;
        let content = document.verify(chain.key()).map_err(ManifestError::Signature)?;
        let content = Swid::parse(&content).map_err(ManifestError::Content)?;
        let mut manifest = Self { content, chain, status: None };
        if !policy.danger_without_revocation {
            let status = manifest.chain.require_status(0, revocation, policy, now).map_err(ManifestError::Status)?;
            manifest.status = Some(status);
        }
        Ok(manifest)
    }

    /// What was verified still holds under `policy` at `now`.
    pub(crate) fn require(&self, revocation: &Revocation<'_>, policy: &GpuPolicy, now: UnixTime) -> Result<(), ManifestError> {
        self.chain.require(&pinned(policy), now).map_err(ManifestError::Chain)?;
        if policy.danger_without_revocation {
            return Ok(());
        }
        match self.status {
            Some(window) => window.require(policy.max_status_age_s, now),
            None => self.chain.require_status(0, revocation, policy, now).map(|_| ()),
        }
        .map_err(ManifestError::Status)
    }

    pub(crate) fn root(&self) -> Fingerprint {
        self.chain.root()
    }

    /// The version that it is for.
    pub fn version(&self) -> &str {
        &self.content.version
    }

    /// The chip that it is for.
    pub fn product(&self) -> &str {
        &self.content.product
    }
}

/// The manifest with `id`, verified now or before.
pub(crate) fn find<'a>(
    id: &str,
    manifests: &[Manifest<'a>],
    revocation: &Revocation<'_>,
    policy: &GpuPolicy,
    now: UnixTime,
) -> Result<Cow<'a, VerifiedManifest>, ManifestError> {
    let found = manifests.iter().find(|manifest| manifest.id == id);
    match found.ok_or_else(|| ManifestError::Missing { id: id.to_owned() })?.document {
        ManifestDocument::Xml(xml) => VerifiedManifest::verify(xml, revocation, policy, now).map(Cow::Owned),
        ManifestDocument::Verified(manifest) => manifest.require(revocation, policy, now).map(|()| Cow::Borrowed(manifest)),
    }
}

fn pinned(policy: &GpuPolicy) -> Vec<Fingerprint> {
    [&[MANIFEST_ROOT], &policy.danger_simulated_manifest_roots[..]].concat()
}

/// Signer and root.
const LEAST_CERTIFICATES: usize = 2;
