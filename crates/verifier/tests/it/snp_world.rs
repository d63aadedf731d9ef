//! Chips, certificates and reports of our own, which are good until a test changes something.

use std::sync::LazyLock;

use casemate_evidence::snp::{
    AttestationReport, Cpuid, FirmwareVersion, GuestPolicy, Mitigations, PlatformInfo, REPORT_BYTES, ReportSignature,
    SIGNED_BYTES, SigningKey, TcbBytes, Version,
};
use casemate_verifier::{
    Appraised, UnixTime,
    snp::{
        Endorsements, Expectation, Generation, GenerationRule, Identity, SignedChain, SimulatedRoot, SnpClaims, SnpPolicy, Tcb,
        VerifiedSnp, appraise_snp,
    },
};
use getrandom::{SysRng, rand_core::UnwrapErr};
use p384::ecdsa::{Signature, signature::hazmat::PrehashSigner as _};
use rsa::{
    RsaPrivateKey,
    pkcs8::EncodePublicKey as _,
    pss,
    signature::{RandomizedSigner as _, SignatureEncoding as _},
};
use sha2::{Digest as _, Sha256, Sha384};

/// 2026-06-01.
pub(crate) const NOW: UnixTime = UnixTime(1_780_272_000);
/// The ID of the world's chips, whole; from Turin on its first eight bytes.
pub(crate) const CHIP: [u8; 64] = [0xc5; 64];
pub(crate) const CSP: &str = "CN=cloud.example";

static KEYS: LazyLock<[RsaPrivateKey; 2]> =
    LazyLock::new(|| [(); 2].map(|()| RsaPrivateKey::new(&mut UnwrapErr(SysRng), 2048).unwrap()));

/// A report, a chain and what is expected of them.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) generation: Generation,
    pub(crate) report: AttestationReport,
    pub(crate) leaf: Leaf,
    pub(crate) crl: Option<Crl>,
    pub(crate) policy: SnpPolicy,
    pub(crate) measurements: Vec<[u8; 48]>,
    pub(crate) host_data: [u8; 32],
    pub(crate) report_data: [u8; 64],
    pub(crate) vmpl: u8,
    pub(crate) identity: Identity,
    pub(crate) revoked: Vec<[u8; 64]>,
    pub(crate) now: UnixTime,
}

/// A signing certificate to be made.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) subject: &'static str,
    /// Last part of the OID below AMD's arc 1.3.6.1.4.1.3704.1, and content.
    pub(crate) extensions: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) not_before: &'static str,
    pub(crate) not_after: &'static str,
    pub(crate) key: [u8; 48],
    /// Signed by the root's key in place of the intermediate's.
    pub(crate) by_the_root: bool,
}

/// A revocation list to be made.
#[derive(Clone)]
pub(crate) struct Crl {
    pub(crate) this_update: &'static str,
    pub(crate) next_update: &'static str,
    pub(crate) revoked: Vec<u8>,
    /// Signed by the intermediate's key in place of the root's.
    pub(crate) by_the_intermediate: bool,
}

impl Case {
    pub(crate) fn new(generation: Generation) -> Self {
        let tcb = Tcb { fmc: if generation == Generation::Turin { 2 } else { 0 }, bootloader: 9, tee: 1, snp: 23, microcode: 84 };
        let (family, model) = match generation {
            Generation::Milan => (0x19, 0x01),
            Generation::Genoa => (0x19, 0x11),
            Generation::Turin => (0x1a, 0x02),
        };
        let cpuid = Cpuid { family, model, stepping: 1 };
        let version = match generation {
            Generation::Milan | Generation::Genoa => Version::V3(cpuid),
            Generation::Turin => Version::V5(cpuid, Mitigations { launch: 7, current: 7 }),
        };
        let rule = Some(GenerationRule { tcb, firmware: FIRMWARE, mitigations: 0 });
        let mut policy = SnpPolicy::strict(rule, rule);
        policy.danger_milan = rule;
        let fingerprint = hex::encode(Sha256::digest(root(generation)));
        policy.danger_simulated_roots = vec![SimulatedRoot { generation, fingerprint }];
        Self {
            generation,
            report: report(version, tcb.encode(generation), chip(generation)),
            leaf: Leaf::vcek(generation, tcb),
            crl: Some(Crl {
                this_update: "260101000000Z",
                next_update: "270101000000Z",
                revoked: vec![],
                by_the_intermediate: false,
            }),
            policy,
            measurements: vec![[1; 48], [2; 48]],
            host_data: [3; 32],
            report_data: [4; 64],
            vmpl: 0,
            identity: Identity::Absent,
            revoked: vec![[9; 64]],
            now: NOW,
        }
    }

