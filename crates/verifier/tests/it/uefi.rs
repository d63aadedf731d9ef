//! Two real boots: UEFI firmware, the distribution's kernel, a quote by the TPM that both measured into.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Instant,
};

use casemate_evidence::{
    eventlog::{Event, EventLog, LogRef},
    tpm::{Digest, HashAlg},
};
use casemate_verifier::{
    Demand, NodePolicy, Outcome,
    boot::{BootClaims, BootPolicy, CommandLineRule, DigestRule, HexDigest, SecureBootRule, VerifiedBoot, appraise_boot},
    quote::{AttestationKey, QuotedBanks},
};

use crate::{
    node::Node,
    uefi_machine::{Boot, Booted},
};

type Appraised = casemate_verifier::Appraised<VerifiedBoot, BootClaims>;

#[test]
fn a_real_boot_is_accepted_and_one_with_another_command_line_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let Some(boot) = Boot::prepare(folder.path()) else { return };
    let start = Instant::now();
    let (one, two) = thread::scope(|scope| {
        let two = scope.spawn(|| boot.run(LINE_TWO, NONCE_TWO, &PCRS));
        (boot.run(LINE_ONE, NONCE_ONE, &PCRS), two.join().unwrap())
    });
    eprintln!("two boots in {:.1} s, logs of {} and {} bytes", start.elapsed().as_secs_f32(), one.log.len(), two.log.len());
    let (quote_one, quote_two) = (quoted(&one, NONCE_ONE), quoted(&two, NONCE_TWO));
    let policy = reference(&one.log, LINE_ONE);

    accepts_the_boot_that_it_describes(&boot, &one, &quote_one, &policy);
    refuses_what_the_strict_policy_names(&one, &quote_one, &policy);
    replays_each_log_to_its_own_quote_alone([(&one, &quote_one), (&two, &quote_two)]);
    finds_the_other_command_line(&one, &two, &quote_two, policy.clone());
    refuses_every_changed_measurement(&one.log, &quote_one, &policy);
    gets_a_certificate_as_a_node_by_its_own_log_alone(&one, &two, &policy);
}

/// A kernel that measures into PCR 10 does so without rules for files: that list is judged elsewhere.
fn gets_a_certificate_as_a_node_by_its_own_log_alone(one: &Booted, two: &Booted, policy: &BootPolicy) {
    let mut node = Node::good();
    node.log.clone_from(&one.node_log);
    node.policy = NodePolicy { boot: Demand::Required(policy.clone()), ima: Demand::DangerNotJudged };
    let appraisal = node.judge(&one.node_quote, None, None);
    assert_eq!(appraisal.result.failed(), None);
    assert!(appraisal.verified().is_some());
    assert_eq!(appraisal.result.submodules["node"].claims["secure_boot"], false);
    // The other boot's log, the other boot, a log that hides its last event.
    node.log.clone_from(&two.node_log);
    assert_eq!(crate::node::refusal(&node.judge(&one.node_quote, None, None)).0, "node.event-log");
    assert_eq!(crate::node::refusal(&node.judge(&two.node_quote, None, None)).0, "node.boot-policy");
    let mut fewer = EventLog::parse(&one.node_log).unwrap();
    fewer.events.pop();
    node.log = fewer.encode();
    assert_eq!(crate::node::refusal(&node.judge(&one.node_quote, None, None)).0, "node.event-log");
    // The firmware's events alone: its PCRs say that there was more.
    node.log.clone_from(&one.log);
    assert_eq!(crate::node::refusal(&node.judge(&one.node_quote, None, None)).0, "node.event-log");
}

