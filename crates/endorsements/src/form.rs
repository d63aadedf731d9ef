//! What an answer must look like to be kept. The form only: signatures are the verifier's to judge.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, de::IgnoredAny};
use sha2::{Digest as _, Sha256};
use x509_cert::{Certificate, crl::CertificateList, der::Decode as _};

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One certificate. Becomes DER.
    Certificate,
    /// Certificates in PEM.
    Chain,
    /// A revocation list, DER, PEM or hexadecimal digits. Becomes DER.
    RevocationList,
    /// Intel's signed JSON, whose document has this name.
    Signed(&'static str),
    /// NVIDIA's JSON around a manifest. Becomes the manifest, XML.
    Manifest,
    /// An OCSP response, DER.
    Ocsp,
}

impl Form {
    /// For errors.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "a certificate",
            Self::Chain => "a chain of certificates in PEM",
            Self::RevocationList => "a revocation list",
            Self::Signed(_) => "a signed document of Intel's",
            Self::Manifest => "a manifest of NVIDIA's",
            Self::Ocsp => "an OCSP response",
        }
    }

    /// Most bytes that come.
    pub(crate) const fn limit(self) -> usize {
        match self {
            Self::Certificate => 16 << 10,
            Self::Chain | Self::Ocsp => 64 << 10,
            // Hexadecimal digits.
            Self::RevocationList | Self::Signed(_) => 2 << 20,
            Self::Manifest => 4 << 20,
        }
    }

    /// The answer as it is kept, or what is wrong with it. `about` is what was asked for by name.
    pub(crate) fn accept(self, body: Vec<u8>, about: Option<&str>) -> Result<Vec<u8>, String> {
        match self {
            Self::Certificate => {
                let der = binary(body)?;
                Certificate::from_der(&der).map(|_: Certificate| ()).map_err(|error| error.to_string())?;
                Ok(der)
            }
            Self::Chain => certificates(&body).map(|_| body),
            Self::RevocationList => {
                let der = binary(body)?;
                CertificateList::from_der(&der).map(|_: CertificateList| ()).map_err(|error| error.to_string())?;
                Ok(der)
            }
            Self::Signed(name) => {
                split(&body, name)?;
                Ok(body)
            }
            Self::Manifest => manifest(&body, about),
            Self::Ocsp => ocsp(body),
        }
    }
}

/// The certificates in PEM text, as DER in their order.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    use x509_cert::der::Encode as _;
    let chain = Certificate::load_pem_chain(pem).map_err(|error| error.to_string())?;
    if chain.is_empty() || chain.len() > MAX_CHAIN {
        return Err(format!("{} certificates", chain.len()));
    }
    chain.iter().map(|certificate| certificate.to_der().map_err(|error| error.to_string())).collect()
}

/// DER, from DER, PEM or hexadecimal digits, in which caching services hand lists out.
fn binary(body: Vec<u8>) -> Result<Vec<u8>, String> {
    if body.starts_with(b"-----BEGIN") {
        return x509_cert::der::pem::decode_vec(&body).map(|(_, der)| der).map_err(|error| error.to_string());
    }
    let is_hex = !body.is_empty() && body.iter().all(|byte| byte.is_ascii_hexdigit() || byte.is_ascii_whitespace());
    if is_hex {
        let digits: Vec<u8> = body.into_iter().filter(|byte| !byte.is_ascii_whitespace()).collect();
        return hex::decode(digits).map_err(|error| error.to_string());
    }
    Ok(body)
}

/// Text and signature of `{"NAME": {…}, "signature": "…"}`. The text is what came, byte by byte: the signature is over it.
pub(crate) fn split<'a>(body: &'a [u8], name: &str) -> Result<(&'a str, String), String> {
    #[derive(Deserialize)]
    struct Signature {
        signature: String,
    }
    let text = std::str::from_utf8(body).map_err(|error| error.to_string())?;
    let signature = serde_json::from_str::<Signature>(text).map_err(|error| error.to_string())?.signature;
    let start = text.trim_start().strip_prefix('{').map(str::trim_start);
    let start = start.and_then(|rest| rest.strip_prefix(&format!("\"{name}\""))).map(str::trim_start);
    let value = start.and_then(|rest| rest.strip_prefix(':')).map(str::trim_start);
    let value = value.ok_or_else(|| format!("it does not begin with {name:?}"))?;
    let mut stream = serde_json::Deserializer::from_str(value).into_iter::<IgnoredAny>();
    match stream.next() {
        Some(Ok(_)) if value.starts_with('{') => Ok((&value[..stream.byte_offset()], signature)),
        _ => Err(format!("{name:?} is no object")),
    }
}

