//! What is good is accepted, and every odd form of it refused: by bytes, as certificates bring them, so that a change of the
//! arithmetic cannot loosen anything unseen.

use std::convert::Infallible;

use p256::{
    ecdsa::signature::{Signer as _, hazmat::PrehashSigner as _},
    pkcs8::EncodePublicKey,
};
use rsa::{
    BoxedUint, RsaPrivateKey, RsaPublicKey,
    pkcs1::RsaPssParams,
    pkcs1v15,
    pkcs8::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned},
    pss,
    rand_core::{TryCryptoRng, TryRng},
    signature::{RandomizedSigner as _, SignatureEncoding as _},
    traits::PublicKeyParts as _,
};
use sha2::{Digest as _, Sha256, Sha384, Sha512};
use x509_cert::der::{
    Any, Decode as _, Encode as _, Tag,
    asn1::{BitString, ObjectIdentifier, Uint},
    oid::db::rfc5912 as oid,
};

use super::{Hash, Salt, rsa_pss};
use crate::x509::{Algorithm, SignatureError, verify_signature};

#[test]
fn each_curve_with_each_hash() {
    let (small, large) = (p256_key(), p384_key());
    let (small_der, large_der) = (spki(small.verifying_key()), spki(large.verifying_key()));
    let (sha256, sha384) = (plain(oid::ECDSA_WITH_SHA_256), plain(oid::ECDSA_WITH_SHA_384));
    let small_sign = |digest: &[u8]| -> p256::ecdsa::Signature { small.sign_prehash(digest).unwrap() };
    let large_sign = |digest: &[u8]| -> p384::ecdsa::Signature { large.sign_prehash(digest).unwrap() };
    let (d256, d384) = (Sha256::digest(MESSAGE), Sha384::digest(MESSAGE));
    let cases = [
        (&sha256, &sha384, &small_der, &large_der, small_sign(&d256).to_der().as_bytes().to_vec()),
        (&sha384, &sha256, &small_der, &large_der, small_sign(&d384).to_der().as_bytes().to_vec()),
        (&sha256, &sha384, &large_der, &small_der, large_sign(&d256).to_der().as_bytes().to_vec()),
        (&sha384, &sha256, &large_der, &small_der, large_sign(&d384).to_der().as_bytes().to_vec()),
    ];
    for (algorithm, other, key, other_key, signature) in cases {
        accepted(algorithm, key, &signature);
        refused(other, key, &signature);
        refused(algorithm, other_key, &signature);
        for at in 0..signature.len() {
            let mut flipped = signature.clone();
            flipped[at] ^= 1;
            refused(algorithm, key, &flipped);
        }
    }
}

#[test]
fn numbers_of_ecdsa_are_in_range() {
    let (algorithm, key, r, s) = ecdsa_case();
    accepted(&algorithm, &key, &sequence(&[&integer(&r), &integer(&s)]));
    for odd in [&[0][..], &N256, &[0xff; 32], &[1; 33]] {
        refused(&algorithm, &key, &sequence(&[&integer(odd), &integer(&s)]));
        refused(&algorithm, &key, &sequence(&[&integer(&r), &integer(odd)]));
        refused(&algorithm, &key, &sequence(&[&integer(odd), &integer(odd)]));
    }
}

#[test]
fn signatures_of_ecdsa_are_strict_der() {
    let (algorithm, key, r, s) = ecdsa_case();
    let good = sequence(&[&integer(&r), &integer(&s)]);
    let content = &good[2..];
    let negative = |bytes: &[u8]| raw_integer(&[&[bytes[0] | 0x80], &bytes[1..]].concat());
    let odd = [
        [&good[..], &[0]].concat(),
        good[..good.len() - 1].to_vec(),
        sequence(&[content, &integer(&[1])]),
        sequence(&[&integer(&r)]),
        sequence(&[&raw_integer(&[&[0, 0], &r[..]].concat()), &integer(&s)]),
        sequence(&[&integer(&r), &raw_integer(&[&[0, 0], &s[..]].concat())]),
        sequence(&[&negative(&r), &integer(&s)]),
        [&[0x30, 0x81, u8::try_from(content.len()).unwrap()], content].concat(),
        [&[0x30, 0x80], content, &[0, 0]].concat(),
        [&[0x31], &good[1..]].concat(),
        [r, s].concat(),
        Vec::new(),
    ];
    for signature in odd {
        refused(&algorithm, &key, &signature);
    }
}

