//! IMA lists: replay, allow-list, and going on where the last appraisal ended.

use std::collections::BTreeMap;

use casemate_evidence::{
    ima::{DigestKind, Format, Reader},
    tpm::{Digest, HashAlg},
};
use casemate_verifier::{
    IMA_CHECKS, Outcome,
    ima::{
        BootAggregateRule, ExtensionRule, FileDigest, IMA_PCR, ImaClaims, ImaPolicy, ImaState, Sha1Rule, VerifiedIma,
        ViolationRule, appraise_ima,
    },
    quote::{BankValues, QuotedBanks},
};

use crate::{banks::quoted, vectors};

type Appraised = casemate_verifier::Appraised<VerifiedIma, ImaClaims>;

const BANK: HashAlg = HashAlg::Sha256;

fn refused_for(appraised: &Appraised, why: &str) {
    assert!(appraised.verified().is_none());
    let check = appraised.checks().iter().find(|check| check.outcome == Outcome::Fail).expect("a check failed");
    assert!(check.name == "node.ima" && check.detail.contains(why), "{}: {}", check.name, check.detail);
}

/// An `ima-ng` line whose file has the digest of its name.
fn line(name: &str) -> String {
    line_of(name, &BANK.digest(&[name.as_bytes()]))
}

fn line_of(name: &str, digest: &Digest) -> String {
    line_by(BANK, name, digest)
}

fn line_by(alg: HashAlg, name: &str, digest: &Digest) -> String {
    let alg = alg.name();
    let sized = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat();
    let fields =
        [sized(&[format!("{alg}:\0").as_bytes(), digest.as_slice()].concat()), sized(&[name.as_bytes(), b"\0"].concat())]
            .concat();
    format!("10 {} ima-ng {alg}:{digest} {name}\n", HashAlg::Sha1.digest(&[&fields]))
}

fn violation(name: &str) -> String {
    format!("10 {} ima-ng sha256:{} {name}\n", "00".repeat(20), "00".repeat(32))
}

/// PCRs 0 to 9, and the list's start that goes with them.
fn boot() -> (BTreeMap<u32, Digest>, String) {
    let values: BTreeMap<u32, Digest> = (0..10).map(|pcr| (pcr, BANK.digest(&[&[u8::try_from(pcr).unwrap()]]))).collect();
    let aggregate = BANK.digest(&values.values().map(Digest::as_slice).collect::<Vec<_>>());
    (values, line_of("boot_aggregate", &aggregate))
}

/// The PCR that a kernel has after this list.
fn replay(list: &str) -> Digest {
    let mut reader = Reader::new(list.as_bytes(), Format::Ascii);
    let mut pcr = Digest::zero(BANK);
    while let Some(entry) = reader.next_entry().unwrap() {
        let digest = if entry.is_violation() { Digest::ones(BANK) } else { entry.template_digest(BANK) };
        pcr = pcr.extended(BANK, digest.as_slice());
    }
    pcr
}

fn quote_of(list: &str) -> QuotedBanks {
    let (mut values, _) = boot();
    values.insert(IMA_PCR, replay(list));
    quoted(&BankValues::from([(BANK, values)]))
}

fn policy(names: &[&str]) -> ImaPolicy {
    let known = |name: &&str| {
        let digest = BANK.digest(&[name.as_bytes()]);
        ((*name).to_owned(), vec![FileDigest { kind: Default::default(), alg: BANK, digest }])
    };
    ImaPolicy { allowed: names.iter().map(known).collect(), ..ImaPolicy::strict() }
}

fn good() -> String {
    [boot().1, line("/init"), line("/bin/sh")].concat()
}

fn appraise(list: &str, quote: &QuotedBanks, policy: &ImaPolicy) -> Appraised {
    appraise_ima(list.as_bytes(), Format::Ascii, &ImaState::start(BANK), quote, policy)
}

#[test]
fn a_list_of_known_files_that_leads_to_the_quote_is_accepted() {
    let appraised = appraise(&good(), &quote_of(&good()), &policy(&["/init", "/bin/sh"]));
    assert_eq!(appraised.failed(), None);
    assert_eq!(appraised.checks().len(), IMA_CHECKS.len());
    let claims = appraised.claims().unwrap();
    assert_eq!((claims.entries, claims.unlisted, claims.violations, claims.bytes_beyond_quote), (3, 0, 0, 0));
    assert!(claims.boot_aggregate.is_some() && claims.warnings.is_empty());
    let state = appraised.verified().unwrap().state();
    assert_eq!((state.count(), state.offset()), (3, u64::try_from(good().len()).unwrap()));
}

