//! Reports of real machines.

use casemate_verifier::{
    Appraised, UnixTime,
    snp::{
        ChainError, Endorsements, Expectation, FirmwareVersion, Generation, GenerationRule, Identity, RevocationRule, SNP_CHECKS,
        SignedChain, SignerRule, SigningKey, SnpClaims, SnpPolicy, Tcb, VerifiedSnp, amd_root_fingerprint, appraise_snp,
    },
};
use sha2::{Digest as _, Sha256};

use crate::vectors;

/// A vector with the policy that it just meets.
struct Vector {
    report: Vec<u8>,
    chain: Vec<Vec<u8>>,
    policy: SnpPolicy,
    identity: Identity,
    vmpl: u8,
    now: UnixTime,
}

impl Vector {
    fn genoa() -> Self {
        let mut policy = SnpPolicy::strict(Some(rule(10, 23, 84, [1, 55, 40])), None);
        policy.revocation = RevocationRule::DangerWithout;
        let report = read("genoa-v3.report.bin");
        let identity = signed_identity(&report, 2);
        let chain = [pem("genoa-v3.vcek.pem"), pem("certs/genoa_ask.pem"), pem("certs/genoa_ark.pem")].concat();
        // 2026-06-01.
        Self { report, chain, policy, identity, vmpl: 0, now: UnixTime(1_780_272_000) }
    }

    fn milan() -> Self {
        let mut policy = SnpPolicy::strict(None, None);
        policy.danger_milan = Some(rule(3, 8, 0x73, [1, 52, 4]));
        policy.revocation = RevocationRule::DangerWithout;
        policy.platform.danger_without_alias_check = true;
        policy.danger_provisional_firmware = true;
        let report = read("milan-v2.report.bin");
        let identity = signed_identity(&report, 4);
        let chain = [vec![read("milan-v2.vcek.der")], pem("certs/milan_ask.pem"), pem("certs/milan_ark.pem")].concat();
        // 2025-06-01.
        Self { report, chain, policy, identity, vmpl: 0, now: UnixTime(1_748_736_000) }
    }

    fn vlek() -> Self {
        let policy = SnpPolicy {
            danger_milan: Some(rule(4, 0x18, 0xd9, [1, 55, 29])),
            signer: SignerRule::Vlek { csp_ids: vec!["CN=cc-us-east-2.amazonaws.com".into()] },
            revocation: RevocationRule::DangerWithout,
            danger_provisional_firmware: true,
            ..SnpPolicy::strict(None, None)
        };
        let report = read("milan-vlek-v3.report.bin");
        let chain = [vec![read("milan-vlek-v3.vlek.der")], pem("certs/milan_vlek_chain.pem")].concat();
        // 2025-06-01.
        Self { report, chain, policy, identity: Identity::Absent, vmpl: 1, now: UnixTime(1_748_736_000) }
    }

    fn all() -> [Self; 3] {
        [Self::genoa(), Self::milan(), Self::vlek()]
    }

    /// What is expected of the guest is what the file has there; each is changed in a test of its own.
    fn appraise(&self, report: &[u8], endorsements: &Endorsements<'_>) -> Appraised<VerifiedSnp, SnpClaims> {
        let expectation = Expectation {
            measurements: &[self.report[0x90..0xc0].try_into().unwrap()],
            host_data: self.report[0xc0..0xe0].try_into().unwrap(),
            report_data: self.report[0x50..0x90].try_into().unwrap(),
            vmpl: self.vmpl,
            identity: self.identity.clone(),
            revoked_chips: &[],
        };
        appraise_snp(report, endorsements, &self.policy, &expectation, self.now)
    }

    fn judge(&self) -> Appraised<VerifiedSnp, SnpClaims> {
        self.appraise(&self.report, &Endorsements::new(&self.chain, None))
    }
}

fn rule(bootloader: u8, snp: u8, microcode: u8, firmware: [u8; 3]) -> GenerationRule {
    let [major, minor, build] = firmware;
    GenerationRule {
        tcb: Tcb { fmc: 0, bootloader, tee: 0, snp, microcode },
        firmware: FirmwareVersion { major, minor, build },
        mitigations: 0,
    }
}

/// The ID block that the vectors with one have: family 1, image 2, no author key.
fn signed_identity(report: &[u8], min_guest_svn: u32) -> Identity {
    let id = |first| std::array::from_fn(|at| if at == 0 { first } else { 0 });
    let id_key_digest = report[0xe0..0x110].try_into().unwrap();
    Identity::Signed { id_key_digest, author_key_digest: None, family_id: id(1), image_id: id(2), min_guest_svn }
}

