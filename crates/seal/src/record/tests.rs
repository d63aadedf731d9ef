use proptest::prelude::*;

use super::*;
use crate::testing::Seeded;

const INSTANCE: &str = "instance";
const DIGEST: [u8; 32] = [0xd1; 32];

fn pair() -> (HpkeSecret, HpkeSecret) {
    (HpkeSecret::from_seed([1; 32]), HpkeSecret::from_seed([2; 32]))
}

fn opener() -> RecordOpener {
    let (tenant, guest) = pair();
    RecordOpener::new(&tenant, &guest.public(), INSTANCE, &DIGEST)
}

fn records() -> Vec<Record> {
    vec![
        Record::Stdout(b"hello".to_vec()),
        Record::Stderr(vec![]),
        Record::Output(b"tar".to_vec()),
        Record::Stdout(b"hello".to_vec()),
        Record::Exit { code: -7 },
    ]
}

fn sealed(records: &[Record]) -> Vec<Vec<u8>> {
    let (tenant, guest) = pair();
    let mut sealer = RecordSealer::new(&guest, &tenant.public(), INSTANCE, &DIGEST, &mut Seeded(0)).unwrap();
    records.iter().map(|record| sealer.seal(record).unwrap()).collect()
}

#[test]
fn the_tenant_reads_all_records_in_order() {
    let mut opener = opener();
    for (bytes, record) in sealed(&records()).iter().zip(records()) {
        assert!(!opener.is_complete());
        assert_eq!(opener.open(bytes), Ok(record));
    }
    assert!(opener.is_complete());
    assert_eq!(opener.next_number(), 5);
}

#[test]
fn refuses_each_flipped_byte_of_each_record_and_goes_on_with_the_right_one() {
    let mut opener = opener();
    for (number, bytes) in sealed(&records()).iter().enumerate() {
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x80;
            let number = number as u64;
            // X25519 ignores the topmost bit of a public key, HPKE does not: `enc` is part of the KEM context.
            assert_eq!(opener.open(&bad), Err(SealError::RecordNotAuthentic { number }), "byte {at} of {number}");
        }
        opener.open(bytes).unwrap();
    }
}

#[test]
fn refuses_reordered_dropped_doubled_and_cut_records() {
    let all = sealed(&records());
    for wrong_first in &all[1..] {
        assert!(opener().open(wrong_first).is_err());
    }
    let mut opener = opener();
    opener.open(&all[0]).unwrap();
    let refused = Err(SealError::RecordNotAuthentic { number: 1 });
    assert_eq!(opener.open(&all[0]), refused, "doubled");
    assert_eq!(opener.open(&all[2]), refused, "one dropped");
    for len in 0..all[1].len() {
        assert_eq!(opener.open(&all[1][..len]), refused, "cut to {len}");
    }
    opener.open(&all[1]).unwrap();
    // Number 3 has the plaintext of number 0: position counts, not content.
    assert_eq!(opener.open(&all[3]), Err(SealError::RecordNotAuthentic { number: 2 }));
    assert!(!opener.is_complete());
}

#[test]
fn refuses_records_of_another_guest_tenant_instance_and_workload() {
    let (tenant, guest) = pair();
    let other = HpkeSecret::from_seed([3; 32]);
    let first = &sealed(&records())[0];
    let refused = Err(SealError::RecordNotAuthentic { number: 0 });
    assert_eq!(RecordOpener::new(&tenant, &other.public(), INSTANCE, &DIGEST).open(first), refused, "guest");
    assert_eq!(RecordOpener::new(&other, &guest.public(), INSTANCE, &DIGEST).open(first), refused, "tenant");
    assert_eq!(RecordOpener::new(&tenant, &guest.public(), "other", &DIGEST).open(first), refused, "instance");
    assert_eq!(RecordOpener::new(&tenant, &guest.public(), INSTANCE, &[0; 32]).open(first), refused, "workload");
}

#[test]
fn nothing_comes_after_exit() {
    let (tenant, guest) = pair();
    let mut sealer = RecordSealer::new(&guest, &tenant.public(), INSTANCE, &DIGEST, &mut Seeded(0)).unwrap();
    let exit = sealer.seal(&Record::Exit { code: 0 }).unwrap();
    assert_eq!(sealer.seal(&Record::Stdout(vec![])), Err(SealError::AfterExit { number: 1 }));
    let mut opener = opener();
    opener.open(&exit).unwrap();
    assert_eq!(opener.open(&exit), Err(SealError::AfterExit { number: 1 }));
}

#[test]
fn limits_a_record() {
    let largest = sealed(&[Record::Output(vec![7; MAX_PLAINTEXT])]);
    assert_eq!(largest[0].len(), MAX_SEALED);
    assert!(opener().open(&largest[0]).is_ok());
    assert!(matches!(opener().open(&vec![0; MAX_SEALED + 1]), Err(SealError::TooLong { .. })));
    let (tenant, guest) = pair();
    let mut sealer = RecordSealer::new(&guest, &tenant.public(), INSTANCE, &DIGEST, &mut Seeded(0)).unwrap();
    assert!(matches!(sealer.seal(&Record::Stdout(vec![0; MAX_PLAINTEXT + 1])), Err(SealError::TooLong { .. })));
    assert_eq!(sealer.next_number(), 0);
}

#[test]
fn refuses_a_plaintext_of_unknown_kind() {
    for plain in [&[][..], &[0], &[5], &[255], &[EXIT, 0, 0, 0], &[EXIT, 0, 0, 0, 0, 0]] {
        assert!(matches!(decode(plain), Err(SealError::Malformed { .. })), "{plain:?}");
    }
}

#[test]
fn debug_shows_no_output() {
    assert_eq!(format!("{:?}", Record::Stdout(b"secret".to_vec())), "Stdout(6 bytes)");
}

fn any_record() -> impl Strategy<Value = Record> {
    prop_oneof![
        any::<Vec<u8>>().prop_map(Record::Stdout),
        any::<Vec<u8>>().prop_map(Record::Stderr),
        any::<Vec<u8>>().prop_map(Record::Output),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_stream_comes_back(mut records in prop::collection::vec(any_record(), 0..12), code: i32) {
        records.push(Record::Exit { code });
        let mut opener = opener();
        for (bytes, record) in sealed(&records).iter().zip(records) {
            prop_assert_eq!(opener.open(bytes), Ok(record));
        }
        prop_assert!(opener.is_complete());
    }

    #[test]
    fn opening_any_bytes_does_not_panic(bytes: Vec<u8>) {
        prop_assert!(opener().open(&bytes).is_err());
    }
}
