//! XML signatures (W3C XML Signature 1.1), of one form only: an enveloped signature of the whole document by ECDSA P-384 with
//! SHA-384.
//!
//! There is one signature element, a child of the root; its one reference is to the whole document without that signature.
//! What comes out is the canonical form whose digest was signed, and nothing else is read afterwards: so there is nothing in
//! the document that a reader could take for signed although it is not.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use p384::ecdsa::{Signature, VerifyingKey};
use roxmltree::Node;
use sha2::{Digest as _, Sha384};
use subtle::ConstantTimeEq as _;

use super::xml::{XmlError, canonical, parse};
use crate::signature::{self, Hash};

/// Most certificates in a signature.
const MAX_CERTIFICATES: usize = 6;

/// Why a document is not signed as it must be.
#[derive(Debug, thiserror::Error)]
pub enum DsigError {
    /// Not such a document.
    #[error("read the document")]
    Xml(#[source] XmlError),
    /// The signature has another form.
    #[error("the signature is not of the one form that is accepted: {problem}")]
    Form {
        /// What is wrong.
        problem: &'static str,
    },
    /// The document is not the signed one.
    #[error("the digest of the document is not the one that was signed")]
    Digest,
    /// Not by that key.
    #[error("the signature is not that of the first certificate's key")]
    Signature,
}

/// A document with the digest that its signature says, by whomever: who signed is not judged yet.
#[derive(Debug)]
pub(crate) struct SignedDocument {
    /// What the digest is of: the document in canonical form, without the signature.
    content: Vec<u8>,
    /// SignedInfo in canonical form.
    signed_info: Vec<u8>,
    signature: Vec<u8>,
    chain: Vec<Vec<u8>>,
}

impl SignedDocument {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, DsigError> {
        let document = parse(bytes).map_err(DsigError::Xml)?;
        let root = document.root_element();
        let is_signature = |node: &Node<'_, '_>| node.has_tag_name((DSIG, "Signature"));
        let mut signatures = document.descendants().filter(is_signature);
        let signature = signatures.next().ok_or(form("there is none"))?;
        if signatures.next().is_some() {
            return Err(form("there are several"));
        }
        if signature.parent() != Some(root) {
            return Err(form("it is not a child of the root"));
        }
        let [signed_info, value, key_info] = children(signature, ["SignedInfo", "SignatureValue", "KeyInfo"])?;
        let digest = base64_of(reference(signed_info)?)?;
        let content = canonical(root, Some(signature));
        if !bool::from(Sha384::digest(&content).as_slice().ct_eq(&digest)) {
            return Err(DsigError::Digest);
        }
        Ok(Self {
            content,
            signed_info: canonical(signed_info, None),
            signature: base64_of(value)?,
            chain: certificates(key_info)?,
        })
    }

    /// The certificates in the signature, DER, in their order: not verified, and not signed.
    pub(crate) fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// The content, if `key` signed its digest.
    pub(crate) fn verify(self, key: &VerifyingKey) -> Result<Vec<u8>, DsigError> {
        let signature = Signature::from_slice(&self.signature).map_err(|_| DsigError::Signature)?;
        let valid = signature::p384(key, Hash::Sha384, &self.signed_info, &signature);
        if valid { Ok(self.content) } else { Err(DsigError::Signature) }
    }
}

/// The digest in SignedInfo, whose every part must be the one that is expected.
fn reference<'a, 'i>(signed_info: Node<'a, 'i>) -> Result<Node<'a, 'i>, DsigError> {
    let [canonicalization, method, reference] =
        children(signed_info, ["CanonicalizationMethod", "SignatureMethod", "Reference"])?;
    algorithm(canonicalization, CANONICAL, "the canonicalization of SignedInfo is another one")?;
    algorithm(method, &[ECDSA_SHA384], "the signature method is another one")?;
    if reference.attributes().len() != 1 || reference.attribute("URI") != Some("") {
        return Err(form("the reference is not to the whole document"));
    }
    let [transforms, digest_method, digest] = children(reference, ["Transforms", "DigestMethod", "DigestValue"])?;
    let [enveloped, canonicalization] = children(transforms, ["Transform", "Transform"])?;
    algorithm(enveloped, &[ENVELOPED], "the first transform is another one")?;
    algorithm(canonicalization, CANONICAL, "the second transform is another one")?;
    algorithm(digest_method, &[SHA384], "the digest method is another one")?;
    Ok(digest)
}

fn certificates(key_info: Node<'_, '_>) -> Result<Vec<Vec<u8>>, DsigError> {
    let [data] = children(key_info, ["X509Data"])?;
    let found: Vec<_> = data.children().filter(Node::is_element).collect();
    if found.is_empty() || found.len() > MAX_CERTIFICATES {
        return Err(form("there are no certificates, or too many"));
    }
    let certificate = |node: Node<'_, '_>| match node.has_tag_name((DSIG, "X509Certificate")) {
        true => base64_of(node),
        false => Err(form("there is something else among the certificates")),
    };
    found.into_iter().map(certificate).collect()
}

/// The child elements of `node`, which must be exactly those of `names`, with nothing but white space between them.
fn children<'a, 'i, const N: usize>(node: Node<'a, 'i>, names: [&str; N]) -> Result<[Node<'a, 'i>; N], DsigError> {
    let stray = |node: &Node<'_, '_>| node.is_text() && !node.text().unwrap_or_default().trim_ascii().is_empty();
    let elements: Vec<_> = node.children().filter(Node::is_element).collect();
    let as_named = elements.iter().zip(names).all(|(element, name)| element.has_tag_name((DSIG, name)));
    match <[Node<'a, 'i>; N]>::try_from(elements) {
        Ok(elements) if as_named && !node.children().any(|child| stray(&child)) => Ok(elements),
        _ => Err(form("it has other parts")),
    }
}

fn algorithm(node: Node<'_, '_>, accepted: &[&str], problem: &'static str) -> Result<(), DsigError> {
    let named = node.attribute("Algorithm").is_some_and(|name| accepted.contains(&name));
    if named && node.attributes().len() == 1 && !node.has_children() { Ok(()) } else { Err(form(problem)) }
}

/// The one text in `node`, decoded. White space may be anywhere in it.
fn base64_of(node: Node<'_, '_>) -> Result<Vec<u8>, DsigError> {
    let problem = "a value is not base64";
    let mut parts = node.children();
    let text = parts.next().filter(Node::is_text).and_then(|text| text.text()).ok_or(form(problem))?;
    if parts.next().is_some() {
        return Err(form(problem));
    }
    let packed: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(packed).map_err(|_| form(problem))
}

fn form(problem: &'static str) -> DsigError {
    DsigError::Form { problem }
}

const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
const CANONICAL: &[&str] = &["http://www.w3.org/2006/12/xml-c14n11", "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"];
const ECDSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";
const SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#sha384";
