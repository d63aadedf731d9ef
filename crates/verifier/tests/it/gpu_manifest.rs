//! Reference manifests: what their signature covers is all that counts.

use casemate_verifier::gpu::{DsigError, ManifestError, VerifiedManifest};
use proptest::prelude::*;
use rcgen::KeyPair;

use crate::{
    gpu_world::{C14N11, Case, DRIVER, DRIVER_ID, Rim, enveloped, issue, keys, manifest_chain},
    world::at,
};

fn rim() -> Rim {
    Rim::new(DRIVER, "GH100", 20..40)
}

fn verify(xml: &str) -> Result<VerifiedManifest, ManifestError> {
    let case = Case::lean();
    VerifiedManifest::verify(xml.as_bytes(), &case.revocation(), &case.policy, case.now)
}

/// The refusal, with its causes.
fn refusal(xml: &str) -> String {
    let error = verify(xml).unwrap_err();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn refused(xml: &str, detail: &str) {
    let seen = refusal(xml);
    assert!(seen.contains(detail), "{seen}");
    // And so in an appraisal, by the check for it.
    let mut case = Case::good();
    case.replace_manifest(DRIVER_ID, xml.as_bytes());
    assert_eq!(case.refusal().0, "gpu.rim");
}

/// Signs other content than a manifest has.
fn signed(content: &str) -> String {
    enveloped(content, &issue(&manifest_chain()), &keys().rim_signer, C14N11)
}

const DIGEST: &str = "the digest of the document is not the one that was signed";

#[test]
fn accepts_a_manifest_in_any_way_to_write_its_canonical_form() {
    let xml = rim().xml();
    assert_eq!(verify(&xml).unwrap().version(), DRIVER);
    let other = xml
        .replace("></ns0:Resource>", " />")
        .replace("<ns0:Meta", "<!-- not part of it --><ns0:Meta  ")
        .replace(" edition=\"GPU\"", "\n edition='&#71;PU'")
        .replace('\n', "\r\n");
    assert_ne!(xml, other);
    assert_eq!(verify(&other).unwrap().version(), DRIVER);
    assert_eq!(verify(&format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- c -->{xml}\n\n")).unwrap().version(), DRIVER);
    let older = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315";
    assert!(verify(&enveloped(&rim().content(), &issue(&manifest_chain()), &keys().rim_signer, older)).is_ok());
}

#[test]
fn refuses_changed_content() {
    let xml = rim().xml();
    let measurement = "active=\"True\" alternatives=\"2\" index=\"20\"";
    for (from, to) in [
        (measurement, "active=\"False\" alternatives=\"2\" index=\"20\""),
        ("550.144.03", "550.144.04"),
        ("product=\"GH100\"", "product=\"GB100\""),
        ("<ns0:Payload>", "<ns0:Payload> "),
        (" name=\"M_20\"", ""),
    ] {
        assert!(xml.contains(from));
        refused(&xml.replacen(from, to, 1), DIGEST);
    }
}

#[test]
fn refuses_a_payload_that_was_moved_doubled_or_added() {
    let xml = rim().xml();
    let (start, end) = (xml.find("<ns0:Payload>").unwrap(), xml.find("</ns0:Payload>").unwrap() + "</ns0:Payload>".len());
    let payload = &xml[start..end];
    let evil = payload.replace("1414", "6666");
    let without = format!("{}{}", &xml[..start], &xml[end..]);
    // Doubled, before and after; replaced, with the signed one kept elsewhere.
    refused(&xml.replacen(payload, &format!("{evil}{payload}"), 1), DIGEST);
    refused(&xml.replacen(payload, &format!("{payload}{evil}"), 1), DIGEST);
    refused(&without, DIGEST);
    refused(&without.replacen("<ds:Signature ", &format!("{evil}<ds:Signature "), 1), DIGEST);
    // Within the signature, which the digest leaves out.
    let inside = |at: &str| without.replacen(at, &format!("{payload}{at}"), 1);
    refused(&inside("</ds:Signature>"), "it has other parts");
    refused(&inside("</ds:KeyInfo>"), DIGEST);
    refused(&inside("</ds:X509Data>"), DIGEST);
    refused(&inside("</ds:SignatureValue>"), DIGEST);
    let beside = |at: &str| xml.replacen(at, &format!("{evil}{at}"), 1);
    refused(&beside("</ds:KeyInfo>"), "it has other parts");
    refused(&beside("</ds:X509Data>"), "something else among the certificates");
    refused(&beside("</ds:SignatureValue>"), "a value is not base64");
    refused(&inside("<ds:SignedInfo>"), "it has other parts");
    let object = format!("<ds:Object>{evil}</ds:Object></ds:Signature>");
    refused(&xml.replacen("</ds:Signature>", &object, 1), "it has other parts");
}

#[test]
fn refuses_a_signed_document_wrapped_in_another() {
    let xml = rim().xml();
    let evil = rim().content().replace("1414", "6666");
    let open = evil.strip_suffix("</SoftwareIdentity>").unwrap();
    // The signature covers the document of its own root only.
    refused(&format!("{open}{xml}</SoftwareIdentity>"), "it is not a child of the root");
    refused(&format!("{open}<x>{xml}</x></SoftwareIdentity>"), "it is not a child of the root");
    let signature = &xml[xml.find("<ds:Signature ").unwrap()..xml.find("</ds:Signature>").unwrap() + "</ds:Signature>".len()];
    refused(&format!("{open}{signature}</SoftwareIdentity>"), DIGEST);
    refused(&xml.replacen("<ds:Signature ", &format!("{signature}<ds:Signature "), 1), "there are several");
    refused(&format!("{open}</SoftwareIdentity>"), "there is none");
}

#[test]
fn refuses_every_other_form_of_signature() {
    let xml = rim().xml();
    let change = |from: &str, to: &str| {
        assert!(xml.contains(from), "{from}");
        xml.replacen(from, to, 1)
    };
    refused(&change("URI=\"\"", "URI=\"#a\""), "not to the whole document");
    refused(&change(" URI=\"\"", ""), "not to the whole document");
    refused(&change("URI=\"\"", "URI=\"\" Type=\"x\""), "not to the whole document");
    refused(&change("#enveloped-signature", "#base64"), "the first transform is another one");
    refused(&change("more#sha384", "more#sha224"), "the digest method is another one");
    refused(&change("#ecdsa-sha384", "#ecdsa-sha256"), "the signature method is another one");
    refused(&change("xml-c14n11\"></ds:Canon", "xml-c14n11#WithComments\"></ds:Canon"), "the canonicalization of SignedInfo");
    refused(&change("xml-c14n11\"></ds:Transform>", "xslt\"></ds:Transform>"), "the second transform is another one");
    let reference = &xml[xml.find("<ds:Reference").unwrap()..xml.find("</ds:SignedInfo>").unwrap()];
    refused(&change(reference, &format!("{reference}{reference}")), "it has other parts");
    refused(&change("<ds:DigestValue>", "<ds:DigestValue><!-- -->"), "a value is not base64");
    refused(&change("<ds:DigestValue>", "x<ds:DigestValue>"), "it has other parts");
    refused(&change("<ds:DigestValue>", "<ds:DigestValue>AAAA"), DIGEST);
    refused(&change("<SoftwareIdentity", "<!DOCTYPE a><SoftwareIdentity"), "not well-formed");
}

#[test]
fn refuses_a_signature_that_is_not_the_signers() {
    let xml = enveloped(&rim().content(), &issue(&manifest_chain()), &keys().leaves[0], C14N11);
    assert!(matches!(verify(&xml), Err(ManifestError::Signature(DsigError::Signature))));
    // Other content with its own digest, under the signature of the right one.
    let part = |xml: &str, from: &str, to: &str| xml[xml.find(from).unwrap()..xml.find(to).unwrap()].to_owned();
    let own = rim().xml();
    let other = Rim::new("550.144.04", "GH100", 20..40).xml();
    let value = |xml: &str| part(xml, "<ds:SignatureValue>", "</ds:SignatureValue>");
    let changed = other.replacen(&value(&other), &value(&own), 1);
    assert!(matches!(verify(&changed), Err(ManifestError::Signature(DsigError::Signature))));
}

#[test]
fn refuses_signers_that_are_not_the_vendors() {
    let mut case = Case::good();
    case.policy.danger_simulated_manifest_roots.clear();
    assert!(case.refusal().1.contains("which is no pinned root"));
    // The root of devices is pinned, but not for manifests.
    case.policy.danger_simulated_manifest_roots.clone_from(&case.policy.danger_simulated_device_roots);
    assert_eq!(case.refusal().0, "gpu.rim");
    let with_chain = |change: fn(&mut Rim)| {
        let mut rim = rim();
        change(&mut rim);
        rim.xml()
    };
    refused(&with_chain(|rim| rim.chain[0].params.not_after = at(-1)), "the time is");
    refused(&with_chain(|rim| rim.chain[1].key = &keys().root), "which is no pinned root");
    refused(&with_chain(|rim| _ = rim.chain.remove(1)), "fewer than the 2");
    let p256: &KeyPair = Box::leak(Box::new(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()));
    let mut chain = manifest_chain();
    chain[0].key = p256;
    refused(&enveloped(&rim().content(), &issue(&chain), &keys().rim_signer, C14N11), "not on P-384");
}

#[test]
fn names_the_manifest_that_is_missing() {
    let mut case = Case::good();
    case.manifests.remove(1);
    let expected = "device 0, 20: no manifest \"NV_GPU_VBIOS_1010_0210_886_9600740011\" is given";
    assert_eq!(case.refusal(), ("gpu.rim".to_owned(), expected.to_owned()));
}

#[test]
fn a_manifest_that_no_device_needs_is_not_looked_at() {
    let mut case = Case::good();
    case.manifests.push(("NV_GPU_DRIVER_GH100_1".to_owned(), b"broken".to_vec()));
    assert!(case.appraise().verified().is_some());
}

#[test]
fn refuses_signed_content_that_is_not_as_it_must_be() {
    let content = rim().content();
    let change = |from: &str, to: &str| {
        assert!(content.contains(from), "{from}");
        signed(&content.replacen(from, to, 1))
    };
    let index_20 = "active=\"True\" alternatives=\"2\" index=\"20\"";
    refused(&change(index_20, "active=\"yes\" alternatives=\"2\" index=\"20\""), "whether it is active");
    refused(&change(index_20, "active=\"True\" alternatives=\"3\" index=\"20\""), "the number of its alternatives");
    refused(&change(index_20, "active=\"True\" alternatives=\"1\" index=\"20\""), "the number of its alternatives");
    refused(&change(index_20, "active=\"True\" alternatives=\"2\" index=\"21\""), "it occurs twice");
    refused(&change(index_20, "active=\"True\" alternatives=\"2\" index=\"+20\""), "its index");
    refused(&change(index_20, "active=\"True\" alternatives=\"2\" index=\"255\""), "its index");
    refused(&change("name=\"M_20\" size=\"48\"", "name=\"M_20\" size=\"47\""), "a value");
    refused(
        &change("name=\"M_20\" size=\"48\" type=\"Measurement\"", "name=\"M_20\" size=\"48\" type=\"Svn\""),
        "something else",
    );
    refused(&change("colloquialVersion=\"550.144.03\" ", ""), "the version or the product is missing");
    refused(&change("PlatformManufacturerId=\"5703\"", "PlatformManufacturerId=\"5704\""), "not NVIDIA");
    refused(&signed(&content.replace("True", "False")), "no measurement is active");
    let meta = &content[content.find("<ns0:Meta").unwrap()..content.find("<ns0:Payload>").unwrap()];
    refused(&change(meta, &format!("{meta}{meta}")), "exactly one Meta");
    refused(&change(meta, ""), "exactly one Meta");
    refused(&signed(&content.replace("ns0:Payload>", "ns2:Payload>")), "exactly one Meta and one Payload");
}

#[test]
fn a_kept_manifest_is_judged_anew_at_each_use() {
    use casemate_verifier::{
        UnixTime,
        gpu::{GpuEndorsements, Manifest, ManifestDocument, appraise_gpus},
    };
    let case = Case::good();
    let kept: Vec<_> = case.manifests.iter().map(|(id, xml)| (id, verify(std::str::from_utf8(xml).unwrap()).unwrap())).collect();
    let manifests: Vec<_> = kept.iter().map(|(id, kept)| Manifest { id, document: ManifestDocument::Verified(kept) }).collect();
    let endorsements = GpuEndorsements { chains: &[], manifests: &manifests, revocation: case.revocation() };
    let failed = |policy: &_, now| {
        let appraised = appraise_gpus(&case.evidence, &endorsements, policy, &case.expectation, now);
        appraised.failed().map(|check| check.name.clone())
    };
    assert_eq!(failed(&case.policy, case.now), None);
    let mut policy = case.policy.clone();
    policy.danger_simulated_manifest_roots.clear();
    assert_eq!(failed(&policy, case.now).as_deref(), Some("gpu.rim"));
    // The answers about the device's chain expire at the same time, so those come first.
    assert!(failed(&case.policy, UnixTime(case.now.0 + 4000)).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn damage_is_refused_or_changes_nothing_that_is_read(at in 0usize..40_000, byte: u8) {
        let case = Case::lean();
        static XML: std::sync::OnceLock<String> = std::sync::OnceLock::new();
        let mut xml = XML.get_or_init(|| rim().xml()).clone().into_bytes();
        let at = at % xml.len();
        xml[at] = byte;
        if let Ok(manifest) = VerifiedManifest::verify(&xml, &case.revocation(), &case.policy, case.now) {
            prop_assert_eq!(manifest.version(), DRIVER);
        }
    }
}
