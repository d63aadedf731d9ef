//! What is fetched for a device: the chip that names its manifests, and questions to OCSP responders.

use casemate_verifier::gpu::{QuestionError, chip_named_by, device_questions, manifest_chain as chain_in, manifest_questions};
use rcgen::SerialNumber;
use sha2::{Digest as _, Sha384};
use x509_cert::der::{Decode as _, Encode as _};

use crate::gpu_world::{DRIVER, Rim, device_chain, issue, manifest_chain, tlv};

/// OCSPRequest (RFC 6960, section 4.1.1), written from its definition.
fn question(issuer: &[u8], serial: &[u8]) -> Vec<u8> {
    let issuer = x509_cert::Certificate::from_der(issuer).unwrap();
    let issuer = issuer.tbs_certificate();
    let name = issuer.subject().to_der().unwrap();
    let key = issuer.subject_public_key_info().subject_public_key.raw_bytes();
    let sha384 = [0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
    let algorithm = tlv(0x30, &[tlv(6, &sha384), tlv(5, &[])].concat());
    let id = [algorithm, tlv(4, &Sha384::digest(name)), tlv(4, &Sha384::digest(key)), tlv(2, serial)].concat();
    let (certificate_id, request) = (tlv(0x30, &id), |inner: &[u8]| tlv(0x30, inner));
    let list = tlv(0x30, &request(&certificate_id));
    tlv(0x30, &tlv(0x30, &list))
}

#[test]
fn a_device_is_asked_about_with_all_its_issuers_but_the_root() {
    let mut unsigned = device_chain(0, "GH100");
    let chain = issue(&unsigned);
    assert_eq!(device_questions(&chain).unwrap(), [question(&chain[2], &[0x20]), question(&chain[3], &[0x11])]);
    // The longest serial number that there is: lengths of two bytes.
    let long = [&[0x7f][..], &[0xab; 19]].concat();
    unsigned[1].params.serial_number = Some(SerialNumber::from(long.clone()));
    let chain = issue(&unsigned);
    assert_eq!(device_questions(&chain).unwrap()[0], question(&chain[2], &long));
    let mut broken = chain;
    broken[2] = vec![0];
    assert!(matches!(device_questions(&broken), Err(QuestionError::Certificate { index: 2, .. })));
}

#[test]
fn the_signer_of_a_manifest_is_asked_about() {
    let rim = Rim::new(DRIVER, "GH100", 20..40);
    let xml = rim.xml();
    let chain = chain_in(xml.as_bytes()).unwrap();
    assert_eq!(chain.len(), manifest_chain().len());
    assert_eq!(chain[1], issue(&rim.chain)[1]);
    assert_eq!(manifest_questions(xml.as_bytes()).unwrap(), [question(&chain[1], &[0x61])]);
    for answer in [chain_in(b"<a/>").map(|_| ()), manifest_questions(b"<a/>").map(|_| ())] {
        assert!(matches!(answer, Err(QuestionError::Manifest(_))));
    }
}

#[test]
fn the_chip_is_named_by_the_devices_certificate() {
    for model in ["GH100", "LS10"] {
        assert_eq!(chip_named_by(&issue(&device_chain(0, model))).as_deref(), Some(model));
    }
    assert_eq!(chip_named_by(&issue(&device_chain(0, "GH100"))[..1]), None);
}
