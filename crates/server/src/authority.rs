//! The platform's keys: a small certificate authority, and the Ed25519 key that signs assignments.
//!
//! The authority signs two kinds of certificates: the server's own, and those of nodes after a passing appraisal. Keys lie
//! in the folder that all replicas share, readable by this user only.

use std::{path::Path, time::Duration};

use casemate_api::node::{AK_NAME_OID, EK_CERTIFICATE_OID, RECEIPT_KEY_OID};
use casemate_lifecycle::NodeId;
use ed25519_dalek::{Signer as _, SigningKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use time::OffsetDateTime;

use crate::files::{self, FileError};

/// Name of the authority, as certificates show it.
pub const AUTHORITY_NAME: &str = "Casemate platform CA";
/// Life of the authority.
const AUTHORITY_LIFE: time::Duration = time::Duration::days(3650);
/// Life of the server's own certificate; it is made anew at each start.
const SERVER_LIFE: time::Duration = time::Duration::days(90);
/// Clocks of nodes and tenants may be behind by this much.
const CLOCK_SKEW: time::Duration = time::Duration::minutes(5);

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file of the data folder failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Making or parsing certificates failed.
    #[error("{attempt}")]
    Certificate {
        /// What was attempted.
        attempt: &'static str,
        /// Why it failed.
        #[source]
        source: rcgen::Error,
    },
    /// A stored key or certificate is not what was written.
    #[error("{0} in the data folder is damaged")]
    Damaged(&'static str),
    /// The request for a certificate is not acceptable.
    #[error("the certificate request is not acceptable: {0}")]
    Request(String),
    /// The system has no randomness.
    #[error("draw randomness")]
    Randomness(#[source] getrandom::Error),
}

/// The platform's keys.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    assignments: SigningKey,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// What goes into a node's certificate.
#[derive(Debug)]
pub struct NodeSubject<'a> {
    /// The node.
    pub id: &'a NodeId,
    /// TPM name of its attestation key.
    pub ak_name: &'a [u8],
    /// SHA-256 of its EK certificate.
    pub ek_digest: &'a [u8; 32],
    /// Its receipt key.
    pub receipt_key: &'a [u8; 32],
    /// Since when the node has had its attestation and receipt keys: the begin of the certificate's validity. A receipt is
    /// judged at the time of its wipe, and a node that was offline then renews before it delivers the receipt.
    pub since_ms: u64,
}

/// A fresh node certificate.
#[derive(Debug, Clone)]
pub struct NodeCertificate {
    /// DER, leaf first; the authority's own certificate is not part of it.
    pub chain: Vec<Vec<u8>>,
    /// End of its validity.
    pub ends_at_ms: u64,
    /// Renew before this.
    pub renew_at_ms: u64,
}

impl Authority {
    /// Opens the keys in the folder that all replicas share, or makes them, and publishes the authority's certificate as
    /// `public/ca.pem`.
    pub fn open(shared_dir: &Path, now_ms: u64) -> Result<Self, AuthorityError> {
        let keys = shared_dir.join("keys");
        let public = shared_dir.join("public");
        files::private_dir(&keys)?;
        files::private_dir(&public)?;
        let fresh = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed("make the authority's key"))?;
        let key = files::keep(&keys.join("ca.key.pem"), fresh.serialize_pem().as_bytes())?;
        let key = KeyPair::from_pem(&String::from_utf8_lossy(&key)).map_err(failed("read the authority's key"))?;
        let pem = files::keep(&keys.join("ca.pem"), self_signed(&key, now_ms)?.as_bytes())?;
        files::write(&public.join("ca.pem"), &pem, 0o644)?;
        let damaged = |_| AuthorityError::Damaged("the authority's certificate");
        let certificate = CertificateDer::from_pem_slice(&pem).map_err(damaged)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(failed("read the authority's certificate"))?;
        Ok(Self { issuer, certificate, assignments: assignment_key(&keys.join("assignment.key"))? })
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The authority's certificate as PEM.
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// Public half of the key that signs assignments.
    pub fn assignment_public(&self) -> [u8; 32] {
        self.assignments.verifying_key().to_bytes()
    }

    /// Signs the bytes of an assignment.
    pub fn sign_assignment(&self, body: &[u8]) -> [u8; 64] {
        self.assignments.sign(&casemate_api::assignment::signed_bytes(body)).to_bytes()
    }

    /// A fresh certificate and key for this server.
    pub fn server_certificate(
        &self,
        names: &[String],
        now_ms: u64,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), AuthorityError> {
        const ATTEMPT: &str = "make the server's certificate";
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed(ATTEMPT))?;
        let mut params = CertificateParams::new(names.to_vec()).map_err(failed(ATTEMPT))?;
        params.distinguished_name.push(DnType::CommonName, "Casemate platform");
        params.not_before = at(now_ms) - CLOCK_SKEW;
        params.not_after = at(now_ms) + SERVER_LIFE;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&key, &self.issuer).map_err(failed(ATTEMPT))?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| AuthorityError::Damaged("the server's key"))?;
        Ok((vec![leaf.der().clone()], key))
    }

    /// A certificate for the key in `csr`. Of the request only the key is taken, after its signature was checked.
    pub fn node_certificate(
        &self,
        csr: &[u8],
        subject: &NodeSubject<'_>,
        life: Duration,
        now_ms: u64,
    ) -> Result<NodeCertificate, AuthorityError> {
        let request =
            CertificateSigningRequestParams::from_der(&csr.into()).map_err(|e| AuthorityError::Request(e.to_string()))?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(AuthorityError::Request("the key must be ECDSA P-256".into()));
        }
        let ends_at_ms = now_ms.saturating_add(millis(life));
        let params = node_params(subject, ends_at_ms)?;
        let leaf = params.signed_by(&request.public_key, &self.issuer).map_err(failed("make a node certificate"))?;
        // Certificates count in seconds.
        let ends_at_ms = ends_at_ms / 1000 * 1000;
        Ok(NodeCertificate {
            chain: vec![leaf.der().to_vec()],
            ends_at_ms,
            renew_at_ms: now_ms.saturating_add(millis(life) / 3 * 2),
        })
    }
}