#[test]
fn keys_of_ecdsa_are_points_of_the_curve() {
    let (algorithm, key, r, s) = ecdsa_case();
    let signature = sequence(&[&integer(&r), &integer(&s)]);
    let with_point = |point: &[u8]| {
        let mut info = SubjectPublicKeyInfoOwned::from_der(&key).unwrap();
        info.subject_public_key = BitString::from_bytes(point).unwrap();
        info.to_der().unwrap()
    };
    let point = p256_key().verifying_key().to_sec1_point(false).as_bytes().to_vec();
    let compressed = p256_key().verifying_key().to_sec1_point(true).as_bytes().to_vec();
    accepted(&algorithm, &with_point(&point), &signature);
    accepted(&algorithm, &with_point(&compressed), &signature);
    let off_the_curve = [&point[..64], &[point[64] ^ 1]].concat();
    let hybrid = [&[6 | point[64] & 1], &point[1..]].concat();
    let beyond = [&[4], &[0xff; 32][..], &point[33..]].concat();
    for odd in [&off_the_curve[..], &hybrid, &beyond, &[0], &[4; 65], &point[..64], &[&point[..], &[0]].concat(), &[]] {
        wrong_key(&algorithm, &with_point(odd), &signature);
    }
}

#[test]
fn each_scheme_of_rsa() {
    let private = rsa_private(2048);
    let key = spki(&private.to_public_key());
    let cases = [
        (plain(oid::SHA_256_WITH_RSA_ENCRYPTION), pkcs1::<Sha256>(&private, MESSAGE)),
        (plain(oid::SHA_384_WITH_RSA_ENCRYPTION), pkcs1_384(&private)),
        (pss_384(), pss_with(&private, 48)),
    ];
    for (at, (algorithm, signature)) in cases.iter().enumerate() {
        accepted(algorithm, &key, signature);
        for (_, (other, _)) in cases.iter().enumerate().filter(|(other, _)| *other != at) {
            refused(other, &key, signature);
        }
        refused(algorithm, &key, &[&[0], &signature[..]].concat());
        refused(algorithm, &key, &signature[1..]);
        refused(algorithm, &key, &[]);
        for at in (0..signature.len()).step_by(5) {
            let mut flipped = signature.clone();
            flipped[at] ^= 0x10;
            refused(algorithm, &key, &flipped);
        }
    }
}

#[test]
fn a_salt_of_another_length_is_refused_in_certificates_and_accepted_in_quotes() {
    let private = rsa_private(2048);
    let public = private.to_public_key();
    for salt in [0, 32, 206] {
        let signature = pss_with(&private, salt);
        refused(&pss_384(), &spki(&public), &signature);
        assert!(rsa_pss(&public, Hash::Sha384, Salt::Any, MESSAGE, &signature));
        assert!(!rsa_pss(&public, Hash::Sha384, Salt::Digest, MESSAGE, &signature));
        assert!(!rsa_pss(&public, Hash::Sha256, Salt::Any, MESSAGE, &signature));
        assert!(!rsa_pss(&public, Hash::Sha384, Salt::Any, b"other", &signature));
    }
}

/// A number above the modulus with the same remainder is not the same signature.
#[test]
fn a_signature_of_rsa_is_below_the_modulus() {
    let private = rsa_private(2048);
    let (algorithm, key) = (plain(oid::SHA_256_WITH_RSA_ENCRYPTION), spki(&private.to_public_key()));
    // The modulus is above 2^2047: one signature in a few leaves room for another modulus below 2^2048.
    let (message, good, larger) = (0..200u32)
        .find_map(|count| {
            let message = [MESSAGE, &count.to_le_bytes()].concat();
            let signature = pkcs1::<Sha256>(&private, &message);
            let larger = sum(&signature, &private.n_bytes())?;
            Some((message, signature, larger))
        })
        .expect("one of two hundred has room");
    assert!(verify_signature(&algorithm, &message, &good, &key, ALL).is_ok());
    let seen = verify_signature(&algorithm, &message, &larger, &key, ALL);
    assert!(matches!(seen, Err(SignatureError::Wrong)), "{seen:?}");
}