#[test]
fn goes_on_where_it_ended_and_only_there() {
    let known = policy(&["/init", "/bin/sh", "/bin/ls"]);
    let first = appraise(&good(), &quote_of(&good()), &known);
    let stored = serde_json::to_string(first.verified().unwrap().state()).unwrap();
    let state: ImaState = serde_json::from_str(&stored).unwrap();
    assert_eq!(&state, first.verified().unwrap().state());

    let (more, quote) = (line("/bin/ls"), quote_of(&[good(), line("/bin/ls")].concat()));
    let next = appraise_ima(more.as_bytes(), Format::Ascii, &state, &quote, &known);
    assert_eq!(next.failed(), None);
    let claims = next.claims().unwrap();
    assert_eq!((claims.earlier_entries, claims.entries), (3, 1));
    assert_eq!(next.verified().unwrap().state().count(), 4);
    // Nothing new is fine, too.
    let same = appraise_ima(b"", Format::Ascii, &state, &quote_of(&good()), &known);
    assert_eq!(same.verified().unwrap().state(), &state);
    // After another boot the PCR begins anew.
    let rebooted = quote_of(&[boot().1, line("/init")].concat());
    refused_for(&appraise_ima(line("/init").as_bytes(), Format::Ascii, &state, &rebooted, &known), "replays to");
    assert!(serde_json::from_str::<ImaState>(&stored.replace("sha256", "sha384")).is_err());
}

#[test]
fn what_was_measured_after_the_quote_is_left_for_the_next_time() {
    let quote = quote_of(&good());
    let list = [good(), line("/unknown")].concat();
    let appraised = appraise(&list, &quote, &policy(&["/init", "/bin/sh"]));
    assert_eq!(appraised.failed(), None);
    assert_eq!(appraised.verified().unwrap().state().count(), 3);
    assert_eq!(appraised.claims().unwrap().bytes_beyond_quote, u64::try_from(line("/unknown").len()).unwrap());
}

#[test]
fn each_rule_refuses_by_itself() {
    let known = || policy(&["/init", "/bin/sh"]);
    let unknown = appraise(&good(), &quote_of(&good()), &policy(&["/init"]));
    refused_for(&unknown, "entry 2: /bin/sh with sha256:");
    assert_eq!(unknown.claims().unwrap().first_unlisted.as_deref(), Some("/bin/sh"));

    let changed = [boot().1, line("/init"), violation("/bin/sh")].concat();
    refused_for(&appraise(&changed, &quote_of(&changed), &known()), "changed while it was measured");
    let counted = ImaPolicy { violations: ViolationRule::DangerCounted, ..known() };
    assert_eq!(appraise(&changed, &quote_of(&changed), &counted).claims().unwrap().violations, 1);
    assert_eq!(appraise(&changed, &quote_of(&changed), &counted).failed(), None);

    let other_boot = [line_of("boot_aggregate", &BANK.digest(&[b"another"])), line("/init")].concat();
    refused_for(&appraise(&other_boot, &quote_of(&other_boot), &known()), "the boot aggregate is");
    refused_for(&appraise(&line("/init"), &quote_of(&line("/init")), &known()), "does not start with the boot aggregate");
    let few = quoted(&BankValues::from([(BANK, BTreeMap::from([(IMA_PCR, replay(&good()))]))]));
    refused_for(&appraise(&good(), &few, &known()), "does not cover the PCRs that the boot aggregate is over");
    let none = quoted(&BankValues::from([(BANK, boot().0)]));
    refused_for(&appraise(&good(), &none, &known()), "does not cover Sha256 PCR 10");
    refused_for(&appraise(&good(), &quote_of(&good()), &ImaPolicy { max_entries: 2, ..known() }), "more than 2 entries");
}

#[test]
fn a_changed_list_is_refused_whichever_byte_was_changed() {
    let (list, quote) = (good(), quote_of(&good()));
    let known = policy(&["/init", "/bin/sh"]);
    for at in 0..list.len() {
        let mut bytes = list.clone().into_bytes();
        bytes[at] ^= 1;
        let appraised = appraise_ima(&bytes, Format::Ascii, &ImaState::start(BANK), &quote, &known);
        refused_for(&appraised, "");
    }
    for bad in ["", &list[..list.len() - 1], &[line("/init"), list.clone()].concat()] {
        refused_for(&appraise(bad, &quote, &known), "");
    }
    let of_pcr_11 = list.replacen("10 ", "11 ", 1);
    refused_for(&appraise(&of_pcr_11, &quote, &known), "is for PCR 11");
}

#[test]
fn folders_may_be_excepted_and_it_shows() {
    let list = [good(), line("/tmp/x"), line("/tmp/../bin/evil")].concat();
    let mut policy = policy(&["/init", "/bin/sh"]);
    policy.allow_unlisted_under = vec!["/tmp/".to_owned()];
    let appraised = appraise(&list, &quote_of(&list), &policy);
    refused_for(&appraised, "/tmp/../bin/evil");
    let claims = appraised.claims().unwrap();
    assert_eq!((claims.unlisted, claims.allowed_unlisted, claims.warnings.len()), (2, 1, 1));
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<ImaPolicy>(&json).unwrap(), policy);
}