fn read(name: &str) -> Vec<u8> {
    vectors::read(&format!("snp/{name}"))
}

fn pem(name: &str) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    let text = String::from_utf8(read(name)).unwrap();
    let body = |part: &str| part.split("-----END").next().unwrap().split_whitespace().collect::<String>();
    let der = |part| base64::engine::general_purpose::STANDARD.decode(body(part)).unwrap();
    text.split("-----BEGIN CERTIFICATE-----").skip(1).map(der).collect()
}

fn failed(appraised: &Appraised<VerifiedSnp, SnpClaims>) -> Option<(&str, &str)> {
    assert_eq!(appraised.verified().is_none(), appraised.failed().is_some());
    appraised.failed().map(|check| (check.name.as_str(), check.detail.as_str()))
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_genoa_report_of_version_3_is_accepted() {
    let vector = Vector::genoa();
    let appraised = vector.judge();
    assert_eq!(failed(&appraised), None);
    assert_eq!(appraised.checks().len(), SNP_CHECKS.len());
    let (claims, verified) = (appraised.claims().unwrap(), appraised.verified().unwrap());
    assert_eq!((claims.version, claims.generation, claims.integrity_assured), (3, Some(Generation::Genoa), true));
    assert_eq!(claims.reported_tcb, Some(Tcb { fmc: 0, bootloader: 10, tee: 0, snp: 23, microcode: 84 }));
    assert!(claims.platform.alias_check_complete && !claims.revocation_checked && !claims.simulated);
    assert_eq!(verified.chip_id().map(hex::encode), claims.chip_id);
    assert_eq!(hex::encode(&verified.chip_id().unwrap()[..4]), "b1e24a27");
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_milan_report_of_version_2_is_accepted_only_if_milan_is_named() {
    let mut vector = Vector::milan();
    let appraised = vector.judge();
    assert_eq!(failed(&appraised), None);
    let claims = appraised.claims().unwrap();
    assert_eq!((claims.version, claims.generation, claims.integrity_assured), (2, Some(Generation::Milan), false));
    assert!(claims.warnings.iter().any(|warning| warning.starts_with("integrity is not assured")));
    vector.policy.genoa = vector.policy.danger_milan.take();
    assert_eq!(failed(&vector.judge()), Some(("snp.generation", "the policy does not accept Milan")));
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_vlek_report_is_accepted_while_its_certificate_is_valid() {
    let mut vector = Vector::vlek();
    let appraised = vector.judge();
    assert_eq!(failed(&appraised), None);
    let (claims, verified) = (appraised.claims().unwrap(), appraised.verified().unwrap());
    assert_eq!(claims.csp_id.as_deref(), Some("CN=cc-us-east-2.amazonaws.com"));
    assert_eq!((claims.chip_id.as_ref(), verified.chip_id(), verified.signing_key()), (None, None, SigningKey::Vlek));
    // Valid from 2024-12-10 22:14:21 to 2025-12-10 22:14:21, both included.
    for (now, good) in [(1_733_868_860, false), (1_733_868_861, true), (1_765_404_861, true), (1_765_404_862, false)] {
        vector.now = UnixTime(now);
        assert_eq!(failed(&vector.judge()).map(|(name, _)| name), (!good).then_some("snp.chain"), "{now}");
    }
    assert!(failed(&vector.judge()).unwrap().1.contains("valid from 2024-12-10T22:14:21Z to 2025-12-10T22:14:21Z"));
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_vlek_report_for_a_policy_that_wants_a_vcek_has_an_unsupported_signer() {
    let mut vector = Vector::vlek();
    vector.policy.signer = SignerRule::Vcek;
    let (name, detail) = failed(&vector.judge()).map(|(name, detail)| (name.to_owned(), detail.to_owned())).unwrap();
    assert_eq!((name.as_str(), detail.starts_with("unsupported signer")), ("snp.signer", true), "{detail}");
    vector.policy.signer = SignerRule::Vlek { csp_ids: vec!["CN=cc-us-east-2.amazonaws.co".into()] };
    assert_eq!(failed(&vector.judge()).map(|(name, _)| name), Some("snp.chain"));
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_certificate_of_another_issuer_parses_and_its_chain_fails() {
    let mut vector = Vector::milan();
    vector.chain[0] = read("milan-bad-chain.vcek.der");
    assert!(matches!(SignedChain::new(&vector.chain), Err(ChainError::Path(_))));
    assert_eq!(failed(&vector.judge()).map(|(name, _)| name), Some("snp.chain"));
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn chains_of_another_generation_do_not_fit() {
    let (mut genoa, milan) = (Vector::genoa(), Vector::milan());
    let own = genoa.chain.clone();
    genoa.chain = milan.chain.clone();
    genoa.policy.danger_milan = milan.policy.danger_milan;
    assert_eq!(failed(&genoa.judge()), Some(("snp.generation", "the report is of a Genoa, the certificate of a Milan")));
    genoa.chain = vec![own[0].clone(), milan.chain[1].clone(), milan.chain[2].clone()];
    assert_eq!(failed(&genoa.judge()).map(|(name, _)| name), Some("snp.chain"));
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_raised_tcb_is_not_the_certificates() {
    for vector in Vector::all() {
        let mut raised = vector.report.clone();
        raised[0x180] += 1;
        let appraised = vector.appraise(&raised, &Endorsements::new(&vector.chain, None));
        let (name, detail) = failed(&appraised).unwrap();
        assert_eq!(name, "snp.tcb");
        assert!(detail.starts_with("the reported TCB is not the one that the certificate is for: expected"), "{detail}");
    }
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn accepted_reports_with_any_byte_changed_are_refused_by_name() {
    for vector in Vector::all() {
        let kept = SignedChain::new(&vector.chain).unwrap();
        let vlek = vector.policy.signer != SignerRule::Vcek;
        let version = vector.report[0];
        let mut by_signature = 0;
        for at in 0..vector.report.len() {
            let mut bytes = vector.report.clone();
            bytes[at] ^= 1 << (at % 8);
            let expected: &[&str] = match at {
                // Version 2 becomes 3, without a processor.
                0 if version == 2 => &["snp.generation"],
                0x1f8..0x208 if version == 5 => &["snp.signature"],
                0..4 | 0x49..0x50 | 0x18b..0x1a0 | 0x1eb | 0x1ef | 0x1f8..0x2a0 | 0x330.. => &["snp.format"],
                0x188..0x18b if version == 2 => &["snp.format"],
                0x188 => &["snp.generation"],
                0x189 => &["snp.generation", "snp.signature"],
                0x180..0x188 => &["snp.tcb"],
                0x1a0..0x1e0 if !vlek => &["snp.chip-id"],
                _ => &["snp.signature"],
            };
            let appraised = vector.appraise(&bytes, &Endorsements::kept(&kept));
            let (name, _) = failed(&appraised).unwrap_or_else(|| panic!("byte {at:#x} does not count"));
            assert!(expected.contains(&name), "byte {at:#x}: {name}");
            by_signature += usize::from(name == "snp.signature");
        }
        assert!(by_signature > 500, "{by_signature}");
    }
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn certificates_with_any_byte_changed_are_refused() {
    let vector = Vector::genoa();
    for certificate in 0..3 {
        for at in 0..vector.chain[certificate].len() {
            let mut chain = vector.chain.clone();
            chain[certificate][at] ^= 1 << (at % 8);
            let appraised = vector.appraise(&vector.report, &Endorsements::new(&chain, None));
            assert_eq!(failed(&appraised).map(|(name, _)| name), Some("snp.chain"), "certificate {certificate} byte {at}");
        }
    }
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn a_kept_chain_gives_the_same_verdict_and_is_judged_at_each_time() {
    for mut vector in Vector::all() {
        let kept = SignedChain::new(&vector.chain).unwrap();
        let (one, other) = (vector.judge(), vector.appraise(&vector.report, &Endorsements::kept(&kept)));
        assert_eq!((one.checks(), one.claims(), one.verified()), (other.checks(), other.claims(), other.verified()));
        let (begin, end) = kept.validity();
        for (now, good) in [(begin.0 - 1, false), (begin.0, true), (end.0, true), (end.0 + 1, false)] {
            vector.now = UnixTime(now);
            let appraised = vector.appraise(&vector.report, &Endorsements::kept(&kept));
            assert_eq!(failed(&appraised).map(|(name, _)| name), (!good).then_some("snp.chain"), "{now}");
        }
    }
}

#[test]
#[ignore = "evidence of real machines: CASEMATE_VECTORS"]
fn the_pinned_roots_are_amds() {
    for (generation, name) in [(Generation::Milan, "milan"), (Generation::Genoa, "genoa"), (Generation::Turin, "turin")] {
        let root = pem(&format!("certs/{name}_ark.pem"));
        assert_eq!(amd_root_fingerprint(generation), Sha256::digest(&root[0]).as_slice());
    }
}
