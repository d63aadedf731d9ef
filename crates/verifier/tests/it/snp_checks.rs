//! Each check of who signed a report fails alone, and names itself.

use casemate_evidence::snp::{Cpuid, SigningKey, Version};
use casemate_verifier::{
    UnixTime,
    snp::{
        Endorsements, FirmwareVersion, Generation, GenerationRule, RevocationRule, SNP_CHECKS, SignedChain, SignerRule,
        SnpClaims, SnpPolicy, Tcb,
    },
};
use proptest::prelude::*;

use crate::snp_world::{CSP, Case, INTERMEDIATE, chip, int, tlv};

pub(crate) const ALL: [Generation; 3] = [Generation::Milan, Generation::Genoa, Generation::Turin];

/// What fails after `change`, on the good case of Genoa.
#[track_caller]
pub(crate) fn refused(name: &str, contains: &str, change: impl FnOnce(&mut Case)) {
    refused_of(Case::new(Generation::Genoa), name, contains, change);
}

#[track_caller]
pub(crate) fn refused_of(mut case: Case, name: &str, contains: &str, change: impl FnOnce(&mut Case)) {
    assert!(case.appraise().verified().is_some());
    change(&mut case);
    let appraised = case.appraise();
    let check = appraised.failed().expect("a check fails");
    assert_eq!(check.name, name, "{}", check.detail);
    assert!(check.detail.contains(contains), "{}", check.detail);
    assert!(appraised.verified().is_none());
    assert_eq!(appraised.checks().len(), SNP_CHECKS.len());
}

#[track_caller]
pub(crate) fn accepted(mut case: Case, change: impl FnOnce(&mut Case)) -> SnpClaims {
    change(&mut case);
    let appraised = case.appraise();
    assert_eq!(appraised.failed(), None);
    assert!(appraised.verified().is_some());
    appraised.claims().unwrap().clone()
}

#[test]
fn good_reports_of_each_generation_and_signer_are_accepted() {
    for generation in ALL {
        let claims = accepted(Case::new(generation), |_| ());
        assert_eq!((claims.generation, claims.simulated, claims.revocation_checked), (Some(generation), true, true));
        // Whoever trusts a simulated root is told, and nothing is assured.
        assert!(!claims.integrity_assured && claims.warnings.iter().any(|warning| warning.starts_with("simulated")));
        assert_eq!(claims.chip_id, Some(hex::encode(chip(generation))));
        let claims = accepted(Case::vlek(generation), |_| ());
        assert_eq!((claims.csp_id.as_deref(), claims.chip_id), (Some(CSP), None));
        let json = serde_json::to_string(&accepted(Case::vlek(generation), |_| ())).unwrap();
        assert_eq!(serde_json::from_str::<SnpClaims>(&json).unwrap().csp_id.as_deref(), Some(CSP));
    }
}

#[test]
fn a_verified_report_says_what_was_compared() {
    let case = Case::new(Generation::Genoa);
    let appraised = case.appraise();
    let verified = appraised.verified().unwrap();
    assert_eq!((verified.host_data(), verified.report_data()), (&case.host_data, &case.report_data));
    assert!(verified.simulated(), "its root is ours");
    let warned = |text: &str| appraised.claims().unwrap().warnings.iter().any(|warning| warning.contains(text));
    assert!(warned("roots that are not the vendor's are accepted"));
}

#[test]
fn format_is_checked() {
    let case = Case::new(Generation::Genoa);
    let (mut report, chain) = (case.signed(), case.chain());
    report[0] = 4;
    let appraised = case.appraise_bytes(&report, &Endorsements::new(&chain, None));
    assert_eq!(appraised.failed().map(|check| check.detail.as_str()), Some("report version 4 is not known here"));
    assert!(appraised.claims().is_none());
}

#[test]
fn the_signer_is_the_one_that_the_policy_wants() {
    refused("snp.signer", "unsupported signer", |case| case.report.signing_key = SigningKey::Vlek);
    refused("snp.signer", "unsupported signer", |case| case.report.signing_key = SigningKey::None);
    refused("snp.signer", "unsupported signer", |case| case.policy.signer = SignerRule::Vlek { csp_ids: vec![CSP.into()] });
    refused("snp.signer", "MASK_CHIP_KEY", |case| case.report.mask_chip_key = true);
    accepted(Case::vlek(Generation::Genoa), |case| case.report.mask_chip_key = true);
}

