//! Chains of certificates to one of NVIDIA's roots, of devices and of who signs reference manifests.

use p384::{ecdsa::VerifyingKey, pkcs8::DecodePublicKey as _};
use sha2::{Digest as _, Sha256};
use x509_cert::ext::pkix::{SubjectAltName, name::GeneralName};

use super::{
    der::{UTF8_STRING, only},
    fwid::{FwidError, firmware_id},
    policy::{Fingerprint, GpuPolicy},
    status::{Revocation, StatusError, StatusWindow, require_good},
};
use crate::{
    time::UnixTime,
    x509::{Certificate, CertificateError, PathError, Profile, TrustAnchor, verify_path},
};

/// "NVIDIA Device Identity CA": the root of all GPUs and NVSwitches. SHA-256 of its DER.
pub const DEVICE_ROOT: Fingerprint = Fingerprint(hex32(b"102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"));
/// "NVIDIA CoRIM signing Root CA": the root of those who sign reference manifests. SHA-256 of its DER.
pub const MANIFEST_ROOT: Fingerprint = Fingerprint(hex32(b"12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"));

/// Why a chain is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// A certificate that cannot be judged.
    #[error("read certificate {index} of the chain")]
    Certificate {
        /// Where, the leaf being 0.
        index: usize,
        /// Why.
        #[source]
        source: CertificateError,
    },
    /// Too short to have an issuer and a root.
    #[error("the chain has {len} certificates, fewer than the {least} that it must have with its root")]
    Short {
        /// Found.
        len: usize,
        /// Needed.
        least: usize,
    },
    /// It ends with another root.
    #[error("the chain ends with \"{subject}\", fingerprint {fingerprint}, which is no pinned root")]
    Unpinned {
        /// Of its last certificate.
        subject: String,
        /// Of its last certificate.
        fingerprint: Fingerprint,
    },
    /// The path.
    #[error("verify the path to the pinned root")]
    Path(#[source] PathError),
    /// A leaf with another kind of key.
    #[error("the key of the leaf is not on P-384")]
    Key,
    /// A certificate that a stored verification is of is no longer valid, or not yet.
    #[error("a certificate of the chain is valid from {not_before} to {not_after} only, the time is {at}")]
    Time {
        /// Latest beginning of all.
        not_before: UnixTime,
        /// Earliest end of all.
        not_after: UnixTime,
        /// Judged at.
        at: UnixTime,
    },
    /// A leaf without what names the device.
    #[error("the certificates do not name the device: {problem}")]
    Device {
        /// What is wrong.
        problem: &'static str,
    },
    /// The digest of the firmware in the leaf.
    #[error("read the digest of the firmware in the leaf")]
    Fwid(#[source] FwidError),
    /// Its revocation, where a chain is verified to be stored.
    #[error("the revocation of the chain")]
    Status(#[source] StatusError),
}

/// Certificates with a verified path to a pinned root, leaf first, root last.
#[derive(Debug, Clone)]
pub(crate) struct PinnedChain {
    certificates: Vec<Certificate>,
    key: VerifyingKey,
    root: Fingerprint,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl PinnedChain {
    pub(crate) fn verify(chain: &[Vec<u8>], pinned: &[Fingerprint], least: usize, at: UnixTime) -> Result<Self, ChainError> {
        if chain.len() < least {
            return Err(ChainError::Short { len: chain.len(), least });
        }
        let last = chain.len() - 1;
        let root = Certificate::from_der(&chain[last]).map_err(|source| ChainError::Certificate { index: last, source })?;
        let fingerprint = Fingerprint(root.fingerprint());
        if !pinned.contains(&fingerprint) {
            return Err(ChainError::Unpinned { subject: root.subject(), fingerprint });
        }
        // Whether a root is a simulator's is for the caller to say, who knows which of the two roots is due.
        let anchor = TrustAnchor::new(root, false).map_err(ChainError::Path)?;
        verify_path(chain, &[anchor], &Profile::NVIDIA, at).map_err(ChainError::Path)?;
        let read = |(index, der): (usize, &Vec<u8>)| {
            Certificate::from_der(der).map_err(|source| ChainError::Certificate { index, source })
        };
        let certificates = chain.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
        let der = certificates[0].key_der().map_err(|_| ChainError::Key)?;
        let key = VerifyingKey::from_public_key_der(&der).map_err(|_| ChainError::Key)?;
        let not_before = certificates.iter().map(Certificate::not_before).max().expect("not empty");
        let not_after = certificates.iter().map(Certificate::not_after).min().expect("not empty");
        Ok(Self { certificates, key, root: fingerprint, not_before, not_after })
    }

    /// What [`verify`](Self::verify) found still holds under `pinned` at `at`.
    pub(crate) fn require(&self, pinned: &[Fingerprint], at: UnixTime) -> Result<(), ChainError> {
        if !pinned.contains(&self.root) {
            let subject = self.certificates.last().map(Certificate::subject).unwrap_or_default();
            return Err(ChainError::Unpinned { subject, fingerprint: self.root });
        }
        if at < self.not_before || self.not_after < at {
            return Err(ChainError::Time { not_before: self.not_before, not_after: self.not_after, at });
        }
        Ok(())
    }

    /// None of the certificates, from `first` on, is revoked; the root cannot be.
    pub(crate) fn require_status(
        &self,
        first: usize,
        revocation: &Revocation<'_>,
        policy: &GpuPolicy,
        at: UnixTime,
    ) -> Result<StatusWindow, StatusError> {
        let mut window: Option<StatusWindow> = None;
        for (certificate, issuer) in self.certificates.iter().zip(&self.certificates[1..]).skip(first) {
            let this = require_good(certificate, issuer, revocation, policy.max_status_age_s, at)?;
            window = Some(window.map_or(this, |window| window.meet(this)));
        }
        Ok(window.expect("a chain has issuers"))
    }

    pub(crate) fn key(&self) -> &VerifyingKey {
        &self.key
    }

    pub(crate) fn root(&self) -> Fingerprint {
        self.root
    }

    fn is_of(&self, chain: &[Vec<u8>]) -> bool {
        self.certificates.len() == chain.len() && self.certificates.iter().zip(chain).all(|(a, b)| a.der() == b)
    }
}

/// A device's chain, verified once and kept by the caller: its signatures are not looked at again, its dates and the age of what
/// is known about revocation are, each time.
#[derive(Debug, Clone)]
pub struct VerifiedChain {
    chain: PinnedChain,
    status: Option<StatusWindow>,
    model: String,
    serial: Option<String>,
    ueid: String,
    identity: [u8; 32],
    fwid: Option<[u8; 48]>,
}

impl VerifiedChain {
    /// Verifies `chain`, DER, leaf first, with the root, and the revocation of its certificates.
    pub fn verify(chain: &[Vec<u8>], revocation: &Revocation<'_>, policy: &GpuPolicy, now: UnixTime) -> Result<Self, ChainError> {
        let mut found = Self::path(chain, policy, now)?;
        if !policy.danger_without_revocation {
            found.status = Some(found.require_status(revocation, policy, now).map_err(ChainError::Status)?);
        }
        Ok(found)
    }

    /// Without revocation.
    pub(crate) fn path(chain: &[Vec<u8>], policy: &GpuPolicy, now: UnixTime) -> Result<Self, ChainError> {
        let chain = PinnedChain::verify(chain, &pinned(policy), LEAST_CERTIFICATES, now)?;
        let (leaf, device) = (&chain.certificates[0], &chain.certificates[1]);
        // The device's name is the vendor's word; the leaf's is that of the device's firmware.
        let model = model_of(device).ok_or(ChainError::Device { problem: "the device's certificate has no common name" })?;
        let serial = match device_info(leaf)? {
            None => None,
            Some(info) => match info.split(':').collect::<Vec<_>>()[..] {
                ["NVIDIA", named, serial] if named.replace('_', "") == model => Some(serial.to_owned()),
                _ => return Err(ChainError::Device { problem: "the leaf is for another device than the one that issued it" }),
            },
        };
        let key = device.key_der().map_err(|source| ChainError::Certificate { index: 1, source })?;
        let fwid = firmware_id(leaf, &key).map_err(ChainError::Fwid)?;
        let ueid = device.parsed().tbs_certificate().serial_number();
        let ueid = hex::encode(ueid.as_bytes());
        Ok(Self { model, serial, ueid, identity: Sha256::digest(&key).into(), fwid, status: None, chain })
    }

    /// This is a verification of `chain`.
    pub(crate) fn is_of(&self, chain: &[Vec<u8>]) -> bool {
        self.chain.is_of(chain)
    }

    pub(crate) fn require(&self, policy: &GpuPolicy, now: UnixTime) -> Result<(), ChainError> {
        self.chain.require(&pinned(policy), now)
    }

    /// The leaf is made by the device itself, which answers for no one but the firmware that it started: it can be revoked only
    /// with the device's certificate.
    pub(crate) fn require_status(
        &self,
        revocation: &Revocation<'_>,
        policy: &GpuPolicy,
        now: UnixTime,
    ) -> Result<StatusWindow, StatusError> {
        match self.status {
            Some(window) => window.require(policy.max_status_age_s, now).map(|()| window),
            None => self.chain.require_status(1, revocation, policy, now),
        }
    }

    pub(crate) fn key(&self) -> &VerifyingKey {
        self.chain.key()
    }

    pub(crate) fn root(&self) -> Fingerprint {
        self.chain.root()
    }

    pub(crate) fn fwid(&self) -> Option<&[u8; 48]> {
        self.fwid.as_ref()
    }

    /// The chip, by the first word of the device's name: `GH100`, `LS10`.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// The serial number in the leaf, where it has one.
    pub fn serial(&self) -> Option<&str> {
        self.serial.as_deref()
    }

    /// The serial number of the device's certificate, in hex.
    pub fn ueid(&self) -> &str {
        &self.ueid
    }

    /// SHA-256 of the device's public key, which the vendor certified: who the device is, whatever firmware it runs.
    pub fn identity(&self) -> [u8; 32] {
        self.identity
    }
}

/// The chip: the first word of the name in the device's certificate.
pub(super) fn model_of(device: &Certificate) -> Option<String> {
    let name = device.common_name()?;
    let model = name.split(' ').next()?.replace('_', "");
    (!model.is_empty() && model.len() <= MAX_MODEL).then_some(model)
}

/// Certificates in PEM text, such as the driver hands out, as DER in their order.
pub fn chain_from_pem(text: &str) -> Result<Vec<Vec<u8>>, CertificateError> {
    if text.len() > MAX_PEM {
        return Err(CertificateError::TooLong { len: text.len() });
    }
    Ok(Certificate::all_from_pem(text)?.iter().map(|certificate| certificate.der().to_vec()).collect())
}

fn pinned(policy: &GpuPolicy) -> Vec<Fingerprint> {
    [&[DEVICE_ROOT], &policy.danger_simulated_device_roots[..]].concat()
}

/// The subject alternative name of DMTF's kind: `manufacturer:product:serial`.
fn device_info(leaf: &Certificate) -> Result<Option<String>, ChainError> {
    let malformed = ChainError::Device { problem: "the leaf's subject alternative name is not well-formed" };
    let Ok(name) = leaf.standard::<SubjectAltName>("subject alternative name") else { return Err(malformed) };
    for name in name.iter().flat_map(|name| &name.0) {
        let GeneralName::OtherName(other) = name else { continue };
        if other.type_id == DEVICE_INFO {
            use x509_cert::der::Encode as _;
            let value = other.value.to_der().unwrap_or_default();
            let text = only(&value, UTF8_STRING).and_then(|text| std::str::from_utf8(text.content).ok());
            return text
                .filter(|text| text.is_ascii() && text.len() <= MAX_DEVICE_INFO)
                .map(|text| Some(text.to_owned()))
                .ok_or(malformed);
        }
    }
    Ok(None)
}

const fn hex32(text: &[u8; 64]) -> [u8; 32] {
    const fn digit(c: u8) -> u8 {
        match c {
            b'0'..=b'9' => c - b'0',
            b'a'..=b'f' => c - b'a' + 10,
            _ => panic!("not a digit"),
        }
    }
    let mut bytes = [0; 32];
    let mut at = 0;
    while at < 32 {
        bytes[at] = digit(text[2 * at]) << 4 | digit(text[2 * at + 1]);
        at += 1;
    }
    bytes
}

/// Leaf, device, root.
const LEAST_CERTIFICATES: usize = 3;
const MAX_PEM: usize = 64 << 10;
const MAX_MODEL: usize = 32;
const MAX_DEVICE_INFO: usize = 128;
/// id-DMTF-device-info (DSP0274, "Subject Alternative Name otherName").
const DEVICE_INFO: x509_cert::der::asn1::ObjectIdentifier =
    x509_cert::der::asn1::ObjectIdentifier::new_unwrap("1.3.6.1.4.1.412.274.1");
