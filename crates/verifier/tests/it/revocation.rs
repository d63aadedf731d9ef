//! Revocation lists: a list that is not there, not fresh, or not the newest is a refusal like a hit.

use std::collections::BTreeSet;

use casemate_verifier::{
    EnvelopeError, UnixTime,
    revocation::{CLOCK_AHEAD_S, MAX_FRESH_S, Refused, RestsOn, RevocationError, RevocationList, Revocations, judge},
};
use ed25519_dalek::SigningKey;

use crate::world::{NOW, reference_key};

fn set(entries: &[&str]) -> BTreeSet<String> {
    entries.iter().map(|entry| (*entry).to_owned()).collect()
}

fn list() -> Revocations {
    Revocations {
        version: 1,
        serial: 17,
        issued_at: NOW,
        next_update: UnixTime(NOW.0 + 86_400),
        chips: set(&[&"c1".repeat(64)]),
        aks: set(&[&"000b".repeat(17)]),
        images: set(&[&"1a".repeat(32)]),
        silicon_generations: set(&["milan"]),
    }
}

fn read(file: &str) -> Result<RevocationList, RevocationError> {
    RevocationList::from_signed(file.as_bytes(), &reference_key().verifying_key().to_bytes())
}

fn good() -> RevocationList {
    read(&list().to_signed(&reference_key())).unwrap()
}

fn changed(change: impl FnOnce(&mut Revocations)) -> Result<RevocationList, RevocationError> {
    let mut list = list();
    change(&mut list);
    read(&list.to_signed(&reference_key()))
}

const NOTHING: RestsOn<'_> = RestsOn { chips: &[], aks: &[], images: &[], silicon_generations: &[] };

fn lookup(rests_on: &RestsOn<'_>) -> Result<(), Refused> {
    judge(Some(&good()), NOW, 17).unwrap().require_absent(rests_on)
}

#[test]
fn what_is_not_listed_passes() {
    let rests_on = RestsOn {
        chips: &[&[0xc2; 64]],
        aks: &[&[0xab; 34]],
        images: &[&[0x1b; 32], &[0x1c; 48]],
        silicon_generations: &["genoa"],
    };
    lookup(&rests_on).unwrap();
    lookup(&NOTHING).unwrap();
}

#[test]
fn each_listed_thing_alone_is_refused() {
    let ak = hex::decode("000b".repeat(17)).unwrap();
    let cases = [
        ("the chip", RestsOn { chips: &[&[0; 64], &[0xc1; 64]], ..NOTHING }),
        ("the attestation key", RestsOn { aks: &[&ak], ..NOTHING }),
        ("the image", RestsOn { images: &[&[0x1a; 32]], ..NOTHING }),
        ("silicon of generation", RestsOn { silicon_generations: &["Milan"], ..NOTHING }),
    ];
    for (expected, rests_on) in cases {
        let refused = lookup(&rests_on);
        assert!(matches!(refused, Err(Refused::Revoked { what, serial: 17, .. }) if what == expected), "{expected}: {refused:?}");
    }
    // Each in the place of another is no hit.
    lookup(&RestsOn { images: &[&[0xc1; 64]], chips: &[&[0x1a; 32]], aks: &[&[0x1a; 32]], silicon_generations: &[] }).unwrap();
}

#[test]
fn there_is_no_appraisal_without_a_fresh_list() {
    let list = good();
    assert!(matches!(judge(None, NOW, 0), Err(Refused::Absent)));
    for now in [NOW.0 - CLOCK_AHEAD_S, NOW.0, NOW.0 + 86_399] {
        assert!(judge(Some(&list), UnixTime(now), 0).is_ok(), "{now}");
    }
    for now in [NOW.0 + 86_400, u64::MAX] {
        assert!(matches!(judge(Some(&list), UnixTime(now), 0), Err(Refused::Expired { .. })), "{now}");
    }
    for now in [NOW.0 - CLOCK_AHEAD_S - 1, 0] {
        assert!(matches!(judge(Some(&list), UnixTime(now), 0), Err(Refused::NotYet { .. })), "{now}");
    }
}

#[test]
fn an_older_list_than_was_seen_is_refused() {
    let list = good();
    assert_eq!(list.serial(), 17);
    for floor in [0, 16, 17] {
        assert!(judge(Some(&list), NOW, floor).is_ok());
    }
    for floor in [18, u64::MAX] {
        assert!(matches!(judge(Some(&list), NOW, floor), Err(Refused::RolledBack { serial: 17, .. })));
    }
}

#[test]
fn refuses_any_change_and_any_other_key() {
    let file = list().to_signed(&reference_key());
    for at in 0..file.len() {
        let mut changed = file.clone().into_bytes();
        changed[at] ^= 1;
        // White space between the members is nobody's statement: every other byte is.
        let same = std::str::from_utf8(&changed).is_ok_and(|text| read(text).is_ok_and(|list| list == good()));
        let outside = file.as_bytes()[at].is_ascii_whitespace();
        assert!(!same || outside, "byte {at}");
    }
    let other = list().to_signed(&SigningKey::from_bytes(&[1; 32]));
    assert!(matches!(read(&other), Err(RevocationError::Envelope(EnvelopeError::OtherKey { .. }))));
}

#[test]
fn reference_values_do_not_pass_for_revocations() {
    let payload = serde_json::to_string(&list()).unwrap();
    let file = crate::world::signed_references(&payload, &reference_key());
    let refused = read(std::str::from_utf8(&file).unwrap());
    assert!(matches!(refused, Err(RevocationError::Envelope(EnvelopeError::Signature))));
}

#[test]
fn refuses_lists_that_make_no_sense() {
    assert!(matches!(changed(|list| list.version = 2), Err(RevocationError::Version(2))));
    assert!(matches!(changed(|list| list.next_update = list.issued_at), Err(RevocationError::Period { .. })));
    assert!(matches!(changed(|list| list.next_update = UnixTime(0)), Err(RevocationError::Period { .. })));
    assert!(changed(|list| list.next_update = UnixTime(NOW.0 + MAX_FRESH_S)).is_ok());
    assert!(matches!(changed(|list| list.next_update = UnixTime(NOW.0 + MAX_FRESH_S + 1)), Err(RevocationError::Period { .. })));
    for entry in ["", "C1C1C1C1C1C1C1C1", "xyz", "c1", " c1c1c1c1c1c1c1c1"] {
        for at in 0..3 {
            let refused = changed(|list| {
                [&mut list.chips, &mut list.aks, &mut list.images][at].insert(entry.into());
            });
            assert!(matches!(refused, Err(RevocationError::Entry { .. })), "{entry:?}");
        }
    }
    for entry in ["", "Milan", "mi lan"] {
        let refused = changed(|list| {
            list.silicon_generations.insert(entry.into());
        });
        assert!(matches!(refused, Err(RevocationError::Entry { .. })), "{entry:?}");
    }
    assert!(matches!(read("{}"), Err(RevocationError::Envelope(EnvelopeError::Json(_)))));
}
