//! A processor vendor of our own, in which everything is right: certificates, collateral, quote. Tests change one thing.
//!
//! A [`Spec`] is what will be signed; [`Spec::build`] signs it; a [`Case`] is what the verifier gets.

use std::sync::{Arc, OnceLock};

use casemate_evidence::tdx::{AuthData, Body, EnclaveReport, Header, Quote, Sha384Digest, Td15, TdReport, TeeKind};
use casemate_verifier::{
    Appraised, UnixTime,
    tdx::{
        Collateral, Endorsements, Expectation, RootFingerprint, Rtmr, TdxClaims, TdxPolicy, VerifiedCollateral, VerifiedPlatform,
        VerifiedTdx, appraise_tdx,
    },
};
use p256::{
    ecdsa::{Signature, SigningKey, signature::Signer as _},
    pkcs8::DecodePrivateKey as _,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);
pub(crate) const DAY: i64 = 86_400;
pub(crate) const FMSPC: &str = "10b0c06f0000";
pub(crate) const RTMRS: [Sha384Digest; 4] = [[0x30; 48], [0x31; 48], [0x32; 48], [0; 48]];
pub(crate) const MRTD: Sha384Digest = [0x3d; 48];
pub(crate) const CONFIG: Sha384Digest = [0x3c; 48];
pub(crate) const REPORT_DATA: [u8; 64] = [0x5a; 64];
pub(crate) const QE_SIGNER: [u8; 32] = [0xdc; 32];

/// What will be signed.
pub(crate) struct Spec {
    pub(crate) root: CertificateParams,
    pub(crate) authority: CertificateParams,
    pub(crate) pck: CertificateParams,
    pub(crate) signer: CertificateParams,
    pub(crate) extension: Extension,
    pub(crate) root_list: List,
    pub(crate) pck_list: List,
    pub(crate) tcb_info: Value,
    pub(crate) qe_identity: Value,
    pub(crate) quote: Quote,
    /// The quoting enclave's report binds what it should.
    pub(crate) binds: bool,
    pub(crate) policy: TdxPolicy,
}

/// A revocation list.
pub(crate) struct List {
    pub(crate) revoked: Vec<u64>,
    pub(crate) from: i64,
    pub(crate) to: i64,
    /// Another name than the issuer's.
    pub(crate) issuer: Option<&'static str>,
}

/// What the verifier gets.
pub(crate) struct Case {
    pub(crate) quote: Quote,
    pub(crate) bytes: Option<Vec<u8>>,
    pub(crate) collateral: Value,
    pub(crate) event_log: Option<Vec<u8>>,
    pub(crate) policy: TdxPolicy,
    pub(crate) now: UnixTime,
    pub(crate) kept: Option<(Arc<VerifiedCollateral>, Arc<VerifiedPlatform>)>,
}

/// Serial numbers.
pub(crate) const AUTHORITY_SERIAL: u64 = 0x1001;
pub(crate) const PCK_SERIAL: u64 = 0x1002;
pub(crate) const SIGNER_SERIAL: u64 = 0x1003;

/// Key pairs, made once per run.
pub(crate) struct Keys {
    pub(crate) root: KeyPair,
    pub(crate) authority: KeyPair,
    pub(crate) pck: KeyPair,
    pub(crate) signer: KeyPair,
    pub(crate) attestation: SigningKey,
}

pub(crate) fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    let fresh = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    KEYS.get_or_init(|| Keys {
        root: fresh(),
        authority: fresh(),
        pck: fresh(),
        signer: fresh(),
        attestation: SigningKey::from_slice(&[0x41; 32]).unwrap(),
    })
}

pub(crate) fn sign(key: &KeyPair, message: &[u8]) -> [u8; 64] {
    sign_with(&SigningKey::from_pkcs8_der(&key.serialize_der()).unwrap(), message)
}

pub(crate) fn sign_with(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    let signature: Signature = key.sign(message);
    signature.to_bytes().into()
}

impl Spec {
    pub(crate) fn good() -> Self {
        let list = || List { revoked: vec![0x99], from: -DAY, to: 30 * DAY, issuer: None };
        Self {
            root: authority("Intel SGX Root CA", 1, None),
            authority: authority("Intel SGX PCK Platform CA", AUTHORITY_SERIAL, Some(0)),
            pck: leaf("Intel SGX PCK Certificate", PCK_SERIAL),
            signer: leaf("Intel SGX TCB Signing", SIGNER_SERIAL),
            extension: Extension::good(),
            root_list: list(),
            pck_list: list(),
            tcb_info: tcb_info(),
            qe_identity: qe_identity(),
            quote: quote(),
            binds: true,
            policy: TdxPolicy { min_tcb_evaluation: 20, ..TdxPolicy::strict() },
        }
    }

