//! Quotes by every kind of key, over several banks.

use std::collections::BTreeMap;

use casemate_evidence::tpm::{
    Attest, AttestBody, ClockInfo, Curve, Digest, HashAlg, KeyScheme, ObjectAttributes, PcrSelection, Public, PublicParams,
    Signature, Symmetric,
};
use casemate_verifier::quote::{AttestationKey, BankValues, KeyError, PcrError, QuoteError, QuotedBanks};
use p384::ecdsa::signature::hazmat::PrehashSigner as _;
use rsa::{BoxedUint, RsaPrivateKey, pkcs1v15, pss, signature::SignatureEncoding as _, traits::PublicKeyParts as _};
use sha2::{Sha256, Sha384};

const CLOCK: ClockInfo = ClockInfo { clock_ms: 77, reset_count: 5, restart_count: 2, safe: true };

fn public(params: PublicParams) -> Public {
    Public { name_alg: HashAlg::Sha384, attributes: ObjectAttributes::ATTESTATION_KEY, auth_policy: vec![], params }
}

fn attest(selections: &[PcrSelection], pcr_digest: &[u8]) -> Vec<u8> {
    let body = AttestBody::Quote { selections: selections.to_vec(), pcr_digest: pcr_digest.to_vec() };
    let (qualified_signer, extra_data) = (vec![], b"challenge".to_vec());
    Attest { qualified_signer, extra_data, clock: CLOCK, firmware_version: 9, body }.encode().unwrap()
}

fn selections() -> [PcrSelection; 2] {
    [PcrSelection { hash: HashAlg::Sha384, pcrs: vec![7] }, PcrSelection { hash: HashAlg::Sha1, pcrs: vec![0, 10] }]
}

fn listed() -> BankValues {
    let digest = |byte: u8, alg: HashAlg| alg.digest(&[&[byte]]);
    BTreeMap::from([
        (HashAlg::Sha1, BTreeMap::from([(0, digest(1, HashAlg::Sha1)), (10, digest(2, HashAlg::Sha1))])),
        (HashAlg::Sha384, BTreeMap::from([(7, digest(3, HashAlg::Sha384))])),
    ])
}

/// In the order of the selections, not of the banks.
fn pcr_digest(hash: HashAlg) -> Digest {
    let listed = listed();
    let (sha1, sha384) = (&listed[&HashAlg::Sha1], &listed[&HashAlg::Sha384]);
    hash.digest(&[sha384[&7].as_slice(), sha1[&0].as_slice(), sha1[&10].as_slice()])
}

/// A key of P-384 and what it signs.
fn p384_key(hash: HashAlg) -> (Public, impl Fn(&[u8]) -> Vec<u8>) {
    let signer = p384::ecdsa::SigningKey::from_slice(&[7; 48]).unwrap();
    let point = signer.verifying_key().to_sec1_point(false);
    let params = PublicParams::Ecc {
        symmetric: Symmetric::Null,
        scheme: KeyScheme::Ecdsa(hash),
        curve: Curve::P384,
        x: point.x().unwrap().to_vec(),
        y: point.y().unwrap().to_vec(),
    };
    let sign = move |message: &[u8]| {
        let signature: p384::ecdsa::Signature = signer.sign_prehash(hash.digest(&[message]).as_slice()).unwrap();
        let (r, s) = signature.split_bytes();
        Signature::Ecdsa { hash, r: r.to_vec(), s: s.to_vec() }.encode()
    };
    (public(params), sign)
}

/// A quote of exactly these values, accepted.
pub(crate) fn quoted(listed: &BankValues) -> QuotedBanks {
    let (public, sign) = p384_key(HashAlg::Sha384);
    let selection =
        |(hash, values): (&HashAlg, &BTreeMap<u32, Digest>)| PcrSelection { hash: *hash, pcrs: values.keys().copied().collect() };
    let selections: Vec<_> = listed.iter().map(selection).collect();
    let values: Vec<&[u8]> = listed.values().flat_map(BTreeMap::values).map(Digest::as_slice).collect();
    let bytes = attest(&selections, HashAlg::Sha384.digest(&values).as_slice());
    let quote = AttestationKey::from_public(&public.encode()).unwrap().quote(&bytes, &sign(&bytes)).unwrap();
    quote.banks(&selections, listed).unwrap()
}

fn rsa_key() -> RsaPrivateKey {
    let number = |text: &str| BoxedUint::from_be_slice(&hex::decode(text).unwrap(), 2048).unwrap();
    RsaPrivateKey::from_p_q(number(P), number(Q), BoxedUint::from(65537u64)).unwrap()
}

