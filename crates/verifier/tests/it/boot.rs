//! The boot policy against logs of real machines and against logs that lie.

use std::collections::{BTreeMap, BTreeSet};

use casemate_evidence::{
    eventlog::{Event, EventLog, EventType, LogRef},
    tpm::{Digest, HashAlg},
};
use casemate_verifier::{
    BOOT_CHECKS, Outcome,
    boot::{
        BootClaims, BootPolicy, CommandLineRule, DigestRule, HexDigest, LateRule, MokRule, SecureBootRule, UnknownRule,
        VerifiedBoot, appraise_boot,
    },
};

use crate::{banks::quoted, vectors};

type Appraised = casemate_verifier::Appraised<VerifiedBoot, BootClaims>;

fn appraise(log: &[u8], policy: &BootPolicy) -> Appraised {
    let values = LogRef::parse(log).unwrap().replay(HashAlg::Sha256);
    appraise_boot(log, &quoted(&BTreeMap::from([(HashAlg::Sha256, values)])), policy)
}

/// What failed, and why.
fn refusal(appraised: &Appraised) -> (&str, &str) {
    assert!(appraised.verified().is_none());
    let check = appraised.checks().iter().find(|check| check.outcome == Outcome::Fail).expect("a check failed");
    (&check.name, &check.detail)
}

fn digest(event: &Event) -> HexDigest {
    HexDigest(Digest::from_slice(&event.measured_sha256().unwrap()).unwrap())
}

/// UEFI_VARIABLE_DATA.
pub(crate) fn variable(guid: [u8; 16], name: &str, value: &[u8]) -> Vec<u8> {
    let units: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let len = |count: usize| u64::try_from(count).unwrap().to_le_bytes();
    [&guid[..], &len(units.len() / 2), &len(value.len()), &units, value].concat()
}

/// One EFI_SIGNATURE_LIST of `count` digests.
fn list(count: u8) -> Vec<u8> {
    let size = 28 + 48 * u32::from(count);
    let head = [&[1; 16][..], &size.to_le_bytes(), &0u32.to_le_bytes(), &48u32.to_le_bytes()].concat();
    [head, vec![7; 48 * usize::from(count)]].concat()
}

