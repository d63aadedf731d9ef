//! Canonical XML (W3C, version 1.0 and 1.1, without comments) of a whole element, for the plain documents that reference
//! manifests are. What does not occur in them, and would need rules of its own, is refused: document types, entities,
//! processing instructions, `xml:` attributes, undeclared default namespaces.
//!
//! Without `xml:` attributes the two versions do not differ.

use roxmltree::{Document, Node, NodeType, ParsingOptions};

/// Largest document, in bytes. Manifests have some twenty thousand.
pub(crate) const MAX_BYTES: usize = 256 << 10;
/// Most nodes (elements and pieces of text).
const MAX_NODES: u32 = 8192;
/// Most elements within each other.
const MAX_DEPTH: usize = 16;
/// Most namespaces, and most attributes, of one element: a measurement with all the values that it may have has seventy.
const MAX_NAMES: usize = 72;

/// Why a document is not read.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    /// Too many bytes.
    #[error("the document has {len} bytes, more than the limit of {MAX_BYTES}")]
    TooLong {
        /// Found.
        len: usize,
    },
    /// Not UTF-8.
    #[error("the document is not UTF-8")]
    Encoding,
    /// Not XML, or with a document type.
    #[error("the document is not well-formed")]
    Malformed(#[source] roxmltree::Error),
    /// Something that is not accepted here.
    #[error("the document has {what}, which is not accepted here")]
    Refused {
        /// What.
        what: &'static str,
    },
}

/// Parses a bounded document, and makes sure that it can be written in canonical form.
pub(crate) fn parse(bytes: &[u8]) -> Result<Document<'_>, XmlError> {
    if bytes.len() > MAX_BYTES {
        return Err(XmlError::TooLong { len: bytes.len() });
    }
    let text = std::str::from_utf8(bytes).map_err(|_| XmlError::Encoding)?;
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(XmlError::Malformed)?;
    let refused = |what| Err(XmlError::Refused { what });
    for node in document.descendants() {
        if node.is_pi() {
            return refused("a processing instruction");
        }
        if node.ancestors().nth(MAX_DEPTH + 1).is_some() {
            return refused("elements nested too deeply");
        }
        if node.namespaces().len() > MAX_NAMES || node.attributes().len() > MAX_NAMES {
            return refused("an element with too many attributes");
        }
        if node.attributes().any(|attribute| attribute.namespace() == Some(roxmltree::NS_XML_URI)) {
            return refused("an xml: attribute");
        }
        if node.namespaces().any(|namespace| namespace.uri().is_empty()) {
            return refused("an undeclared namespace");
        }
    }
    Ok(document)
}

/// `element` in canonical form, as if it were a document of its own with the namespaces that are in scope, and without
/// `omitted`.
pub(crate) fn canonical(element: Node<'_, '_>, omitted: Option<Node<'_, '_>>) -> Vec<u8> {
    let mut out = String::new();
    write(element, None, omitted, &mut out);
    out.into_bytes()
}

