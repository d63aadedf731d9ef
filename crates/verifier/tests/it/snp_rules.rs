//! Each check of what a report says fails alone, and names itself.

use casemate_evidence::snp::{Cpuid, GuestPolicy, Mitigations, PlatformInfo, TcbBytes, Version};
use casemate_verifier::snp::{AbiVersion, BitRule, FirmwareVersion, Generation, GuestPolicyRule, Identity, PlatformRule, Tcb};

use crate::{
    snp_checks::{ALL, accepted, refused, refused_of},
    snp_world::Case,
};

#[test]
fn no_tcb_is_below_the_floor() {
    let raise = |generation, change: fn(&mut Tcb)| {
        move |case: &mut Case| {
            let policy = &mut case.policy;
            for rule in [&mut policy.genoa, &mut policy.turin, &mut policy.danger_milan].into_iter().flatten() {
                change(&mut rule.tcb);
            }
            assert_eq!(case.generation, generation);
        }
    };
    for generation in ALL {
        let parts: [fn(&mut Tcb); 4] =
            [|tcb| tcb.bootloader += 1, |tcb| tcb.tee += 1, |tcb| tcb.snp += 1, |tcb| tcb.microcode += 1];
        for part in parts {
            refused_of(Case::new(generation), "snp.tcb-floor", "the reported TCB", raise(generation, part));
        }
    }
    let turin = raise(Generation::Turin, |tcb| tcb.fmc += 1);
    refused_of(Case::new(Generation::Turin), "snp.tcb-floor", "fmc is at level 2, the policy wants 3", turin);
    let lower = |tcb: &mut TcbBytes| tcb.0[0] -= 1;
    refused("snp.tcb-floor", "the TCB at launch: bootloader", |case| lower(&mut case.report.launch_tcb));
    refused("snp.tcb-floor", "the committed TCB: bootloader", |case| lower(&mut case.report.committed_tcb));
    refused("snp.tcb-floor", "the current TCB: bootloader", |case| lower(&mut case.report.current_tcb));
    refused("snp.tcb-floor", "reserved bits", |case| case.report.launch_tcb.0[4] = 1);
}

#[test]
fn tcbs_and_firmware_are_in_order() {
    let lower_floor = |case: &mut Case| case.policy.genoa.as_mut().unwrap().tcb.bootloader = 0;
    refused("snp.tcb-floor", "the reported TCB is beyond the committed TCB: bootloader 9 over 8", |case| {
        lower_floor(case);
        (case.report.committed_tcb.0[0], case.report.current_tcb.0[0]) = (8, 8);
    });
    refused("snp.tcb-floor", "the committed TCB is beyond the current TCB: bootloader 9 over 8", |case| {
        lower_floor(case);
        case.report.current_tcb.0[0] = 8;
    });
    refused("snp.tcb-floor", "the current firmware is version 1.55.39", |case| case.report.current_version.build = 39);
    refused("snp.tcb-floor", "the committed firmware is version 1.54.255, expected is 1.55.40", |case| {
        case.report.committed_version = FirmwareVersion { major: 1, minor: 54, build: 255 };
    });
}

#[test]
fn provisional_firmware_is_refused() {
    let newer = |case: &mut Case| case.report.current_version.build += 1;
    let patched = |case: &mut Case| case.report.current_tcb.0[7] += 1;
    refused("snp.tcb-floor", "provisional", newer);
    refused("snp.tcb-floor", "provisional", patched);
    let claims = accepted(Case::new(Generation::Genoa), |case| {
        newer(case);
        patched(case);
        case.policy.danger_provisional_firmware = true;
    });
    assert!(claims.warnings.iter().any(|warning| warning.contains("provisional")));
}

#[test]
fn mitigations_are_in_both_vectors() {
    let cpuid = Cpuid { family: 0x1a, model: 2, stepping: 1 };
    let vectors = |launch, current| {
        move |case: &mut Case| {
            case.policy.turin.as_mut().unwrap().mitigations = 0b110;
            case.report.version = Version::V5(cpuid, Mitigations { launch, current });
        }
    };
    accepted(Case::new(Generation::Turin), vectors(0b110, 0b1111));
    refused_of(Case::new(Generation::Turin), "snp.tcb-floor", "0x4 are missing", vectors(0b010, 0b111));
    refused_of(Case::new(Generation::Turin), "snp.tcb-floor", "0x2 are missing", vectors(0b111, 0b100));
    refused_of(Case::new(Generation::Turin), "snp.tcb-floor", "0x6 are missing", |case| {
        vectors(0, 0)(case);
        case.report.version = Version::V3(cpuid);
    });
}