pub(crate) const GLOBAL: [u8; 16] = [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
pub(crate) const SECURITY: [u8; 16] =
    [0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f];
const CERTIFICATE: [u8; 8] = [0x30, 0x82, 0, 4, 1, 2, 3, 4];

/// A machine in its simplest form, and the policy that accepts exactly it.
pub(crate) struct Machine {
    pub(crate) events: Vec<Event>,
    pub(crate) policy: BootPolicy,
}

impl Machine {
    pub(crate) fn good() -> Self {
        let config =
            |guid, name, value: &[u8]| Event::of_data(7, EventType::EFI_VARIABLE_DRIVER_CONFIG, variable(guid, name, value));
        let mut events = vec![
            Event::of_data(0, EventType::S_CRTM_VERSION, *b"v\x001\0\0\0"),
            config(GLOBAL, "SecureBoot", &[1]),
            config(GLOBAL, "PK", &list(1)),
            config(GLOBAL, "KEK", &list(1)),
            config(SECURITY, "db", &list(2)),
            config(SECURITY, "dbx", &list(5)),
        ];
        events.extend((0..8).map(|pcr| Event::of_data(pcr, EventType::SEPARATOR, [0; 4])));
        let entry = [&[9; 16][..], &CERTIFICATE].concat();
        events.push(Event::of_data(7, EventType::EFI_VARIABLE_AUTHORITY, variable(SECURITY, "db", &entry)));
        events.push(Event::of_digest(4, EventType::EFI_BOOT_SERVICES_APPLICATION, [0x44; 32], [&[0; 24][..], &[0; 8]].concat()));
        let line: Vec<u8> = "root=/dev/vda\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        events.push(Event::of_data(12, EventType::IPL, line));
        let policy = BootPolicy {
            authorities: DigestRule::Listed(BTreeSet::from([HexDigest(HashAlg::Sha256.digest(&[&CERTIFICATE]))])),
            min_dbx_entries: 5,
            command_lines: CommandLineRule::Listed(BTreeSet::from(["root=/dev/vda".to_owned()])),
            digests: BTreeMap::from([(4, BTreeSet::from([HexDigest(Digest::from_slice(&[0x44; 32]).unwrap())]))]),
            ..BootPolicy::strict()
        };
        Self { events, policy }
    }

    pub(crate) fn appraise(self) -> Appraised {
        appraise(&EventLog { events: self.events, ..EventLog::sha256() }.encode(), &self.policy)
    }

    pub(crate) fn with(change: impl FnOnce(&mut Vec<Event>)) -> Appraised {
        let mut machine = Self::good();
        change(&mut machine.events);
        machine.appraise()
    }

    pub(crate) fn under(change: impl FnOnce(&mut BootPolicy)) -> Appraised {
        let mut machine = Self::good();
        change(&mut machine.policy);
        machine.appraise()
    }
}

pub(crate) fn refused_for(appraised: &Appraised, why: &str) {
    let (check, detail) = refusal(appraised);
    assert_eq!(check, "node.boot-policy");
    assert!(detail.contains(why), "{detail}");
}

#[test]
fn a_boot_that_the_policy_describes_is_accepted() {
    let appraised = Machine::good().appraise();
    assert_eq!(appraised.failed(), None);
    assert!(appraised.checks().iter().map(|check| check.name.as_str()).eq(BOOT_CHECKS.iter().map(|name| name.as_str())));
    let boot = appraised.verified().unwrap();
    assert!(boot.secure_boot() && boot.bank() == HashAlg::Sha256);
    assert_eq!(boot.images(), [Digest::from_slice(&[0x44; 32]).unwrap()]);
    let claims = appraised.claims().unwrap();
    assert_eq!((claims.dbx_entries, claims.firmware_version.as_deref()), (5, Some("v1")));
    assert_eq!(claims.command_lines[0].text.as_deref(), Some("root=/dev/vda"));
    assert!(claims.warnings.is_empty() && claims.problems.is_empty());
    let json = serde_json::to_string(claims).unwrap();
    assert_eq!(&serde_json::from_str::<BootClaims>(&json).unwrap(), claims);
}

#[test]
fn each_rule_refuses_by_itself() {
    let dbx = Machine::under(|policy| policy.min_dbx_entries = 6);
    refused_for(&dbx, "dbx has 5 entries, expected at least 6");
    refused_for(&Machine::under(|policy| policy.authorities = DigestRule::Listed(BTreeSet::new())), "authority");
    refused_for(&Machine::under(|policy| policy.command_lines = CommandLineRule::Listed(BTreeSet::new())), "command line");
    refused_for(
        &Machine::under(|policy| policy.digests = BTreeMap::from([(4, BTreeSet::new())])),
        "event 16 of the log, in PCR 4",
    );
    refused_for(&Machine::under(|policy| policy.digests = BTreeMap::from([(9, BTreeSet::new())])), "PCR 9, which the quote");
    refused_for(&Machine::with(|events| assert_eq!(events.pop().unwrap().pcr, 12)), "no kernel command line");
    let unknown = Event::of_digest(1, EventType(0x8401), [1; 32], *b"?");
    refused_for(&Machine::with(|events| events.insert(0, unknown.clone())), "1 events are of types that are not known");
    let late = Event::of_digest(2, EventType::EFI_BOOT_SERVICES_DRIVER, [2; 32], *b"?");
    refused_for(&Machine::with(|events| events.push(late)), "after the firmware handed over, PCR 2");
    let shim = Event::of_digest(14, EventType::IPL, [3; 32], *b"MokList\0");
    refused_for(&Machine::with(|events| events.push(shim)), "shim measured MokList");
}

#[test]
fn secure_boot_is_on_only_with_its_keys_installed() {
    let without = |at: usize, name: &'static str, value: Vec<u8>| {
        Machine::with(|events| {
            events[at] = Event::of_data(7, EventType::EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL, name, &value))
        })
    };
    refused_for(&without(1, "SecureBoot", vec![0]), "secure boot is not on");
    refused_for(&without(2, "PK", vec![]), "secure boot is not on");
    refused_for(&without(3, "KEK", vec![]), "secure boot is not on");
    refused_for(&Machine::with(|events| drop(events.remove(1))), "secure boot is not on");
}