fn rsa_public(key: &RsaPrivateKey, scheme: KeyScheme) -> Public {
    let n = key.n_bytes().to_vec();
    let bits = u16::try_from(n.len() * 8).unwrap();
    public(PublicParams::Rsa { symmetric: Symmetric::Null, scheme, bits, exponent: 0, n })
}

#[test]
fn a_p384_quote_over_two_banks_is_accepted_in_the_order_of_its_selections() {
    for hash in [HashAlg::Sha256, HashAlg::Sha384] {
        let (public, sign) = p384_key(hash);
        let bytes = attest(&selections(), pcr_digest(hash).as_slice());
        let key = AttestationKey::from_public(&public.encode()).unwrap();
        assert_eq!(key.name().len(), 50);
        let quote = key.quote(&bytes, &sign(&bytes)).unwrap();
        assert!(matches!(key.quote(&with_a_bit_changed(&bytes), &sign(&bytes)), Err(QuoteError::Signature)));
        assert_eq!((quote.clock(), quote.firmware_version()), (CLOCK, 9));
        let banks = quote.banks(&selections(), &listed()).unwrap();
        assert_eq!(banks.value(HashAlg::Sha1, 10), Some(&HashAlg::Sha1.digest(&[&[2]])));
        assert_eq!(banks.strongest().unwrap().0, HashAlg::Sha384);
    }
}

#[test]
fn refuses_other_banks_than_expected_and_other_values_than_quoted() {
    let (public, sign) = p384_key(HashAlg::Sha384);
    let bytes = attest(&selections(), pcr_digest(HashAlg::Sha384).as_slice());
    let quote = AttestationKey::from_public(&public.encode()).unwrap().quote(&bytes, &sign(&bytes)).unwrap();
    let [a, b] = selections();
    assert!(matches!(quote.banks(&[b.clone(), a.clone()], &listed()), Err(PcrError::Banks { .. })));
    assert!(matches!(quote.banks(std::slice::from_ref(&a), &listed()), Err(PcrError::Banks { .. })));
    let with = |change: fn(&mut BankValues)| {
        let mut listed = listed();
        change(&mut listed);
        quote.banks(&selections(), &listed)
    };
    let missing = |result| assert!(matches!(result, Err(PcrError::ListedBanks { .. })), "{result:?}");
    missing(with(|l| assert!(l.remove(&HashAlg::Sha1).is_some())));
    missing(with(|l| l.extend([(HashAlg::Sha256, BTreeMap::new())])));
    missing(with(|l| l.get_mut(&HashAlg::Sha1).unwrap().extend([(11, Digest::zero(HashAlg::Sha1))])));
    // A digest of another size would shift those after it.
    missing(with(|l| l.get_mut(&HashAlg::Sha1).unwrap().extend([(0, Digest::zero(HashAlg::Sha256))])));
    let changed = with(|l| l.get_mut(&HashAlg::Sha1).unwrap().extend([(0, Digest::zero(HashAlg::Sha1))]));
    assert!(matches!(changed, Err(PcrError::Digest { .. })));
}

#[test]
fn a_quote_of_sha1_alone_has_no_bank_to_be_read() {
    let (public, sign) = p384_key(HashAlg::Sha384);
    let only = &selections()[1..];
    let mut listed = listed();
    listed.remove(&HashAlg::Sha384);
    let values: Vec<&[u8]> = listed[&HashAlg::Sha1].values().map(Digest::as_slice).collect();
    let bytes = attest(only, HashAlg::Sha384.digest(&values).as_slice());
    let quote = AttestationKey::from_public(&public.encode()).unwrap().quote(&bytes, &sign(&bytes)).unwrap();
    assert_eq!(quote.banks(only, &listed).unwrap().strongest(), None);
}