fn accepts_the_boot_that_it_describes(boot: &Boot, one: &Booted, quote: &QuotedBanks, policy: &BootPolicy) {
    let appraised = appraise_boot(&one.log, quote, policy);
    assert_eq!(appraised.failed(), None, "{:?}", appraised.checks());
    let (verified, claims) = (appraised.verified().unwrap(), appraised.claims().unwrap());
    assert!(!verified.secure_boot() && verified.bank() == HashAlg::Sha256);
    assert_eq!(claims.warnings, ["secure boot may be off"]);
    assert!(claims.problems.is_empty() && claims.late.is_empty() && claims.unknown_events == 0, "{claims:?}");

    let kernel = verified.images().iter().filter(|image| boot.kernel_digests().iter().any(|digest| digest == image.as_slice()));
    assert_eq!(kernel.count(), 1, "the kernel's Authenticode digest is in none or many of {:?}", claims.images);
    assert!(claims.loader.iter().any(|file| file.pcr == 9 && file.digest == hex::encode(boot.initrd_digest())), "{claims:?}");
    let [line] = &claims.command_lines[..] else { panic!("this kernel measures one command line: {claims:?}") };
    assert_eq!((line.source.as_str(), line.text.as_deref()), ("efi-stub", None));
}

fn refuses_what_the_strict_policy_names(one: &Booted, quote: &QuotedBanks, policy: &BootPolicy) {
    let strict = appraise_boot(&one.log, quote, &BootPolicy::strict());
    assert_eq!(refusal(&strict), ("node.boot-policy", "secure boot is not on"));
    let filled = BootPolicy { secure_boot: SecureBootRule::Required, ..policy.clone() };
    assert_eq!(refusal(&appraise_boot(&one.log, quote, &filled)), ("node.boot-policy", "secure boot is not on"));
    let no_initrd = BootPolicy { digests: BTreeMap::from([(9, BTreeSet::new())]), ..policy.clone() };
    let refused = appraise_boot(&one.log, quote, &no_initrd);
    assert!(refusal(&refused).1.contains("in PCR 9, has the digest"), "{:?}", refusal(&refused));
}

fn replays_each_log_to_its_own_quote_alone([one, two]: [(&Booted, &QuotedBanks); 2]) {
    for ((booted, quote), (_, other), line) in [(one, two, LINE_ONE), (two, one, LINE_TWO)] {
        assert_eq!(LogRef::parse(&booted.log).unwrap().replay(HashAlg::Sha256).get(&9), quote.value(HashAlg::Sha256, 9));
        assert_eq!(appraise_boot(&booted.log, quote, &reference(&booted.log, line)).failed(), None);
        let refused = appraise_boot(&booted.log, other, &reference(&booted.log, line));
        let (check, detail) = refusal(&refused);
        assert_eq!(check, "node.event-log");
        assert!(detail.contains("PCR 9"), "{detail}");
        assert!(refused.claims().is_none());
    }
}

fn finds_the_other_command_line(one: &Booted, two: &Booted, quote: &QuotedBanks, mut policy: BootPolicy) {
    let (first, second) = (EventLog::parse(&one.log).unwrap().events, EventLog::parse(&two.log).unwrap().events);
    assert_eq!(first.len(), second.len());
    let differ: Vec<(&Event, &Event)> = first.iter().zip(&second).filter(|(one, two)| measured(one) != measured(two)).collect();
    let [(before, after)] = differ[..] else { panic!("more than the command line differs: {differ:?}") };
    assert_eq!((before.pcr, after.pcr), (9, 9));
    assert_eq!(measured(before), Some(utf16_digest(LINE_ONE)));
    assert_eq!(measured(after), Some(utf16_digest(LINE_TWO)));

    let refused = appraise_boot(&two.log, quote, &policy);
    let expected = format!("in PCR 9, has the digest {}", utf16_digest(LINE_TWO).0);
    assert!(refusal(&refused).0 == "node.boot-policy" && refusal(&refused).1.contains(&expected), "{:?}", refusal(&refused));
    // The measurement may be one of a file's: then the command line's own rule refuses it.
    policy.digests.get_mut(&9).unwrap().insert(utf16_digest(LINE_TWO));
    let refused = appraise_boot(&two.log, quote, &policy);
    let expected = format!("the kernel command line {} is not accepted", utf16_digest(LINE_TWO).0);
    assert_eq!(refusal(&refused), ("node.boot-policy", expected.as_str()));
    policy.command_lines = CommandLineRule::Listed(BTreeSet::from([measured_line(LINE_TWO)]));
    assert_eq!(appraise_boot(&two.log, quote, &policy).failed(), None);
}

