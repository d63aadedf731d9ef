//! The guest's keys and its vTPM's word for them.

use std::collections::VecDeque;

use casemate_api::guest;
use casemate_evidence::instance::{GuestKeys, Record as _, guest_binding};
use casemate_seal::HpkeSecret;
use ed25519_dalek::SigningKey;

use crate::{
    entropy,
    fatal::{Check, Fatal, OrFatal},
    home::{Home, Vouched},
};

/// Who this guest is: made fresh for each launch, secrets only in RAM.
pub(crate) struct Identity {
    pub(crate) hpke: HpkeSecret,
    /// For the attested TLS channel; nothing is signed with it yet.
    _tls: SigningKey,
    encoded: Vec<u8>,
    pub(crate) instance: String,
    pub(crate) workload_digest: [u8; 32],
    nonces: Nonces,
}

impl Identity {
    /// Makes the keys.
    pub(crate) fn generate(instance: String, workload_digest: [u8; 32]) -> Result<Self, Fatal> {
        let hpke = HpkeSecret::from_seed(*entropy::secret32()?);
        let tls = SigningKey::from_bytes(&*entropy::secret32()?);
        let keys = GuestKeys { version: 1, hpke: hpke.public(), tls: tls.verifying_key().to_bytes() };
        Ok(Self { hpke, _tls: tls, encoded: keys.encode(), instance, workload_digest, nonces: Nonces::default() })
    }

    /// Answers a challenge: keys, workload, instance and nonce bound into what the home vouches by.
    pub(crate) fn answer(&mut self, home: &mut impl Home, challenge: &guest::Challenge) -> Result<guest::Evidence, Fatal> {
        let nonce: [u8; 32] =
            challenge.nonce.as_slice().try_into().or_fatal(Check::Protocol, "take the challenge's nonce of 32 bytes")?;
        let binding = guest_binding(&nonce, &self.encoded, &self.workload_digest, &self.instance);
        let Vouched { attest, signature, ak_public, pcrs } = home.vouch(&binding)?;
        self.nonces.remember(nonce);
        Ok(guest::Evidence { id: challenge.id, guest_keys: self.encoded.clone(), attest, signature, ak_public, pcrs })
    }

    /// Nonces that were answered; a key release must be for one of them.
    pub(crate) fn nonces(&mut self) -> &[[u8; 32]] {
        self.nonces.0.make_contiguous()
    }
}

/// The last nonces.
#[derive(Debug, Default)]
struct Nonces(VecDeque<[u8; 32]>);

impl Nonces {
    fn remember(&mut self, nonce: [u8; 32]) {
        self.0.retain(|known| *known != nonce);
        if self.0.len() == MAX_NONCES {
            self.0.pop_front();
        }
        self.0.push_back(nonce);
    }
}

const MAX_NONCES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_nonce_is_forgotten_and_a_repeated_one_counts_once() {
        let mut nonces = Nonces::default();
        (0..64).for_each(|n| nonces.remember([n; 32]));
        nonces.remember([0; 32]);
        nonces.remember([64; 32]);
        assert_eq!(nonces.0.len(), 64);
        assert!(!nonces.0.contains(&[1; 32]));
        assert!(nonces.0.contains(&[0; 32]) && nonces.0.contains(&[64; 32]));
    }

    #[test]
    fn each_identity_has_keys_of_its_own() {
        let one = Identity::generate("i".into(), [1; 32]).unwrap();
        let two = Identity::generate("i".into(), [1; 32]).unwrap();
        assert_ne!(one.encoded, two.encoded);
        assert_eq!(GuestKeys::decode(&one.encoded).unwrap().hpke, one.hpke.public());
    }
}