fn write(element: Node<'_, '_>, parent: Option<Node<'_, '_>>, omitted: Option<Node<'_, '_>>, out: &mut String) {
    let name = qualified_name(element);
    out.push('<');
    out.push_str(name);
    write_namespaces(element, parent, out);
    write_attributes(element, out);
    out.push('>');
    for child in element.children().filter(|child| Some(*child) != omitted) {
        match child.node_type() {
            NodeType::Element => write(child, Some(element), omitted, out),
            NodeType::Text => escape(child.text().unwrap_or_default(), TEXT, out),
            NodeType::Root | NodeType::Comment | NodeType::PI => {}
        }
    }
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

/// Those that the parent does not have alike, by prefix; the default one has the empty prefix and comes first.
fn write_namespaces(element: Node<'_, '_>, parent: Option<Node<'_, '_>>, out: &mut String) {
    let of_parent = |prefix: Option<&str>| parent.and_then(|parent| parent.lookup_namespace_uri(prefix));
    let new = element.namespaces().filter(|namespace| namespace.name() != Some("xml"));
    let mut new: Vec<_> = new.filter(|namespace| of_parent(namespace.name()) != Some(namespace.uri())).collect();
    new.sort_by_key(|namespace| namespace.name().unwrap_or_default());
    for namespace in new {
        out.push_str(" xmlns");
        if let Some(prefix) = namespace.name() {
            out.push(':');
            out.push_str(prefix);
        }
        out.push_str("=\"");
        escape(namespace.uri(), ATTRIBUTE, out);
        out.push('"');
    }
}

/// By namespace, then local name; those without a namespace first.
fn write_attributes(element: Node<'_, '_>, out: &mut String) {
    let mut attributes: Vec<_> = element.attributes().collect();
    attributes.sort_by_key(|attribute| (attribute.namespace().unwrap_or_default(), attribute.name()));
    for attribute in attributes {
        out.push(' ');
        out.push_str(&element.document().input_text()[attribute.range_qname()]);
        out.push_str("=\"");
        escape(attribute.value(), ATTRIBUTE, out);
        out.push('"');
    }
}

/// The name with its prefix, as it stands in the text.
fn qualified_name<'i>(element: Node<'_, 'i>) -> &'i str {
    let local = element.tag_name().name();
    let tag = element.document().input_text().get(element.range()).unwrap_or_default();
    let tag = tag.strip_prefix('<').unwrap_or_default();
    let end = tag.find(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>')).unwrap_or_default();
    let name = &tag[..end];
    debug_assert!(name == local || name.ends_with(local));
    name
}

fn escape(text: &str, special: &[(char, &str)], out: &mut String) {
    for c in text.chars() {
        match special.iter().find(|(of, _)| *of == c) {
            Some((_, escaped)) => out.push_str(escaped),
            None => out.push(c),
        }
    }
}

const TEXT: &[(char, &str)] = &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('\r', "&#xD;")];
const ATTRIBUTE: &[(char, &str)] =
    &[('&', "&amp;"), ('<', "&lt;"), ('"', "&quot;"), ('\t', "&#x9;"), ('\n', "&#xA;"), ('\r', "&#xD;")];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical_text(xml: &str) -> String {
        String::from_utf8(canonical(parse(xml.as_bytes()).unwrap().root_element(), None)).unwrap()
    }

    #[test]
    fn writes_tags_attributes_and_namespaces_in_canonical_order() {
        // After the examples of Canonical XML 1.1, section 3.3 and 3.4.
        let xml = "<?xml version=\"1.0\"?>\n<!-- c --><doc>\n <e1   />\n <e3   name = 'elem3'   id=\"e3\"   />\n\
            <e5 a:attr='out' b:attr='sorted' attr2='all' attr=\"I'm\" xmlns:b='http://www.ietf.org' \
            xmlns:a='http://www.w3.org' xmlns='http://example.org'/><!-- gone --></doc>\n";
        let expected = "<doc>\n <e1></e1>\n <e3 id=\"e3\" name=\"elem3\"></e3>\n\
            <e5 xmlns=\"http://example.org\" xmlns:a=\"http://www.w3.org\" xmlns:b=\"http://www.ietf.org\" attr=\"I'm\" \
            attr2=\"all\" b:attr=\"sorted\" a:attr=\"out\"></e5></doc>";
        assert_eq!(canonical_text(xml), expected);
    }

    #[test]
    fn escapes_and_normalises_as_the_specification_says() {
        let xml = "<a b='1&#13;2&#9;3&#10;4 \" &lt; > &amp;'>&#13;\r\n&lt; &gt; &amp; \" <![CDATA[<x>]]></a>";
        let expected = "<a b=\"1&#xD;2&#x9;3&#xA;4 &quot; &lt; > &amp;\">&#xD;\n&lt; &gt; &amp; \" &lt;x&gt;</a>";
        assert_eq!(canonical_text(xml), expected);
    }

    #[test]
    fn an_inner_element_takes_the_namespaces_in_scope_along() {
        let document = parse(b"<r xmlns='urn:r' xmlns:p='urn:p'><p:i xmlns:p='urn:q'><n/></p:i></r>").unwrap();
        let inner = document.root_element().first_element_child().unwrap();
        assert_eq!(canonical(inner, None), b"<p:i xmlns=\"urn:r\" xmlns:p=\"urn:q\"><n></n></p:i>");
        let whole = canonical(document.root_element(), Some(inner));
        assert_eq!(whole, b"<r xmlns=\"urn:r\" xmlns:p=\"urn:p\"></r>");
    }

    #[test]
    fn refuses_what_it_has_no_rules_for() {
        let refused = |xml: &str| parse(xml.as_bytes()).unwrap_err().to_string();
        assert_eq!(refused("<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"), "the document is not well-formed");
        assert_eq!(refused("<a><?php?></a>"), "the document has a processing instruction, which is not accepted here");
        assert_eq!(refused("<a xml:id='1'/>"), "the document has an xml: attribute, which is not accepted here");
        let undeclared = "the document has an undeclared namespace, which is not accepted here";
        assert_eq!(refused("<a xmlns='urn:a'><b xmlns=''/></a>"), undeclared);
        let deep = format!("{}{}", "<a>".repeat(17), "</a>".repeat(17));
        assert_eq!(refused(&deep), "the document has elements nested too deeply, which is not accepted here");
        assert!(parse(format!("{}{}", "<a>".repeat(16), "</a>".repeat(16)).as_bytes()).is_ok());
        // Would exhaust the stack or the memory of a parser that does not stop.
        assert!(parse("<a>".repeat(80_000).as_bytes()).is_err());
        assert!(parse(format!("<a>{}</a>", "<b/>".repeat(9000)).as_bytes()).is_err());
        assert!(matches!(parse(&[b' '; MAX_BYTES + 1]), Err(XmlError::TooLong { .. })));
        assert!(matches!(parse(b"\xff"), Err(XmlError::Encoding)));
    }

    #[test]
    fn a_document_at_each_limit_is_read_and_one_beyond_is_not() {
        let padded = |len: usize| format!("<a>{}</a>", " ".repeat(len - "<a></a>".len()));
        assert!(parse(padded(MAX_BYTES).as_bytes()).is_ok());
        assert!(matches!(parse(padded(MAX_BYTES + 1).as_bytes()), Err(XmlError::TooLong { .. })));
        let many = |prefix: &str, len: usize| {
            let names: String = (0..len).map(|at| format!(" {prefix}{at}='urn:{at}'")).collect();
            parse(format!("<a{names}/>").as_bytes()).map(|_| ()).map_err(|error| error.to_string())
        };
        let refused = Err("the document has an element with too many attributes, which is not accepted here".to_owned());
        assert_eq!((many("b", MAX_NAMES), many("b", MAX_NAMES + 1)), (Ok(()), refused.clone()));
        // The namespace of `xml:` is always there.
        let own = parse(b"<a/>").unwrap().root_element().namespaces().len();
        assert_eq!((many("xmlns:b", MAX_NAMES - own), many("xmlns:b", MAX_NAMES - own + 1)), (Ok(()), refused));
    }

    proptest! {
        #[test]
        fn never_panics_and_is_its_own_canonical_form(xml in "(<a( b='[<&;a-z \\n]{0,4}')?( xmlns(:p)?='u')?/?>|</a>|<p:a>|</p:a>|[&;x\r\n]|&#[0-9]{1,3};){0,12}") {
            if let Ok(document) = parse(xml.as_bytes()) {
                let once = canonical(document.root_element(), None);
                let again = canonical(parse(&once).unwrap().root_element(), None);
                prop_assert_eq!(once, again);
            }
        }
    }
}
