use proptest::prelude::*;

use super::*;

fn report(version: u8) -> [u8; REPORT_BYTES] {
    let mut bytes = [0; REPORT_BYTES];
    bytes[0] = version;
    bytes
}

#[test]
fn knows_versions_2_3_and_5_only() {
    for version in 0..=u8::MAX {
        let decoded = AttestationReport::decode(&report(version));
        match version {
            2 | 3 | 5 => assert_eq!(decoded.unwrap().version.number(), u32::from(version)),
            _ => assert_eq!(decoded, Err(SnpDecodeError::Version { version: version.into() })),
        }
    }
    let mut high = report(3);
    high[3] = 1;
    assert_eq!(AttestationReport::decode(&high), Err(SnpDecodeError::Version { version: 0x0100_0003 }));
}

#[test]
fn a_report_has_one_size() {
    for len in [0, 1, REPORT_BYTES - 1, REPORT_BYTES + 1] {
        assert_eq!(AttestationReport::decode(&vec![2; len]), Err(SnpDecodeError::Length { len }));
    }
}

/// Each byte is either a field, which comes back, or reserved, and refused.
#[test]
fn every_byte_is_a_field_or_must_be_zero() {
    let reserved = |version: u8, at: usize| match at {
        0x4c..0x50 | 0x18b..0x1a0 | 0x1eb | 0x1ef | 0x208..0x2a0 | 0x330.. => true,
        0x49..0x4c => true,
        0x188..0x18b => version < 3,
        0x1f8..0x208 => version < 5,
        _ => false,
    };
    for version in [2, 3, 5] {
        for at in 4..REPORT_BYTES {
            let mut bytes = report(version);
            bytes[at] = 1;
            let decoded = AttestationReport::decode(&bytes);
            assert_eq!(decoded.is_err(), reserved(version, at), "version {version} byte {at:#x}");
            if let Ok(decoded) = decoded {
                assert_eq!(decoded.encode(), bytes, "version {version} byte {at:#x}");
                assert_ne!(decoded, AttestationReport::decode(&report(version)).unwrap());
            }
        }
    }
}

#[test]
fn flags_name_the_signing_key() {
    let with_flags = |flags: u8| {
        let mut bytes = report(3);
        bytes[0x48] = flags;
        AttestationReport::decode(&bytes)
    };
    assert_eq!(with_flags(0).unwrap().signing_key, SigningKey::Vcek);
    assert_eq!(with_flags(1 << 2).unwrap().signing_key, SigningKey::Vlek);
    assert_eq!(with_flags(7 << 2).unwrap().signing_key, SigningKey::None);
    assert!(with_flags(1).unwrap().author_key_en && with_flags(2).unwrap().mask_chip_key);
    for reserved in 2..7_u8 {
        let value = reserved.into();
        assert_eq!(with_flags(reserved << 2), Err(SnpDecodeError::Value { field: "SIGNING_KEY", value }));
    }
    assert_eq!(with_flags(1 << 5), Err(SnpDecodeError::Reserved { field: "the flags", offset: 0x48 }));
}

#[test]
fn tcb_layouts_differ() {
    let bytes = TcbBytes([1, 2, 0, 0, 0, 0, 3, 4]);
    let genoa = Tcb { fmc: 0, bootloader: 1, tee: 2, snp: 3, microcode: 4 };
    assert_eq!(Tcb::decode(bytes, Generation::Milan), Ok(genoa));
    assert_eq!(Tcb::decode(bytes, Generation::Genoa), Ok(genoa));
    assert_eq!(genoa.encode(Generation::Genoa), bytes);
    let reserved = |offset| SnpDecodeError::Reserved { field: "TCB_VERSION", offset };
    assert_eq!(Tcb::decode(bytes, Generation::Turin), Err(reserved(4)));

    let bytes = TcbBytes([9, 1, 2, 3, 0, 0, 0, 4]);
    let turin = Tcb { fmc: 9, ..genoa };
    assert_eq!(Tcb::decode(bytes, Generation::Turin), Ok(turin));
    assert_eq!(turin.encode(Generation::Turin), bytes);
    assert_eq!(Tcb::decode(bytes, Generation::Milan), Err(reserved(2)));
}

#[test]
fn a_tcb_is_below_another_if_any_part_is() {
    let floor = Tcb { fmc: 1, bootloader: 2, tee: 3, snp: 4, microcode: 5 };
    assert_eq!(floor.below(floor), None);
    assert_eq!(Tcb { fmc: 0, ..floor }.below(floor), Some(("fmc", 0, 1)));
    assert_eq!(Tcb { bootloader: 1, ..floor }.below(floor), Some(("bootloader", 1, 2)));
    assert_eq!(Tcb { tee: 2, microcode: 9, ..floor }.below(floor), Some(("tee", 2, 3)));
    assert_eq!(Tcb { snp: 3, ..floor }.below(floor), Some(("snp", 3, 4)));
    assert_eq!(Tcb { microcode: 4, ..floor }.below(floor), Some(("microcode", 4, 5)));
}

#[test]
fn processors_belong_to_generations() {
    let of = |family, model| Generation::of(Cpuid { family, model, stepping: 1 });
    assert_eq!(of(0x19, 0x01), Ok(Generation::Milan));
    for model in [0x11, 0xa0, 0xaf] {
        assert_eq!(of(0x19, model), Ok(Generation::Genoa));
    }
    for model in [0x02, 0x11] {
        assert_eq!(of(0x1a, model), Ok(Generation::Turin));
    }
    for (family, model) in [(0x17, 0x31), (0x19, 0x20), (0x19, 0xb0), (0x1a, 0x20), (0, 0)] {
        assert_eq!(of(family, model), Err(SnpDecodeError::Processor { family, model }));
    }
}

#[test]
fn policy_and_platform_bits_without_meaning_are_seen() {
    let policy = GuestPolicy(0x03ff_1f37);
    assert_eq!((policy.abi(), policy.unknown()), ((0x1f, 0x37), 0));
    assert!(policy.has(GuestPolicy::DEBUG) && !GuestPolicy(0x30000).has(GuestPolicy::DEBUG));
    assert_eq!(GuestPolicy(1 << 26).unknown(), 1 << 26);
    assert_eq!(PlatformInfo(0xff).unknown(), 0);
    assert_eq!(PlatformInfo(0x8001_0140).unknown(), 0x8001_0100);
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused_without_a_panic(
        mut bytes in prop::collection::vec(any::<u8>(), REPORT_BYTES),
        version in 0_u32..7,
    ) {
        bytes[..4].copy_from_slice(&version.to_le_bytes());
        if let Ok(report) = AttestationReport::decode(&bytes) {
            prop_assert_eq!(report.encode().to_vec(), bytes.clone());
        }
        prop_assert!(AttestationReport::decode(&bytes[1..]).is_err());
    }
}