    /// A body of TDX 1.5, in a quote of version 5.
    pub(crate) fn good_td15() -> Self {
        let mut spec = Self::good();
        spec.quote.header.version = 5;
        let report = spec.report();
        report.td15 = Some(Td15 { tee_tcb_svn2: report.tee_tcb_svn, mr_service_td: [0; 48] });
        spec
    }

    pub(crate) fn report(&mut self) -> &mut TdReport {
        report_of(&mut self.quote)
    }

    /// The PCK certificate.
    pub(crate) fn processor(&mut self) -> String {
        let extension = CustomExtension::from_oid_content(&[1, 2, 840, 113_741, 1, 13, 1], self.extension.encode());
        self.pck.custom_extensions = vec![extension];
        self.pck.signed_by(&keys().pck, &Issuer::from_params(&self.authority, &keys().authority)).unwrap().pem()
    }

    pub(crate) fn build(mut self) -> Case {
        let keys = keys();
        let pck = self.processor();
        let root = self.root.self_signed(&keys.root).unwrap();
        let root_issuer = Issuer::from_params(&self.root, &keys.root);
        let intermediate = self.authority.signed_by(&keys.authority, &root_issuer).unwrap();
        let signer = self.signer.signed_by(&keys.signer, &root_issuer).unwrap();
        let (tcb_info, qe_identity) = (self.tcb_info.to_string(), self.qe_identity.to_string());
        let signers = signer.pem() + &root.pem();
        let collateral = json!({
            "pck_crl_issuer_chain": intermediate.pem() + &root.pem(),
            "root_ca_crl": hex::encode(self.root_list.sign(&self.root, &keys.root)),
            "pck_crl": hex::encode(self.pck_list.sign(&self.authority, &keys.authority)),
            "tcb_info_issuer_chain": signers,
            "tcb_info_signature": hex::encode(sign(&keys.signer, tcb_info.as_bytes())),
            "tcb_info": tcb_info,
            "qe_identity_issuer_chain": signers,
            "qe_identity_signature": hex::encode(sign(&keys.signer, qe_identity.as_bytes())),
            "qe_identity": qe_identity,
        });
        self.quote.auth.pck_chain = (pck + &intermediate.pem() + &root.pem()).into_bytes();
        let mut case =
            Case { quote: self.quote, bytes: None, collateral, event_log: None, policy: self.policy, now: NOW, kept: None };
        case.policy.danger_simulated_roots = vec![RootFingerprint(Sha256::digest(root.der()).into())];
        if self.binds {
            case.bind();
        }
        case.sign_qe_report();
        case.sign_quote();
        case
    }
}

impl Case {
    pub(crate) fn good() -> Self {
        Spec::good().build()
    }

    pub(crate) fn bind(&mut self) {
        let auth = &mut self.quote.auth;
        let bound = Sha256::new().chain_update(auth.attestation_key).chain_update(&auth.qe_auth).finalize();
        auth.qe_report.bytes[EnclaveReport::REPORT_DATA..][..32].copy_from_slice(&bound);
    }

    pub(crate) fn sign_qe_report(&mut self) {
        self.quote.auth.qe_report_signature = sign(&keys().pck, &self.quote.auth.qe_report.bytes);
    }

    pub(crate) fn sign_quote(&mut self) {
        self.quote.auth.signature = sign_with(&keys().attestation, &self.quote.signed_part());
    }

    pub(crate) fn report(&mut self) -> &mut TdReport {
        report_of(&mut self.quote)
    }

    /// Keeps what a good appraisal verified, for the following ones.
    pub(crate) fn keep(mut self) -> Self {
        let result = self.appraise();
        let verified = result.verified().unwrap_or_else(|| panic!("{:?}", result.failed()));
        self.kept = Some((Arc::clone(verified.collateral()), Arc::clone(verified.platform())));
        self
    }

    pub(crate) fn appraise(&self) -> Appraised<VerifiedTdx, TdxClaims> {
        self.appraise_with(&expectation())
    }

    pub(crate) fn appraise_with(&self, expectation: &Expectation<'_>) -> Appraised<VerifiedTdx, TdxClaims> {
        let json = self.collateral.to_string();
        let collateral = match &self.kept {
            Some((collateral, _)) => Collateral::Verified(collateral),
            None => Collateral::Json(json.as_bytes()),
        };
        let endorsements = Endorsements { collateral, platform: self.kept.as_ref().map(|(_, platform)| platform) };
        let bytes = self.bytes.clone().unwrap_or_else(|| self.quote.encode());
        appraise_tdx(&bytes, self.event_log.as_deref(), &endorsements, &self.policy, expectation, self.now)
    }
}

