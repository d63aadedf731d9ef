//! MakeCredential: a secret that only the TPM with this endorsement key *and* this attestation key can open
//! ("TPM 2.0 Library, Part 1: Architecture", section 24, "Credential Protection"; annexes B.10.4 and C.6.4).

use std::convert::Infallible;

use aes::{Aes128, Aes256, cipher::KeyIvInit as _};
use casemate_evidence::tpm::HashAlg;
use hmac::{Hmac, KeyInit as _, Mac as _};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use rsa::{
    Oaep, RsaPublicKey,
    rand_core::{TryCryptoRng, TryRng},
};
use sha2::{Digest as _, Sha256, Sha384};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    ek::{EkPublic, Protection},
    quote::Key,
};

/// Longest secret, in bytes: a digest of the EK's name algorithm.
pub const MAX_SECRET: usize = 32;

/// Why no credential was made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Too long.
    #[error("make a credential: the secret has {len} bytes, more than the limit of {MAX_SECRET}")]
    Secret {
        /// Found.
        len: usize,
    },
    /// Not a TPM name.
    #[error("make a credential: the name has {len} bytes, a SHA-256 name has 34 and a SHA-384 name 50")]
    Name {
        /// Found.
        len: usize,
    },
    /// RSA refused.
    #[error("make a credential: encrypt the seed to the EK")]
    Encrypt,
    /// One of 2^32 random values; try again with others.
    #[error("make a credential: the random bytes for the ephemeral key are not a scalar")]
    Scalar,
}

/// Fresh randomness. Wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Randomness {
    /// The seed of an RSA EK's credential.
    pub seed: [u8; 32],
    /// The seed of OAEP.
    pub oaep: [u8; 32],
    /// The ephemeral private key of an ECC EK's credential.
    pub ephemeral: [u8; 32],
}

/// A credential for TPM2_ActivateCredential. Both parts are without the size prefix of their TPM2B.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Content of TPM2B_ID_OBJECT.
    pub blob: Vec<u8>,
    /// Content of TPM2B_ENCRYPTED_SECRET.
    pub encrypted_secret: Vec<u8>,
}

/// Wraps `secret` for the TPM that has both `ek` and the key with TPM name `ak_name`.
pub fn make_credential(ek: &EkPublic, ak_name: &[u8], secret: &[u8], random: &Randomness) -> Result<Credential, CredentialError> {
    if secret.len() > MAX_SECRET {
        return Err(CredentialError::Secret { len: secret.len() });
    }
    if !NAME_LENS.contains(&ak_name.len()) {
        return Err(CredentialError::Name { len: ak_name.len() });
    }
    let (seed, encrypted_secret) = match &ek.key {
        Key::Rsa(key) => wrap_rsa(key, ek.protection, random)?,
        Key::P256(key) => {
            let ephemeral = p256::SecretKey::from_slice(&random.ephemeral).map_err(|_| CredentialError::Scalar)?;
            let shared = p256::ecdh::diffie_hellman(ephemeral.to_nonzero_scalar(), key.as_affine());
            let (own, theirs) = (ephemeral.public_key().to_sec1_point(false), key.to_sec1_point(false));
            wrap_ecc(ek.protection, shared.raw_secret_bytes(), own.as_bytes(), theirs.as_bytes())
        }
        Key::P384(key) => {
            // As many bits as the curve has, from the 256 that were given.
            let wide = stretched(HashAlg::Sha384, b"casemate/ephemeral-p384", &random.ephemeral);
            let ephemeral = p384::SecretKey::from_slice(&wide).map_err(|_| CredentialError::Scalar)?;
            let shared = p384::ecdh::diffie_hellman(ephemeral.to_nonzero_scalar(), key.as_affine());
            let (own, theirs) = (ephemeral.public_key().to_sec1_point(false), key.to_sec1_point(false));
            wrap_ecc(ek.protection, shared.raw_secret_bytes(), own.as_bytes(), theirs.as_bytes())
        }
    };
    Ok(Credential { blob: id_object(&seed, ek.protection, ak_name, secret), encrypted_secret })
}

/// As long as a digest of the EK's name algorithm.
type Seed = Zeroizing<Vec<u8>>;

impl Protection {
    fn hash(self) -> HashAlg {
        match self {
            Self::Sha256Aes128 => HashAlg::Sha256,
            Self::Sha384Aes256 => HashAlg::Sha384,
        }
    }

    fn aes_bits(self) -> u32 {
        match self {
            Self::Sha256Aes128 => 128,
            Self::Sha384Aes256 => 256,
        }
    }
}

