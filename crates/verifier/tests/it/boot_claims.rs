//! What is claimed of a boot, and which PCRs its rules need: each claim is what the log says, no more and no less.

use std::collections::{BTreeMap, BTreeSet};

use casemate_evidence::{
    eventlog::{Event, EventLog, EventType, LogRef},
    tpm::HashAlg,
};
use casemate_verifier::boot::{BootClaims, BootPolicy, DigestRule, HexDigest, SecureBootRule, appraise_boot};

use crate::{
    banks::quoted,
    boot::{GLOBAL, Machine, SECURITY, refused_for, variable},
};

fn claims(change: impl FnOnce(&mut Vec<Event>)) -> BootClaims {
    Machine::with(change).claims().unwrap().clone()
}

#[test]
fn a_boot_is_counted_and_summed_up() {
    let appraised = Machine::good().appraise();
    let claims = appraised.claims().unwrap();
    assert_eq!((claims.bank.as_str(), claims.events), ("sha256", 17));
    assert!(appraised.checks().iter().any(|check| check.detail.contains("secure boot on, 1 images")), "{:?}", appraised.checks());
}

/// The rules of secure boot rest on PCR 7. A quote without it is refused for each of them alone.
#[test]
fn each_rule_of_secure_boot_needs_pcr_7_in_the_quote() {
    let judge = |change: &dyn Fn(&mut BootPolicy)| {
        let Machine { events, mut policy } = Machine::good();
        (policy.secure_boot, policy.authorities, policy.min_dbx_entries) = (SecureBootRule::DangerAny, DigestRule::DangerAny, 0);
        change(&mut policy);
        let log = EventLog { events, ..EventLog::sha256() }.encode();
        let mut values = LogRef::parse(&log).unwrap().replay(HashAlg::Sha256);
        values.remove(&7).unwrap();
        appraise_boot(&log, &quoted(&BTreeMap::from([(HashAlg::Sha256, values)])), &policy)
    };
    assert_eq!(judge(&|_| ()).failed(), None);
    refused_for(&judge(&|policy| policy.secure_boot = SecureBootRule::Required), "PCR 7, which the quote");
    refused_for(&judge(&|policy| policy.authorities = DigestRule::Listed(BTreeSet::new())), "PCR 7, which the quote");
    refused_for(&judge(&|policy| policy.min_dbx_entries = 1), "PCR 7, which the quote");
}

/// Whoever writes into PCR 9 can write what looks like a command line of the kernel's own loader.
#[test]
fn a_command_line_by_the_efi_stub_counts_only_beside_a_list_of_its_files() {
    let line: Vec<u8> = "root=/dev/vda\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let size = u32::try_from(line.len()).unwrap();
    let data = [&0x8f3b_22ed_u32.to_le_bytes()[..], &size.to_le_bytes(), &line].concat();
    let digest = HashAlg::Sha256.digest(&[&line]);
    let event = Event::of_digest(9, EventType::EVENT_TAG, digest.as_slice().try_into().unwrap(), data);
    let machine = |listed: bool| {
        let mut machine = Machine::good();
        machine.policy.digests.extend(listed.then(|| (9, BTreeSet::from([HexDigest(digest)]))));
        *machine.events.last_mut().unwrap() = event.clone();
        machine.appraise()
    };
    let accepted = machine(true);
    assert_eq!(accepted.failed(), None);
    assert_eq!(accepted.claims().unwrap().command_lines[0].source, "efi-stub");
    refused_for(&machine(false), "counts only with a list of digests for PCR 9");
}

#[test]
fn only_the_firmwares_own_version_is_its_version() {
    for (pcr, kind) in [(0, EventType::EFI_ACTION), (1, EventType::S_CRTM_VERSION)] {
        let other = Event::of_data(pcr, kind, *b"v\x002\0\0\0");
        assert_eq!(claims(|events| events.insert(1, other)).firmware_version.as_deref(), Some("v1"), "PCR {pcr}");
    }
}

#[test]
fn an_action_is_told_from_a_binary_under_its_name() {
    let text = *b"Calling EFI Application from Boot Option";
    let action = Event::of_data(4, EventType::EFI_ACTION, text);
    assert!(claims(|events| events.insert(1, action)).loader.is_empty());
    let binary = Event::of_digest(4, EventType::EFI_ACTION, [0x45; 32], text);
    let seen = claims(|events| events.insert(1, binary)).loader;
    assert_eq!(seen.iter().map(|event| event.digest.as_str()).collect::<Vec<_>>(), ["45".repeat(32)]);
}

#[test]
fn commands_of_a_loader_are_counted() {
    let command = Event::of_data(8, EventType::IPL, *b"set root=hd0\0");
    assert_eq!(claims(|_| ()).loader_commands, 0);
    assert_eq!(claims(|events| events.extend([command.clone(), command])).loader_commands, 2);
}

#[test]
fn devices_are_measured_with_secure_boot_by_firmware_only() {
    let device = Event::of_data(7, EventType::EFI_SPDM_DEVICE_POLICY, *b"device");
    let by_firmware = claims(|events| events.insert(1, device.clone()));
    assert!(by_firmware.problems.is_empty() && by_firmware.firmware.iter().any(|event| event.pcr == 7), "{by_firmware:?}");
    refused_for(&Machine::with(|events| events.push(device)), "is of a type that does not belong there");
}

#[test]
fn secure_boot_is_a_variable_of_uefi_itself() {
    let says = |guid| Event::of_data(7, EventType::EFI_VARIABLE_DRIVER_CONFIG, variable(guid, "SecureBoot", &[1]));
    assert!(claims(|events| events[1] = says(GLOBAL)).secure_boot);
    refused_for(&Machine::with(|events| events[1] = says(SECURITY)), "but of another vendor");
}