/// The certificate of a server that certifies nobody: self-signed, made once for these names, published as `public/server.pem`.
pub fn lone_certificate(
    data_dir: &Path,
    names: &[String],
    now_ms: u64,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), AuthorityError> {
    const ATTEMPT: &str = "make the server's certificate";
    let (keys, public) = (data_dir.join("keys"), data_dir.join("public"));
    files::private_dir(&keys)?;
    files::private_dir(&public)?;
    let (key_path, path) = (keys.join("server.key.pem"), keys.join("server.pem"));
    let names_path = keys.join("server.names");
    let wanted = names.join("\n");
    let damaged = || AuthorityError::Damaged("the server's key");
    let stored = (files::read(&key_path)?, files::read(&path)?, files::read(&names_path)?);
    let (key, pem) = match stored {
        (Some(key), Some(pem), Some(for_names)) if for_names == wanted.as_bytes() => {
            (String::from_utf8(key).map_err(|_| damaged())?, String::from_utf8(pem).map_err(|_| damaged())?)
        }
        _ => {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed(ATTEMPT))?;
            let mut params = CertificateParams::new(names.to_vec()).map_err(failed(ATTEMPT))?;
            params.distinguished_name.push(DnType::CommonName, "Casemate verifier");
            params.not_before = at(now_ms) - CLOCK_SKEW;
            params.not_after = at(now_ms) + AUTHORITY_LIFE;
            params.is_ca = IsCa::ExplicitNoCa;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            let pem = params.self_signed(&key).map_err(failed(ATTEMPT))?.pem();
            files::write(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
            files::write(&path, pem.as_bytes(), 0o600)?;
            files::write(&names_path, wanted.as_bytes(), 0o600)?;
            (key.serialize_pem(), pem)
        }
    };
    files::write(&public.join("server.pem"), pem.as_bytes(), 0o644)?;
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| damaged())?;
    Ok((vec![certificate], PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| damaged())?))
}

fn node_params(subject: &NodeSubject<'_>, ends_at_ms: u64) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::new(vec![subject.id.to_string()]).map_err(failed("make a node certificate"))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject.id.as_str());
    params.not_before = at(subject.since_ms) - CLOCK_SKEW;
    params.not_after = at(ends_at_ms);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.custom_extensions = vec![
        CustomExtension::from_oid_content(AK_NAME_OID, octet_string(subject.ak_name)),
        CustomExtension::from_oid_content(EK_CERTIFICATE_OID, octet_string(subject.ek_digest)),
        CustomExtension::from_oid_content(RECEIPT_KEY_OID, octet_string(subject.receipt_key)),
    ];
    Ok(params)
}

fn self_signed(key: &KeyPair, now_ms: u64) -> Result<String, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, AUTHORITY_NAME);
    params.not_before = at(now_ms) - CLOCK_SKEW;
    params.not_after = at(now_ms) + AUTHORITY_LIFE;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params.self_signed(key).map_err(failed("make the authority's certificate"))?.pem())
}

fn assignment_key(path: &Path) -> Result<SigningKey, AuthorityError> {
    let mut fresh = [0; 32];
    getrandom::fill(&mut fresh).map_err(AuthorityError::Randomness)?;
    let text = files::keep(path, hex::encode(fresh).as_bytes())?;
    let mut seed = [0; 32];
    hex::decode_to_slice(text.trim_ascii(), &mut seed).map_err(|_| AuthorityError::Damaged("the assignment key"))?;
    Ok(SigningKey::from_bytes(&seed))
}

/// DER OCTET STRING of fewer than 128 bytes.
fn octet_string(bytes: &[u8]) -> Vec<u8> {
    let len = u8::try_from(bytes.len()).ok().filter(|len| *len < 128).expect("names and digests are short");
    [&[0x04, len], bytes].concat()
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|c| std::str::from_utf8(c).expect("base64 is ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn at(ms: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(ms / 1000).unwrap_or(i64::MAX)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn failed(attempt: &'static str) -> impl Fn(rcgen::Error) -> AuthorityError {
    move |source| AuthorityError::Certificate { attempt, source }
}