    /// The same, signed by a provider's key, with the chip hidden.
    pub(crate) fn vlek(generation: Generation) -> Self {
        let mut case = Self::new(generation);
        case.leaf.subject = "SEV-VLEK";
        case.leaf.replace(&[4], None);
        case.leaf.replace(&[5], Some(tlv(0x16, CSP.as_bytes())));
        case.leaf.replace(&[2], Some(tlv(0x16, generation.name().as_bytes())));
        case.report.signing_key = SigningKey::Vlek;
        case.report.chip_id = [0; 64];
        case.policy.signer = casemate_verifier::snp::SignerRule::Vlek { csp_ids: vec!["CN=other.example".into(), CSP.into()] };
        case
    }

    /// The report, signed by the leaf's key.
    pub(crate) fn signed(&self) -> [u8; REPORT_BYTES] {
        let key = p384::ecdsa::SigningKey::from_slice(&self.leaf.key).unwrap();
        let unsigned = self.report.encode();
        let signature: Signature = key.sign_prehash(&Sha384::digest(&unsigned[..SIGNED_BYTES])).unwrap();
        let little = |big: &[u8]| {
            let mut number = [0; 72];
            number.iter_mut().zip(big.iter().rev()).for_each(|(to, from)| *to = *from);
            number
        };
        let (r, s) = (signature.r().to_bytes(), signature.s().to_bytes());
        AttestationReport { signature: ReportSignature { r: little(&r), s: little(&s) }, ..self.report.clone() }.encode()
    }

    pub(crate) fn chain(&self) -> Vec<Vec<u8>> {
        vec![self.leaf.encode(self.generation), intermediate(self.generation), root(self.generation)]
    }

    pub(crate) fn crl_bytes(&self) -> Option<Vec<u8>> {
        self.crl.as_ref().map(|crl| crl.encode(self.generation))
    }

    pub(crate) fn kept(&self) -> SignedChain {
        let chain = SignedChain::new(&self.chain()).unwrap();
        match self.crl_bytes() {
            Some(crl) => chain.with_crl(&crl).unwrap(),
            None => chain,
        }
    }

    pub(crate) fn appraise(&self) -> Appraised<VerifiedSnp, SnpClaims> {
        let (chain, crl) = (self.chain(), self.crl_bytes());
        self.appraise_bytes(&self.signed(), &Endorsements::new(&chain, crl.as_deref()))
    }

    pub(crate) fn appraise_bytes(&self, report: &[u8], endorsements: &Endorsements<'_>) -> Appraised<VerifiedSnp, SnpClaims> {
        let expectation = Expectation {
            measurements: &self.measurements,
            host_data: self.host_data,
            report_data: self.report_data,
            vmpl: self.vmpl,
            identity: self.identity.clone(),
            revoked_chips: &self.revoked,
        };
        appraise_snp(report, endorsements, &self.policy, &expectation, self.now)
    }
}

