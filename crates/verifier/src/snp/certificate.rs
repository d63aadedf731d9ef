//! What a VCEK or VLEK certificate says (AMD 57230, "VCEK Certificate", "VLEK Certificate").

use casemate_evidence::snp::{Generation, SigningKey, Tcb};
use p384::{ecdsa::VerifyingKey, pkcs8::DecodePublicKey as _};
use x509_cert::der::{
    Decode as _,
    asn1::{Ia5StringRef, ObjectIdentifier},
};

use crate::x509::{Certificate, CertificateError};

/// Why a certificate is not one of a key that signs reports.
#[derive(Debug, thiserror::Error)]
pub enum SignerCertificateError {
    /// Not a certificate, or one that lacks something.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A version or a product that is not known.
    #[error("the certificate is for {what} \"{value}\", which is not known here")]
    Unknown {
        /// What it is.
        what: &'static str,
        /// Found.
        value: String,
    },
    /// An extension of AMD's that is not known: it may change what the certificate means.
    #[error("the certificate has AMD's extension {oid}, which is not known here")]
    Extension {
        /// Which.
        oid: ObjectIdentifier,
    },
    /// A patch level of a part that is reserved.
    #[error("the certificate has patch level {level} in the reserved extension {oid}")]
    Reserved {
        /// Which.
        oid: ObjectIdentifier,
        /// Found.
        level: u8,
    },
    /// Neither a chip nor a provider, or both, or a name that does not fit.
    #[error("the certificate of \"{subject}\" is neither one of a chip (VCEK) nor one of a provider (VLEK)")]
    Kind {
        /// Its subject.
        subject: String,
    },
    /// Not a key on P-384.
    #[error("the certificate's key is not one on P-384")]
    Key,
}

/// A signing certificate, taken apart. Nothing about it is verified.
#[derive(Debug, Clone)]
pub(super) struct SignerCertificate {
    pub(super) generation: Generation,
    pub(super) tcb: Tcb,
    pub(super) holder: Holder,
    pub(super) key: VerifyingKey,
}

/// Whose key it is.
#[derive(Debug, Clone)]
pub(super) enum Holder {
    /// A chip's, with its CHIP_ID as in reports.
    Chip([u8; 64]),
    /// A provider's.
    Provider(String),
}

impl Holder {
    pub(super) const fn signing_key(&self) -> SigningKey {
        match self {
            Self::Chip(_) => SigningKey::Vcek,
            Self::Provider(_) => SigningKey::Vlek,
        }
    }
}

impl SignerCertificate {
    pub(super) fn of(certificate: &Certificate) -> Result<Self, SignerCertificateError> {
        require_known_extensions(certificate)?;
        let structure: u8 = value(certificate, STRUCT_VERSION, "structVersion")?;
        if structure > 1 {
            return Err(SignerCertificateError::Unknown { what: "structure version", value: structure.to_string() });
        }
        let generation = generation(certificate)?;
        let key = VerifyingKey::from_public_key_der(&certificate.key_der()?).map_err(|_| SignerCertificateError::Key)?;
        Ok(Self { generation, tcb: tcb(certificate, generation)?, holder: holder(certificate, generation)?, key })
    }
}

fn require_known_extensions(certificate: &Certificate) -> Result<(), SignerCertificateError> {
    let ours = |oid: &ObjectIdentifier| oid.as_bytes().starts_with(AMD.as_bytes());
    let known = |oid: &ObjectIdentifier| {
        [STRUCT_VERSION, PRODUCT_NAME, BOOTLOADER, TEE, SNP, MICROCODE, FMC, HWID, CSP_ID].contains(oid) || RESERVED.contains(oid)
    };
    match certificate.extensions().iter().map(|extension| extension.extn_id).find(|oid| ours(oid) && !known(oid)) {
        None => Ok(()),
        Some(oid) => Err(SignerCertificateError::Extension { oid }),
    }
}