#[test]
fn bits_of_the_guest_policy_follow_the_rule() {
    refused("snp.guest-policy", "DEBUG must not be set", |case| case.report.policy.0 |= GuestPolicy::DEBUG.0);
    refused("snp.guest-policy", "MIGRATE_MA must not be set", |case| case.report.policy.0 |= GuestPolicy::MIGRATE_MA.0);
    refused("snp.guest-policy", "bit 17", |case| case.report.policy.0 &= !GuestPolicy::ALWAYS.0);
    refused("snp.guest-policy", "the bits 0x4000000", |case| case.report.policy.0 |= 1 << 26);
    refused("snp.guest-policy", "the bits 0x8000000000000000", |case| case.report.policy.0 |= 1 << 63);
    refused("snp.guest-policy", "ABI 1.55, the policy wants 1.56", |case| {
        case.policy.guest.min_abi = AbiVersion { major: 1, minor: 56 };
    });
    accepted(Case::new(Generation::Genoa), |case| case.policy.guest.min_abi = AbiVersion { major: 1, minor: 55 });
    type Rule = fn(&mut GuestPolicyRule) -> &mut BitRule;
    let rules: [(&str, GuestPolicy, Rule); 7] = [
        ("SMT", GuestPolicy::SMT, |rule| &mut rule.smt),
        ("SINGLE_SOCKET", GuestPolicy::SINGLE_SOCKET, |rule| &mut rule.single_socket),
        ("CXL_ALLOW", GuestPolicy::CXL_ALLOW, |rule| &mut rule.cxl),
        ("MEM_AES_256_XTS", GuestPolicy::MEM_AES_256_XTS, |rule| &mut rule.aes_256_xts),
        ("RAPL_DIS", GuestPolicy::RAPL_DIS, |rule| &mut rule.rapl_disabled),
        ("CIPHERTEXT_HIDING_DRAM", GuestPolicy::CIPHERTEXT_HIDING_DRAM, |rule| &mut rule.ciphertext_hiding),
        ("PAGE_SWAP_DISABLE", GuestPolicy::PAGE_SWAP_DISABLE, |rule| &mut rule.page_swap_disabled),
    ];
    for (name, bit, field) in rules {
        let set = |case: &mut Case, rule| {
            case.report.policy.0 |= bit.0;
            *field(&mut case.policy.guest) = rule;
        };
        let clear = |case: &mut Case, rule| {
            case.report.policy.0 &= !bit.0;
            *field(&mut case.policy.guest) = rule;
        };
        refused("snp.guest-policy", &format!("{name} must not be set"), |case| set(case, BitRule::Forbidden));
        refused("snp.guest-policy", &format!("{name} must be set"), |case| clear(case, BitRule::Required));
        accepted(Case::new(Generation::Genoa), |case| set(case, BitRule::Required));
        accepted(Case::new(Generation::Genoa), |case| clear(case, BitRule::Forbidden));
        accepted(Case::new(Generation::Genoa), |case| set(case, BitRule::Either));
    }
    let claims = accepted(Case::new(Generation::Genoa), |case| {
        case.report.policy.0 |= GuestPolicy::DEBUG.0 | GuestPolicy::MIGRATE_MA.0;
        (case.policy.guest.danger_debug, case.policy.guest.danger_migration) = (true, true);
    });
    assert!(claims.guest_policy.debug && claims.guest_policy.migrate_ma);
    assert_eq!(claims.warnings.iter().filter(|warning| warning.starts_with("by policy the")).count(), 2);
}

#[test]
fn the_platforms_state_follows_the_rule() {
    let alias = PlatformInfo::ALIAS_CHECK_COMPLETE.0;
    refused("snp.platform-info", "ALIAS_CHECK_COMPLETE must be set", |case| case.report.platform_info.0 &= !alias);
    refused("snp.platform-info", "the bits 0x100", |case| case.report.platform_info.0 |= 1 << 8);
    refused("snp.platform-info", "the bits 0x8000000000000000", |case| case.report.platform_info.0 |= 1 << 63);
    let claims = accepted(Case::new(Generation::Genoa), |case| {
        case.report.platform_info.0 &= !alias;
        case.policy.platform.danger_without_alias_check = true;
    });
    assert!(!claims.platform.alias_check_complete && claims.warnings.iter().any(|warning| warning.contains("aliased")));
    type Rule = fn(&mut PlatformRule) -> &mut BitRule;
    let rules: [(&str, PlatformInfo, Rule); 7] = [
        ("SMT_EN", PlatformInfo::SMT_EN, |rule| &mut rule.smt),
        ("TSME_EN", PlatformInfo::TSME_EN, |rule| &mut rule.tsme),
        ("ECC_EN", PlatformInfo::ECC_EN, |rule| &mut rule.ecc),
        ("RAPL_DIS", PlatformInfo::RAPL_DIS, |rule| &mut rule.rapl_disabled),
        ("CIPHERTEXT_HIDING_DRAM_EN", PlatformInfo::CIPHERTEXT_HIDING_DRAM_EN, |rule| &mut rule.ciphertext_hiding),
        ("IOMMU_WRITE_SAFE", PlatformInfo::IOMMU_WRITE_SAFE, |rule| &mut rule.iommu_write_safe),
        ("TIO_EN", PlatformInfo::TIO_EN, |rule| &mut rule.tio),
    ];
    for (name, bit, field) in rules {
        refused("snp.platform-info", &format!("{name} must not be set"), |case| {
            case.report.platform_info.0 |= bit.0;
            *field(&mut case.policy.platform) = BitRule::Forbidden;
        });
        refused("snp.platform-info", &format!("{name} must be set"), |case| {
            case.report.platform_info.0 &= !bit.0;
            *field(&mut case.policy.platform) = BitRule::Required;
        });
    }
}

