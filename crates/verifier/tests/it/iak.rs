//! Attestation keys that their device's manufacturer certified.

use casemate_evidence::tpm::{Curve, HashAlg, KeyScheme, ObjectAttributes, Public, PublicParams, Symmetric};
use casemate_verifier::{
    TrustAnchors, VendorRoot,
    iak::{IakError, VerifiedIak, verify_iak},
};
use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, Issuer, KeyPair, PublicKeyData as _};
use sha2::{Digest as _, Sha256};

use crate::world::{NOW, authority, keys, leaf};

struct Device {
    leaf: CertificateParams,
    public: Public,
    simulated: bool,
}

impl Device {
    fn good() -> Self {
        let mut leaf = leaf("IAK");
        leaf.custom_extensions = vec![policies(3), serial_number(b"SN-1")];
        Self { leaf, public: public(&keys().node), simulated: false }
    }

    fn verify(&self) -> Result<VerifiedIak, IakError> {
        self.judged().0
    }

    /// The verdict, and SHA-256 of leaf and root.
    fn judged(&self) -> (Result<VerifiedIak, IakError>, [[u8; 32]; 2]) {
        let root = authority("Test Device Manufacturer", None);
        let leaf = self.leaf.signed_by(&keys().node, &Issuer::from_params(&root, &keys().vendor)).unwrap();
        let root = root.self_signed(&keys().vendor).unwrap();
        let (pem, digests) = (root.pem(), [leaf.der(), root.der()].map(|der| Sha256::digest(der).into()));
        let platform = authority("Casemate platform authority", Some(0)).self_signed(&keys().platform).unwrap().pem();
        let anchors = TrustAnchors::new(&platform, &[VendorRoot { pem, simulated: self.simulated }]).unwrap();
        (verify_iak(&[leaf.der().to_vec()], &self.public.encode(), &anchors, NOW), digests)
    }
}

fn public(key: &KeyPair) -> Public {
    let point = key.der_bytes();
    Public {
        name_alg: HashAlg::Sha256,
        attributes: ObjectAttributes::ATTESTATION_KEY,
        auth_policy: vec![],
        params: PublicParams::Ecc {
            symmetric: Symmetric::Null,
            scheme: KeyScheme::Ecdsa(HashAlg::Sha256),
            curve: Curve::P256,
            x: point[1..33].to_vec(),
            y: point[33..].to_vec(),
        },
    }
}

/// CertificatePolicies with 2.23.133.11.1.`last`.
fn policies(last: u8) -> CustomExtension {
    let content = vec![0x30, 0x0a, 0x30, 0x08, 0x06, 0x06, 0x67, 0x81, 0x05, 0x0b, 0x01, last];
    CustomExtension::from_oid_content(&[2, 5, 29, 32], content)
}

/// GeneralNames with a HardwareModuleName of type 2.23.133.1.2.
fn serial_number(serial: &[u8]) -> CustomExtension {
    other_name(4, serial)
}

/// The same with another kind of name, 1.3.6.1.5.5.7.8.`last`.
fn other_name(last: u8, serial: &[u8]) -> CustomExtension {
    let wrap = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()][..], content].concat();
    let module = wrap(0x30, &[&[0x06, 0x05, 0x67, 0x81, 0x05, 0x01, 0x02][..], &wrap(0x04, serial)].concat());
    let kind = wrap(0x06, &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x08, last]);
    let other = wrap(0xa0, &[kind, wrap(0xa0, &module)].concat());
    CustomExtension::from_oid_content(&[2, 5, 29, 17], wrap(0x30, &other))
}

#[test]
fn a_certified_key_is_accepted_with_its_devices_serial_number() {
    let (iak, digests) = Device::good().judged();
    let iak = iak.unwrap();
    assert_eq!([iak.certificate_digest(), iak.root_fingerprint()], digests);
    assert_eq!((iak.serial_number(), iak.hardware_type()), (&b"SN-1"[..], "2.23.133.1.2"));
    assert_eq!(iak.key().name(), Device::good().public.name());
    assert!(!iak.is_simulated() && iak.root_subject().contains("Manufacturer"));
    assert!(Device { simulated: true, ..Device::good() }.verify().unwrap().is_simulated());
}

/// An IDevID key signs anything, quotes of its own making, too; only the public area beside it would say otherwise.
#[test]
fn refuses_a_key_that_nobody_verified_to_be_restricted() {
    for extensions in [vec![policies(2), serial_number(b"SN-1")], vec![serial_number(b"SN-1")]] {
        let mut device = Device::good();
        device.leaf.custom_extensions = extensions;
        assert!(matches!(device.verify(), Err(IakError::NotRestricted)));
    }
}

#[test]
fn refuses_another_key_another_use_and_a_device_without_serial_number() {
    let other = Device { public: public(&keys().ek), ..Device::good() };
    assert!(matches!(other.verify(), Err(IakError::OtherKey)));

    let mut free = Device::good();
    free.public.attributes = ObjectAttributes(free.public.attributes.0 & !ObjectAttributes::RESTRICTED);
    assert!(matches!(free.verify(), Err(IakError::Key(_))));

    let mut usage = Device::good();
    usage.leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    assert!(matches!(usage.verify(), Err(IakError::Path(_))));
    usage.leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 3])];
    assert!(usage.verify().is_ok());

    for extensions in [vec![policies(3)], vec![policies(3), serial_number(b"")], vec![policies(3), other_name(9, b"SN-1")]] {
        let mut nameless = Device::good();
        nameless.leaf.custom_extensions = extensions;
        assert!(matches!(nameless.verify(), Err(IakError::SerialNumber)));
    }
}
