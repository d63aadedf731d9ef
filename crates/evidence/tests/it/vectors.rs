use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use casemate_evidence::{
    eventlog::{EventLog, EventType, replay_sha256},
    tpm::{Attest, AttestBody, HashAlg, Signature, pcr_digest_sha256},
};

/// The folder of evidence from real machines; says so where it is absent.
fn folder(test: &str) -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let folder = std::env::var_os("CASEMATE_VECTORS").map_or_else(|| PathBuf::from(default), PathBuf::from).join("tpm");
    if folder.is_dir() {
        return Some(folder);
    }
    // Not by `eprintln!`, which the test harness would swallow.
    let _ = writeln!(io::stderr(), "SKIPPED {test}: no evidence of real machines at {} (set CASEMATE_VECTORS)", folder.display());
    None
}

/// The `sha256:` section of what `tpm2_eventlog` prints.
fn expected_sha256(yaml: &str) -> BTreeMap<u32, [u8; 32]> {
    let section = yaml.lines().skip_while(|line| line.trim() != "sha256:").skip(1);
    section
        .take_while(|line| line.contains(": 0x"))
        .map(|line| {
            let (pcr, value) = line.split_once(": 0x").unwrap();
            (pcr.trim().parse().unwrap(), hex::decode(value.trim()).unwrap().try_into().unwrap())
        })
        .collect()
}

#[test]
fn logs_of_real_machines_replay_to_the_values_that_tpm2_tools_compute() {
    let Some(folder) = folder("replay of real logs") else { return };
    for name in ["uefi-log", "uefi-log-2", "uefi-log-secureboot"] {
        let bytes = fs::read(folder.join(format!("{name}.bin"))).unwrap();
        let expected = expected_sha256(&fs::read_to_string(folder.join(format!("{name}.expected-pcrs.yaml"))).unwrap());
        assert!(expected.len() > 8, "{name}: expectations read");
        let log = EventLog::parse(&bytes).unwrap();
        let mut replay = replay_sha256(&log.events);
        if name == "uefi-log-2" {
            assert_eq!(replay.insert(0, tpm2_tools_pcr_0(&log)).map(hex::encode).unwrap(), LOCALITY_3_PCR_0);
        }
        assert_eq!(replay, expected, "{name}");
        assert_eq!(log.encode(), bytes, "{name}: written as it was read");
    }
}

/// tpm2-tools up to 5.4 extend the digest (all zero) of a `StartupLocality` event into PCR 0, start at zero and so give a value that
/// no TPM had; this does the same, to show that the difference is this and nothing else.
fn tpm2_tools_pcr_0(log: &EventLog) -> [u8; 32] {
    let mut events = log.events.clone();
    assert_eq!((events[0].kind, &events[0].data[..]), (EventType::NO_ACTION, &b"StartupLocality\0\x03"[..]));
    events[0].kind = EventType::IPL;
    replay_sha256(&events)[&0]
}

/// Computed apart, from the digests that `tpm2_eventlog` prints, with a start of 3 and without informative events.
const LOCALITY_3_PCR_0: &str = "0ee9a7feba8f4172f1a7451594aa5731665a4d353ac61814042ce107a00742f2";

#[test]
fn the_bogus_log_is_refused() {
    let Some(folder) = folder("bogus log") else { return };
    let error = EventLog::parse(&fs::read(folder.join("uefi-log-bogus.bin")).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "event 0 has PCR index 0x75676f62");
}

#[test]
fn a_flipped_byte_in_any_digest_of_a_real_log_changes_its_replay() {
    let Some(folder) = folder("flipped digests") else { return };
    let log = EventLog::parse(&fs::read(folder.join("uefi-log.bin")).unwrap()).unwrap();
    let good = replay_sha256(&log.events);
    for at in 0..log.events.len() {
        let mut events = log.events.clone();
        if events[at].measured_sha256().is_none() {
            continue;
        }
        events[at].digests.get_mut(&HashAlg::Sha256.id()).unwrap()[at % 32] ^= 0x40;
        assert_ne!(replay_sha256(&events), good, "event {at}");
    }
}

#[test]
fn a_real_quote_parses_and_covers_its_pcrs() {
    let Some(folder) = folder("real quote") else { return };
    let bytes = fs::read(folder.join("quote-rsa.tpms-attest.bin")).unwrap();
    let attest = Attest::parse(&bytes).unwrap();
    assert_eq!(attest.extra_data, b"Ai5M5SjYjnkyv4P7itH1");
    assert!(matches!(&attest.body, AttestBody::Quote { selections, pcr_digest }
        if selections[0].hash == HashAlg::Sha256 && pcr_digest.len() == 32));
    assert_eq!(attest.encode().unwrap(), bytes);
    let signature = Signature::parse(&fs::read(folder.join("quote-rsa.tpmt-signature.bin")).unwrap()).unwrap();
    assert!(matches!(signature, Signature::Rsassa { hash: HashAlg::Sha256, sig } if sig.len() == 256));
}

#[test]
fn the_pcr_digest_is_taken_in_ascending_order() {
    let (a, b) = ([1; 32], [2; 32]);
    assert_eq!(pcr_digest_sha256([(&7, &b), (&0, &a)]), pcr_digest_sha256([(&0, &a), (&7, &b)]));
    assert_ne!(pcr_digest_sha256([(&0, &a), (&7, &b)]), pcr_digest_sha256([(&0, &b), (&7, &a)]));
}