#[test]
fn the_privilege_level_is_the_expected_one() {
    refused("snp.vmpl", "expected VMPL0, seen VMPL1", |case| case.report.vmpl = 1);
    refused("snp.vmpl", "expected VMPL2, seen VMPL0", |case| case.vmpl = 2);
    refused("snp.vmpl", "seen VMPL4294967295", |case| case.report.vmpl = u32::MAX);
    refused("snp.vmpl", "VMPL4", |case| (case.vmpl, case.report.vmpl) = (4, 4));
    accepted(Case::new(Generation::Genoa), |case| (case.vmpl, case.report.vmpl) = (3, 3));
}

#[test]
fn an_id_block_that_is_not_expected_is_refused() {
    refused("snp.identity", "expected", |case| case.report.id_key_digest[47] = 1);
    refused("snp.identity", "expected", |case| case.report.author_key_digest[0] = 1);
    refused("snp.identity", "AUTHOR_KEY_EN", |case| case.report.author_key_en = true);
    refused("snp.identity", "expected", |case| case.report.family_id[0] = 1);
    refused("snp.identity", "expected", |case| case.report.image_id[15] = 1);
    refused("snp.identity", "GUEST_SVN", |case| case.report.guest_svn = 1);
    let claims = accepted(Case::new(Generation::Genoa), |case| {
        (case.identity, case.report.guest_svn, case.report.id_key_digest) = (Identity::DangerAny, 7, [7; 48]);
    });
    assert!(claims.warnings.iter().any(|warning| warning.contains("ID block")));
}

#[test]
fn an_id_block_is_the_expected_one() {
    let signed = |author: Option<[u8; 48]>| {
        let mut case = Case::new(Generation::Genoa);
        case.identity = Identity::Signed {
            id_key_digest: [7; 48],
            author_key_digest: author,
            family_id: [1; 16],
            image_id: [2; 16],
            min_guest_svn: 5,
        };
        (case.report.id_key_digest, case.report.family_id, case.report.image_id) = ([7; 48], [1; 16], [2; 16]);
        (case.report.guest_svn, case.report.author_key_en) = (5, author.is_some());
        case.report.author_key_digest = author.unwrap_or([0; 48]);
        case
    };
    accepted(signed(None), |case| case.report.guest_svn = u32::MAX);
    refused_of(signed(None), "snp.identity", "GUEST_SVN 5", |case| case.report.guest_svn = 4);
    refused_of(signed(None), "snp.identity", "expected 0707", |case| case.report.id_key_digest[0] = 0);
    refused_of(signed(None), "snp.identity", "expected 0101", |case| case.report.family_id[3] = 0);
    refused_of(signed(None), "snp.identity", "expected 0202", |case| case.report.image_id[3] = 0);
    refused_of(signed(Some([8; 48])), "snp.identity", "expected 0808", |case| case.report.author_key_digest[9] = 9);
    refused_of(signed(Some([8; 48])), "snp.identity", "AUTHOR_KEY_EN true", |case| case.report.author_key_en = false);
}

#[test]
fn measurement_host_data_and_report_data_are_the_expected_ones() {
    refused("snp.measurement", "or one of 1 others", |case| case.report.measurement[47] ^= 1);
    refused("snp.measurement", "expected 0101", |case| case.measurements.truncate(1));
    refused("snp.measurement", "a list that is empty", |case| case.measurements.clear());
    accepted(Case::new(Generation::Genoa), |case| case.report.measurement = [1; 48]);
    refused("snp.host-data", "expected 0303", |case| case.report.host_data[31] ^= 1);
    refused("snp.host-data", "seen 0303", |case| case.host_data = [0; 32]);
    refused("snp.report-data", "expected 0404", |case| case.report.report_data[63] ^= 1);
    refused("snp.report-data", "seen 0404", |case| case.report_data = [0; 64]);
}