#[test]
fn a_file_is_known_only_by_kind_algorithm_and_digest_together() {
    let changed = [boot().1, line("/init"), line_of("/bin/sh", &BANK.digest(&[b"another"]))].concat();
    refused_for(&appraise(&changed, &quote_of(&changed), &policy(&["/init", "/bin/sh"])), "entry 2: /bin/sh with sha256:");
    let known = policy(&["/bin/sh"]).allowed["/bin/sh"][0];
    for other in [FileDigest { kind: DigestKind::Verity, ..known }, FileDigest { alg: HashAlg::Sha384, ..known }] {
        let mut policy = policy(&["/init"]);
        policy.allowed.insert("/bin/sh".to_owned(), vec![other]);
        refused_for(&appraise(&good(), &quote_of(&good()), &policy), "entry 2: /bin/sh with sha256:");
    }
}

#[test]
fn sha1_names_a_file_only_where_that_is_accepted() {
    let digest = HashAlg::Sha1.digest(&[b"/bin/sh"]);
    let list = [boot().1, line("/init"), line_by(HashAlg::Sha1, "/bin/sh", &digest)].concat();
    let mut policy = policy(&["/init"]);
    policy.allowed.insert("/bin/sh".to_owned(), vec![FileDigest { kind: DigestKind::Ima, alg: HashAlg::Sha1, digest }]);
    refused_for(&appraise(&list, &quote_of(&list), &policy), "entry 2: /bin/sh with sha1:");
    policy.sha1_digests = Sha1Rule::DangerAccept;
    assert_eq!(appraise(&list, &quote_of(&list), &policy).failed(), None);
}

#[test]
fn one_file_may_be_excepted_and_none_whose_name_only_begins_so() {
    let mut policy = policy(&["/init", "/bin/sh"]);
    policy.allow_unlisted_under = vec!["/etc/mtab".to_owned()];
    let list = [good(), line("/etc/mtab")].concat();
    assert_eq!(appraise(&list, &quote_of(&list), &policy).failed(), None);
    for other in ["/etc/mtab2", "/etc", "/etc/mtab/x"] {
        let list = [good(), line(other)].concat();
        refused_for(&appraise(&list, &quote_of(&list), &policy), other);
    }
}

/// 826 lines of a real machine, whose SHA-1 digests all recompute; its TPM was not there when the list began.
#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_real_list_is_judged_entry_by_entry() {
    let list = String::from_utf8(vectors::read("tpm/ima-ng.ascii.txt")).unwrap();
    let mut reader = Reader::new(list.as_bytes(), Format::Ascii);
    let mut allowed: std::collections::HashMap<String, Vec<FileDigest>> = Default::default();
    while let Some(entry) = reader.next_entry().unwrap() {
        let digest = Digest::from_slice(entry.digest()).unwrap();
        let known = FileDigest { kind: entry.digest_kind(), alg: entry.digest_alg().unwrap(), digest };
        allowed.entry(String::from_utf8(entry.name().to_vec()).unwrap()).or_default().push(known);
    }
    assert_eq!(reader.count(), 826);
    let policy = ImaPolicy {
        allowed,
        boot_aggregate: BootAggregateRule::DangerAny,
        violations: ViolationRule::DangerCounted,
        sha1_digests: Sha1Rule::DangerAccept,
        ..ImaPolicy::strict()
    };
    let appraised = appraise(&list, &quote_of(&list), &policy);
    assert_eq!(appraised.failed(), None);
    assert_eq!(appraised.claims().unwrap().entries, 826);
    refused_for(&appraise(&list, &quote_of(&list), &ImaPolicy { sha1_digests: Sha1Rule::Refuse, ..policy.clone() }), "/init");

    accepted_of_an_old_kernel_only_by_its_rule(&list, policy);
}

#[test]
fn a_kernel_that_fills_up_sha1_is_accepted_only_by_its_rule() {
    let list = [good(), violation("/etc/x")].concat();
    let policy = ImaPolicy { violations: ViolationRule::DangerCounted, ..policy(&["/init", "/bin/sh"]) };
    accepted_of_an_old_kernel_only_by_its_rule(&list, policy);
}

/// It extends SHA-1, filled up with zeros.
fn accepted_of_an_old_kernel_only_by_its_rule(list: &str, policy: ImaPolicy) {
    let mut reader = Reader::new(list.as_bytes(), Format::Ascii);
    let (mut values, _) = boot();
    let mut pcr = Digest::zero(BANK);
    while let Some(entry) = reader.next_entry().unwrap() {
        let sha1 = if entry.is_violation() { Digest::ones(HashAlg::Sha1) } else { entry.listed() };
        let padded = [sha1.as_slice(), &[0; 12]].concat();
        pcr = pcr.extended(BANK, &padded);
    }
    values.insert(IMA_PCR, pcr);
    let old = quoted(&BankValues::from([(BANK, values)]));
    refused_for(&appraise(list, &old, &policy), "replays to");
    let padded = ImaPolicy { extension: ExtensionRule::DangerPaddedSha1, ..policy };
    assert_eq!(appraise(list, &old, &padded).failed(), None);
}