#[test]
fn keys_of_rsa_have_their_limits() {
    let private = rsa_private(2048);
    let (n, e) = (private.n_bytes(), private.e_bytes());
    let algorithm = plain(oid::SHA_256_WITH_RSA_ENCRYPTION);
    let signature = pkcs1::<Sha256>(&private, MESSAGE);
    accepted(&algorithm, &rsa_spki(&n, &e), &signature);
    for bits in [1024, 2040] {
        let small = rsa_private(bits);
        wrong_key(&algorithm, &spki(&small.to_public_key()), &pkcs1::<Sha256>(&small, MESSAGE));
    }
    wrong_key(&algorithm, &rsa_spki(&[0xff; 513], &e), &[7; 513]);
    let even = [&n[..255], &[n[255] & 0xfe]].concat();
    refused(&algorithm, &rsa_spki(&even, &e), &signature);
    for exponent in [&[0][..], &[1], &[2], &[1, 0, 0], &[2, 0, 0, 0, 1], &[1, 0, 0, 0, 0, 0, 0, 0, 1], &[0xff; 255]] {
        refused(&algorithm, &rsa_spki(&n, exponent), &signature);
    }
}

/// With the exponent one, every number is its own signature.
#[test]
fn a_key_of_rsa_with_exponent_one_signs_nothing() {
    let private = rsa_private(2048);
    let digest_info = hex::decode("3031300d060960864801650304020105000420").unwrap();
    let padding = vec![0xff; 256 - 3 - digest_info.len() - 32];
    let encoded = [&[0, 1], &padding[..], &[0], &digest_info, &Sha256::digest(MESSAGE)].concat();
    refused(&plain(oid::SHA_256_WITH_RSA_ENCRYPTION), &rsa_spki(&private.n_bytes(), &[1]), &encoded);
    let public = RsaPublicKey::new(private.n().as_ref().clone(), BoxedUint::from(1u64));
    assert!(public.is_err() || !super::rsa_pkcs1(&public.unwrap(), Hash::Sha256, MESSAGE, &encoded));
}

#[test]
fn algorithms_outside_the_list_are_named() {
    let private = rsa_private(2048);
    let (key, signature) = (spki(&private.to_public_key()), pkcs1::<Sha512>(&private, MESSAGE));
    let sha1 = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.5");
    for other in [sha1, oid::SHA_512_WITH_RSA_ENCRYPTION, oid::ECDSA_WITH_SHA_512] {
        let seen = verify_signature(&plain(other), MESSAGE, &signature, &key, ALL);
        assert!(matches!(seen, Err(SignatureError::Algorithm { oid }) if oid == other), "{seen:?}");
    }
}

#[track_caller]
fn accepted(algorithm: &AlgorithmIdentifierOwned, key: &[u8], signature: &[u8]) {
    verify_signature(algorithm, MESSAGE, signature, key, ALL).unwrap();
}

#[track_caller]
fn refused(algorithm: &AlgorithmIdentifierOwned, key: &[u8], signature: &[u8]) {
    assert!(verify_signature(algorithm, MESSAGE, signature, key, ALL).is_err(), "{}", hex::encode(signature));
}

#[track_caller]
fn wrong_key(algorithm: &AlgorithmIdentifierOwned, key: &[u8], signature: &[u8]) {
    let seen = verify_signature(algorithm, MESSAGE, signature, key, ALL);
    assert!(matches!(seen, Err(SignatureError::Key { .. })), "{seen:?}");
}

fn plain(oid: ObjectIdentifier) -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid, parameters: None }
}

fn p256_key() -> p256::ecdsa::SigningKey {
    p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap()
}

fn p384_key() -> p384::ecdsa::SigningKey {
    p384::ecdsa::SigningKey::from_slice(&[9; 48]).unwrap()
}

fn spki(key: &impl EncodePublicKey) -> Vec<u8> {
    key.to_public_key_der().unwrap().into_vec()
}