fn report(version: Version, tcb: TcbBytes, chip_id: [u8; 64]) -> AttestationReport {
    AttestationReport {
        version,
        guest_svn: 0,
        policy: GuestPolicy(GuestPolicy::ALWAYS.0 | GuestPolicy::SMT.0 | 0x0137),
        family_id: [0; 16],
        image_id: [0; 16],
        vmpl: 0,
        signature_algo: 1,
        current_tcb: tcb,
        platform_info: PlatformInfo(PlatformInfo::ALIAS_CHECK_COMPLETE.0 | PlatformInfo::SMT_EN.0),
        author_key_en: false,
        mask_chip_key: false,
        signing_key: SigningKey::Vcek,
        report_data: [4; 64],
        measurement: [2; 48],
        host_data: [3; 32],
        id_key_digest: [0; 48],
        author_key_digest: [0; 48],
        report_id: [5; 32],
        report_id_ma: [0xff; 32],
        reported_tcb: tcb,
        chip_id,
        committed_tcb: tcb,
        current_version: FIRMWARE,
        committed_version: FIRMWARE,
        launch_tcb: tcb,
        signature: ReportSignature { r: [0; 72], s: [0; 72] },
    }
}

pub(crate) fn chip(generation: Generation) -> [u8; 64] {
    let mut id = [0; 64];
    id[..chip_len(generation)].copy_from_slice(&CHIP[..chip_len(generation)]);
    id
}

fn chip_len(generation: Generation) -> usize {
    if generation == Generation::Turin { 8 } else { 64 }
}

impl Leaf {
    fn vcek(generation: Generation, tcb: Tcb) -> Self {
        let mut extensions = vec![
            (vec![1], int(1)),
            (vec![2], tlv(0x16, format!("{generation}-B1").as_bytes())),
            (vec![3, 1], int(tcb.bootloader)),
            (vec![3, 2], int(tcb.tee)),
            (vec![3, 3], int(tcb.snp)),
            (vec![3, 8], int(tcb.microcode)),
            (vec![4], CHIP[..chip_len(generation)].to_vec()),
        ];
        match generation {
            Generation::Turin => extensions.push((vec![3, 9], int(tcb.fmc))),
            Generation::Milan | Generation::Genoa => extensions.extend((4..8).map(|spl| (vec![3, spl], int(0)))),
        }
        Self {
            subject: "SEV-VCEK",
            extensions,
            not_before: "260101000000Z",
            not_after: "330101000000Z",
            key: [0x42; 48],
            by_the_root: false,
        }
    }

    /// Sets, adds or removes an extension.
    pub(crate) fn replace(&mut self, oid: &[u8], content: Option<Vec<u8>>) {
        self.extensions.retain(|(seen, _)| seen != oid);
        self.extensions.extend(content.map(|content| (oid.to_vec(), content)));
    }

    fn encode(&self, generation: Generation) -> Vec<u8> {
        let extension = |(oid, content): &(Vec<u8>, Vec<u8>)| {
            let oid = [&[0x2b, 6, 1, 4, 1, 0x9c, 0x78, 1], oid.as_slice()].concat();
            seq(&[tlv(6, &oid), tlv(4, content)])
        };
        let public = p384::ecdsa::SigningKey::from_slice(&self.key).unwrap();
        let key = p384::PublicKey::from(public.verifying_key()).to_public_key_der().unwrap().into_vec();
        let body = Body {
            serial: 0,
            issuer: &intermediate_name(generation),
            subject: self.subject,
            not_before: self.not_before,
            not_after: self.not_after,
            key,
            extensions: self.extensions.iter().map(extension).collect(),
        };
        body.signed_by(&KEYS[usize::from(!self.by_the_root)])
    }
}

impl Crl {
    fn encode(&self, generation: Generation) -> Vec<u8> {
        let revoked = self.revoked.iter().map(|serial| seq(&[int(*serial), tlv(0x17, b"260101000000Z")])).collect::<Vec<_>>();
        let mut fields = vec![int(1), pss(), name(&root_name(generation)), tlv(0x17, self.this_update.as_bytes())];
        fields.push(tlv(0x17, self.next_update.as_bytes()));
        if !revoked.is_empty() {
            fields.push(seq(&revoked));
        }
        sign(seq(&fields), &KEYS[usize::from(self.by_the_intermediate)])
    }
}

/// Serial number of the intermediate.
pub(crate) const INTERMEDIATE: u8 = 17;

