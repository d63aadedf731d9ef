//! The path check: what may endorse a TPM, and what may not.

use std::{error::Error, fs, path::PathBuf};

use casemate_evidence::tpm::{ObjectAttributes, Public};
use casemate_verifier::{
    AnchorError, MAX_ROOTS, TrustAnchors, UnixTime, VendorRoot,
    credential::{CredentialError, MAX_SECRET, Randomness, make_credential},
    ek::{EkError, EkPublic, VerifiedEk, verify_chain},
    x509::{CertificateError, PathError},
};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose};
use sha2::{Digest as _, Sha256};

use crate::world::{HOUR, NOW, Pki, at, authority, critical, keys};

fn verify(change: impl FnOnce(&mut Pki)) -> Result<VerifiedEk, PathError> {
    let mut pki = Pki::good();
    change(&mut pki);
    let (_, chain, anchors) = pki.build(&[0; 34]);
    verify_chain(&chain, &anchors, NOW).map_err(path)
}

fn path(error: EkError) -> PathError {
    match error {
        EkError::Path(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn accepts_a_chain_with_and_without_its_root() {
    let (_, mut chain, anchors) = Pki::good().build(&[0; 34]);
    assert!(!verify_chain(&chain, &anchors, NOW).unwrap().is_simulated());
    chain.push(Pki::good().vendor.self_signed(&keys().vendor).unwrap().der().to_vec());
    // Signed anew, so other bytes than the pinned one: then it is an intermediate that the pinned one must have issued.
    assert!(verify_chain(&chain, &anchors, NOW).is_ok());
}

/// The very bytes of the pinned root at the end are no certificate of the path: its path length counts what is below it.
#[test]
fn the_pinned_root_itself_may_stand_at_the_end_and_not_alone() {
    let mut pki = Pki::good();
    pki.vendor.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    let root = pki.vendor.self_signed(&keys().vendor).unwrap();
    let (_, mut chain, _) = pki.build(&[0; 34]);
    let anchors = TrustAnchors::new(&platform_pem(), &[VendorRoot::from_pem(&root.pem()).unwrap()]).unwrap();
    chain.push(root.der().to_vec());
    let ek = verify_chain(&chain, &anchors, NOW).unwrap();
    assert_eq!(ek.root_fingerprint()[..], Sha256::digest(root.der())[..]);
    let alone = verify_chain(&chain[2..], &anchors, NOW).unwrap_err();
    assert!(matches!(path(alone), PathError::Role { .. }));
}

#[test]
fn as_many_roots_as_the_limit_are_accepted() {
    let root = authority("A", None).self_signed(&keys().vendor).unwrap().pem();
    let most = root.repeat(MAX_ROOTS);
    assert!(VendorRoot::from_pem(&most).is_ok() && TrustAnchors::new(&most, &[]).is_ok());
    let more = VendorRoot::from_pem(&root.repeat(MAX_ROOTS + 1));
    assert!(matches!(more, Err(AnchorError::TooMany { len, .. }) if len == MAX_ROOTS + 1));
}

#[test]
fn refuses_issuers_that_are_no_authorities() {
    let role = |result| assert!(matches!(result, Err(PathError::Role { .. })), "{result:?}");
    role(verify(|pki| pki.intermediate.is_ca = IsCa::ExplicitNoCa));
    role(verify(|pki| pki.intermediate.is_ca = IsCa::NoCa));
    role(verify(|pki| pki.intermediate.key_usages = vec![KeyUsagePurpose::CrlSign]));
    role(verify(|pki| pki.intermediate.key_usages.clear()));
    role(verify(|pki| pki.vendor.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))));
}

#[test]
fn refuses_an_authority_as_a_leaf() {
    let result = verify(|pki| pki.ek.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert!(matches!(result, Err(PathError::Role { .. })));
}

#[test]
fn refuses_each_certificate_outside_its_time() {
    let expired = |params: &mut CertificateParams| params.not_after = at(-1);
    let early = |params: &mut CertificateParams| params.not_before = at(1);
    let each: [fn(&mut Pki) -> &mut CertificateParams; 3] =
        [|pki| &mut pki.ek, |pki| &mut pki.intermediate, |pki| &mut pki.vendor];
    for change in [expired as fn(&mut CertificateParams), early] {
        for pick in each {
            let result = verify(|pki| change(pick(pki)));
            assert!(matches!(result, Err(PathError::Time { .. })), "{result:?}");
        }
    }
    // The limits themselves are inside.
    assert!(verify(|pki| (pki.ek.not_before, pki.ek.not_after) = (at(0), at(0))).is_ok());
}

#[test]
fn refuses_critical_extensions_that_it_does_not_understand() {
    let unknown = || critical(&[1, 2, 3, 4], vec![5, 0]);
    let name_constraints = || critical(&[2, 5, 29, 30], vec![0x30, 0]);
    assert!(matches!(verify(|pki| pki.ek.custom_extensions.push(unknown())), Err(PathError::Critical { .. })));
    assert!(matches!(verify(|pki| pki.intermediate.custom_extensions.push(unknown())), Err(PathError::Critical { .. })));
    assert!(matches!(verify(|pki| pki.intermediate.custom_extensions.push(name_constraints())), Err(PathError::Critical { .. })));
    let harmless = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    assert!(verify(|pki| pki.ek.custom_extensions.push(harmless)).is_ok());
}

#[test]
fn refuses_an_extension_that_occurs_twice() {
    let twice = || CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    let result = verify(|pki| pki.ek.custom_extensions.extend([twice(), twice()]));
    assert!(matches!(result, Err(PathError::Certificate { index: 0, .. })), "{result:?}");
}

#[test]
fn an_extended_key_usage_must_be_that_of_an_ek_certificate() {
    let usage = |usage| move |pki: &mut Pki| pki.ek.extended_key_usages = vec![usage];
    assert!(verify(usage(ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1]))).is_ok());
    assert!(matches!(verify(usage(ExtendedKeyUsagePurpose::ClientAuth)), Err(PathError::Role { .. })));
}

