use std::collections::BTreeMap;

use proptest::prelude::*;
use sha2::{Digest as _, Sha384};

use super::{
    ccel::{CcelError, CcelLog, extend_sha384},
    *,
};
use crate::{
    eventlog::{Bank, Event, EventLog, EventLogError, EventType, LogFormat},
    tpm::alg_id,
};

fn trust_domain(td15: bool) -> TdReport {
    TdReport {
        tee_tcb_svn: [1; 16],
        mr_seam: [2; 48],
        mr_signer_seam: [3; 48],
        seam_attributes: 4,
        td_attributes: 5,
        xfam: 6,
        mr_td: [7; 48],
        mr_config_id: [8; 48],
        mr_owner: [9; 48],
        mr_owner_config: [10; 48],
        rtmr: [[11; 48], [12; 48], [13; 48], [14; 48]],
        report_data: [15; 64],
        td15: td15.then_some(Td15 { tee_tcb_svn2: [16; 16], mr_service_td: [17; 48] }),
    }
}

fn quote(version: u16, body: Body) -> Quote {
    let tee = if matches!(body, Body::Enclave(_)) { TeeKind::Sgx } else { TeeKind::Tdx };
    Quote {
        header: Header { version, tee, reserved: [0; 4], qe_vendor: [20; 16], user_data: [21; 20] },
        body,
        auth: AuthData {
            signature: [22; 64],
            attestation_key: [23; 64],
            qe_report: EnclaveReport { bytes: [24; 384] },
            qe_report_signature: [25; 64],
            qe_auth: vec![26; 32],
            pck_chain: b"-----BEGIN CERTIFICATE-----".to_vec(),
        },
        padding: 0,
    }
}

fn all() -> Vec<Quote> {
    let enclave = || Body::Enclave(Box::new(EnclaveReport { bytes: [30; 384] }));
    let domain = |td15| Body::TrustDomain(Box::new(trust_domain(td15)));
    vec![
        quote(3, enclave()),
        quote(4, enclave()),
        quote(4, domain(false)),
        quote(5, enclave()),
        quote(5, domain(false)),
        quote(5, domain(true)),
    ]
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    for quote in all() {
        assert_eq!(Quote::decode(&quote.encode()), Ok(quote));
    }
}

#[test]
fn the_signed_part_has_the_sizes_of_the_specification() {
    let sizes: Vec<usize> = all().iter().map(|quote| quote.signed_part().len()).collect();
    assert_eq!(sizes, [48 + 384, 48 + 384, 48 + 584, 48 + 6 + 384, 48 + 6 + 584, 48 + 6 + 648]);
}

#[test]
fn refuses_every_truncation() {
    for quote in all() {
        let bytes = quote.encode();
        for end in 0..bytes.len() {
            assert!(matches!(Quote::decode(&bytes[..end]), Err(QuoteError::Short { .. })), "{end}");
        }
    }
}

#[test]
fn padding_of_zeros_is_kept_apart_and_anything_else_is_refused() {
    let mut quote = all().remove(2);
    quote.padding = 70;
    let mut bytes = quote.encode();
    assert_eq!(Quote::decode(&bytes), Ok(quote));
    *bytes.last_mut().unwrap() = 1;
    assert_eq!(Quote::decode(&bytes), Err(QuoteError::Trailing { count: 70 }));
    bytes.resize(MAX_QUOTE_BYTES + 1, 0);
    assert_eq!(Quote::decode(&bytes), Err(QuoteError::TooLong { len: MAX_QUOTE_BYTES + 1 }));
}

/// Sets bytes of a version 5 quote of TDX 1.5 and gives the refusal.
fn refusal(at: usize, value: &[u8]) -> QuoteError {
    let mut bytes = all().remove(5).encode();
    bytes[at..at + value.len()].copy_from_slice(value);
    Quote::decode(&bytes).unwrap_err()
}

#[test]
fn refuses_what_is_not_known_by_its_field() {
    let unknown = |field, value| QuoteError::Unknown { field, value };
    assert_eq!(refusal(0, &[6]), unknown("the version", 6));
    assert_eq!(refusal(0, &[2]), unknown("the version", 2));
    assert_eq!(refusal(0, &[3]), unknown("the TEE type", 0x81));
    assert_eq!(refusal(2, &[3]), unknown("the attestation key type", 3));
    assert_eq!(refusal(4, &[0x82]), unknown("the TEE type", 0x82));
    assert_eq!(refusal(4, &[0]), unknown("the body type for this TEE type", 3));
    assert_eq!(refusal(48, &[4]), unknown("the body type", 4));
}

#[test]
fn refuses_sizes_that_are_not_those_of_the_content() {
    assert_eq!(refusal(48, &[2]), QuoteError::Size { field: "the body", expected: 584, seen: 648 });
    assert_eq!(refusal(50, &[0x87]), QuoteError::Size { field: "the body", expected: 648, seen: 647 });
    let auth = 48 + 6 + 648;
    assert!(matches!(refusal(auth, &[0xff; 4]), QuoteError::Short { field: "the signature data", .. }));
    assert!(matches!(refusal(auth, &[100, 0]), QuoteError::Short { field: "the attestation key", .. }));
    let certification = auth + 4 + 128;
    assert_eq!(refusal(certification, &[5]), QuoteError::Unknown { field: "the certification data type", value: 5 });
    assert!(matches!(refusal(certification + 2, &[0xff; 4]), QuoteError::Short { field: "the certification data", .. }));
    let certificates = certification + 6 + 384 + 64 + 2 + 32;
    assert_eq!(refusal(certificates, &[1]), QuoteError::CertificationData { seen: 1 });
    assert!(matches!(refusal(certificates + 2, &[0xff; 4]), QuoteError::Short { field: "the certificates", .. }));
    let seen = 384 + 64 + 2 + 32 + 6 + 27;
    assert_eq!(refusal(certificates + 2, &[26]), QuoteError::Size { field: "the certification data", expected: seen - 1, seen });
}