#[test]
fn the_certificate_is_of_the_kind_that_the_report_names() {
    refused("snp.chain", "the report names Vlek as the signing key, the certificate is one of a Vcek", |case| {
        case.report.signing_key = SigningKey::Vlek;
        case.policy.signer = SignerRule::Vlek { csp_ids: vec![CSP.into()] };
    });
    refused_of(Case::vlek(Generation::Genoa), "snp.chain", "the policy does not name", |case| {
        case.policy.signer = SignerRule::Vlek { csp_ids: vec![format!("{CSP}."), String::new()] };
    });
}

#[test]
fn roots_are_pinned_for_their_generation() {
    refused("snp.chain", "is not pinned for Genoa", |case| case.policy.danger_simulated_roots[0].generation = Generation::Turin);
    refused("snp.chain", "is not pinned for Genoa", |case| case.policy.danger_simulated_roots[0].fingerprint.truncate(62));
    let case = Case::new(Generation::Genoa);
    let (chain, report) = (case.chain(), case.signed());
    let without = Case { policy: SnpPolicy { danger_simulated_roots: vec![], ..case.policy.clone() }, ..case };
    let appraised = without.appraise_bytes(&report, &Endorsements::new(&chain, None));
    assert_eq!(appraised.failed().map(|check| check.name.as_str()), Some("snp.chain"));
}

#[test]
fn chains_are_complete_signed_and_valid() {
    let case = Case::new(Generation::Genoa);
    let (chain, report) = (case.chain(), case.signed());
    for bad in [&chain[..2], &chain[1..], &[], &[chain.clone(), chain.clone()].concat()] {
        let appraised = case.appraise_bytes(&report, &Endorsements::new(bad, None));
        assert!(appraised.failed().is_some_and(|check| check.name == "snp.chain" && check.detail.contains("the chain has")));
    }
    refused("snp.chain", "the signature is not the issuer's", |case| case.leaf.by_the_root = true);
    refused("snp.chain", "is valid from", |case| case.leaf.not_after = "260531235959Z");
    refused("snp.chain", "is valid from", |case| case.leaf.not_before = "260601000001Z");
    // Never valid together with the root, which starts in 2020.
    refused("snp.chain", "is valid from", |case| {
        (case.leaf.not_before, case.leaf.not_after) = ("190101000000Z", "191231000000Z");
        case.now = UnixTime(1_560_000_000);
    });
}

#[test]
fn signing_certificates_say_all_that_they_must() {
    let text = |text: &str| Some(tlv(0x16, text.as_bytes()));
    type Replaced = (&'static [u8], Option<Vec<u8>>, &'static str);
    let cases: [Replaced; 21] = [
        (&[1], None, "structVersion"),
        (&[1], Some(int(2)), "structure version"),
        (&[2], None, "productName"),
        (&[2], text("Genoa-"), "product \"Genoa-\""),
        (&[2], text("Genoa-B1-B1"), "product"),
        (&[2], text("Genoa-B10"), "product"),
        (&[2], text("Genoa-b1"), "product"),
        (&[2], text("Gen"), "product \"Gen\""),
        (&[2], text("Genoa2"), "product \"Genoa2\""),
        (&[2], Some(tlv(0x0c, b"Genoa")), "productName"),
        (&[3, 1], None, "blSPL"),
        (&[3, 2], None, "teeSPL"),
        (&[3, 3], None, "snpSPL"),
        (&[3, 8], None, "ucodeSPL"),
        (&[3, 8], Some(tlv(2, &[1, 0])), "ucodeSPL"),
        (&[3, 4], Some(int(1)), "reserved extension"),
        (&[3, 9], Some(int(0)), "1.3.6.1.4.1.3704.1.3.9, which is not known"),
        (&[6], Some(int(0)), "1.3.6.1.4.1.3704.1.6, which is not known"),
        (&[4], None, "hwID"),
        (&[4], Some(vec![0xc5; 63]), "hwID"),
        (&[5], text(CSP), "neither one of a chip"),
    ];
    for (oid, content, contains) in cases {
        refused("snp.chain", contains, |case| case.leaf.replace(oid, content));
    }
    refused("snp.chain", "neither one of a chip", |case| case.leaf.subject = "SEV-VCEK2");
    refused_of(Case::vlek(Generation::Genoa), "snp.chain", "cspID", |case| case.leaf.replace(&[5], None));
    refused_of(Case::new(Generation::Turin), "snp.chain", "fmcSPL", |case| case.leaf.replace(&[3, 9], None));
    refused_of(Case::new(Generation::Turin), "snp.chain", "hwID", |case| case.leaf.replace(&[4], Some(vec![0xc5; 64])));
}