#[test]
fn refuses_another_order_and_another_issuer() {
    let (_, chain, anchors) = Pki::good().build(&[0; 34]);
    let reversed: Vec<_> = chain.iter().rev().cloned().collect();
    assert!(verify_chain(&reversed, &anchors, NOW).is_err());
    let doubled = vec![chain[0].clone(), chain[1].clone(), chain[1].clone()];
    assert!(matches!(path(verify_chain(&doubled, &anchors, NOW).unwrap_err()), PathError::Order { .. }));
    // As many as are looked at, and one more.
    let most = vec![chain[0].clone(); 6];
    assert!(matches!(path(verify_chain(&most, &anchors, NOW).unwrap_err()), PathError::Untrusted { .. }));
    let many = vec![chain[0].clone(); 7];
    assert!(matches!(path(verify_chain(&many, &anchors, NOW).unwrap_err()), PathError::Length { len: 7 }));
}

#[test]
fn refuses_a_root_of_the_right_name_with_another_key() {
    let (_, chain, _) = Pki::good().build(&[0; 34]);
    let namesake = Pki::good().vendor.self_signed(&keys().intermediate).unwrap();
    let root = VendorRoot { pem: namesake.pem(), simulated: false };
    let anchors = TrustAnchors::new(&platform_pem(), &[root]).unwrap();
    assert!(matches!(path(verify_chain(&chain, &anchors, NOW).unwrap_err()), PathError::Signature { .. }));
    // Beside the right one, it does no harm.
    let both = [namesake.pem(), Pki::good().vendor.self_signed(&keys().vendor).unwrap().pem()].concat();
    let anchors = TrustAnchors::new(&platform_pem(), &[VendorRoot::from_pem(&both).unwrap()]).unwrap();
    assert!(verify_chain(&chain, &anchors, NOW).is_ok());
}

#[test]
fn a_certificate_is_read_up_to_the_limit_of_its_length() {
    let (_, _, anchors) = Pki::good().build(&[0; 34]);
    let read = |len: usize| match path(verify_chain(&[vec![0; len]], &anchors, NOW).unwrap_err()) {
        PathError::Certificate { index: 0, source } => source,
        other => panic!("{other}"),
    };
    assert!(matches!(read(16 << 10), CertificateError::Malformed(_)));
    assert!(matches!(read((16 << 10) + 1), CertificateError::TooLong { .. }));
}

#[test]
fn a_node_certificate_is_signed_with_p256_and_sha256_only() {
    let mut pki = Pki::good();
    let issuer = Issuer::from_params(&pki.platform, &keys().vendor);
    let leaf = pki.node.signed_by(&keys().node, &issuer).unwrap();
    pki.platform.not_before = at(-HOUR);
    let pem = pki.platform.self_signed(&keys().vendor).unwrap().pem();
    let mut case = crate::world::Case::good();
    case.anchors = TrustAnchors::new(&pem, &[]).unwrap();
    case.node_chain = vec![leaf.der().to_vec()];
    let (name, detail) = crate::world::only_failure(&case.appraise());
    assert_eq!(name, "node.certificate");
    assert!(detail.contains("is not accepted here"), "{detail}");
}