fn wrap_rsa(key: &RsaPublicKey, protection: Protection, random: &Randomness) -> Result<(Seed, Vec<u8>), CredentialError> {
    let mut oaep = Stretched { key: &random.oaep, next: 0 };
    let (seed, encrypted) = match protection {
        Protection::Sha256Aes128 => {
            let seed = Zeroizing::new(random.seed.to_vec());
            let encrypted = key.encrypt(&mut oaep, Oaep::<Sha256>::new_with_label(IDENTITY), &seed);
            (seed, encrypted)
        }
        Protection::Sha384Aes256 => {
            let seed = stretched(HashAlg::Sha384, b"casemate/credential-seed", &random.seed);
            let encrypted = key.encrypt(&mut oaep, Oaep::<Sha384>::new_with_label(IDENTITY), &seed);
            (seed, encrypted)
        }
    };
    Ok((seed, encrypted.map_err(|_| CredentialError::Encrypt)?))
}

/// One-pass Diffie-Hellman; the encrypted secret is a TPMS_ECC_POINT. Points are uncompressed (SEC 1).
fn wrap_ecc(protection: Protection, shared: &[u8], own: &[u8], theirs: &[u8]) -> (Seed, Vec<u8>) {
    let half = own.len() / 2;
    let (x, y) = own[1..].split_at(half);
    // KDFe (Part 1, 11.4.10.3), one block: the seed has as many bits as the hash.
    let seed = protection.hash().digest(&[&1u32.to_be_bytes(), shared, IDENTITY, x, &theirs[1..=half]]);
    (Zeroizing::new(seed.as_slice().to_vec()), [&sized(x)[..], &sized(y)].concat())
}

fn id_object(seed: &Seed, protection: Protection, ak_name: &[u8], secret: &[u8]) -> Vec<u8> {
    let hash = protection.hash();
    let key = kdfa(hash, seed, b"STORAGE\0", ak_name, protection.aes_bits());
    let mut identity = sized(secret);
    match protection {
        Protection::Sha256Aes128 => {
            let key = Zeroizing::new(*key.first_chunk::<16>().expect("a digest is longer"));
            cfb_mode::Encryptor::<Aes128>::new((&*key).into(), &[0; 16].into()).encrypt(&mut identity);
        }
        Protection::Sha384Aes256 => {
            let key = Zeroizing::new(*key.first_chunk::<32>().expect("a digest is longer"));
            cfb_mode::Encryptor::<Aes256>::new((&*key).into(), &[0; 16].into()).encrypt(&mut identity);
        }
    }
    let bits = u32::try_from(hash.size() * 8).expect("a digest is short");
    let integrity_key = kdfa(hash, seed, b"INTEGRITY\0", &[], bits);
    let integrity = mac(hash, &integrity_key, &[&identity, ak_name]);
    [&sized(&integrity)[..], &identity].concat()
}

/// KDFa (Part 1, 11.4.10.2), one block, with an empty contextV; `label` with its final zero.
fn kdfa(hash: HashAlg, key: &[u8], label: &[u8], context: &[u8], bits: u32) -> Zeroizing<Vec<u8>> {
    mac(hash, key, &[&1u32.to_be_bytes(), label, context, &bits.to_be_bytes()])
}

fn mac(hash: HashAlg, key: &[u8], parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    const ANY: &str = "HMAC takes a key of any length";
    match hash {
        HashAlg::Sha384 => {
            let mut mac = Hmac::<Sha384>::new_from_slice(key).expect(ANY);
            parts.iter().for_each(|part| mac.update(part));
            Zeroizing::new(mac.finalize().into_bytes().to_vec())
        }
        _ => {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).expect(ANY);
            parts.iter().for_each(|part| mac.update(part));
            Zeroizing::new(mac.finalize().into_bytes().to_vec())
        }
    }
}

/// As many bytes as a digest has, from 256 random bits.
fn stretched(hash: HashAlg, label: &[u8], random: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    mac(hash, random, &[label])
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("at most a digest or a coordinate");
    [&len.to_be_bytes()[..], bytes].concat()
}

/// OAEP's randomness from an argument: SHA-256 of the argument and a counter.
struct Stretched<'a> {
    key: &'a [u8; 32],
    next: u64,
}

impl TryRng for Stretched<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for part in out.chunks_mut(32) {
            let block = Sha256::new().chain_update(self.key).chain_update(self.next.to_be_bytes()).finalize();
            part.copy_from_slice(&block[..part.len()]);
            self.next += 1;
        }
        Ok(())
    }
}

impl TryCryptoRng for Stretched<'_> {}

/// Label of OAEP and of KDFe, with its final zero.
const IDENTITY: &[u8] = b"IDENTITY\0";
/// Algorithm identifier and digest, of SHA-256 and SHA-384.
const NAME_LENS: [usize; 2] = [34, 50];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_block_of_the_randomness_is_another() {
        let mut out = [0; 96];
        let Ok(()) = Stretched { key: &[7; 32], next: 0 }.try_fill_bytes(&mut out);
        let blocks: std::collections::BTreeSet<_> = out.chunks(32).collect();
        assert!(blocks.len() == 3 && !blocks.contains(&[0; 32][..]));
        // And goes on where it was.
        let (mut parts, mut stretched) = ([0; 96], Stretched { key: &[7; 32], next: 0 });
        for part in parts.chunks_mut(32) {
            let Ok(()) = stretched.try_fill_bytes(part);
        }
        assert_eq!(parts, out);
    }
}