#[test]
fn a_chips_identifier_may_be_wrapped_in_an_octet_string() {
    for generation in ALL {
        let len = if generation == Generation::Turin { 8 } else { 64 };
        accepted(Case::new(generation), |case| case.leaf.replace(&[4], Some(tlv(4, &chip(generation)[..len]))));
    }
}

/// The bare bytes may look like the head of an OCTET STRING; and a head that does not fit is none.
#[test]
fn a_chips_identifier_is_taken_as_it_was_written() {
    let with = |generation, id: &[u8], content: Vec<u8>| {
        let mut case = Case::new(generation);
        case.leaf.replace(&[4], Some(content));
        case.report.chip_id = [0; 64];
        case.report.chip_id[..id.len()].copy_from_slice(id);
        case
    };
    for (generation, len) in [(Generation::Turin, 8_u8), (Generation::Genoa, 64)] {
        for second in [len, len - 2] {
            let mut id = vec![7; usize::from(len)];
            (id[0], id[1]) = (4, second);
            accepted(with(generation, &id, id.clone()), |_| ());
        }
        let id = vec![7; usize::from(len)];
        accepted(with(generation, &id, [&[4, len], &id[..]].concat()), |_| ());
        let appraised = with(generation, &id, [&[4, len + 1], &id[..]].concat()).appraise();
        assert!(appraised.verified().is_none(), "{:?}", appraised.checks());
    }
}

#[test]
fn generations_are_named_by_the_policy() {
    let milan = Case::new(Generation::Milan);
    refused_of(milan, "snp.generation", "the policy does not accept Milan", |case| case.policy.danger_milan = None);
    refused("snp.generation", "does not accept Genoa", |case| case.policy.genoa = None);
    refused_of(Case::new(Generation::Turin), "snp.generation", "does not accept Turin", |case| case.policy.turin = None);
}

#[test]
fn the_processor_in_the_report_is_of_the_certificates_generation() {
    let cpuid = |family, model| Version::V3(Cpuid { family, model, stepping: 1 });
    refused("snp.generation", "the report is of a Milan", |case| case.report.version = cpuid(0x19, 1));
    refused("snp.generation", "no processor generation known here", |case| case.report.version = cpuid(0x1b, 1));
    // Bergamo and Siena are endorsed as Genoa.
    accepted(Case::new(Generation::Genoa), |case| case.report.version = cpuid(0x19, 0xa0));
    // Version 2 says nothing; the certificate does.
    for generation in ALL {
        let claims = accepted(Case::new(generation), |case| case.report.version = Version::V2);
        assert_eq!((claims.generation, claims.processor), (Some(generation), None));
        assert!(claims.reported_tcb.is_some());
    }
}

#[test]
fn a_fresh_revocation_list_is_needed() {
    let crl = |case: &mut Case, change: fn(&mut crate::snp_world::Crl)| change(case.crl.as_mut().unwrap());
    refused("snp.revocation", "there is no revocation list", |case| case.crl = None);
    refused("snp.revocation", "\"CN=SEV-Genoa\" with serial number 11 is revoked", |case| {
        crl(case, |crl| crl.revoked = vec![5, INTERMEDIATE]);
    });
    refused("snp.revocation", "the signature", |case| crl(case, |crl| crl.by_the_intermediate = true));
    refused("snp.revocation", "is valid from", |case| crl(case, |crl| crl.next_update = "260531235959Z"));
    refused("snp.revocation", "is valid from", |case| crl(case, |crl| crl.this_update = "260601000001Z"));
    // 2026-01-01 to 2026-06-01 are 151 days.
    let age_s = 151 * 24 * 3600;
    let most = |max_age_s| move |case: &mut Case| case.policy.revocation = RevocationRule::Fresh { max_age_s };
    refused("snp.revocation", "s old, more than", most(age_s - 1));
    accepted(Case::new(Generation::Genoa), most(age_s));
    accepted(Case::new(Generation::Genoa), |case| crl(case, |crl| crl.revoked = vec![5, INTERMEDIATE + 1]));
    // Its first and its last second.
    accepted(Case::new(Generation::Genoa), |case| crl(case, |crl| crl.this_update = "260601000000Z"));
    accepted(Case::new(Generation::Genoa), |case| crl(case, |crl| crl.next_update = "260601000000Z"));
}