#[test]
fn refuses_anchors_that_are_no_authorities_or_no_certificates() {
    let leaf = crate::world::leaf("leaf").self_signed(&keys().node).unwrap().pem();
    for pem in
        [leaf.as_str(), "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----"]
    {
        assert!(TrustAnchors::new(pem, &[]).is_err());
        assert!(VendorRoot::from_pem(pem).is_err());
    }
}

#[test]
fn accepts_swtpms_certificates_and_marks_them_simulated() {
    let fixture =
        |name: &str| fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/swtpm").join(name)).unwrap();
    let text = |name: &str| String::from_utf8(fixture(name)).unwrap();
    let der = |pem: &str| {
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).unwrap()
    };
    let made = UnixTime(1_795_500_000);
    let anchors = TrustAnchors::new(&platform_pem(), &[VendorRoot::from_pem(&text("root.pem")).unwrap()]).unwrap();
    let chain = |leaf: &str| vec![fixture(leaf), der(&text("issuer.pem"))];
    for at in [made, UnixTime(250_000_000_000)] {
        let ek =
            verify_chain(&chain("ek-rsa2048.der"), &anchors, at).unwrap_or_else(|error| panic!("{error}: {:?}", error.source()));
        assert!(ek.is_simulated());
        let public = fixture("ek-rsa2048.tpmt");
        assert!(ek.public_area(&public).is_ok());
        // Name algorithm, attributes (fixedTPM), modulus.
        for (at, change) in [(3, 7), (7, 2), (public.len() - 1, 1)] {
            let mut other = public.clone();
            other[at] ^= change;
            assert!(ek.public_area(&other).is_err(), "byte {at}");
        }
    }
    assert!(verify_chain(&chain("ek-secp384r1.der"), &anchors, made).unwrap().is_simulated());
    let early = verify_chain(&chain("ek-rsa2048.der"), &anchors, UnixTime(1_700_000_000));
    assert!(matches!(path(early.unwrap_err()), PathError::Time { .. }));
}

/// Each attribute that makes it an endorsement key, alone: without it a key could leave the TPM, or sign.
#[test]
fn an_endorsement_key_has_every_attribute_of_one() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/swtpm");
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let text = |name: &str| String::from_utf8(read(name)).unwrap();
    let anchors = TrustAnchors::new(&platform_pem(), &[VendorRoot::from_pem(&text("root.pem")).unwrap()]).unwrap();
    let issuer = x509_cert::der::pem::decode_vec(text("issuer.pem").as_bytes()).unwrap().1;
    let ek = verify_chain(&[read("ek-rsa2048.der"), issuer], &anchors, UnixTime(1_795_500_000)).unwrap();
    let good = Public::parse(&read("ek-rsa2048.tpmt")).unwrap();
    credentials_are_for_secrets_of_any_length_up_to_the_limit(&ek.public_area(&read("ek-rsa2048.tpmt")).unwrap());
    let with = |attributes: u32| ek.public_area(&Public { attributes: ObjectAttributes(attributes), ..good.clone() }.encode());
    assert!(with(good.attributes.0).is_ok());
    let needed = [
        ObjectAttributes::FIXED_TPM,
        ObjectAttributes::FIXED_PARENT,
        ObjectAttributes::SENSITIVE_DATA_ORIGIN,
        ObjectAttributes::RESTRICTED,
        ObjectAttributes::DECRYPT,
    ];
    for attributes in needed.map(|bit| good.attributes.0 & !bit).into_iter().chain([good.attributes.0 | ObjectAttributes::SIGN]) {
        assert!(matches!(with(attributes), Err(EkError::Template { .. })), "{attributes:#x}");
    }
}

fn credentials_are_for_secrets_of_any_length_up_to_the_limit(ek: &EkPublic) {
    let make = |len: usize, oaep: u8| {
        make_credential(ek, &[0; 34], &vec![7; len], &Randomness { seed: [1; 32], oaep: [oaep; 32], ephemeral: [3; 32] })
    };
    assert!(make(1, 2).is_ok() && make(MAX_SECRET, 2).is_ok());
    assert_eq!(make(MAX_SECRET + 1, 2), Err(CredentialError::Secret { len: MAX_SECRET + 1 }));
    // The same seed, encrypted with other randomness.
    let encrypted = |oaep| make(MAX_SECRET, oaep).unwrap().encrypted_secret;
    assert!(encrypted(2) == encrypted(2) && encrypted(2) != encrypted(4));
}

fn platform_pem() -> String {
    authority("Casemate platform authority", Some(0)).self_signed(&keys().platform).unwrap().pem()
}
