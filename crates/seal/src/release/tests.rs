use proptest::prelude::*;

use super::*;
use crate::testing::Seeded;

const INSTANCE: &str = "0198c1f2-0000-7000-8000-000000000001";
const DIGEST: [u8; 32] = [0xd1; 32];
const NONCE: [u8; 32] = [0xa0; 32];

struct World {
    tenant: HpkeSecret,
    guest: HpkeSecret,
    sealed: Vec<u8>,
}

fn context() -> ReleaseContext {
    ReleaseContext { instance: INSTANCE.into(), workload_digest: DIGEST, nonce: NONCE }
}

fn keys() -> KeyRelease {
    KeyRelease { keys: [("data".to_owned(), [1; 32]), ("model".to_owned(), [2; 32])].into() }
}

fn world() -> World {
    let (tenant, guest) = (HpkeSecret::from_seed([1; 32]), HpkeSecret::from_seed([2; 32]));
    let sealed = seal_release(&tenant, &guest.public(), &context(), &keys(), &mut Seeded(0)).unwrap();
    World { tenant, guest, sealed }
}

impl World {
    fn open(&self, bytes: &[u8]) -> Result<KeyRelease, SealError> {
        open_release(&self.guest, &self.tenant.public(), INSTANCE, &DIGEST, &[[9; 32], NONCE], bytes)
    }
}

#[test]
fn the_attested_guest_gets_the_keys() {
    let world = world();
    let opened = world.open(&world.sealed).unwrap();
    assert_eq!(opened, keys());
    assert_eq!(opened.dek("model"), Some(Dek::from_bytes([2; 32])));
    assert_eq!(opened.dek("other"), None);
}

#[test]
fn refuses_each_flipped_byte() {
    let world = world();
    for at in 0..world.sealed.len() {
        let mut bytes = world.sealed.clone();
        bytes[at] ^= 1;
        let expected = match at {
            0..8 => malformed("it does not start with CMKEYRL1"),
            8..40 => SealError::UnknownNonce,
            40.. => SealError::ReleaseNotAuthentic,
        };
        assert_eq!(world.open(&bytes).unwrap_err(), expected, "byte {at}");
    }
}

#[test]
fn refuses_each_truncation_and_an_extension() {
    let world = world();
    for len in 0..world.sealed.len() {
        assert!(world.open(&world.sealed[..len]).is_err(), "{len} bytes");
    }
    assert_eq!(world.open(&[&world.sealed[..], &[0]].concat()), Err(SealError::ReleaseNotAuthentic));
    assert!(matches!(world.open(&vec![0; MAX_BYTES + 1]), Err(SealError::TooLong { .. })));
}

#[test]
fn refuses_another_tenant_guest_instance_workload_and_nonce() {
    let World { tenant, guest, sealed } = world();
    let (t, other) = (tenant.public(), HpkeSecret::from_seed([3; 32]));
    let refused = Err(SealError::ReleaseNotAuthentic);
    assert_eq!(open_release(&guest, &other.public(), INSTANCE, &DIGEST, &[NONCE], &sealed), refused, "tenant");
    assert_eq!(open_release(&other, &t, INSTANCE, &DIGEST, &[NONCE], &sealed), refused, "guest");
    assert_eq!(open_release(&guest, &t, "another", &DIGEST, &[NONCE], &sealed), refused, "instance");
    assert_eq!(open_release(&guest, &t, INSTANCE, &[0; 32], &[NONCE], &sealed), refused, "workload");
    assert_eq!(open_release(&guest, &t, INSTANCE, &DIGEST, &[[9; 32]], &sealed), Err(SealError::UnknownNonce));
    assert_eq!(open_release(&guest, &t, INSTANCE, &DIGEST, &[], &sealed), Err(SealError::UnknownNonce));
}

#[test]
fn a_release_moved_to_another_answered_nonce_is_refused() {
    let world = world();
    let mut bytes = world.sealed.clone();
    bytes[8..40].copy_from_slice(&[9; 32]);
    assert_eq!(world.open(&bytes), Err(SealError::ReleaseNotAuthentic));
}

#[test]
fn a_platform_without_the_tenants_key_cannot_make_a_release() {
    let World { tenant, guest, .. } = world();
    // It knows both public keys and all of the context.
    let mallory = HpkeSecret::from_seed([4; 32]);
    let forged = seal_release(&mallory, &guest.public(), &context(), &keys(), &mut Seeded(1)).unwrap();
    let opened = open_release(&guest, &tenant.public(), INSTANCE, &DIGEST, &[NONCE], &forged);
    assert_eq!(opened, Err(SealError::ReleaseNotAuthentic));
}

#[test]
fn refuses_a_low_order_guest_key() {
    let sealed = seal_release(&world().tenant, &[0; 32], &context(), &keys(), &mut Seeded(0));
    assert_eq!(sealed, Err(SealError::PublicKey { whose: "guest" }));
}

#[test]
fn limits_the_number_of_keys_and_the_length_of_names() {
    let World { tenant, guest, .. } = world();
    let seal = |release: &KeyRelease| seal_release(&tenant, &guest.public(), &context(), release, &mut Seeded(0));
    let many = KeyRelease { keys: (0..=MAX_KEYS).map(|n| (n.to_string(), [0; 32])).collect() };
    assert!(matches!(seal(&many), Err(SealError::TooLong { what: "key release (keys)", .. })));
    let long = KeyRelease { keys: [("n".repeat(MAX_NAME + 1), [0; 32])].into() };
    assert!(matches!(seal(&long), Err(SealError::TooLong { what: "name of a key (bytes)", .. })));
    let most = KeyRelease { keys: (0..MAX_KEYS).map(|n| (format!("{n:0255}"), [0; 32])).collect() };
    assert_eq!(seal(&most).unwrap().len(), MAX_BYTES);
}

#[test]
fn debug_shows_names_only() {
    let shown = format!("{:?}", keys());
    assert!(shown.contains("model") && !shown.contains("2, 2"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_release_comes_back(
        keys in prop::collection::btree_map("\\PC{0,40}", any::<[u8; 32]>(), 0..8),
        instance in "\\PC{0,40}",
        digest: [u8; 32],
        nonce: [u8; 32],
        seed: u32,
    ) {
        let (tenant, guest) = (HpkeSecret::from_seed(nonce), HpkeSecret::from_seed(digest));
        let context = ReleaseContext { instance: instance.clone(), workload_digest: digest, nonce };
        let release = KeyRelease { keys };
        let sealed = seal_release(&tenant, &guest.public(), &context, &release, &mut Seeded(seed.into())).unwrap();
        prop_assert_eq!(open_release(&guest, &tenant.public(), &instance, &digest, &[nonce], &sealed).unwrap(), release);
    }

    #[test]
    fn decoding_any_bytes_does_not_panic(bytes: Vec<u8>) {
        let _ = decode(&bytes);
        let _ = world().open(&bytes);
    }
}
