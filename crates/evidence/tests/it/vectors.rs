use std::{collections::BTreeMap, env, fs, path::PathBuf};

use casemate_evidence::{
    eventlog::{Content, Coverage, EventLog, EventType, Ipl, LogRef, count_signatures, device_path_text, replay_sha256},
    ima::{Format, Reader},
    tpm::{Attest, AttestBody, HashAlg, Signature, pcr_digest_sha256},
};

/// A file of the folder that `CASEMATE_VECTORS` names, which is not in the repository. Tests that need it are ignored, so that a run
/// without it says so; what is run without it fails.
fn read(name: &str) -> Vec<u8> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/vectors");
    let path = env::var_os("CASEMATE_VECTORS").map_or_else(|| PathBuf::from(default), PathBuf::from).join("tpm").join(name);
    fs::read(&path).unwrap_or_else(|error| {
        panic!("read {}, evidence of real machines: {error}; hint: set CASEMATE_VECTORS to its folder", path.display())
    })
}

fn read_text(name: &str) -> String {
    String::from_utf8(read(name)).unwrap()
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
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn logs_of_real_machines_replay_to_the_values_that_tpm2_tools_compute() {
    for name in ["uefi-log", "uefi-log-2", "uefi-log-secureboot"] {
        let bytes = read(&format!("{name}.bin"));
        let expected = expected_sha256(&read_text(&format!("{name}.expected-pcrs.yaml")));
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

/// The `sha1:` section has the values as they are; PCR 0 differs for the same reason as below.
#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn the_sha1_bank_of_a_real_log_replays_too() {
    let bytes = read("uefi-log-2.bin");
    let yaml = read_text("uefi-log-2.expected-pcrs.yaml");
    let replay = LogRef::parse(&bytes).unwrap().replay(HashAlg::Sha1);
    let mut compared = 0;
    for line in yaml.lines().skip_while(|line| line.trim() != "sha1:").skip(1).take_while(|line| line.contains(": 0x")) {
        let (pcr, value) = line.split_once(": 0x").unwrap();
        let pcr = pcr.trim().parse().unwrap();
        assert_eq!(replay[&pcr].to_string() == value.trim(), pcr != 0, "PCR {pcr}");
        compared += 1;
    }
    assert_eq!(compared, replay.len());
}

/// What is read from a real log, type by type, and how much of it the digests cover.
#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn events_of_a_real_machine_are_read_by_their_types() {
    let bytes = read("uefi-log-secureboot.bin");
    let log = LogRef::parse(&bytes).unwrap();
    let of = |kind: EventType| log.events.iter().filter(move |event| event.kind == kind);
    for event in &log.events {
        assert!(event.kind.name().is_some(), "{:?}", event.kind);
        assert!(!matches!(event.content(), Content::Malformed | Content::Unknown), "event {}", event.index);
    }
    for event in of(EventType::EFI_VARIABLE_DRIVER_CONFIG).chain(of(EventType::EFI_ACTION)).chain(of(EventType::EFI_GPT_EVENT)) {
        assert_eq!(event.coverage(HashAlg::Sha256), Coverage::Whole(event.data));
    }
    for event in of(EventType::EFI_VARIABLE_BOOT) {
        let Content::Variable(variable) = event.content() else { panic!("event {}", event.index) };
        assert_eq!(event.coverage(HashAlg::Sha256), Coverage::Part(variable.value));
    }
    for event in of(EventType::IPL).filter(|event| event.pcr == 8) {
        let Content::Ipl(Ipl::GrubCommand(text) | Ipl::KernelCommandLine(text)) = event.content() else {
            panic!("event {}", event.index)
        };
        assert_eq!(event.coverage(HashAlg::Sha256), Coverage::Part(text));
    }
    let image = of(EventType::EFI_BOOT_SERVICES_APPLICATION).next().unwrap();
    assert_eq!(image.coverage(HashAlg::Sha256), Coverage::DigestOnly);
    let Content::Image(load) = image.content() else { panic!("an image") };
    let text = device_path_text(load.device_path);
    assert!(text.starts_with("/PciRoot(0x0)/Pci(") && text.ends_with("\\EFI\\redhat\\shimx64.efi"), "{text}");
    let gpt = of(EventType::EFI_GPT_EVENT).next().unwrap();
    let Content::Gpt(gpt) = gpt.content() else { panic!("a partition table") };
    assert_eq!(gpt.partitions().count(), 3);
    let dbx = of(EventType::EFI_VARIABLE_DRIVER_CONFIG).find_map(|event| match event.content() {
        Content::Variable(variable) if variable.is_named("dbx") => Some(variable),
        _ => None,
    });
    assert_eq!(count_signatures(dbx.unwrap().value), Some(371));
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn each_line_of_a_real_ima_list_recomputes() {
    let list = read("ima-ng.ascii.txt");
    let mut reader = Reader::new(&list, Format::Ascii);
    while let Some(entry) = reader.next_entry().unwrap() {
        let (listed, computed) = (entry.listed(), entry.template_digest(HashAlg::Sha1));
        assert!(entry.is_violation() || listed == computed, "{}", entry.name().escape_ascii());
    }
    assert_eq!((reader.count(), reader.offset()), (826, list.len()));
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
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn the_bogus_log_is_refused() {
    let error = EventLog::parse(&read("uefi-log-bogus.bin")).unwrap_err();
    assert_eq!(error.to_string(), "event 0 has PCR index 0x75676f62");
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_flipped_byte_in_any_digest_of_a_real_log_changes_its_replay() {
    let log = EventLog::parse(&read("uefi-log.bin")).unwrap();
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
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_real_quote_parses_and_covers_its_pcrs() {
    let bytes = read("quote-rsa.tpms-attest.bin");
    let attest = Attest::parse(&bytes).unwrap();
    assert_eq!(attest.extra_data, b"Ai5M5SjYjnkyv4P7itH1");
    assert!(matches!(&attest.body, AttestBody::Quote { selections, pcr_digest }
        if selections[0].hash == HashAlg::Sha256 && pcr_digest.len() == 32));
    assert_eq!(attest.encode().unwrap(), bytes);
    let signature = Signature::parse(&read("quote-rsa.tpmt-signature.bin")).unwrap();
    assert!(matches!(signature, Signature::Rsassa { hash: HashAlg::Sha256, sig } if sig.len() == 256));
}

#[test]
fn the_pcr_digest_is_taken_in_ascending_order() {
    let (a, b) = ([1; 32], [2; 32]);
    assert_eq!(pcr_digest_sha256([(&7, &b), (&0, &a)]), pcr_digest_sha256([(&0, &a), (&7, &b)]));
    assert_ne!(pcr_digest_sha256([(&0, &a), (&7, &b)]), pcr_digest_sha256([(&0, &b), (&7, &a)]));
}
