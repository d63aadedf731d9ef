use proptest::prelude::*;

use super::*;

fn sample() -> Report<'static> {
    Report {
        request: Request { param1: 1, param2: 0xff, nonce: [7; 32], slot: 0 },
        response: Response {
            param1: 0,
            param2: 0,
            blocks: vec![
                Block { index: 1, value_type: 1, value: &[0xa1; 48] },
                Block { index: 2, value_type: 1, value: &[0xa2; 48] },
            ],
            nonce: [9; 32],
            opaque: Opaque(vec![(Field::DRIVER_VERSION, b"550.1\0"), (Field::NVDEC0_STATUS, &[0xaa])]),
            signature: [3; 96],
        },
    }
}

fn change(f: impl FnOnce(&mut Report<'static>)) -> ReportError {
    let mut report = sample();
    f(&mut report);
    Report::parse(&report.encode()).unwrap_err()
}

#[test]
fn reads_what_it_writes() {
    let bytes = sample().encode();
    assert_eq!(Report::parse(&bytes).unwrap(), sample());
    let (signed, signature) = split_signature(&bytes).unwrap();
    assert_eq!((signed, signature), (&sample().encode_signed()[..], &[3; 96]));
}

#[test]
fn refuses_every_shorter_report_and_a_longer_one() {
    let mut bytes = sample().encode();
    for len in 0..bytes.len() {
        assert!(Report::parse(&bytes[..len]).is_err(), "{len}");
    }
    bytes.push(0);
    assert_eq!(Report::parse(&bytes), Err(ReportError::Trailing { what: "the signature", len: 1 }));
    assert_eq!(Report::parse(&[0; MAX_REPORT_BYTES + 1]), Err(ReportError::TooLong { len: MAX_REPORT_BYTES + 1 }));
}

#[test]
fn refuses_other_versions_and_messages() {
    let seen = |at: usize| {
        let mut bytes = sample().encode();
        bytes[at] ^= 1;
        Report::parse(&bytes).unwrap_err().to_string()
    };
    assert_eq!(seen(0), "the version of the request is 0x10, expected 0x11");
    assert_eq!(seen(1), "the code of the request is 0xe1, expected 0xe0");
    assert_eq!(seen(37), "the version of the response is 0x10, expected 0x11");
    assert_eq!(seen(38), "the code of the response is 0x61, expected 0x60");
    assert_eq!(seen(46), "the specification of a measurement is 0x00, expected 0x01");
}

#[test]
fn refuses_an_index_twice_or_reserved() {
    assert_eq!(change(|report| report.response.blocks[1].index = 1), ReportError::Index { index: 1 });
    assert_eq!(change(|report| report.response.blocks[1].index = 0), ReportError::Index { index: 0 });
}

#[test]
fn refuses_sizes_that_contradict_each_other() {
    let mut bytes = sample().encode();
    bytes[50] ^= 1;
    assert_eq!(Report::parse(&bytes), Err(ReportError::Size { index: 1, outer: 51, inner: 52 }));
    let mut bytes = sample().encode();
    bytes[41] = 1;
    assert_eq!(Report::parse(&bytes), Err(ReportError::Trailing { what: "the measurements", len: 55 }));
    bytes[41] = 3;
    assert_eq!(Report::parse(&bytes), Err(ReportError::Truncated { what: "a measurement" }));
}

#[test]
fn refuses_a_field_twice_or_of_a_wrong_length() {
    let twice = change(|report| report.response.opaque.0.push((Field::DRIVER_VERSION, b"1")));
    assert_eq!(twice, ReportError::DuplicateField { id: 3 });
    let size = change(|report| report.response.opaque.0[1].1 = &[1, 2]);
    assert_eq!(size, ReportError::FieldSize { id: 11, len: 2 });
    let counts = change(|report| report.response.opaque.0.push((Field::MEASUREMENT_COUNTS, &[0; 6])));
    assert_eq!(counts, ReportError::FieldSize { id: 12, len: 6 });
}

#[test]
fn measurements_are_counted_from_zero_by_manifests() {
    let report = sample();
    assert_eq!(report.measurement(0), Some(&[0xa1; 48][..]));
    assert_eq!(report.measurement(1), Some(&[0xa2; 48][..]));
    assert_eq!(report.measurement(2), None);
    assert_eq!(report.measurement(u16::MAX), None);
}

#[test]
fn text_and_versions_are_read_as_people_write_them() {
    let opaque = Opaque(vec![(Field::CHIP_SKU, b"885\0\0\0"), (Field::PROJECT, b"a b"), (Field::PROJECT_SKU, b"\0")]);
    assert_eq!(opaque.text(Field::CHIP_SKU), Some("885"));
    assert_eq!(opaque.text(Field::PROJECT), None);
    assert_eq!(opaque.text(Field::PROJECT_SKU), Some(""));
    assert_eq!(vbios_version(&[0, 0xa5, 0, 0x96, 1, 0, 0, 0]).unwrap(), "96.00.A5.00.01");
    assert_eq!(vbios_version(&[0; 7]), Err(VersionError));
    assert_eq!(switch_bios_version(b"96.10.6d.00.01\0").unwrap(), "96.10.6D.00.01");
    assert_eq!(switch_bios_version(b"\0"), Err(VersionError));
}

#[test]
fn pdis_are_a_set_without_empty_links() {
    let links = [[2; 8], [0; 8], [1; 8], [2; 8]].concat();
    let opaque = Opaque(vec![(Field::PDI, &links)]);
    assert_eq!(opaque.pdis(Field::PDI, 18).unwrap(), [[1; 8], [2; 8]]);
    assert_eq!(Opaque(vec![(Field::PDI, &links[1..])]).pdis(Field::PDI, 18), None);
    assert_eq!(opaque.pdis(Field::PDI, 3), None);
    let switch = [&[[4; 8]; 8].concat()[..], &[1, 2, 3]].concat();
    assert_eq!(Opaque(vec![(Field::SWITCH_GPU_PDIS, &switch)]).pdis(Field::SWITCH_GPU_PDIS, 8).unwrap(), [[4; 8]]);
    assert_eq!(Opaque(vec![(Field::SWITCH_GPU_PDIS, &switch[..63])]).pdis(Field::SWITCH_GPU_PDIS, 8), None);
}

#[test]
fn the_nonce_follows_from_the_processors_evidence() {
    let digest = Sha256::digest(b"evidence");
    let expected: [u8; 32] = Sha256::digest([b"casemate/gpu-nonce/v1", &digest[..]].concat()).into();
    assert_eq!(nonce_for(b"evidence"), expected);
    assert_ne!(nonce_for(b"evidence"), nonce_for(b"evidencf"));
}

proptest! {
    #[test]
    fn never_panics_and_writes_what_it_reads(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(report) = Report::parse(&bytes) {
            prop_assert_eq!(report.encode(), bytes);
        }
    }

    #[test]
    fn never_panics_on_a_damaged_report(at in 0usize..306, byte: u8, cut in 0usize..306) {
        let mut bytes = sample().encode();
        let len = bytes.len();
        bytes[at % len] = byte;
        for bytes in [&bytes[..], &bytes[..cut.min(len)]] {
            if let Ok(report) = Report::parse(bytes) {
                prop_assert_eq!(report.encode(), bytes);
                let _ = (report.response.opaque.pdis(Field::PDI, 18), report.response.opaque.measurement_counts());
            }
        }
    }
}
