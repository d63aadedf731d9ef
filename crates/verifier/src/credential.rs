//! MakeCredential: a secret that only the TPM with this endorsement key *and* this attestation key can open
//! ("TPM 2.0 Library, Part 1: Architecture", section 24, "Credential Protection"; annexes B.10.4 and C.6.4).

use std::convert::Infallible;

use aes::{Aes128, cipher::KeyIvInit as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use p256::elliptic_curve::sec1::ToSec1Point as _;
use rsa::{
    Oaep, RsaPublicKey,
    rand_core::{TryCryptoRng, TryRng},
};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::ek::{EkKey, EkPublic};

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
    #[error("make a credential: the name has {len} bytes, a SHA-256 name has 34")]
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
    if ak_name.len() != NAME_LEN {
        return Err(CredentialError::Name { len: ak_name.len() });
    }
    let (seed, encrypted_secret) = match &ek.0 {
        EkKey::Rsa(key) => wrap_rsa(key, random)?,
        EkKey::P256(key) => wrap_ecc(key, random)?,
    };
    Ok(Credential { blob: id_object(&seed, ak_name, secret), encrypted_secret })
}

type Seed = Zeroizing<[u8; 32]>;

fn wrap_rsa(key: &RsaPublicKey, random: &Randomness) -> Result<(Seed, Vec<u8>), CredentialError> {
    let seed = Zeroizing::new(random.seed);
    let padding = Oaep::<Sha256>::new_with_label(IDENTITY);
    let encrypted = key.encrypt(&mut Stretched { key: &random.oaep, next: 0 }, padding, seed.as_slice());
    Ok((seed, encrypted.map_err(|_| CredentialError::Encrypt)?))
}

/// One-pass Diffie-Hellman; the encrypted secret is a TPMS_ECC_POINT.
fn wrap_ecc(key: &p256::PublicKey, random: &Randomness) -> Result<(Seed, Vec<u8>), CredentialError> {
    let ephemeral = p256::SecretKey::from_slice(&random.ephemeral).map_err(|_| CredentialError::Scalar)?;
    let shared = p256::ecdh::diffie_hellman(ephemeral.to_nonzero_scalar(), key.as_affine());
    let (x, y) = coordinates(&ephemeral.public_key());
    let (ek_x, _) = coordinates(key);
    // KDFe (Part 1, 11.4.10.3), one block: the seed has as many bits as the hash.
    let mut hash = Sha256::new();
    hash.update(1u32.to_be_bytes());
    hash.update(shared.raw_secret_bytes());
    hash.update(IDENTITY);
    hash.update(x);
    hash.update(ek_x);
    Ok((Zeroizing::new(hash.finalize().into()), [&sized(&x)[..], &sized(&y)].concat()))
}

fn id_object(seed: &Seed, ak_name: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut key = Zeroizing::new([0; 16]);
    key.copy_from_slice(&kdfa(seed.as_slice(), b"STORAGE\0", ak_name, 128)[..16]);
    let mut identity = sized(secret);
    cfb_mode::Encryptor::<Aes128>::new((&*key).into(), &[0; 16].into()).encrypt(&mut identity);
    let integrity_key = kdfa(seed.as_slice(), b"INTEGRITY\0", &[], 256);
    let integrity = mac(integrity_key.as_slice(), &[&identity, ak_name]);
    [&sized(integrity.as_slice())[..], &identity].concat()
}

/// KDFa (Part 1, 11.4.10.2), one block, with an empty contextV; `label` with its final zero.
fn kdfa(key: &[u8], label: &[u8], context: &[u8], bits: u32) -> Zeroizing<[u8; 32]> {
    mac(key, &[&1u32.to_be_bytes(), label, context, &bits.to_be_bytes()])
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("at most a digest or a coordinate");
    [&len.to_be_bytes()[..], bytes].concat()
}

fn coordinates(key: &p256::PublicKey) -> ([u8; 32], [u8; 32]) {
    let point = key.to_sec1_point(false);
    let coordinate =
        |bytes: Option<&_>| -> [u8; 32] { *<_ as AsRef<[u8; 32]>>::as_ref(bytes.expect("an uncompressed point has both")) };
    (coordinate(point.x()), coordinate(point.y()))
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
/// Algorithm identifier and SHA-256.
const NAME_LEN: usize = 34;
