use proptest::prelude::*;

use super::*;

fn small_log() -> EventLog {
    let mut log = EventLog::sha256();
    log.events.push(Event::of_data(0, EventType::S_CRTM_VERSION, *b"firmware 1"));
    log.events.push(Event::of_data(7, EventType::SEPARATOR, [0; 4]));
    log.events.push(Event::of_digest(14, EventType::IPL, [0xaa; 32], *b"agent"));
    log.events.push(Event::of_digest(14, EventType::IPL, [0xbb; 32], *b"vmm"));
    log
}

fn no_action(pcr: u32, data: &[u8]) -> Event {
    Event::of_digest(pcr, EventType::NO_ACTION, [0xee; 32], data)
}

#[test]
fn what_is_encoded_parses_to_the_same() {
    assert_eq!(EventLog::parse(&small_log().encode()), Ok(small_log()));
    let sha1 = EventLog {
        format: LogFormat::Sha1,
        events: vec![Event {
            pcr: 3,
            kind: EventType::SEPARATOR,
            digests: [(alg_id::SHA1, vec![1; 20])].into(),
            data: vec![0; 4],
        }],
    };
    assert_eq!(EventLog::parse(&sha1.encode()), Ok(sha1));
}

#[test]
fn replay_extends_in_order_and_only_what_was_measured() {
    let mut events = small_log().events;
    let pcrs = replay_sha256(&events);
    assert_eq!(pcrs.keys().copied().collect::<Vec<_>>(), [0, 7, 14]);
    assert_eq!(pcrs[&14], extend_sha256(&extend_sha256(&[0; 32], &[0xaa; 32]), &[0xbb; 32]));
    events.insert(3, no_action(14, b"agent, says nobody"));
    assert_eq!(replay_sha256(&events), pcrs);
    events.swap(2, 4);
    assert_ne!(replay_sha256(&events)[&14], pcrs[&14]);
}

#[test]
fn startup_locality_sets_the_start_of_pcr_0_and_of_no_other() {
    let mut events = small_log().events;
    let plain = replay_sha256(&events);
    events.insert(0, no_action(0, b"StartupLocality\0\x03"));
    let pcrs = replay_sha256(&events);
    let mut start = [0; 32];
    start[31] = 3;
    assert_eq!(pcrs[&0], extend_sha256(&start, &Sha256::digest(b"firmware 1").into()));
    assert_eq!((pcrs[&7], pcrs[&14]), (plain[&7], plain[&14]));
}

#[test]
fn startup_locality_after_a_measurement_changes_nothing() {
    let mut events = small_log().events;
    let plain = replay_sha256(&events);
    events.insert(1, no_action(0, b"StartupLocality\0\x03"));
    assert_eq!(replay_sha256(&events), plain);
}

#[test]
fn an_h_crtm_starts_pcr_0_at_locality_4() {
    let event = Event::of_data(0, EventType::EFI_HCRTM_EVENT, *b"HCRTM");
    let mut start = [0; 32];
    start[31] = 4;
    let digest = event.measured_sha256().unwrap();
    assert_eq!(replay_sha256(std::slice::from_ref(&event))[&0], extend_sha256(&start, &digest));
    // Later it is an event like others.
    let first = Event::of_data(0, EventType::S_CRTM_VERSION, *b"1");
    let plain = extend_sha256(&[0; 32], &first.measured_sha256().unwrap());
    assert_eq!(replay_sha256(&[first, event])[&0], extend_sha256(&plain, &digest));
}

#[test]
fn signature_lists_that_do_not_add_up_are_refused() {
    let list = |total: u32, header: u32, size: u32, body: usize| {
        [&[1; 16][..], &total.to_le_bytes(), &header.to_le_bytes(), &size.to_le_bytes(), &vec![0; body]].concat()
    };
    assert_eq!(count_signatures(&[]), Some(0));
    assert_eq!(count_signatures(&[list(28 + 96, 0, 48, 96), list(28 + 20, 4, 16, 20)].concat()), Some(3));
    for (total, header, size, body) in [
        (28 + 96, 0, 48, 95),
        (28 + 95, 0, 48, 95),
        (28, 0, 0, 0),
        (27, 0, 48, 0),
        (28 + 48, 49, 48, 48),
        (28 + 48, u32::MAX, 48, 48),
        (28 + 15, 0, 15, 15),
    ] {
        assert_eq!(count_signatures(&list(total, header, size, body)), None, "{total} {header} {size}");
    }
}

#[test]
fn unmeasured_events_have_no_digest_to_believe() {
    assert_eq!(no_action(14, b"casemate-agent").measured_sha256(), None);
    assert!(!no_action(14, b"casemate-agent").data_is_digested());
}

