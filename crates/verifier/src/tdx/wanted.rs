//! What to fetch so that a quote can be judged.

use std::error::Error;

use super::{extension::SgxExtension, pck::certificates};
use crate::x509::{CertificateError, Seen};

/// Which collateral is about the processor that a quote is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollateralWanted {
    /// The processor's family: TCB info is about it.
    pub fmspc: [u8; 6],
    /// Who issued the processor's certificate: one revocation list each.
    pub ca: PckCa,
}

/// An issuer of PCK certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PckCa {
    /// Of machines with one package.
    Processor,
    /// Of machines with several.
    Platform,
}

impl PckCa {
    /// As the provisioning service names it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Platform => "platform",
        }
    }
}

/// Why a quote does not say which collateral is about it.
#[derive(Debug, thiserror::Error)]
pub enum WantedError {
    /// Its certificates.
    #[error("read the PCK certificate chain of the quote")]
    Certificates(#[source] CertificateError),
    /// The processor's certificate.
    #[error("read the SGX extension of the PCK certificate")]
    Extension(#[source] Box<dyn Error + Send + Sync>),
    /// Another issuer than the two that there are.
    #[error("the PCK certificate is issued by \"{seen}\", neither Intel's Processor CA nor its Platform CA")]
    Issuer {
        /// Found.
        seen: String,
    },
}

/// Which collateral to fetch, by the PCK certificate chain (PEM) of a quote. Nothing is verified.
pub fn collateral_wanted(pck_chain: &[u8]) -> Result<CollateralWanted, WantedError> {
    let certificates = certificates(pck_chain, &mut Seen::default()).map_err(WantedError::Certificates)?;
    let leaf = certificates.first().ok_or(WantedError::Certificates(CertificateError::Pem))?;
    let extension = SgxExtension::of(leaf).map_err(|error| WantedError::Extension(Box::new(error)))?;
    let seen = leaf.issuer();
    let ca = match (seen.contains("Intel SGX PCK Processor CA"), seen.contains("Intel SGX PCK Platform CA")) {
        (true, false) => PckCa::Processor,
        (false, true) => PckCa::Platform,
        _ => return Err(WantedError::Issuer { seen }),
    };
    Ok(CollateralWanted { fmspc: extension.fmspc, ca })
}