#[test]
fn without_a_revocation_list_only_in_danger() {
    let claims = accepted(Case::new(Generation::Genoa), |case| {
        (case.crl, case.policy.revocation) = (None, RevocationRule::DangerWithout);
    });
    assert!(!claims.revocation_checked && claims.warnings.iter().any(|warning| warning.contains("revocation list")));
    // One that is there counts all the same.
    refused("snp.revocation", "is revoked", |case| {
        case.policy.revocation = RevocationRule::DangerWithout;
        case.crl.as_mut().unwrap().revoked = vec![INTERMEDIATE];
    });
}

#[test]
fn a_kept_chain_is_judged_anew_each_time() {
    let mut case = Case::new(Generation::Genoa);
    let (kept, report) = (case.kept(), case.signed());
    let failed = |case: &Case| {
        let appraised = case.appraise_bytes(&report, &Endorsements::kept(&kept));
        appraised.failed().map(|check| check.name.clone())
    };
    assert_eq!(failed(&case), None);
    case.now = UnixTime(1_800_000_000);
    assert_eq!(failed(&case).as_deref(), Some("snp.revocation"), "the list ended in 2027");
    case.now = UnixTime(1_990_000_000);
    assert_eq!(failed(&case).as_deref(), Some("snp.chain"), "the certificate ended in 2033");
    case.now = crate::snp_world::NOW;
    case.policy.danger_simulated_roots.clear();
    assert_eq!(failed(&case).as_deref(), Some("snp.chain"));

    let revoked = Case { crl: Some(crate::snp_world::Crl { revoked: vec![INTERMEDIATE], ..case.crl.clone().unwrap() }), ..case };
    assert!(SignedChain::new(&revoked.chain()).unwrap().with_crl(&revoked.crl_bytes().unwrap()).is_ok(), "signed it is");
    let forged =
        Case { crl: revoked.crl.clone().map(|crl| crate::snp_world::Crl { by_the_intermediate: true, ..crl }), ..revoked };
    assert!(SignedChain::new(&forged.chain()).unwrap().with_crl(&forged.crl_bytes().unwrap()).is_err());
}

#[test]
fn the_chip_is_the_certificates_and_not_revoked() {
    refused("snp.chip-id", "expected c5c5", |case| case.report.chip_id[63] ^= 1);
    refused("snp.chip-id", "hides its chip", |case| case.report.chip_id = [0; 64]);
    refused("snp.chip-id", "is revoked", |case| case.revoked.push(case.report.chip_id));
    // From Turin on the rest of the field must be zero.
    refused_of(Case::new(Generation::Turin), "snp.chip-id", "expected c5c5", |case| case.report.chip_id[8] = 1);
    // A provider may name the chip; revoked it is for everybody.
    accepted(Case::vlek(Generation::Genoa), |case| case.report.chip_id = [8; 64]);
    refused_of(Case::vlek(Generation::Genoa), "snp.chip-id", "is revoked", |case| case.report.chip_id = [9; 64]);
}

#[test]
fn the_reported_tcb_is_exactly_the_certificates() {
    for generation in ALL {
        for at in 0..8 {
            for step in [1_u8, 255] {
                let change = |case: &mut Case| case.report.reported_tcb.0[at] = case.report.reported_tcb.0[at].wrapping_add(step);
                refused_of(Case::new(generation), "snp.tcb", "the reported TCB", change);
            }
        }
    }
    refused("snp.tcb", "microcode 85", |case| case.leaf.replace(&[3, 8], Some(int(85))));
    refused_of(Case::new(Generation::Turin), "snp.tcb", "fmc 3", |case| case.leaf.replace(&[3, 9], Some(int(3))));
}

