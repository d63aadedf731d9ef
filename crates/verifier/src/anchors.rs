//! What the relying party trusts to begin with.

use crate::x509::{Certificate, CertificateError, PathError, TrustAnchor};

/// Most roots of one kind.
pub const MAX_ROOTS: usize = 256;

/// Why anchors were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// Not a certificate.
    #[error("read the {kind} certificates")]
    Certificate {
        /// `platform CA` or `TPM vendor root`.
        kind: &'static str,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// A certificate that cannot be a root.
    #[error("use a certificate as {kind}")]
    Role {
        /// `platform CA` or `TPM vendor root`.
        kind: &'static str,
        /// Why.
        #[source]
        source: PathError,
    },
    /// Too many.
    #[error("{len} {kind} certificates are more than the limit of {MAX_ROOTS}")]
    TooMany {
        /// `platform CA` or `TPM vendor root`.
        kind: &'static str,
        /// Found.
        len: usize,
    },
}

/// TPM vendor roots in PEM form, one or several.
#[derive(Debug, Clone)]
pub struct VendorRoot {
    /// The text.
    pub pem: String,
    /// They are of a simulator. A root is so in any case when its common name says "simulated" or "swtpm".
    pub simulated: bool,
}

impl VendorRoot {
    /// Roots which are a simulator's if their names say so.
    pub fn from_pem(pem: &str) -> Result<Self, AnchorError> {
        let anchors = roots(VENDOR, pem, false)?;
        Ok(Self { pem: pem.to_owned(), simulated: anchors.iter().any(|anchor| anchor.simulated) })
    }
}

/// The pinned platform CA and TPM vendor roots, parsed once.
#[derive(Debug, Clone)]
pub struct TrustAnchors {
    platform: Vec<TrustAnchor>,
    vendors: Vec<TrustAnchor>,
}

impl TrustAnchors {
    /// Parses the anchors. Each must be a CA certificate; that it is self-signed does not matter, since it is pinned.
    pub fn new(platform_ca_pem: &str, vendor_roots: &[VendorRoot]) -> Result<Self, AnchorError> {
        let platform = roots(PLATFORM, platform_ca_pem, false)?;
        let mut vendors = Vec::new();
        for root in vendor_roots {
            vendors.extend(roots(VENDOR, &root.pem, root.simulated)?);
            if vendors.len() > MAX_ROOTS {
                return Err(AnchorError::TooMany { kind: VENDOR, len: vendors.len() });
            }
        }
        Ok(Self { platform, vendors })
    }

    pub(crate) fn platform(&self) -> &[TrustAnchor] {
        &self.platform
    }

    pub(crate) fn vendors(&self) -> &[TrustAnchor] {
        &self.vendors
    }
}

fn roots(kind: &'static str, pem: &str, simulated: bool) -> Result<Vec<TrustAnchor>, AnchorError> {
    let certificates = Certificate::all_from_pem(pem).map_err(|source| AnchorError::Certificate { kind, source })?;
    if certificates.len() > MAX_ROOTS {
        return Err(AnchorError::TooMany { kind, len: certificates.len() });
    }
    let anchor = |certificate: Certificate| {
        let simulated = simulated || names_a_simulator(&certificate);
        TrustAnchor::new(certificate, simulated).map_err(|source| AnchorError::Role { kind, source })
    };
    certificates.into_iter().map(anchor).collect()
}

fn names_a_simulator(certificate: &Certificate) -> bool {
    let name = certificate.subject().to_lowercase();
    name.contains("simulated") || name.contains("swtpm")
}

const PLATFORM: &str = "platform CA";
const VENDOR: &str = "TPM vendor root";
