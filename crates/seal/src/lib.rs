//! Envelope encryption: what travels between a tenant and an attested guest, past everybody else.
//!
//! | module | what | from | to |
//! |---|---|---|---|
//! | [`key`] | keys that wipe themselves | | |
//! | [`release`] | data keys, sealed to the guest's attested HPKE key | tenant | guest |
//! | [`record`] | output, sealed to the tenant's HPKE key | guest | tenant |
//! | [`asset`] | a file encrypted under a data key | tenant | guest |
//! | [`layer`] | the blocks of an image's layer, encrypted under a data key for dm-crypt | tenant | guest |
//!
//! Releases and records use HPKE (RFC 9180) in *Auth* mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and
//! AES-256-GCM: the receiver also knows who sent.
//!
//! Pure: no files, no clock, no source of randomness of its own. Randomness is an argument (a [`rand_core::CryptoRng`]);
//! with the `getrandom` crate that is `rand_core::UnwrapErr(getrandom::SysRng)`. `Debug` of a type with a secret never
//! shows it.

#![forbid(unsafe_code)]

pub mod asset;
pub mod key;
pub mod layer;
pub mod record;
pub mod release;
mod suite;

pub use hpke::rand_core;
pub use key::{Dek, HpkeSecret, KeyError};
pub use record::{Record, RecordOpener, RecordSealer};
pub use release::{KeyRelease, ReleaseContext, open_release, seal_release};

/// Why something could not be sealed or opened.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A public key with which no secret can be agreed (a low-order point).
    #[error("use the {whose} public key: no secret can be agreed with it")]
    PublicKey {
        /// `guest` or `tenant`.
        whose: &'static str,
    },
    /// Too much of something.
    #[error("seal or open a {what}: {len} is more than the limit of {limit}")]
    TooLong {
        /// What it is, with its unit.
        what: &'static str,
        /// Found.
        len: usize,
        /// Allowed.
        limit: usize,
    },
    /// Not the format of this crate.
    #[error("open a {what}: {detail}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// The release answers a challenge that this guest never had.
    #[error("open a key release: its nonce is none that this guest has answered")]
    UnknownNonce,
    /// The release was altered, is for another instance, workload or guest key, or is not from this tenant.
    #[error("open a key release: it is not authentic for this tenant, guest key, instance, workload and nonce")]
    ReleaseNotAuthentic,
    /// The record was altered, is not the next one, or is not from this guest for this tenant, instance and workload.
    #[error("open record {number}: it is not authentic, or not the next one, of this guest, instance and workload")]
    RecordNotAuthentic {
        /// Number that was expected, from 0.
        number: u64,
    },
    /// Something after the exit record.
    #[error("seal or open record {number}: the exit record was the last one")]
    AfterExit {
        /// Its number.
        number: u64,
    },
    /// The cipher refused to seal.
    #[error("seal a {what}: the cipher refused")]
    Cipher {
        /// What was to be sealed.
        what: &'static str,
    },
}

#[cfg(test)]
mod testing {
    //! Repeatable "randomness" for tests.

    use std::convert::Infallible;

    use hpke::rand_core::{TryCryptoRng, TryRng};
    use sha2::{Digest as _, Sha256};

    /// SHA-256 in counter mode over a seed.
    pub(crate) struct Seeded(pub(crate) u64);

    impl TryRng for Seeded {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            self.try_next_u64().map(|n| n as u32)
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            let mut bytes = [0; 8];
            self.try_fill_bytes(&mut bytes)?;
            Ok(u64::from_be_bytes(bytes))
        }

        fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
            for chunk in out.chunks_mut(32) {
                self.0 += 1;
                chunk.copy_from_slice(&Sha256::digest(self.0.to_be_bytes())[..chunk.len()]);
            }
            Ok(())
        }
    }

    impl TryCryptoRng for Seeded {}
}
