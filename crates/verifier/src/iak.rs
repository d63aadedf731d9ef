//! Initial attestation keys ("TPM 2.0 Keys for Device Identity and Attestation", TCG, version 1.00): a certificate of the
//! device's manufacturer on the attestation key itself.
//!
//! It binds key and device as [MakeCredential](crate::credential) does, without a round trip. What makes it safe is that the
//! manufacturer says it *verified that the key is restricted*: the public area that a node sends is the node's own word, and an
//! IDevID key, which signs anything, could be shown with a public area of an attestation key.

use x509_cert::{
    der::{
        Encode as _, Reader as _, SliceReader,
        asn1::{ObjectIdentifier, OctetStringRef},
    },
    ext::pkix::{CertificatePolicies, SubjectAltName, name::GeneralName},
};

use crate::{
    anchors::TrustAnchors,
    quote::{AttestationKey, KeyError},
    time::UnixTime,
    x509::{Certificate, PathError, Profile, public_key, verify_path},
};

/// Why an attestation key is not accepted by its certificate.
#[derive(Debug, thiserror::Error)]
pub enum IakError {
    /// No path to a manufacturer's root.
    #[error("verify the IAK certificate against the pinned roots of device manufacturers")]
    Path(#[source] PathError),
    /// The manufacturer does not say that the key is restricted.
    #[error("the certificate does not say that its key was verified to be restricted (policy {RESTRICTED})")]
    NotRestricted,
    /// No serial number.
    #[error("the IAK certificate names no hardware module with a serial number")]
    SerialNumber,
    /// Not a public area of an attestation key.
    #[error(transparent)]
    Key(KeyError),
    /// The public area is of another key than the certificate.
    #[error("the public area is of another key than the IAK certificate")]
    OtherKey,
}

/// An attestation key that its device's manufacturer vouches for.
#[derive(Debug)]
pub struct VerifiedIak {
    key: AttestationKey,
    certificate: [u8; 32],
    serial_number: Vec<u8>,
    hardware_type: String,
    root_subject: String,
    root_fingerprint: [u8; 32],
    simulated: bool,
}

/// Verifies an IAK certificate (DER, leaf first, with or without the root) and that `ak_public` (TPMT_PUBLIC) is of its key.
/// `manufacturers` has the manufacturers' roots as its vendor roots.
pub fn verify_iak(
    chain: &[Vec<u8>],
    ak_public: &[u8],
    manufacturers: &TrustAnchors,
    now: UnixTime,
) -> Result<VerifiedIak, IakError> {
    let path = verify_path(chain, manufacturers.vendors(), &Profile::IAK, now).map_err(IakError::Path)?;
    if !says_restricted(&path.leaf) {
        return Err(IakError::NotRestricted);
    }
    let (hardware_type, serial_number) = hardware_module(&path.leaf).ok_or(IakError::SerialNumber)?;
    let key = AttestationKey::from_public(ak_public).map_err(IakError::Key)?;
    if public_key(&path.leaf).as_ref() != Some(key.key()) {
        return Err(IakError::OtherKey);
    }
    Ok(VerifiedIak {
        key,
        certificate: path.leaf.fingerprint(),
        serial_number,
        hardware_type,
        root_subject: path.anchor.certificate.subject(),
        root_fingerprint: path.anchor.certificate.fingerprint(),
        simulated: path.anchor.simulated,
    })
}

impl VerifiedIak {
    /// The key, for its quotes.
    pub fn key(&self) -> &AttestationKey {
        &self.key
    }

    /// SHA-256 of the certificate.
    pub fn certificate_digest(&self) -> [u8; 32] {
        self.certificate
    }

    /// The device's serial number (hwSerialNum).
    pub fn serial_number(&self) -> &[u8] {
        &self.serial_number
    }

    /// What kind of hardware module it is (hwType); a TPM 2.0 is 2.23.133.1.2.
    pub fn hardware_type(&self) -> &str {
        &self.hardware_type
    }

    /// Whether its root is a simulator's.
    pub fn is_simulated(&self) -> bool {
        self.simulated
    }

    /// Subject of the root.
    pub fn root_subject(&self) -> &str {
        &self.root_subject
    }

    /// SHA-256 of the root.
    pub fn root_fingerprint(&self) -> [u8; 32] {
        self.root_fingerprint
    }
}

fn says_restricted(leaf: &Certificate) -> bool {
    let policies = leaf.standard::<CertificatePolicies>("certificate policies").ok().flatten();
    policies.is_some_and(|policies| policies.0.iter().any(|policy| policy.policy_identifier == RESTRICTED))
}

/// Type and serial number of a HardwareModuleName (RFC 4108, section 5).
fn hardware_module(leaf: &Certificate) -> Option<(String, Vec<u8>)> {
    let names = leaf.standard::<SubjectAltName>("subject alternative name").ok()??;
    let other = names.0.iter().find_map(|name| match name {
        GeneralName::OtherName(other) if other.type_id == HARDWARE_MODULE_NAME => Some(other),
        _ => None,
    })?;
    let der = other.value.to_der().ok()?;
    let mut reader = SliceReader::new(&der).ok()?;
    let (hardware_type, serial) = reader
        .sequence(|inner| -> x509_cert::der::Result<_> {
            let hardware_type: ObjectIdentifier = inner.decode()?;
            let serial: &OctetStringRef = inner.decode()?;
            Ok((hardware_type.to_string(), serial.as_bytes().to_vec()))
        })
        .ok()?;
    (reader.is_finished() && !serial.is_empty()).then_some((hardware_type, serial))
}

/// tcg-cap-verifiedTPMRestricted: the issuer verified fixedTPM and restricted.
const RESTRICTED: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.11.1.3");
/// id-on-hardwareModuleName.
const HARDWARE_MODULE_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.8.4");