#[test]
fn the_signature_is_by_the_certificates_key() {
    let case = Case::new(Generation::Genoa);
    let (kept, signed) = (case.kept(), case.signed());
    let fails = |change: &dyn Fn(&mut [u8]), contains: &str| {
        let mut report = signed;
        change(&mut report);
        let appraised = case.appraise_bytes(&report, &Endorsements::kept(&kept));
        let check = appraised.failed().expect("a check fails");
        assert_eq!(check.name, "snp.signature");
        assert!(check.detail.contains(contains), "{}", check.detail);
    };
    fails(&|report| report[0x50] ^= 1, "bad signature");
    fails(&|report| report[0x2a0] ^= 1, "bad signature");
    fails(&|report| report[0x2a0 + 48] = 1, "no pair of numbers");
    fails(&|report| report[0x2a0 + 72 + 71] = 1, "no pair of numbers");
    fails(&|report| report[0x2a0..0x2a0 + 48].fill(0), "no pair of numbers");
    fails(&|report| report[0x2a0 + 72..0x2a0 + 72 + 48].fill(0xff), "no pair of numbers");
    refused("snp.signature", "signature algorithm 2", |case| case.report.signature_algo = 2);

    let other = Case { leaf: crate::snp_world::Leaf { key: [0x43; 48], ..case.leaf.clone() }, ..case.clone() };
    let appraised = case.appraise_bytes(&other.signed(), &Endorsements::kept(&kept));
    assert!(appraised.failed().is_some_and(|check| check.detail.starts_with("bad signature")));
}

#[test]
fn policy_files_are_whole_and_have_nothing_unknown() {
    let rule = GenerationRule {
        tcb: Tcb { fmc: 0, bootloader: 10, tee: 0, snp: 23, microcode: 84 },
        firmware: FirmwareVersion { major: 1, minor: 55, build: 40 },
        mitigations: 0,
    };
    let policy = SnpPolicy::strict(Some(rule), None);
    let json = serde_json::to_value(&policy).unwrap();
    assert_eq!(serde_json::from_value::<SnpPolicy>(json.clone()).unwrap(), policy);
    for field in ["signer", "revocation", "guest", "platform"] {
        let mut without = json.clone();
        without.as_object_mut().unwrap().remove(field);
        assert!(serde_json::from_value::<SnpPolicy>(without).is_err(), "{field}");
    }
    let mut unknown = json.clone();
    unknown["guest"]["debgu"] = true.into();
    assert!(serde_json::from_value::<SnpPolicy>(unknown).is_err());
    let mut unknown = json;
    unknown["genoa"]["tcb"]["microcod"] = 1.into();
    assert!(serde_json::from_value::<SnpPolicy>(unknown).is_err());
}

#[test]
fn the_strict_policy_is_strict() {
    let policy = SnpPolicy::strict(None, None);
    assert_eq!((policy.danger_milan, &policy.signer), (None, &SignerRule::Vcek));
    assert!(matches!(policy.revocation, RevocationRule::Fresh { .. }));
    assert!(!policy.guest.danger_debug && !policy.guest.danger_migration && !policy.platform.danger_without_alias_check);
    assert!(!policy.danger_provisional_firmware && policy.danger_simulated_roots.is_empty());
}

#[test]
fn revocation_lists_with_any_byte_changed_are_refused() {
    let case = Case::new(Generation::Genoa);
    let (chain, report, good) = (case.chain(), case.signed(), case.crl_bytes().unwrap());
    for at in 0..good.len() {
        let mut crl = good.clone();
        crl[at] ^= 1 << (at % 8);
        let appraised = case.appraise_bytes(&report, &Endorsements::new(&chain, Some(&crl)));
        assert_eq!(appraised.failed().map(|check| check.name.as_str()), Some("snp.revocation"), "byte {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_as_report_chain_or_list_are_refused_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 1..200),
        at in any::<prop::sample::Index>(),
    ) {
        let case = Case::new(Generation::Turin);
        let (chain, report, crl) = (case.chain(), case.signed(), case.crl_bytes().unwrap());
        let splice = |good: &[u8]| {
            let (mut bad, at) = (good.to_vec(), at.index(good.len()));
            let end = (at + bytes.len() / 8 + 1).min(bad.len());
            bad.splice(at..end, bytes[..(end - at).min(bytes.len())].iter().copied());
            bad
        };
        let good = |report: &[u8], chain: &[Vec<u8>], crl: &[u8]| {
            case.appraise_bytes(report, &Endorsements::new(chain, Some(crl))).verified().is_some()
        };
        prop_assert!(good(&report, &chain, &crl));
        prop_assert!(!good(&bytes, &chain, &crl) && !good(&report, std::slice::from_ref(&bytes), &crl) && !good(&report, &chain, &bytes));
        prop_assert_eq!(good(&splice(&report), &chain, &crl), splice(&report) == report);
        prop_assert_eq!(good(&report, &chain, &splice(&crl)), splice(&crl) == crl);
        for certificate in 0..3 {
            let mut bad = chain.clone();
            bad[certificate] = splice(&bad[certificate]);
            prop_assert_eq!(good(&report, &bad, &crl), bad == chain);
        }
    }
}
