//! The content of a reference manifest: a SWID tag (ISO/IEC 19770-2) after TCG's Reference Integrity Manifest Information Model.

use std::collections::BTreeMap;

use roxmltree::Node;

use super::xml::{XmlError, parse};

/// Most measurements in a manifest.
const MAX_MEASUREMENTS: usize = 255;
/// Most values that one measurement may have.
const MAX_ALTERNATIVES: usize = 64;

/// Why a manifest's content is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SwidError {
    /// Not such a document.
    #[error("read the manifest")]
    Xml(#[source] XmlError),
    /// Not of the form.
    #[error("the manifest is not of the expected form: {problem}")]
    Form {
        /// What is wrong.
        problem: &'static str,
    },
    /// A measurement is not of the form.
    #[error("measurement {index} of the manifest is not of the expected form: {problem}")]
    Measurement {
        /// Which, as it is written.
        index: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// What a manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Swid {
    /// `colloquialVersion`.
    pub(crate) version: String,
    /// `product`: the chip.
    pub(crate) product: String,
    /// The values that each active measurement may have.
    pub(crate) active: BTreeMap<u16, Vec<Vec<u8>>>,
}

impl Swid {
    /// Reads the canonical form of a manifest without its signature.
    pub(crate) fn parse(content: &[u8]) -> Result<Self, SwidError> {
        let document = parse(content).map_err(SwidError::Xml)?;
        let root = document.root_element();
        if !root.has_tag_name((SWID, "SoftwareIdentity")) {
            return Err(form("the root is no software identity"));
        }
        let meta = only(root, "Meta")?;
        let payload = only(root, "Payload")?;
        let (Some(version), Some(product)) = (meta.attribute("colloquialVersion"), meta.attribute("product")) else {
            return Err(form("the version or the product is missing"));
        };
        if meta.attribute((RIM, "PlatformManufacturerId")) != Some(NVIDIA) {
            return Err(form("the manufacturer is not NVIDIA"));
        }
        let active = measurements(payload)?;
        Ok(Self { version: version.to_owned(), product: product.to_owned(), active })
    }
}

/// The one element of that name, which must be a child of the root.
fn only<'a, 'i>(root: Node<'a, 'i>, name: &str) -> Result<Node<'a, 'i>, SwidError> {
    let mut found = root.descendants().filter(|node| node.is_element() && node.tag_name().name() == name);
    match (found.next(), found.next()) {
        (Some(node), None) if node.parent() == Some(root) && node.tag_name().namespace() == Some(SWID) => Ok(node),
        _ => Err(form("there is not exactly one Meta and one Payload")),
    }
}

fn measurements(payload: Node<'_, '_>) -> Result<BTreeMap<u16, Vec<Vec<u8>>>, SwidError> {
    let resources: Vec<_> = payload.descendants().skip(1).filter(Node::is_element).collect();
    if resources.len() > MAX_MEASUREMENTS {
        return Err(form("it has too many measurements"));
    }
    let mut active = BTreeMap::new();
    let mut seen = [false; MAX_MEASUREMENTS];
    for resource in resources {
        let index = resource.attribute("index").unwrap_or("without index");
        let problem = |problem| SwidError::Measurement { index: index.to_owned(), problem };
        let known = resource.has_tag_name((SWID, "Resource")) && resource.attribute("type") == Some("Measurement");
        if !known || resource.parent() != Some(payload) {
            // To pass over what is not understood would be to drop a requirement.
            return Err(form("the payload has something else than measurements"));
        }
        let number = decimal(index).filter(|number| usize::from(*number) < MAX_MEASUREMENTS).ok_or(problem("its index"))?;
        if std::mem::replace(&mut seen[usize::from(number)], true) {
            return Err(problem("it occurs twice"));
        }
        let values = values(resource).map_err(problem)?;
        match resource.attribute("active") {
            Some("True") => _ = active.insert(number, values),
            Some("False") => {}
            _ => return Err(problem("whether it is active")),
        }
    }
    if active.is_empty() { Err(form("no measurement is active")) } else { Ok(active) }
}

/// `Hash0`, `Hash1`, …: as many as it says, each of the size that it says.
fn values(resource: Node<'_, '_>) -> Result<Vec<Vec<u8>>, &'static str> {
    let alternatives = resource.attribute("alternatives").and_then(decimal).map(usize::from).ok_or("its alternatives")?;
    let size = resource.attribute("size").and_then(decimal).map(usize::from).ok_or("its size")?;
    let hashes = resource.attributes().filter(|attribute| attribute.namespace() == Some(HASH)).count();
    if alternatives == 0 || alternatives > MAX_ALTERNATIVES || hashes != alternatives {
        return Err("the number of its alternatives");
    }
    let value = |number: usize| {
        let hash = resource.attribute((HASH, format!("Hash{number}").as_str())).ok_or("the number of its alternatives")?;
        hex::decode(hash).ok().filter(|hash| hash.len() == size && size > 0).ok_or("a value")
    };
    (0..alternatives).map(value).collect()
}

fn decimal(text: &str) -> Option<u16> {
    text.parse().ok().filter(|number: &u16| number.to_string() == text)
}

fn form(problem: &'static str) -> SwidError {
    SwidError::Form { problem }
}

const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
const RIM: &str = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/";
const HASH: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
/// NVIDIA's number of IANA's private enterprise numbers.
const NVIDIA: &str = "5703";