/// Types are not covered by a digest: each of these replays to what the quote says.
#[test]
fn lies_about_types_and_separators_are_refused() {
    let later = |guid, name, value: &[u8]| Event::of_data(7, EventType::EFI_VARIABLE_DRIVER_CONFIG, variable(guid, name, value));
    // The real separator is called something else, and another one comes after measurements by somebody else.
    let moved = Machine::with(|events| {
        let at = events.iter().position(|event| (event.pcr, event.kind) == (7, EventType::SEPARATOR)).unwrap();
        events[at].kind = EventType::EFI_ACTION;
        events.push(later(GLOBAL, "SecureBoot", &[1]));
        events.push(Event::of_data(7, EventType::SEPARATOR, [0; 4]));
    });
    refused_for(&moved, "has the digest of a separator, but is called 0x80000007");
    refused_for(&Machine::with(|events| events.push(later(GLOBAL, "SetupMode", &[0]))), "does not belong there");
    refused_for(
        &Machine::with(|events| events.push(Event::of_data(3, EventType::SEPARATOR, [0xff; 4]))),
        "more than one separator",
    );
    let story = Machine::with(|events| events[6] = Event::of_digest(0, EventType::SEPARATOR, [5; 32], [0; 4]));
    refused_for(&story, "is called a separator, but has not the digest of one");
    let failed = Machine::with(|events| events.insert(6, Event::of_data(0, EventType::SEPARATOR, [1, 0, 0, 0])));
    refused_for(&failed, "reports an error in PCR 0");
    let open = Machine::with(|events| {
        let at = events.iter().position(|event| (event.pcr, event.kind) == (7, EventType::SEPARATOR)).unwrap();
        events.remove(at);
    });
    refused_for(&open, "PCR 7 has no separator");
    // Data that the digest does not cover.
    refused_for(&Machine::with(|events| events[1].data[0] ^= 1), "has not the digest of its data");
    refused_for(&Machine::with(|events| events.insert(2, later(GLOBAL, "SecureBoot", &[1]))), "was measured before");
    refused_for(&Machine::with(|events| events.insert(2, later(SECURITY, "PK", &list(1)))), "of another vendor");
    let debug = Event::of_data(7, EventType::EFI_ACTION, *b"UEFI Debug Mode");
    refused_for(&Machine::with(|events| events.insert(2, debug)), "not in a production state");
}

#[test]
fn a_log_that_does_not_lead_to_the_quote_is_refused_before_it_is_read() {
    let log = |events| EventLog { events, ..EventLog::sha256() }.encode();
    let good = log(Machine::good().events);
    let values = LogRef::parse(&good).unwrap().replay(HashAlg::Sha256);
    let quote = quoted(&BTreeMap::from([(HashAlg::Sha256, values)]));
    let mut fewer = Machine::good().events;
    fewer.pop();
    for bad in [log(fewer), vec![], b"bogus".to_vec()] {
        let appraised = appraise_boot(&bad, &quote, &Machine::good().policy);
        assert_eq!(refusal(&appraised).0, "node.event-log");
        assert!(appraised.claims().is_none());
    }
    let sha384 = quoted(&BTreeMap::from([(HashAlg::Sha384, BTreeMap::from([(0, Digest::zero(HashAlg::Sha384))]))]));
    assert!(refusal(&appraise_boot(&good, &sha384, &Machine::good().policy)).1.contains("no digests of the quoted bank"));
}