/// Covered by nothing that was quoted: digests of other banks, types, addresses and paths of images. Where such a change passes,
/// all that was claimed before is claimed still, if under another heading.
fn refuses_every_changed_measurement(log: &[u8], quote: &QuotedBanks, policy: &BootPolicy) {
    let what_counts = |appraised: &Appraised| {
        let claims = appraised.claims().unwrap().clone();
        let measured: BTreeSet<String> = (claims.images.into_iter().map(|image| image.digest))
            .chain(claims.loader.into_iter().chain(claims.firmware).map(|event| event.digest))
            .collect();
        let lines: Vec<String> = claims.command_lines.into_iter().map(|line| line.digest).collect();
        (measured, (lines, claims.secure_boot, claims.variables))
    };
    let (all, good) = what_counts(&appraise_boot(log, quote, policy));
    let digests: Vec<Digest> = EventLog::parse(log).unwrap().events.iter().filter_map(measured).map(|digest| digest.0).collect();
    let starts = |at: usize| digests.iter().any(|digest| log[at..].starts_with(digest.as_slice()));
    let places: BTreeSet<usize> = (0..log.len()).filter(|at| starts(*at)).flat_map(|at| at..at + 32).collect();
    assert_eq!(places.len(), 32 * digests.len());
    for at in 0..log.len() {
        let mut changed = log.to_vec();
        changed[at] ^= 1;
        let appraised = appraise_boot(&changed, quote, policy);
        if places.contains(&at) {
            assert_eq!(refusal(&appraised).0, "node.event-log", "byte {at}");
        } else if appraised.verified().is_some() {
            let (seen, rest) = what_counts(&appraised);
            assert!(all.is_subset(&seen), "byte {at}: {:?} are lost", all.difference(&seen));
            assert_eq!(rest, good, "byte {at}");
        }
    }
}

/// The quoted PCRs, after all that is to be checked of a quote.
fn quoted(booted: &Booted, nonce: &[u8]) -> QuotedBanks {
    let bundle = &booted.quote;
    let quote = AttestationKey::from_public(&bundle.ak_public).unwrap().quote(&bundle.attest, &bundle.signature).unwrap();
    assert!(quote.is_for(nonce) && !quote.is_for(b"another nonce"));
    quote.pcrs(&PCRS, &bundle.pcrs).unwrap().to_banks()
}

/// A policy for the machine that this log was written by: all is listed. It has no secure boot, and nothing else is let through.
fn reference(log: &[u8], line: &str) -> BootPolicy {
    let events = EventLog::parse(log).unwrap().events;
    let of = |pcr: u32| events.iter().filter(move |event| event.pcr == pcr).filter_map(measured).collect();
    BootPolicy {
        secure_boot: SecureBootRule::DangerAny,
        authorities: DigestRule::Listed(BTreeSet::new()),
        min_dbx_entries: 0,
        digests: PCRS.iter().map(|pcr| (*pcr, of(*pcr))).collect(),
        command_lines: CommandLineRule::Listed(BTreeSet::from([measured_line(line)])),
        ..BootPolicy::strict()
    }
}

fn measured(event: &Event) -> Option<HexDigest> {
    Digest::from_slice(&event.measured_sha256()?).map(HexDigest)
}

/// OVMF names the initrd to the kernel.
fn measured_line(line: &str) -> String {
    format!("{line} initrd=initrd")
}

fn utf16_digest(line: &str) -> HexDigest {
    let bytes: Vec<u8> = measured_line(line).encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    HexDigest(HashAlg::Sha256.digest(&[&bytes]))
}

/// What failed, and why.
fn refusal(appraised: &Appraised) -> (&str, &str) {
    assert!(appraised.verified().is_none());
    let check = appraised.checks().iter().find(|check| check.outcome == Outcome::Fail).expect("a check failed");
    (&check.name, &check.detail)
}

const PCRS: [u32; 10] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const LINE_ONE: &str = "console=ttyS0 casemate.run=one";
const LINE_TWO: &str = "console=ttyS0 casemate.run=two";
const NONCE_ONE: &[u8] = b"nonce of the first boot";
const NONCE_TWO: &[u8] = b"nonce of the second boot";