pub(crate) fn expectation() -> Expectation<'static> {
    Expectation {
        mrtd: &[MRTD],
        rtmrs: [Rtmr::OneOf(&[RTMRS[0]]), Rtmr::OneOf(&[RTMRS[1]]), Rtmr::OneOf(&[[7; 48], RTMRS[2]]), Rtmr::OneOf(&[RTMRS[3]])],
        config_id: CONFIG,
        owner: [0; 48],
        owner_config: [0; 48],
        service_td: [0; 48],
        report_data: REPORT_DATA,
    }
}

fn report_of(quote: &mut Quote) -> &mut TdReport {
    match &mut quote.body {
        Body::TrustDomain(report) => report,
        Body::Enclave(_) => panic!("the world's quote is one of a trust domain"),
    }
}

fn quote() -> Quote {
    let mut tee_tcb_svn = [0; 16];
    tee_tcb_svn[..3].copy_from_slice(&[6, 1, 3]);
    let report = TdReport {
        tee_tcb_svn,
        mr_seam: [0x2e; 48],
        mr_signer_seam: [0; 48],
        seam_attributes: 0,
        td_attributes: 1 << 28,
        xfam: 0x6_02e7,
        mr_td: MRTD,
        mr_config_id: CONFIG,
        mr_owner: [0; 48],
        mr_owner_config: [0; 48],
        rtmr: RTMRS,
        report_data: REPORT_DATA,
        td15: None,
    };
    let mut qe_report = EnclaveReport { bytes: [0; 384] };
    qe_report.bytes[EnclaveReport::MR_SIGNER..][..32].copy_from_slice(&QE_SIGNER);
    qe_report.bytes[EnclaveReport::ATTRIBUTES] = 0x11;
    qe_report.bytes[EnclaveReport::ISV_PROD_ID] = 2;
    qe_report.bytes[EnclaveReport::ISV_SVN] = 5;
    let key = keys().attestation.verifying_key().to_sec1_point(false);
    Quote {
        header: Header {
            version: 4,
            tee: TeeKind::Tdx,
            reserved: [0; 4],
            qe_vendor: hex::decode("939a7233f79c4ca9940a0db3957f0607").unwrap().try_into().unwrap(),
            user_data: [9; 20],
        },
        body: Body::TrustDomain(Box::new(report)),
        auth: AuthData {
            signature: [0; 64],
            attestation_key: key.as_bytes()[1..].try_into().unwrap(),
            qe_report,
            qe_report_signature: [0; 64],
            qe_auth: (0..32).collect(),
            pck_chain: Vec::new(),
        },
        padding: 0,
    }
}

/// Levels: up to date, out of date with a milder second reason, revoked.
fn tcb_info() -> Value {
    let level = |sgx: u8, pce: u16, tdx: u8, date: &str, status: &str, advisories: &[&str]| {
        let components = |first: u8, third: u8| -> Vec<Value> {
            let svns = [first, 0, third].into_iter().chain([0; 13]);
            svns.map(|svn| json!({ "svn": svn })).collect()
        };
        let tcb = json!({ "sgxtcbcomponents": components(sgx, sgx), "pcesvn": pce, "tdxtcbcomponents": components(5, tdx) });
        json!({ "tcb": tcb, "tcbDate": date, "tcbStatus": status, "advisoryIDs": advisories })
    };
    let module =
        |svn: u16, status: &str| json!({ "tcb": { "isvsvn": svn }, "tcbDate": "2026-03-01T00:00:00Z", "tcbStatus": status });
    let signer = json!({ "mrsigner": "00".repeat(48), "attributes": "00".repeat(8), "attributesMask": "FF".repeat(8) });
    let identity = |id: &str, levels: Value| {
        let mut identity = signer.clone();
        identity["id"] = id.into();
        identity["tcbLevels"] = levels;
        identity
    };
    json!({
        "id": "TDX",
        "version": 3,
        "issueDate": date(-DAY),
        "nextUpdate": date(30 * DAY),
        "fmspc": FMSPC.to_uppercase(),
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": 20,
        "tdxModule": signer,
        "tdxModuleIdentities": [
            identity("TDX_03", json!([module(3, "UpToDate")])),
            identity("TDX_01", json!([module(6, "UpToDate"), module(2, "OutOfDate")])),
        ],
        "tcbLevels": [
            level(3, 11, 3, "2026-03-01T00:00:00Z", "UpToDate", &[]),
            level(2, 11, 2, "2025-03-01T00:00:00Z", "OutOfDate", &["INTEL-SA-00001", "INTEL-SA-00002"]),
            level(1, 5, 1, "2018-01-04T00:00:00Z", "Revoked", &["INTEL-SA-00003"]),
        ],
    })
}

