//! A key release: data keys from the tenant to one attested guest.
//!
//! ```text
//! "CMKEYRL1" || nonce (32) || enc (32) || AES-256-GCM ciphertext of the keys
//! ```
//!
//! HPKE Auth mode, info `casemate/key-release/v1`; the associated data binds instance, workload digest and nonce. The
//! nonce is the one of the challenge whose evidence convinced the tenant; it travels in clear, so that the guest knows
//! which of its answers is meant.
//!
//! The plaintext: number of keys (u16), then per key, in order of name: length of the name (u8), name, key (32 bytes).

use std::{collections::BTreeMap, fmt};

use hpke::rand_core::CryptoRng;
use subtle::{Choice, ConstantTimeEq as _};
use zeroize::{Zeroize as _, Zeroizing};

use crate::{
    Dek, HpkeSecret, SealError,
    suite::{self, ENC_LEN, TAG_LEN},
};

/// Most keys in one release.
pub const MAX_KEYS: usize = 64;
/// Longest name of a key, in bytes.
pub const MAX_NAME: usize = 255;
/// Largest sealed release, in bytes.
pub const MAX_BYTES: usize = HEADER + 2 + MAX_KEYS * (1 + MAX_NAME + 32) + TAG_LEN;

/// What a release is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseContext {
    /// The instance.
    pub instance: String,
    /// Digest of its canonical workload.
    pub workload_digest: [u8; 32],
    /// The nonce of the challenge whose evidence was verified.
    pub nonce: [u8; 32],
}

/// Data keys by the name of what they open. Wiped when dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct KeyRelease {
    /// The keys.
    pub keys: BTreeMap<String, [u8; 32]>,
}

impl KeyRelease {
    /// The key of this name.
    pub fn dek(&self, name: &str) -> Option<Dek> {
        self.keys.get(name).map(|key| Dek::from_bytes(*key))
    }
}

impl Drop for KeyRelease {
    fn drop(&mut self) {
        self.keys.values_mut().for_each(|key| key.zeroize());
    }
}

impl fmt::Debug for KeyRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRelease").field("names", &self.keys.keys()).finish_non_exhaustive()
    }
}

/// Seals `release` for the guest with this *attested* public key.
pub fn seal_release(
    tenant: &HpkeSecret,
    guest_public: &[u8; 32],
    context: &ReleaseContext,
    release: &KeyRelease,
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, SealError> {
    let plain = encode(release)?;
    let (enc, mut hpke) = suite::sender(tenant, guest_public, "guest", INFO, rng)?;
    let aad = suite::associated_data(&context.instance, &context.workload_digest, &context.nonce);
    let sealed = hpke.seal(&plain, &aad).map_err(|_| SealError::Cipher { what: "key release" })?;
    Ok([&MAGIC[..], &context.nonce, &enc, &sealed].concat())
}

/// Opens a release, in the guest. `nonces_seen` are the nonces of the challenges that this guest has answered.
pub fn open_release(
    guest: &HpkeSecret,
    tenant_public: &[u8; 32],
    instance: &str,
    workload_digest: &[u8; 32],
    nonces_seen: &[[u8; 32]],
    bytes: &[u8],
) -> Result<KeyRelease, SealError> {
    if bytes.len() > MAX_BYTES {
        return Err(SealError::TooLong { what: "key release (bytes)", len: bytes.len(), limit: MAX_BYTES });
    }
    let mut rest = Reader(bytes);
    if rest.take(MAGIC.len())? != MAGIC {
        return Err(malformed("it does not start with CMKEYRL1"));
    }
    let (nonce, enc): ([u8; 32], [u8; ENC_LEN]) = (rest.array()?, rest.array()?);
    let seen = nonces_seen.iter().fold(Choice::from(0), |seen, known| seen | known.ct_eq(&nonce));
    if !bool::from(seen) {
        return Err(SealError::UnknownNonce);
    }
    let aad = suite::associated_data(instance, workload_digest, &nonce);
    let plain = suite::receiver(guest, tenant_public, &enc, INFO)
        .and_then(|mut hpke| hpke.open(rest.0, &aad))
        .map_err(|_| SealError::ReleaseNotAuthentic)?;
    decode(&Zeroizing::new(plain))
}

fn encode(release: &KeyRelease) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let count = release.keys.len();
    if count > MAX_KEYS {
        return Err(SealError::TooLong { what: "key release (keys)", len: count, limit: MAX_KEYS });
    }
    // All capacity at once: a growing vector would leave copies of keys behind.
    let mut out = Zeroizing::new(Vec::with_capacity(MAX_BYTES));
    out.extend_from_slice(&u16::try_from(count).expect("at most MAX_KEYS").to_be_bytes());
    for (name, key) in &release.keys {
        let len = u8::try_from(name.len()).map_err(|_| SealError::TooLong {
            what: "name of a key (bytes)",
            len: name.len(),
            limit: MAX_NAME,
        })?;
        out.push(len);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(key);
    }
    Ok(out)
}

fn decode(plain: &[u8]) -> Result<KeyRelease, SealError> {
    let mut rest = Reader(plain);
    let mut release = KeyRelease::default();
    let count = usize::from(u16::from_be_bytes(rest.array()?));
    if count > MAX_KEYS {
        return Err(SealError::TooLong { what: "key release (keys)", len: count, limit: MAX_KEYS });
    }
    for _ in 0..count {
        let len = usize::from(rest.array::<1>()?[0]);
        let name = std::str::from_utf8(rest.take(len)?).map_err(|_| malformed("a name is not UTF-8"))?;
        if release.keys.last_key_value().is_some_and(|(last, _)| last.as_str() >= name) {
            return Err(malformed("the names are not in order, each once"));
        }
        let key = rest.array()?;
        release.keys.insert(name.to_owned(), key);
    }
    if rest.0.is_empty() { Ok(release) } else { Err(malformed("there are bytes after the last key")) }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], SealError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(malformed("it is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SealError> {
        self.take(N).map(|bytes| bytes.try_into().expect("took N bytes"))
    }
}

fn malformed(detail: &'static str) -> SealError {
    SealError::Malformed { what: "key release", detail }
}

const MAGIC: &[u8; 8] = b"CMKEYRL1";
const INFO: &[u8] = b"casemate/key-release/v1";
const HEADER: usize = MAGIC.len() + 32 + ENC_LEN;

#[cfg(test)]
mod tests;
