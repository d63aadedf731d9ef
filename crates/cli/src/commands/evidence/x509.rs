//! Certificates and revocation lists: DER, or PEM text with any number of them.

use casemate_verifier::UnixTime;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use x509_cert::{
    Certificate,
    crl::CertificateList,
    der::{Decode as _, Encode as _, asn1::ObjectIdentifier, oid::db::DB},
    ext::{Extension, pkix::BasicConstraints},
    spki::SubjectPublicKeyInfoOwned,
};

/// Most blocks of PEM text, and most entries of a list, that are shown.
const MAX_SHOWN: usize = 256;
/// Most bytes of an extension that are shown.
const MAX_EXTENSION: usize = 96;

pub(super) fn certificate(der: &[u8]) -> Result<Value, String> {
    let certificate = Certificate::from_der(der).map_err(|error| error.to_string())?;
    let body = certificate.tbs_certificate();
    let authority = body.extensions().into_iter().flatten().find(|extension| extension.extn_id.to_string() == "2.5.29.19");
    let is_ca = authority.and_then(|found| BasicConstraints::from_der(found.extn_value.as_bytes()).ok());
    let validity = body.validity();
    Ok(json!({
        "subject": body.subject().to_string(),
        "issuer": body.issuer().to_string(),
        "serial": hex::encode(body.serial_number().as_bytes()),
        "not_before": UnixTime(validity.not_before.to_unix_duration().as_secs()).to_string(),
        "not_after": UnixTime(validity.not_after.to_unix_duration().as_secs()).to_string(),
        "key": key(body.subject_public_key_info()),
        "authority": is_ca.is_some_and(|constraints| constraints.ca),
        "signature": name(&certificate.signature_algorithm().oid),
        "extensions": extensions(body.extensions().map_or(&[], Vec::as_slice)),
        "sha256": hex::encode(Sha256::digest(der)),
    }))
}

pub(super) fn revocation_list(der: &[u8]) -> Result<Value, String> {
    let list: CertificateList = CertificateList::from_der(der).map_err(|error| error.to_string())?;
    let body = &list.tbs_cert_list;
    let revoked: Vec<_> = body.revoked_certificates.iter().flatten().collect();
    let entry = |entry: &&x509_cert::crl::RevokedCert| {
        let since = UnixTime(entry.revocation_date.to_unix_duration().as_secs()).to_string();
        format!("{} since {since}", hex::encode(entry.serial_number.as_bytes()))
    };
    Ok(json!({
        "issuer": body.issuer.to_string(),
        "this_update": UnixTime(body.this_update.to_unix_duration().as_secs()).to_string(),
        "next_update": body.next_update.map(|next| UnixTime(next.to_unix_duration().as_secs()).to_string()),
        "signature": name(&list.signature_algorithm.oid),
        "revoked_count": revoked.len(),
        "revoked": revoked.iter().take(MAX_SHOWN).map(entry).collect::<Vec<_>>(),
        "extensions": extensions(body.crl_extensions.as_deref().unwrap_or_default()),
        "sha256": hex::encode(Sha256::digest(der)),
    }))
}

/// Every block of the text; at least one.
pub(super) fn pem(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_owned())?;
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some(begin) = rest.find("-----BEGIN ") {
        let closing = rest[begin..].find("-----END ").ok_or("a block of it has no end")? + begin;
        let end = rest[closing + 9..].find("-----").ok_or("a block of it has no end")? + closing + 9 + 5;
        let (label, der) = x509_cert::der::pem::decode_vec(&rest.as_bytes()[begin..end]).map_err(|error| error.to_string())?;
        blocks.push(block(label, &der)?);
        if blocks.len() > MAX_SHOWN {
            return Err(format!("it has more than {MAX_SHOWN} blocks"));
        }
        rest = &rest[end..];
    }
    if blocks.is_empty() { Err("it has no block".to_owned()) } else { Ok(json!({ "blocks": blocks })) }
}

/// The certificates of a chain that is DER.
pub(super) fn chain(chain: &[Vec<u8>]) -> Result<Vec<Value>, String> {
    chain.iter().map(|der| certificate(der)).collect()
}

fn block(label: &str, der: &[u8]) -> Result<Value, String> {
    match label {
        "CERTIFICATE" => Ok(json!({ "certificate": certificate(der)? })),
        "X509 CRL" => Ok(json!({ "revocation_list": revocation_list(der)? })),
        "PUBLIC KEY" => {
            let found = SubjectPublicKeyInfoOwned::from_der(der).map_err(|error| error.to_string())?;
            Ok(json!({ "public_key": key(&found) }))
        }
        // Also of keys that are nobody's business: nothing but that it is there.
        other => Ok(json!({ "block": other, "bytes": der.len() })),
    }
}

fn key(info: &SubjectPublicKeyInfoOwned) -> Value {
    let parameters = info.algorithm.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
    let bytes = info.to_der().unwrap_or_default();
    json!({
        "algorithm": name(&info.algorithm.oid),
        "curve": parameters.map(|curve| name(&curve)),
        "bytes": info.subject_public_key.raw_bytes().len(),
        "sha256": hex::encode(Sha256::digest(bytes)),
    })
}

fn extensions(list: &[Extension]) -> Vec<Value> {
    let show = |extension: &Extension| {
        let bytes = extension.extn_value.as_bytes();
        let shown = hex::encode(&bytes[..bytes.len().min(MAX_EXTENSION)]);
        let more = if bytes.len() > MAX_EXTENSION { format!("… ({} bytes)", bytes.len()) } else { String::new() };
        json!({ "id": name(&extension.extn_id), "critical": extension.critical, "value": shown + &more })
    };
    list.iter().map(show).collect()
}

/// By its name where it has one, else in digits.
fn name(oid: &ObjectIdentifier) -> String {
    DB.by_oid(oid).map_or_else(|| oid.to_string(), str::to_owned)
}