fn qe_identity() -> Value {
    let level = |svn: u16, status: &str, advisories: &[&str]| json!({ "tcb": { "isvsvn": svn }, "tcbDate": "2026-02-01T00:00:00Z", "tcbStatus": status, "advisoryIDs": advisories });
    json!({
        "id": "TD_QE",
        "version": 2,
        "issueDate": date(-DAY),
        "nextUpdate": date(30 * DAY),
        "tcbEvaluationDataNumber": 20,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": hex::encode_upper(QE_SIGNER),
        "isvprodid": 2,
        "tcbLevels": [level(4, "UpToDate", &[]), level(3, "OutOfDate", &["INTEL-SA-00004"]), level(2, "Revoked", &[])],
    })
}

/// What a PCK certificate says of its processor, as DER of each field.
pub(crate) struct Extension {
    pub(crate) components: [u8; 16],
    pub(crate) pce_svn: u8,
    pub(crate) fmspc: &'static str,
    pub(crate) pce_id: [u8; 2],
    /// Other content than that of the fields.
    pub(crate) raw: Option<Vec<u8>>,
}

impl Extension {
    fn good() -> Self {
        let mut components = [0; 16];
        components[..3].copy_from_slice(&[3, 3, 3]);
        Self { components, pce_svn: 11, fmspc: FMSPC, pce_id: [0; 2], raw: None }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.raw.clone().unwrap_or_else(|| tlv(0x30, &self.fields().concat()))
    }

    /// The fields, each with its identifier.
    pub(crate) fn fields(&self) -> Vec<Vec<u8>> {
        let mut tcb: Vec<u8> = Vec::new();
        for (arc, svn) in (1..).zip(self.components) {
            tcb.extend(field(&[2, arc], &tlv(0x02, &[svn])));
        }
        tcb.extend(field(&[2, 17], &tlv(0x02, &[self.pce_svn])));
        tcb.extend(field(&[2, 18], &tlv(0x04, &self.components)));
        let flags = [1, 2, 3].map(|arc| field(&[7, arc], &tlv(0x01, &[0xff]))).concat();
        vec![
            field(&[1], &tlv(0x04, &[0x99; 16])),
            field(&[2], &tlv(0x30, &tcb)),
            field(&[3], &tlv(0x04, &self.pce_id)),
            field(&[4], &tlv(0x04, &hex::decode(self.fmspc).unwrap())),
            field(&[5], &tlv(0x0a, &[1])),
            field(&[6], &tlv(0x04, &[0x66; 16])),
            field(&[7], &tlv(0x30, &flags)),
        ]
    }
}

/// SEQUENCE of 1.2.840.113741.1.13.1 with further arcs, and a value.
pub(crate) fn field(arcs: &[u8], value: &[u8]) -> Vec<u8> {
    let mut id = hex::decode("2a864886f84d010d01").unwrap();
    id.extend(arcs);
    tlv(0x30, &[tlv(0x06, &id), value.to_vec()].concat())
}

pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        Ok(medium) => out.extend([0x81, medium]),
        Err(_) => {
            out.push(0x82);
            out.extend(u16::try_from(content.len()).unwrap().to_be_bytes());
        }
    }
    out.extend(content);
    out
}

impl List {
    fn sign(&self, issuer: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        let mut issuer = issuer.clone();
        // A list is signed also where the certificate does not say that it may be.
        issuer.key_usages = vec![KeyUsagePurpose::CrlSign];
        if let Some(name) = self.issuer {
            issuer.distinguished_name.push(DnType::CommonName, name);
        }
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: at(-DAY),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: at(self.from),
            next_update: at(self.to),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: self.revoked.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&Issuer::from_params(&issuer, key)).unwrap().der().to_vec()
    }
}

pub(crate) fn date(offset_s: i64) -> String {
    at(offset_s).format(&time::format_description::well_known::Rfc3339).unwrap()
}

pub(crate) fn at(offset_s: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(NOW.0).unwrap() + offset_s).unwrap()
}

fn authority(name: &str, serial: u64, path_length: Option<u8>) -> CertificateParams {
    let mut params = leaf(name, serial);
    params.is_ca = IsCa::Ca(path_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(name: &str, serial: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(serial));
    (params.not_before, params.not_after) = (at(-100 * DAY), at(100 * DAY));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}