#[test]
fn the_kernels_own_pcr_is_not_the_firmware_logs_to_explain_and_every_other_is() {
    let log = EventLog { events: Machine::good().events, ..EventLog::sha256() }.encode();
    let with = |pcr: u32| {
        let mut values = LogRef::parse(&log).unwrap().replay(HashAlg::Sha256);
        values.insert(pcr, HashAlg::Sha256.digest(&[b"something"]));
        appraise_boot(&log, &quoted(&BTreeMap::from([(HashAlg::Sha256, values)])), &Machine::good().policy)
    };
    let appraised = with(10);
    assert_eq!(appraised.failed(), None);
    assert!(!appraised.claims().unwrap().pcrs.contains(&10));
    for pcr in [9, 11, 14, 16, 23] {
        assert_eq!(refusal(&with(pcr)).0, "node.event-log", "PCR {pcr}");
    }
}

/// Not covered: the header, most types, and labels (device paths, addresses, the names of files). Changes there may pass, and then
/// everything that a policy is about is as it was.
#[test]
fn a_changed_byte_is_refused_or_changes_nothing_that_counts() {
    let machine = Machine::good();
    let log = EventLog { events: machine.events, ..EventLog::sha256() }.encode();
    let quote = quoted(&BTreeMap::from([(HashAlg::Sha256, LogRef::parse(&log).unwrap().replay(HashAlg::Sha256))]));
    let what_counts = |appraised: &Appraised| {
        let claims = appraised.claims().unwrap().clone();
        let digests: BTreeSet<String> = (claims.images.iter().map(|image| image.digest.clone()))
            .chain(claims.loader.iter().chain(&claims.firmware).map(|event| event.digest.clone()))
            .collect();
        let secure = (claims.secure_boot, claims.dbx_entries, claims.variables, claims.authorities);
        // A text that its digest no longer covers is not claimed; the digest is still that of an accepted one.
        let lines: Vec<_> = claims.command_lines.iter().map(|line| (line.source.clone(), line.digest.clone())).collect();
        (secure, lines, digests, claims.late, claims.shim)
    };
    let good = what_counts(&appraise_boot(&log, &quote, &machine.policy));
    let mut passed = 0;
    for at in 0..log.len() {
        for flip in [0x01, 0x80] {
            let mut changed = log.clone();
            changed[at] ^= flip;
            let appraised = appraise_boot(&changed, &quote, &machine.policy);
            if appraised.verified().is_some() {
                assert_eq!(what_counts(&appraised), good, "byte {at}");
                passed += 1;
            } else {
                assert!(["node.event-log", "node.boot-policy"].contains(&refusal(&appraised).0));
            }
        }
    }
    assert!((1..log.len() / 5).contains(&passed), "{passed} of {}", 2 * log.len());
}

/// GRUB's commands and its kernel's command line look alike.
#[test]
fn a_command_line_by_grub_counts_only_beside_a_list_of_its_commands() {
    let mut line = Event::of_data(8, EventType::IPL, *b"(hd0)/vmlinuz ro");
    line.data = b"kernel_cmdline: (hd0)/vmlinuz ro\0".to_vec();
    let machine = |listed: bool| {
        let mut machine = Machine::good();
        machine.policy.command_lines = CommandLineRule::Listed(BTreeSet::from(["(hd0)/vmlinuz ro".to_owned()]));
        machine.policy.digests.extend(listed.then(|| (8, BTreeSet::from([digest(&line)]))));
        machine.events.pop();
        machine.events.push(line.clone());
        machine.appraise()
    };
    assert_eq!(machine(true).failed(), None);
    refused_for(&machine(false), "counts only with a list of digests for PCR 8");
}

#[test]
fn weakened_rules_show_in_the_claims() {
    let appraised = Machine::under(|policy| {
        policy.secure_boot = SecureBootRule::DangerAny;
        policy.authorities = DigestRule::DangerAny;
        policy.command_lines = CommandLineRule::DangerAny;
        policy.shim = MokRule::DangerAny;
        policy.late_events = LateRule::DangerAny;
        policy.unknown_events = UnknownRule::AllowCounted;
    });
    assert_eq!(appraised.claims().unwrap().warnings.len(), 6);
    assert_eq!(appraised.failed(), None);
}