/// The product name is the generation's, in a VCEK's certificate mostly with a stepping: `Milan-B0`.
fn generation(certificate: &Certificate) -> Result<Generation, SignerCertificateError> {
    let malformed = || CertificateError::Extension { oid: PRODUCT_NAME, what: "productName" };
    let content =
        raw(certificate, PRODUCT_NAME).ok_or(CertificateError::MissingExtension { oid: PRODUCT_NAME, what: "productName" })?;
    let product = Ia5StringRef::from_der(content).map_err(|_| malformed())?.as_str();
    let (name, stepping) = product.split_once('-').map_or((product, None), |(name, stepping)| (name, Some(stepping)));
    let is_stepping =
        |stepping: &str| matches!(stepping.as_bytes(), [letter, digit] if letter.is_ascii_uppercase() && digit.is_ascii_digit());
    [Generation::Milan, Generation::Genoa, Generation::Turin]
        .into_iter()
        .find(|generation| generation.name() == name && stepping.is_none_or(is_stepping))
        .ok_or_else(|| SignerCertificateError::Unknown { what: "product", value: product.to_owned() })
}

fn tcb(certificate: &Certificate, generation: Generation) -> Result<Tcb, SignerCertificateError> {
    for oid in RESERVED {
        let level = if raw(certificate, oid).is_some() { value(certificate, oid, "reserved patch level")? } else { 0 };
        if level != 0 {
            return Err(SignerCertificateError::Reserved { oid, level });
        }
    }
    let fmc = match (generation, raw(certificate, FMC)) {
        (Generation::Turin, _) => value(certificate, FMC, "fmcSPL")?,
        (Generation::Milan | Generation::Genoa, None) => 0,
        (Generation::Milan | Generation::Genoa, Some(_)) => return Err(SignerCertificateError::Extension { oid: FMC }),
    };
    Ok(Tcb {
        fmc,
        bootloader: value(certificate, BOOTLOADER, "blSPL")?,
        tee: value(certificate, TEE, "teeSPL")?,
        snp: value(certificate, SNP, "snpSPL")?,
        microcode: value(certificate, MICROCODE, "ucodeSPL")?,
    })
}

fn holder(certificate: &Certificate, generation: Generation) -> Result<Holder, SignerCertificateError> {
    let unclear = || SignerCertificateError::Kind { subject: certificate.subject() };
    let name = certificate.common_name().unwrap_or_default();
    match (raw(certificate, HWID), raw(certificate, CSP_ID), name.as_str()) {
        (Some(content), None, "SEV-VCEK") => {
            let id = hwid(content, generation).ok_or(CertificateError::Extension { oid: HWID, what: "hwID" })?;
            Ok(Holder::Chip(id))
        }
        (None, Some(content), "SEV-VLEK") => {
            let malformed = |_| CertificateError::Extension { oid: CSP_ID, what: "cspID" };
            let id = Ia5StringRef::from_der(content).map_err(malformed)?;
            Ok(Holder::Provider(id.as_str().to_owned()))
        }
        // Without its identifier a certificate would be one for any chip.
        (None, None, "SEV-VCEK") => Err(CertificateError::MissingExtension { oid: HWID, what: "hwID" }.into()),
        (None, None, "SEV-VLEK") => Err(CertificateError::MissingExtension { oid: CSP_ID, what: "cspID" }.into()),
        _ => Err(unclear()),
    }
}

/// The identifier is 64 bytes, from Turin on 8, which reports fill up with zeros. The extension holds the bare bytes in most
/// certificates, and an OCTET STRING of them in some.
fn hwid(content: &[u8], generation: Generation) -> Option<[u8; 64]> {
    let len = match generation {
        Generation::Milan | Generation::Genoa => 64_u8,
        Generation::Turin => 8,
    };
    let bytes = match content {
        [0x04, inner, bytes @ ..] if *inner == len && bytes.len() == usize::from(len) => bytes,
        bytes if bytes.len() == usize::from(len) => bytes,
        _ => return None,
    };
    let mut id = [0; 64];
    id[..bytes.len()].copy_from_slice(bytes);
    Some(id)
}

fn value(certificate: &Certificate, oid: ObjectIdentifier, what: &'static str) -> Result<u8, CertificateError> {
    let content = raw(certificate, oid).ok_or(CertificateError::MissingExtension { oid, what })?;
    u8::from_der(content).map_err(|_| CertificateError::Extension { oid, what })
}

fn raw(certificate: &Certificate, oid: ObjectIdentifier) -> Option<&[u8]> {
    let extension = certificate.extensions().iter().find(|extension| extension.extn_id == oid)?;
    Some(extension.extn_value.as_bytes())
}

const AMD: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704");
const STRUCT_VERSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.1");
const PRODUCT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
const BOOTLOADER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const MICROCODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const FMC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
/// spl4 to spl7.
const RESERVED: [ObjectIdentifier; 4] = [
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.4"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.5"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.6"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.7"),
];
const HWID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const CSP_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.5");