/// Algorithm, key, and the two numbers of a good signature.
fn ecdsa_case() -> (AlgorithmIdentifierOwned, Vec<u8>, Vec<u8>, Vec<u8>) {
    let key = p256_key();
    let signature: p256::ecdsa::Signature = key.sign(MESSAGE);
    let (r, s) = signature.split_bytes();
    (plain(oid::ECDSA_WITH_SHA_256), spki(key.verifying_key()), r.to_vec(), s.to_vec())
}

/// DER of a number of at most 127 bytes.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count().min(bytes.len() - 1);
    let bytes = &bytes[zeros..];
    let sign: &[u8] = if bytes[0] & 0x80 != 0 { &[0] } else { &[] };
    raw_integer(&[sign, bytes].concat())
}

fn raw_integer(content: &[u8]) -> Vec<u8> {
    [&[2, u8::try_from(content.len()).unwrap()], content].concat()
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    [&[0x30, u8::try_from(content.len()).unwrap()], &content[..]].concat()
}

fn rsa_private(bits: usize) -> RsaPrivateKey {
    RsaPrivateKey::new(&mut Counted(0), bits).unwrap()
}

fn pkcs1<D>(private: &RsaPrivateKey, message: &[u8]) -> Vec<u8>
where
    D: sha2::Digest + sha2::digest::const_oid::AssociatedOid,
{
    rsa::signature::Signer::sign(&pkcs1v15::SigningKey::<D>::new(private.clone()), message).to_vec()
}

fn pkcs1_384(private: &RsaPrivateKey) -> Vec<u8> {
    pkcs1::<Sha384>(private, MESSAGE)
}

fn pss_with(private: &RsaPrivateKey, salt: usize) -> Vec<u8> {
    let key = pss::SigningKey::<Sha384>::new_with_salt_len(private.clone(), salt);
    key.sign_with_rng(&mut Counted(1 << 32), MESSAGE).to_vec()
}

fn pss_384() -> AlgorithmIdentifierOwned {
    let parameters = RsaPssParams::new::<Sha384>(48).to_der().unwrap();
    AlgorithmIdentifierOwned { oid: oid::ID_RSASSA_PSS, parameters: Some(Any::from_der(&parameters).unwrap()) }
}

/// Numbers for keys that are the same each time: digests of a counter.
struct Counted(u64);

impl TryRng for Counted {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|number| (number >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for part in out.chunks_mut(32) {
            self.0 += 1;
            part.copy_from_slice(&Sha256::digest(self.0.to_be_bytes())[..part.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Counted {}

/// A SubjectPublicKeyInfo of any two numbers.
fn rsa_spki(n: &[u8], e: &[u8]) -> Vec<u8> {
    let numbers = [n, e].map(|bytes| Uint::new(bytes).unwrap().to_der().unwrap()).concat();
    let key = Any::new(Tag::Sequence, numbers).unwrap().to_der().unwrap();
    let algorithm = AlgorithmIdentifierOwned::from_der(&rsa::pkcs1::ALGORITHM_ID.to_der().unwrap()).unwrap();
    SubjectPublicKeyInfoOwned { algorithm, subject_public_key: BitString::from_bytes(&key).unwrap() }.to_der().unwrap()
}

/// The sum of two numbers of one length, if it has that length, too.
fn sum(a: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    let mut carry = 0;
    let mut bytes: Vec<u8> = a
        .iter()
        .zip(b)
        .rev()
        .map(|(a, b)| {
            carry += u16::from(*a) + u16::from(*b);
            let byte = carry.to_le_bytes()[0];
            carry >>= 8;
            byte
        })
        .collect();
    bytes.reverse();
    (carry == 0).then_some(bytes)
}

const MESSAGE: &[u8] = b"what was signed";
const ALL: &[Algorithm] =
    &[Algorithm::RsaSha256, Algorithm::RsaSha384, Algorithm::RsaPssSha384, Algorithm::EcdsaSha256, Algorithm::EcdsaSha384];
/// The order of P-256.
const N256: [u8; 32] = *b"\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xbc\xe6\xfa\xad\xa7\x17\x9e\x84\xf3\xb9\xca\xc2\xfc\x63\x25\x51";