#[test]
fn altered_data_no_longer_counts_as_digested() {
    let mut event = small_log().events.remove(0);
    assert!(event.data_is_digested());
    event.data[0] ^= 1;
    assert!(!event.data_is_digested());
}

/// Such an event would be invisible in the replay and yet be there to be read.
#[test]
fn refuses_an_event_without_a_digest_of_the_bank() {
    let mut log = small_log();
    log.events[2].digests.clear();
    let refusal = EventLogError::Invalid { index: 3, field: "number of digests", value: 0 };
    assert_eq!(EventLog::parse(&log.encode()), Err(refusal));
}

#[test]
fn refuses_a_pcr_that_no_tpm_has() {
    let mut log = small_log();
    log.events[0].pcr = 32;
    let refusal = EventLogError::Invalid { index: 1, field: "PCR index", value: 32 };
    assert_eq!(EventLog::parse(&log.encode()), Err(refusal));
}

#[test]
fn refuses_banks_of_the_wrong_size_or_twice() {
    let with_banks = |banks: &[Bank]| {
        let mut log = EventLog::sha256();
        let LogFormat::CryptoAgile(spec) = &mut log.format else { unreachable!("sha256() is crypto-agile") };
        spec.banks = banks.to_vec();
        EventLog::parse(&log.encode())
    };
    let sha256 = Bank { alg: alg_id::SHA256, digest_size: 32 };
    assert!(with_banks(&[sha256]).is_ok());
    assert!(with_banks(&[]).is_err());
    assert!(with_banks(&[sha256, sha256]).is_err());
    assert!(with_banks(&[Bank { digest_size: 20, ..sha256 }]).is_err());
    assert!(with_banks(&[Bank { alg: 0x12, digest_size: 65 }]).is_err());
}

#[test]
fn refuses_every_truncation_but_those_between_events() {
    let bytes = small_log().encode();
    let mut ends = 0;
    for end in 0..bytes.len() {
        ends += usize::from(EventLog::parse(&bytes[..end]).is_ok());
    }
    // After the header and after each event but the last.
    assert_eq!(ends, small_log().events.len());
}

#[test]
fn refuses_more_bytes_and_more_events_than_the_limits() {
    assert_eq!(EventLog::parse(&vec![0; MAX_LOG_BYTES + 1]), Err(EventLogError::TooLong { len: MAX_LOG_BYTES + 1 }));
    let mut log = EventLog::sha256();
    log.events = vec![Event::of_digest(1, EventType::IPL, [0; 32], []); MAX_EVENTS];
    assert!(EventLog::parse(&log.encode()).is_ok());
    log.events.push(log.events[0].clone());
    assert_eq!(EventLog::parse(&log.encode()), Err(EventLogError::TooManyEvents));
}

#[test]
fn a_flipped_byte_changes_the_replay_or_is_not_covered() {
    let good = small_log();
    let replay = replay_sha256(&good.events);
    let bytes = good.encode();
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x01;
        let Ok(log) = EventLog::parse(&damaged) else { continue };
        if replay_sha256(&log.events) != replay {
            continue;
        }
        // What remains is what the documentation says is not covered: header, type, data.
        let digests = |log: &EventLog| log.events.iter().map(|e| (e.pcr, e.digests.clone())).collect::<Vec<_>>();
        assert_eq!(digests(&log), digests(&good), "byte {at}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = EventLog::parse(&bytes);
    }

    #[test]
    fn no_damaged_log_makes_the_decoder_panic(at in 0usize..600, flip in any::<u8>(), cut in 0usize..600) {
        let mut bytes = small_log().encode();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        bytes.truncate(cut.max(1));
        if let Ok(log) = LogRef::parse(&bytes) {
            for event in &log.events {
                let _ = (event.content(), event.coverage(HashAlg::Sha256));
            }
        }
        if let Ok(log) = EventLog::parse(&bytes) {
            let _ = replay_sha256(&log.events);
            prop_assert_eq!(EventLog::parse(&log.encode()), Ok(log));
        }
    }

    #[test]
    fn no_data_makes_a_type_panic(kind in 0usize..40, data in proptest::collection::vec(any::<u8>(), 0..300)) {
        let kinds = [0x04, 0x06, 0x08, 0x0d, 0x13, 0x8000_0001, 0x8000_0003, 0x8000_0006, 0x8000_0008, 0x8000_0009, 0x8000_000a, 0x8000_000b];
        let mut log = EventLog::sha256();
        log.events.push(Event::of_data(1, EventType(kinds[kind % kinds.len()]), data.clone()));
        let bytes = log.encode();
        let event = &LogRef::parse(&bytes).unwrap().events[0];
        let _ = (event.content(), device_path_text(&data), signature_lists(&data));
        prop_assert!(event.coverage(HashAlg::Sha256) != Coverage::Nothing);
    }
}
