//! The one HPKE suite, and the associated data that binds a message to its instance.

use hpke::{
    Deserializable, HpkeError, Kem as _, OpModeR, OpModeS,
    aead::{AeadCtxR, AeadCtxS, AesGcm256},
    kdf::HkdfSha256,
    kem::X25519HkdfSha256,
    rand_core::CryptoRng,
};

use crate::{HpkeSecret, SealError};

pub(crate) type Kem = X25519HkdfSha256;
pub(crate) type SecretKey = <Kem as hpke::Kem>::PrivateKey;
pub(crate) type PublicKey = <Kem as hpke::Kem>::PublicKey;
type Encapped = <Kem as hpke::Kem>::EncappedKey;
pub(crate) type SenderContext = AeadCtxS<AesGcm256, HkdfSha256, Kem>;
pub(crate) type ReceiverContext = AeadCtxR<AesGcm256, HkdfSha256, Kem>;

/// Length of an encapsulated key, in bytes.
pub(crate) const ENC_LEN: usize = 32;
/// Length of an AEAD tag, in bytes.
pub(crate) const TAG_LEN: usize = 16;

/// SetupAuthS; `whose` is the receiver.
pub(crate) fn sender(
    from: &HpkeSecret,
    to: &[u8; 32],
    whose: &'static str,
    info: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<([u8; ENC_LEN], SenderContext), SealError> {
    let refused = |_: HpkeError| SealError::PublicKey { whose };
    let to = PublicKey::from_bytes(to).map_err(refused)?;
    let mode = OpModeS::Auth((from.secret().clone(), Kem::sk_to_pk(from.secret())));
    let (enc, context) = hpke::setup_sender_with_rng::<_, _, Kem>(&mode, &to, info, rng).map_err(refused)?;
    let mut bytes = [0; ENC_LEN];
    hpke::Serializable::write_exact(&enc, &mut bytes);
    Ok((bytes, context))
}

/// SetupAuthR; any failure means "not authentic", which the caller names.
pub(crate) fn receiver(to: &HpkeSecret, from: &[u8; 32], enc: &[u8; ENC_LEN], info: &[u8]) -> Result<ReceiverContext, HpkeError> {
    let mode = OpModeR::Auth(PublicKey::from_bytes(from)?);
    hpke::setup_receiver::<_, _, Kem>(&mode, to.secret(), &Encapped::from_bytes(enc)?, info)
}

/// Associated data: `len(instance) as u32 || instance || workload digest || rest`, so that no two differ only in where one
/// part ends.
pub(crate) fn associated_data(instance: &str, workload_digest: &[u8; 32], rest: &[u8]) -> Vec<u8> {
    let len = u32::try_from(instance.len()).unwrap_or(u32::MAX);
    [&len.to_be_bytes()[..], instance.as_bytes(), workload_digest, rest].concat()
}