/// Root and intermediate of each generation. Signatures are random, and the root is pinned by its fingerprint: made once.
static AUTHORITIES: LazyLock<[[Vec<u8>; 2]; 3]> = LazyLock::new(|| {
    [Generation::Milan, Generation::Genoa, Generation::Turin].map(|generation| {
        let (root, intermediate) = (root_name(generation), intermediate_name(generation));
        [ca(1, &root, &root, &KEYS[0]), ca(INTERMEDIATE, &root, &intermediate, &KEYS[1])]
    })
});

fn intermediate(generation: Generation) -> Vec<u8> {
    AUTHORITIES[generation as usize][1].clone()
}

fn root(generation: Generation) -> Vec<u8> {
    AUTHORITIES[generation as usize][0].clone()
}

fn root_name(generation: Generation) -> String {
    format!("ARK-{generation}")
}

fn intermediate_name(generation: Generation) -> String {
    format!("SEV-{generation}")
}

/// Signed by the root.
fn ca(serial: u8, issuer: &str, subject: &str, key: &RsaPrivateKey) -> Vec<u8> {
    let critical = |oid: &[u8], content: &[u8]| seq(&[tlv(6, oid), tlv(1, &[0xff]), tlv(4, content)]);
    let body = Body {
        serial,
        issuer,
        subject,
        not_before: "200101000000Z",
        not_after: "450101000000Z",
        key: key.to_public_key().to_public_key_der().unwrap().into_vec(),
        extensions: vec![
            critical(&[0x55, 0x1d, 19], &seq(&[tlv(1, &[0xff])])),
            // keyCertSign and cRLSign.
            critical(&[0x55, 0x1d, 15], &tlv(3, &[1, 0b110])),
        ],
    };
    body.signed_by(&KEYS[0])
}

struct Body<'a> {
    serial: u8,
    issuer: &'a str,
    subject: &'a str,
    not_before: &'a str,
    not_after: &'a str,
    key: Vec<u8>,
    extensions: Vec<Vec<u8>>,
}

impl Body<'_> {
    fn signed_by(&self, key: &RsaPrivateKey) -> Vec<u8> {
        let validity = seq(&[tlv(0x17, self.not_before.as_bytes()), tlv(0x17, self.not_after.as_bytes())]);
        let fields = [
            tlv(0xa0, &int(2)),
            int(self.serial),
            pss(),
            name(self.issuer),
            validity,
            name(self.subject),
            self.key.clone(),
            tlv(0xa3, &seq(&self.extensions)),
        ];
        sign(seq(&fields), key)
    }
}

fn sign(body: Vec<u8>, key: &RsaPrivateKey) -> Vec<u8> {
    let key = pss::SigningKey::<Sha384>::new_with_salt_len(key.clone(), 48);
    let signature = key.sign_with_rng(&mut UnwrapErr(SysRng), &body).to_vec();
    seq(&[body, pss(), tlv(3, &[&[0], signature.as_slice()].concat())])
}

/// RSASSA-PSS with SHA-384, MGF1 with SHA-384 and 48 bytes of salt.
fn pss() -> Vec<u8> {
    let sha384 = seq(&[tlv(6, &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2]), tlv(5, &[])]);
    let mgf1 = seq(&[tlv(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8]), sha384.clone()]);
    let parameters = seq(&[tlv(0xa0, &sha384), tlv(0xa1, &mgf1), tlv(0xa2, &int(48))]);
    seq(&[tlv(6, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 10]), parameters])
}

fn name(common: &str) -> Vec<u8> {
    seq(&[tlv(0x31, &seq(&[tlv(6, &[0x55, 4, 3]), tlv(0x0c, common.as_bytes())]))])
}

/// A small INTEGER.
pub(crate) fn int(value: u8) -> Vec<u8> {
    if value < 0x80 { tlv(2, &[value]) } else { tlv(2, &[0, value]) }
}

fn seq(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

/// A DER element.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = match content.len() {
        len @ 0..0x80 => vec![len as u8],
        len @ 0x80..0x100 => vec![0x81, len as u8],
        len => vec![0x82, (len >> 8) as u8, len as u8],
    };
    [&[tag], len.as_slice(), content].concat()
}

const FIRMWARE: FirmwareVersion = FirmwareVersion { major: 1, minor: 55, build: 40 };