#[test]
fn a_policy_is_read_as_it_was_written_and_with_more_in_it_refused() {
    let digests = BTreeSet::from([HexDigest(HashAlg::Sha256.digest(&[b"MokList"]))]);
    let policy =
        BootPolicy { shim: MokRule::Listed(BTreeMap::from([("MokList".to_owned(), digests)])), ..Machine::good().policy };
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<BootPolicy>(&json).unwrap(), policy);
    assert!(serde_json::from_str::<BootPolicy>(&json.replacen('{', "{\"more\":1,", 1)).is_err());
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn the_strict_policy_accepts_no_real_machine_and_a_filled_one_does() {
    let bytes = vectors::read("tpm/uefi-log-secureboot.bin");
    assert_eq!(refusal(&appraise(&bytes, &BootPolicy::strict())).0, "node.boot-policy");

    let log = EventLog::parse(&bytes).unwrap();
    let measured = |pcr| log.events.iter().filter(move |event| event.pcr == pcr && event.measured_sha256().is_some());
    let all = |pcr| (pcr, measured(pcr).map(digest).collect::<BTreeSet<_>>());
    let claims = appraise(&bytes, &BootPolicy::strict()).claims().unwrap().clone();
    assert!(claims.secure_boot && claims.problems.is_empty() && claims.late.is_empty(), "{claims:?}");
    assert_eq!((claims.images.len(), claims.command_lines.len(), claims.shim.len()), (3, 1, 3));
    let variables: Vec<_> = claims.variables.iter().map(|variable| variable.name.as_str()).collect();
    assert_eq!(variables, ["SecureBoot", "PK", "KEK", "db", "dbx"]);
    assert_eq!(claims.dbx_entries, 371);
    let authorities: Vec<_> = claims.authorities.iter().map(|authority| authority.variable.as_str()).collect();
    assert_eq!(authorities, ["db", "SbatLevel", "vendor_db"]);
    assert!(claims.images[1].label.ends_with("\\EFI\\redhat\\grubx64.efi"), "{}", claims.images[1].label);
    assert_eq!(claims.firmware_version.as_deref(), Some("edk2-20240524-7.el9"));

    let sha256 = |text: &str| HexDigest(Digest::from_slice(&hex::decode(text).unwrap()).unwrap());
    let shim = claims.shim.iter().map(|event| (event.label.clone(), BTreeSet::from([sha256(&event.digest)]))).collect();
    let policy = BootPolicy {
        authorities: DigestRule::Listed(claims.authorities.iter().map(|authority| sha256(&authority.sha256)).collect()),
        min_dbx_entries: 300,
        digests: BTreeMap::from([all(4), all(8), all(9)]),
        command_lines: CommandLineRule::Listed(claims.command_lines.iter().filter_map(|line| line.text.clone()).collect()),
        shim: MokRule::Listed(shim),
        ..BootPolicy::strict()
    };
    assert_eq!(appraise(&bytes, &policy).failed(), None);
}

/// Lenovo's firmware goes on measuring after the hand-over; and in one log there is a type that the specification does not know.
#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn what_real_firmware_measures_late_is_not_called_firmware() {
    for (name, late, unknown) in [("uefi-log", 3, 1), ("uefi-log-2", 2, 0)] {
        let bytes = vectors::read(&format!("tpm/{name}.bin"));
        let appraised = appraise(&bytes, &BootPolicy::strict());
        let claims = appraised.claims().unwrap();
        assert_eq!((claims.late.len(), claims.unknown_events), (late, unknown), "{name}: {:?}", claims.late);
        // Both were started with secure boot off.
        assert!(!claims.secure_boot && claims.problems.is_empty(), "{name}: {:?}", claims.problems);
    }
    let bogus = vectors::read("tpm/uefi-log-bogus.bin");
    let quote = quoted(&BTreeMap::from([(HashAlg::Sha256, BTreeMap::from([(0, Digest::zero(HashAlg::Sha256))]))]));
    assert_eq!(refusal(&appraise_boot(&bogus, &quote, &BootPolicy::strict())).0, "node.event-log");
}
