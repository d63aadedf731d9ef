//! An endorsement key in software: certificate, public area, and TPM2_ActivateCredential for an ECC key
//! ("TPM 2.0 Library, Part 1", section 24 and annex C.6.4).

use aes::cipher::KeyIvInit as _;
use casemate_evidence::tpm::{Curve, HashAlg, KeyScheme, ObjectAttributes, Public, PublicParams, Symmetric, wire::Reader};
use hmac::{Hmac, KeyInit as _, Mac as _};
use p256::{PublicKey, SecretKey, elliptic_curve::sec1::ToSec1Point as _, pkcs8::EncodePrivateKey as _};
use rcgen::{CertificateParams, DnType, KeyPair};
use sha2::{Digest as _, Sha256};

use crate::platform::Vendor;

pub(crate) struct SoftEk {
    key: SecretKey,
    pub(crate) certificate: Vec<u8>,
}

impl SoftEk {
    pub(crate) fn new(seed: u32, vendor: &Vendor) -> Self {
        let key = SecretKey::from_slice(&seed_bytes(seed)).unwrap();
        let pair = KeyPair::try_from(key.to_pkcs8_der().unwrap().as_bytes()).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "TPM");
        let certificate = params.signed_by(&pair, &vendor.issuer).unwrap().der().to_vec();
        Self { key, certificate }
    }

    /// TPMT_PUBLIC.
    pub(crate) fn public(&self) -> Vec<u8> {
        let (x, y) = coordinates(&self.key.public_key());
        let attributes = ObjectAttributes::FIXED_TPM
            | ObjectAttributes::FIXED_PARENT
            | ObjectAttributes::SENSITIVE_DATA_ORIGIN
            | ObjectAttributes::ADMIN_WITH_POLICY
            | ObjectAttributes::RESTRICTED
            | ObjectAttributes::DECRYPT;
        let params = PublicParams::Ecc {
            symmetric: Symmetric::AesCfb { bits: 128 },
            scheme: KeyScheme::Null,
            curve: Curve::P256,
            x: x.to_vec(),
            y: y.to_vec(),
        };
        Public { name_alg: HashAlg::Sha256, attributes: ObjectAttributes(attributes), auth_policy: vec![0; 32], params }.encode()
    }

    /// Opens a credential for the key with this name; `None` when it was made for another.
    pub(crate) fn activate(&self, ak_name: &[u8], blob: &[u8], encrypted_secret: &[u8]) -> Option<Vec<u8>> {
        let mut point = Reader::new(encrypted_secret);
        let (x, y) = (point.sized("x", 32).ok()?, point.sized("y", 32).ok()?);
        let ephemeral = PublicKey::from_sec1_bytes(&[&[4], x, y].concat()).ok()?;
        let shared = p256::ecdh::diffie_hellman(self.key.to_nonzero_scalar(), ephemeral.as_affine());
        let (own_x, _) = coordinates(&self.key.public_key());
        let mut hash = Sha256::new();
        for part in [&1u32.to_be_bytes()[..], shared.raw_secret_bytes(), b"IDENTITY\0", x, &own_x] {
            hash.update(part);
        }
        let seed: [u8; 32] = hash.finalize().into();

        let mut object = Reader::new(blob);
        let integrity = object.sized("integrity", 32).ok()?;
        let mut identity = object.rest().to_vec();
        if mac(&kdfa(&seed, b"INTEGRITY\0", &[], 256), &[&identity, ak_name]) != integrity {
            return None;
        }
        let key: [u8; 16] = kdfa(&seed, b"STORAGE\0", ak_name, 128)[..16].try_into().ok()?;
        cfb_mode::Decryptor::<aes::Aes128>::new(&key.into(), &[0; 16].into()).decrypt(&mut identity);
        Some(Reader::new(&identity).sized("secret", 32).ok()?.to_vec())
    }
}

/// A secret of a node that is the same in every run; not all zeros.
pub(crate) fn seed_bytes(seed: u32) -> [u8; 32] {
    let bytes = seed.wrapping_add(1).to_be_bytes();
    std::array::from_fn(|at| bytes[at % bytes.len()])
}

fn kdfa(key: &[u8], label: &[u8], context: &[u8], bits: u32) -> [u8; 32] {
    mac(key, &[&1u32.to_be_bytes(), label, context, &bits.to_be_bytes()])
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn coordinates(key: &PublicKey) -> ([u8; 32], [u8; 32]) {
    let point = key.to_sec1_point(false);
    let bytes = point.as_bytes();
    (bytes[1..33].try_into().unwrap(), bytes[33..65].try_into().unwrap())
}
