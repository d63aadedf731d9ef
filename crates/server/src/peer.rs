//! Reads our own node certificates, after TLS has verified them.

use casemate_api::node::AK_NAME_OID;
use x509_cert::{
    Certificate,
    der::{
        Decode as _,
        asn1::{ObjectIdentifier, OctetString},
    },
};

use crate::service::PeerNode;

/// Why a client certificate is not a node's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// Not a certificate.
    #[error("read the client certificate")]
    Format(#[source] x509_cert::der::Error),
    /// Something that node certificates have is not there.
    #[error("the client certificate has no usable {0}")]
    Missing(&'static str),
}

/// Who a node certificate is for.
pub(crate) fn node(der: &[u8]) -> Result<PeerNode, PeerError> {
    let certificate = Certificate::from_der(der).map_err(PeerError::Format)?;
    let certificate = certificate.tbs_certificate();
    let ak_name_oid = oid(AK_NAME_OID);
    let mut extensions = certificate.extensions().into_iter().flatten();
    let ak_name = extensions.find(|extension| extension.extn_id == ak_name_oid).ok_or(PeerError::Missing("AK name"))?;
    let ak_name = OctetString::from_der(ak_name.extn_value.as_bytes()).map_err(PeerError::Format)?;
    let not_after = certificate.validity().not_after.to_unix_duration();
    Ok(PeerNode {
        id: common_name(certificate.subject()).and_then(|name| name.parse().ok()).ok_or(PeerError::Missing("node id"))?,
        ak_name: ak_name.as_bytes().to_vec(),
        ends_at_ms: u64::try_from(not_after.as_millis()).unwrap_or(u64::MAX),
    })
}

fn common_name(name: &x509_cert::name::Name) -> Option<String> {
    const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
    let attribute = name.iter().find(|attribute| attribute.oid == COMMON_NAME)?;
    String::from_utf8(attribute.value.value().to_vec()).ok()
}

fn oid(arcs: &[u64]) -> ObjectIdentifier {
    let text: Vec<String> = arcs.iter().map(u64::to_string).collect();
    ObjectIdentifier::new(&text.join(".")).expect("our own identifiers are well-formed")
}