#[test]
fn fields_of_an_enclave_report_are_where_they_belong() {
    let mut report = EnclaveReport { bytes: [0; 384] };
    report.bytes[EnclaveReport::ISV_SVN..EnclaveReport::ISV_SVN + 2].copy_from_slice(&[4, 1]);
    report.bytes[EnclaveReport::ISV_PROD_ID] = 2;
    report.bytes[EnclaveReport::MR_SIGNER] = 3;
    report.bytes[EnclaveReport::ATTRIBUTES + 15] = 5;
    report.bytes[EnclaveReport::MISC_SELECT] = 6;
    report.bytes[EnclaveReport::REPORT_DATA + 63] = 7;
    assert_eq!((report.isv_svn(), report.isv_prod_id()), (0x104, 2));
    assert_eq!((report.mr_signer()[0], report.attributes()[15], report.misc_select()[0]), (3, 5, 6));
    assert_eq!(report.report_data()[63], 7);
    assert_eq!((report.cpu_svn(), report.mr_enclave()), ([0; 16], [0; 32]));
}

fn event(register: u32, kind: EventType, data: &[u8]) -> Event {
    let digests = BTreeMap::from([(alg_id::SHA384, Sha384::digest(data).to_vec())]);
    Event { pcr: register, kind, digests, data: data.to_vec() }
}

fn log(events: Vec<Event>) -> Vec<u8> {
    let mut log = EventLog::sha256();
    let LogFormat::CryptoAgile(spec) = &mut log.format else { unreachable!("sha256() is crypto-agile") };
    spec.banks = vec![Bank { alg: alg_id::SHA384, digest_size: 48 }];
    log.events = events;
    log.encode()
}

#[test]
fn a_log_replays_into_the_registers_and_only_what_was_measured() {
    let events = vec![
        event(1, EventType::SEPARATOR, &[0; 4]),
        event(0xffff_ffff, EventType::NO_ACTION, b"says nobody"),
        event(4, EventType::IPL, b"application"),
        event(1, EventType::IPL, b"second"),
    ];
    let log = CcelLog::parse(&log(events)).unwrap();
    let digest = |data: &[u8]| -> Sha384Digest { Sha384::digest(data).into() };
    let first = extend_sha384(&[0; 48], &digest(&[0; 4]));
    let replay = log.replay();
    assert_eq!(replay[0], extend_sha384(&first, &digest(b"second")));
    assert_eq!((replay[1], replay[2]), ([0; 48], [0; 48]));
    assert_eq!(replay[3], extend_sha384(&[0; 48], &digest(b"application")));
    assert_eq!(log.digests(0).count(), 2);
    assert!(log.events.iter().all(ccel::CcelEvent::data_is_digested));
}

#[test]
fn fill_after_the_last_event_is_no_event() {
    let plain = log(vec![event(2, EventType::SEPARATOR, &[0; 4]), event(2, EventType::IPL, &[0xff; 9])]);
    let parsed = CcelLog::parse(&plain).unwrap();
    for fill in [0xff, 0] {
        for count in [1, 7, 8, 100, 5000] {
            let mut filled = plain.clone();
            filled.resize(plain.len() + count, fill);
            assert_eq!(CcelLog::parse(&filled), Ok(parsed.clone()), "{count} of {fill}");
            filled.push(1);
            assert!(CcelLog::parse(&filled).is_err(), "{count} of {fill} and another");
        }
    }
}

#[test]
fn refuses_measurements_into_what_is_no_register_and_logs_of_other_banks() {
    for register in [0, 5, 6] {
        let refused = CcelLog::parse(&log(vec![event(register, EventType::IPL, b"x")]));
        assert_eq!(refused, Err(CcelError::Register { index: 1, register }));
    }
    let mut other = EventLog::sha256();
    other.events.push(Event::of_data(1, EventType::IPL, *b"x"));
    assert_eq!(CcelLog::parse(&other.encode()), Err(CcelError::Bank));
    let long = vec![0; crate::eventlog::MAX_LOG_BYTES + 1];
    assert!(matches!(CcelLog::parse(&long), Err(CcelError::Log(EventLogError::TooLong { .. }))));
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoders_panic(bytes in prop::collection::vec(any::<u8>(), 0..700)) {
        let _ = Quote::decode(&bytes);
        let _ = CcelLog::parse(&bytes);
    }

    #[test]
    fn a_damaged_quote_never_panics_and_what_decodes_encodes_to_the_same(
        which in 0usize..6, at in any::<prop::sample::Index>(), splice in prop::collection::vec(any::<u8>(), 0..9), cut in any::<bool>(),
    ) {
        let mut bytes = all()[which].encode();
        let at = at.index(bytes.len());
        let end = if cut { (at + 4).min(bytes.len()) } else { (at + splice.len()).min(bytes.len()) };
        bytes.splice(at..end, splice);
        if let Ok(quote) = Quote::decode(&bytes) {
            prop_assert_eq!(quote.encode(), bytes);
        }
    }

    #[test]
    fn a_damaged_log_never_panics(at in any::<prop::sample::Index>(), flip in 1u8.., fill in 0usize..50) {
        let mut bytes = log(vec![event(1, EventType::SEPARATOR, &[0; 4]), event(3, EventType::IPL, b"kernel")]);
        bytes.resize(bytes.len() + fill, 0xff);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(log) = CcelLog::parse(&bytes) {
            let _ = log.replay();
        }
    }
}