#[test]
fn rsa_4096_quotes_are_accepted_in_both_schemes_and_with_both_hashes() {
    let key = rsa_key();
    let bytes = attest(&selections(), pcr_digest(HashAlg::Sha384).as_slice());
    let digest = |hash: HashAlg| hash.digest(&[&bytes]);
    let (sha256, sha384) = (digest(HashAlg::Sha256), digest(HashAlg::Sha384));
    let rsassa = |signature: pkcs1v15::Signature| signature.to_vec();
    let cases = [
        (HashAlg::Sha256, rsassa(pkcs1v15::SigningKey::<Sha256>::new(key.clone()).sign_prehash(sha256.as_slice()).unwrap())),
        (HashAlg::Sha384, rsassa(pkcs1v15::SigningKey::<Sha384>::new(key.clone()).sign_prehash(sha384.as_slice()).unwrap())),
    ];
    for (hash, sig) in cases {
        let ak = AttestationKey::from_public(&rsa_public(&key, KeyScheme::Rsassa(hash)).encode()).unwrap();
        let signature = Signature::Rsassa { hash, sig: sig.clone() }.encode();
        assert!(ak.quote(&bytes, &signature).is_ok());
        assert!(matches!(ak.quote(&with_a_bit_changed(&bytes), &signature), Err(QuoteError::Signature)));
        let other = Signature::Rsapss { hash, sig: sig.clone() };
        assert!(matches!(ak.quote(&bytes, &other.encode()), Err(QuoteError::Scheme)));
        let sha1 = Signature::Rsassa { hash: HashAlg::Sha1, sig };
        assert!(matches!(ak.quote(&bytes, &sha1.encode()), Err(QuoteError::Scheme)));
    }
    let sig = pss_signature(&key, sha384.as_slice());
    let ak = AttestationKey::from_public(&rsa_public(&key, KeyScheme::Rsapss(HashAlg::Sha384)).encode()).unwrap();
    let signature = Signature::Rsapss { hash: HashAlg::Sha384, sig };
    assert!(ak.quote(&bytes, &signature.encode()).is_ok());
    assert!(matches!(ak.quote(&with_a_bit_changed(&bytes), &signature.encode()), Err(QuoteError::Signature)));
}

fn with_a_bit_changed(bytes: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    changed[40] ^= 1;
    changed
}

fn pss_signature(key: &RsaPrivateKey, digest: &[u8]) -> Vec<u8> {
    use rsa::signature::hazmat::RandomizedPrehashSigner as _;
    let signer = pss::SigningKey::<Sha384>::new(key.clone());
    signer.sign_prehash_with_rng(&mut Fixed, digest).unwrap().to_vec()
}

/// Salt need not be random for a test.
struct Fixed;

impl rsa::rand_core::TryRng for Fixed {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(0x5a5a_5a5a)
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(0x5a5a_5a5a_5a5a_5a5a)
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Self::Error> {
        out.fill(0x5a);
        Ok(())
    }
}

impl rsa::rand_core::TryCryptoRng for Fixed {}

#[test]
fn refuses_rsa_keys_whose_numbers_are_not_what_they_say() {
    let key = rsa_key();
    let with = |change: fn(&mut u16, &mut Vec<u8>)| {
        let mut public = rsa_public(&key, KeyScheme::Rsassa(HashAlg::Sha256));
        if let PublicParams::Rsa { bits, n, .. } = &mut public.params {
            change(bits, n);
        }
        AttestationKey::from_public(&public.encode())
    };
    assert!(with(|_, _| {}).is_ok());
    assert!(matches!(with(|bits, _| *bits = 2048), Err(KeyError::Numbers)));
    assert!(matches!(with(|_, n| n[0] = 0), Err(KeyError::Numbers)));
    assert!(matches!(with(|_, n| n.clear()), Err(KeyError::Numbers)));
    assert!(matches!(with(|_, n| *n.last_mut().unwrap() &= 0xfe), Err(KeyError::Numbers)));
}

/// Primes of a key that is used nowhere else.
const P: &str = "d71cb5b3bda82cfdee752cf764d0cda6e9d7b75c8ad5f2ea496ce2744401b3ef981e696be4b0eb5cdb2d2a39cafcba955052\
    23de1541849d2bc4040cb2d417e6abba529ee6440775becbd88ae68e16ab362a90038ba4999082e2d5ea940238a1b98846ad8a15a848ca99\
    08749e8167bc4d0fc14c7e90dc78d08c762cdeddde3af78860e60e623cf1a52dcd2bed99647b1135c6eec3109681f65fe562adfc5ff0bd00\
    d2421f249001f48a7c36146d760f9d7d911e6039d3043346f29fc4b9f4d2583fabf5d7f0d43bf975e4f3d18aea3ea7bde87b293bb905e8fd\
    e95b54ab48b38553d6473fa1fa2bb8b317dbf02a6fb5144851e3211ecb94c7980d7cff141a5f";
const Q: &str = "f34bd58d8d807b00ed5757e1b9a1ff73c9765fdbe093062805f7e7fecc79a60bd517b5ca7b6b0143340b20278ef5644a6c5c\
    bf329f93b1c025675fbc38070838258bf1ae26159b0959e0822c231718d7e00dfb254b750fb76f7346bfbb49ec5a97973c96b1c90fa94862\
    724cda0642d8d91f82211c3461eefa9e1a37ffee11dd07f1eccfd1a4ef65125d7aced1a772baf842b22cfd17e13e3b776293f0b86f2d3257\
    213ce19fe392bd3399174dc20258e5191493d2f9484b0ec520571d05317a6aa512d0d85280b72dbe6610ecfe01ddb2c810e3429583f8fc19\
    b0097816a95bcf2c64595cf6bc46fe70da2779ad351e1292c0904ef5093a5c14340ac83ac497";