fn manifest(body: &[u8], about: Option<&str>) -> Result<Vec<u8>, String> {
    #[derive(Deserialize)]
    struct Rim {
        id: String,
        rim: String,
        sha256: Option<String>,
    }
    let answer: Rim = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if about.is_some_and(|id| id != answer.id) {
        return Err("it is another one".to_owned());
    }
    let xml = BASE64.decode(&answer.rim).map_err(|error| error.to_string())?;
    let digest = hex::encode(Sha256::digest(&xml));
    if answer.sha256.is_some_and(|announced| !announced.eq_ignore_ascii_case(&digest)) {
        return Err("it has another digest than announced".to_owned());
    }
    let begins = xml.trim_ascii_start().first() == Some(&b'<');
    if begins { Ok(xml) } else { Err("it is not XML".to_owned()) }
}

/// OCSPResponse with the status "successful": SEQUENCE { ENUMERATED 0, … }.
fn ocsp(body: Vec<u8>) -> Result<Vec<u8>, String> {
    let header = match body.get(..2) {
        Some([0x30, 0..=0x7f]) => 2,
        Some([0x30, 0x81]) => 3,
        Some([0x30, 0x82]) => 4,
        _ => return Err("it is not DER of a response".to_owned()),
    };
    match body.get(header..header + 3) {
        Some([0x0a, 1, 0]) => Ok(body),
        Some([0x0a, 1, status]) => Err(format!("the responder answers with status {status}")),
        _ => Err("it has no status".to_owned()),
    }
}

const MAX_CHAIN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signed_text_is_taken_byte_by_byte() {
        let body = br#" { "tcbInfo" : {"b": 1,  "a":"}\"" } , "signature":"ab"}"#;
        let (text, signature) = split(body, "tcbInfo").unwrap();
        assert_eq!((text, signature.as_str()), (r#"{"b": 1,  "a":"}\"" }"#, "ab"));
        for bad in [
            &br#"{"tcbInfo":{}}"#[..],
            br#"{"tcbInfo":[],"signature":"ab"}"#,
            br#"{"signature":"ab","tcbInfo":{}}"#,
            br#"{"tcbInfo":{"#,
            b"\xff",
            b"<html>",
            b"",
        ] {
            assert!(split(bad, "tcbInfo").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_page_is_neither_certificate_nor_list_nor_manifest_nor_answer() {
        for form in [Form::Certificate, Form::Chain, Form::RevocationList, Form::Signed("tcbInfo"), Form::Manifest, Form::Ocsp] {
            for page in [&b"<html>log in</html>"[..], b"", b"{}", b"00", b"-----BEGIN X-----"] {
                assert!(form.accept(page.to_vec(), None).is_err(), "{form:?} {page:?}");
            }
        }
    }

    #[test]
    fn a_manifest_must_be_the_one_that_was_asked_for_and_whole() {
        let answer = |id: &str, xml: &[u8], sha256: &str| {
            serde_json::json!({ "id": id, "rim": BASE64.encode(xml), "sha256": sha256, "rim_format": "TEXT" })
                .to_string()
                .into_bytes()
        };
        let digest = hex::encode(Sha256::digest(b"<a/>"));
        assert_eq!(Form::Manifest.accept(answer("A", b"<a/>", &digest), Some("A")).unwrap(), b"<a/>");
        assert!(Form::Manifest.accept(answer("B", b"<a/>", &digest), Some("A")).is_err());
        assert!(Form::Manifest.accept(answer("A", b"<b/>", &digest), Some("A")).is_err());
        assert!(Form::Manifest.accept(answer("A", b"", &hex::encode(Sha256::digest(b""))), Some("A")).is_err());
    }

    #[test]
    fn an_unsuccessful_answer_is_not_kept() {
        assert!(Form::Ocsp.accept(vec![0x30, 3, 0x0a, 1, 0], None).is_ok());
        assert!(Form::Ocsp.accept(vec![0x30, 3, 0x0a, 1, 6], None).unwrap_err().contains('6'));
    }
}
