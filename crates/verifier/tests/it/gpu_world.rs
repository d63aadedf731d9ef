//! A simulated vendor of GPUs: device and manifest roots, an OCSP responder, GPUs, switches and manifests.
//!
//! Everything is written here once more, apart from what the verifier reads it with: DER, and XML in its canonical form.

use std::{
    collections::BTreeMap,
    sync::{Mutex, OnceLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use casemate_evidence::nvidia::{Block, DeviceEvidence, DeviceKind, Field, Opaque, Report, Request, Response, nonce_for};
use casemate_verifier::{
    Appraised, UnixTime,
    gpu::{
        DeviceCount, Fingerprint, GpuClaims, GpuEndorsements, GpuExpectation, GpuPolicy, Manifest, ManifestDocument, Revocation,
        VerifiedChain, VerifiedGpus, appraise_gpus,
    },
};
use p384::{
    ecdsa::{Signature, SigningKey, signature::hazmat::PrehashSigner as _},
    pkcs8::DecodePrivateKey as _,
};
use rcgen::{
    CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, Issuer, KeyPair, OtherNameValue, PublicKeyData as _, SanType,
    SerialNumber,
};
use sha2::{Digest as _, Sha256, Sha384};

use crate::world::{HOUR, NOW, at, authority, leaf};

pub(crate) const CPU_EVIDENCE: &[u8] = b"a report of the processor";
pub(crate) const DRIVER: &str = "550.144.03";
pub(crate) const VBIOS: [u8; 8] = [0, 0x74, 0, 0x96, 0x11, 0, 0, 0];
pub(crate) const DRIVER_ID: &str = "NV_GPU_DRIVER_GH100_550.144.03";
pub(crate) const VBIOS_ID: &str = "NV_GPU_VBIOS_1010_0210_886_9600740011";
pub(crate) const SWITCH_ID: &str = "NV_SWITCH_BIOS_5612_0002_890_9610740001";
pub(crate) const FWID: [u8; 48] = [0xf1; 48];

/// Keys are slow to make; which is which does not matter to any test.
pub(crate) struct Keys {
    pub(crate) root: KeyPair,
    pub(crate) ica: KeyPair,
    pub(crate) devices: Vec<KeyPair>,
    pub(crate) leaves: Vec<KeyPair>,
    pub(crate) rim_root: KeyPair,
    pub(crate) rim_signer: KeyPair,
    pub(crate) responder: KeyPair,
}

pub(crate) fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    let fresh = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    KEYS.get_or_init(|| Keys {
        root: fresh(),
        ica: fresh(),
        devices: (0..4).map(|_| fresh()).collect(),
        leaves: (0..4).map(|_| fresh()).collect(),
        rim_root: fresh(),
        rim_signer: fresh(),
        responder: fresh(),
    })
}

pub(crate) fn sign(key: &KeyPair, message: &[u8]) -> Signature {
    SigningKey::from_pkcs8_der(&key.serialize_der()).unwrap().sign_prehash(&Sha384::digest(message)).unwrap()
}

/// A certificate before it is signed, with its key and serial number.
pub(crate) struct Unsigned {
    pub(crate) params: CertificateParams,
    pub(crate) key: &'static KeyPair,
}

impl Unsigned {
    fn new(mut params: CertificateParams, key: &'static KeyPair, serial: u8) -> Self {
        params.serial_number = Some(SerialNumber::from(vec![serial]));
        Self { params, key }
    }
}

/// The chain of device `number`, leaf first.
pub(crate) fn device_chain(number: usize, model: &str) -> Vec<Unsigned> {
    let keys = keys();
    let number_u8 = u8::try_from(number).unwrap();
    // As the vendor names them.
    let device = if model == "LS10" { "LS_10 A01 FSP BROM".to_owned() } else { format!("{model} A01 GSP BROM") };
    let mut leaf = leaf("A01 GSP FMC LF");
    let info = OtherNameValue::Utf8String(format!("NVIDIA:{model}:48B02D00000000{number_u8:02X}"));
    leaf.subject_alt_names = vec![SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 412, 274, 1], info))];
    leaf.custom_extensions = vec![composite_device_id(&keys.devices[number], &FWID)];
    vec![
        Unsigned::new(leaf, &keys.leaves[number], 0x40 + number_u8),
        Unsigned::new(authority(&device, None), &keys.devices[number], 0x20 + number_u8),
        Unsigned::new(authority("Simulated Provisioner ICA 1", None), &keys.ica, 0x11),
        Unsigned::new(authority("Simulated Device Identity CA", None), &keys.root, 0x10),
    ]
}

pub(crate) fn manifest_chain() -> Vec<Unsigned> {
    let keys = keys();
    vec![
        Unsigned::new(leaf("Simulated RIM Signer"), &keys.rim_signer, 0x61),
        Unsigned::new(authority("Simulated RIM Root CA", None), &keys.rim_root, 0x60),
    ]
}

/// DER, leaf first. Each is issued by the next, the last by itself: once, since a root is pinned by its bytes and no two signatures
/// are the same.
pub(crate) fn issue(chain: &[Unsigned]) -> Vec<Vec<u8>> {
    let issued = |(unsigned, issuer): (&Unsigned, &Unsigned)| {
        let issuer = Issuer::from_params(&issuer.params, issuer.key);
        unsigned.params.signed_by(unsigned.key, &issuer).unwrap().der().to_vec()
    };
    let root = chain.last().unwrap();
    chain.iter().zip(&chain[1..]).map(issued).chain([self_signed(root)]).collect()
}

fn self_signed(root: &Unsigned) -> Vec<u8> {
    static ROOTS: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let key = format!("{} {:?}", hex::encode(root.key.der_bytes()), root.params);
    let fresh = || root.params.self_signed(root.key).unwrap().der().to_vec();
    ROOTS.lock().unwrap().entry(key).or_insert_with(fresh).clone()
}

pub(crate) fn composite_device_id(device: &KeyPair, fwid: &[u8]) -> CustomExtension {
    let digest = tlv(0x30, &[tlv(6, &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2]), tlv(4, fwid)].concat());
    let content = tlv(0x30, &[tlv(2, &[1]), device.subject_public_key_info(), digest].concat());
    CustomExtension::from_oid_content(&[2, 23, 133, 5, 4, 1], content)
}

pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let mut out = vec![tag];
    match len {
        0..0x80 => out.push(len as u8),
        0x80..0x100 => out.extend([0x81, len as u8]),
        _ => out.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    out.extend_from_slice(content);
    out
}

/// A device before its report is signed.
pub(crate) struct Device {
    pub(crate) kind: DeviceKind,
    pub(crate) chain: Vec<Unsigned>,
    pub(crate) request: Request,
    pub(crate) blocks: Vec<(u8, Vec<u8>)>,
    pub(crate) opaque: Vec<(Field, Vec<u8>)>,
    pub(crate) key: &'static KeyPair,
}

impl Device {
    pub(crate) fn gpu(number: usize) -> Self {
        let opaque: &[(Field, &[u8])] = &[
            (Field::VBIOS_VERSION, &VBIOS),
            (Field::CHIP_SKU, b"886\0\0"),
            (Field::PROJECT, b"1010\0"),
            (Field::PROJECT_SKU, b"0210\0"),
            (Field::DRIVER_VERSION, b"550.144.03\0"),
            (Field::NVDEC0_STATUS, &[0xaa]),
            (Field::FWID, &FWID),
            (Field::PROTECTED_PCIE_STATUS, &[0x55]),
            (Field::DATA_VERSION, &[1, 0]),
            (Field::FEATURE_FLAG, &[0, 0]),
        ];
        Self::new(DeviceKind::Gpu, number, "GH100", opaque)
    }

    pub(crate) fn switch(number: usize, own: [u8; 8], gpus: &[[u8; 8]]) -> Self {
        let mut joined = gpus.concat();
        joined.resize(64, 0);
        joined.extend([1, 2, 3]);
        let opaque: &[(Field, &[u8])] = &[
            (Field::VBIOS_VERSION, b"96.10.74.00.01\0"),
            (Field::FWID, &FWID),
            (Field::PDI, &own),
            (Field::SWITCH_GPU_PDIS, &joined),
        ];
        Self::new(DeviceKind::Switch, number, "LS10", opaque)
    }

    fn new(kind: DeviceKind, number: usize, model: &str, opaque: &[(Field, &[u8])]) -> Self {
        Self {
            kind,
            chain: device_chain(number, model),
            request: Request { param1: 1, param2: 0xff, nonce: nonce_for(CPU_EVIDENCE), slot: 0 },
            blocks: (1..=40).map(|index| (index, vec![index - 1; 48])).collect(),
            opaque: opaque.iter().map(|(field, value)| (*field, value.to_vec())).collect(),
            key: &keys().leaves[number],
        }
    }

    pub(crate) fn set(&mut self, field: Field, value: &[u8]) {
        self.opaque.retain(|(known, _)| *known != field);
        self.opaque.push((field, value.to_vec()));
    }

    pub(crate) fn evidence(&self) -> DeviceEvidence {
        let mut report = Report {
            request: self.request.clone(),
            response: Response {
                param1: 0,
                param2: 0,
                blocks: self.blocks.iter().map(|(index, value)| Block { index: *index, value_type: 1, value }).collect(),
                nonce: [0x5e; 32],
                opaque: Opaque(self.opaque.iter().map(|(field, value)| (*field, &value[..])).collect()),
                signature: [0; 96],
            },
        };
        report.response.signature = sign(self.key, &report.encode_signed()).to_bytes().into();
        DeviceEvidence { kind: self.kind, report: report.encode(), chain: issue(&self.chain) }
    }
}

/// A manifest before it is signed. All of its text is in canonical form.
pub(crate) struct Rim {
    pub(crate) version: String,
    pub(crate) product: &'static str,
    /// Index, whether it is active, its values.
    pub(crate) measurements: Vec<(u16, bool, Vec<Vec<u8>>)>,
    pub(crate) chain: Vec<Unsigned>,
    pub(crate) key: &'static KeyPair,
}

impl Rim {
    /// Measurements 0 to 7 are of the VBIOS (or the switch's BIOS), 20 to 39 of the driver.
    pub(crate) fn new(version: &str, product: &'static str, indices: std::ops::Range<u16>) -> Self {
        let value = |index: u16| vec![vec![0xee; 48], vec![index as u8; 48]];
        let measurements = (0..40).map(|index| (index, indices.contains(&index), value(index))).collect();
        let (chain, key) = (manifest_chain(), &keys().rim_signer);
        Self { version: version.to_owned(), product, measurements, chain, key }
    }

    pub(crate) fn content(&self) -> String {
        let resource = |(index, active, values): &(u16, bool, Vec<Vec<u8>>)| {
            let alternatives = values.len();
            let mut hashes: Vec<_> = values.iter().enumerate().map(|(at, value)| (at.to_string(), hex::encode(value))).collect();
            hashes.sort();
            let hashes: String = hashes.iter().map(|(at, value)| format!(" ns2:Hash{at}=\"{value}\"")).collect();
            let active = if *active { "True" } else { "False" };
            format!(
                "\n<ns0:Resource active=\"{active}\" alternatives=\"{alternatives}\" index=\"{index}\" name=\"M_{index}\" size=\"48\" \
                 type=\"Measurement\"{hashes}></ns0:Resource>"
            )
        };
        let resources: String = self.measurements.iter().map(resource).collect();
        format!(
            "<SoftwareIdentity {NAMESPACES} name=\"{0}\">\n<ns0:Meta xmlns:ns1=\"{RIM_NS}\" colloquialVersion=\"{1}\" \
             edition=\"GPU\" product=\"{0}\" ns1:PlatformManufacturerId=\"5703\"></ns0:Meta>\n\
             <ns0:Payload>{resources}\n</ns0:Payload>\n</SoftwareIdentity>",
            self.product, self.version
        )
    }

    pub(crate) fn xml(&self) -> String {
        enveloped(&self.content(), &issue(&self.chain), self.key, C14N11)
    }
}

/// `content`, in canonical form, with a signature at its end.
pub(crate) fn enveloped(content: &str, chain: &[Vec<u8>], key: &KeyPair, canonicalization: &str) -> String {
    let inner = signed_info(&STANDARD.encode(Sha384::digest(content)), canonicalization);
    // Alone, it has the namespaces that are in scope.
    let (default, prefixed) = NAMESPACES.split_once(' ').unwrap();
    let scope = format!("<ds:SignedInfo {default} xmlns:ds=\"{DSIG}\" {prefixed}>");
    let signature = sign(key, inner.replacen("<ds:SignedInfo>", &scope, 1).as_bytes());
    let signature = STANDARD.encode(signature.to_bytes());
    let certificate = |der: &Vec<u8>| format!("<ds:X509Certificate>{}\n</ds:X509Certificate>", STANDARD.encode(der));
    let certificates: String = chain.iter().map(certificate).collect();
    let element = format!(
        "<ds:Signature xmlns:ds=\"{DSIG}\">{inner}<ds:SignatureValue>{signature}</ds:SignatureValue><ds:KeyInfo><ds:X509Data>\
         {certificates}</ds:X509Data></ds:KeyInfo></ds:Signature></SoftwareIdentity>"
    );
    content.replacen("</SoftwareIdentity>", &element, 1)
}

fn signed_info(digest: &str, canonicalization: &str) -> String {
    format!(
        "<ds:SignedInfo><ds:CanonicalizationMethod Algorithm=\"{canonicalization}\"></ds:CanonicalizationMethod><ds:SignatureMethod \
         Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384\"></ds:SignatureMethod><ds:Reference URI=\"\">\
         <ds:Transforms><ds:Transform Algorithm=\"{DSIG}enveloped-signature\"></ds:Transform><ds:Transform \
         Algorithm=\"{canonicalization}\"></ds:Transform></ds:Transforms><ds:DigestMethod \
         Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#sha384\"></ds:DigestMethod><ds:DigestValue>{digest}</ds:DigestValue>\
         </ds:Reference></ds:SignedInfo>"
    )
}

/// An OCSP response before it is signed.
pub(crate) struct Ocsp {
    /// Of the certificate that it is about.
    pub(crate) serial: u8,
    pub(crate) issuer: Unsigned,
    /// `[0]` good, `[1]` revoked, `[2]` unknown.
    pub(crate) status: Vec<u8>,
    pub(crate) this_update: i64,
    pub(crate) next_update: Option<i64>,
    /// A responder that the issuer certified, instead of the issuer.
    pub(crate) delegate: Option<CertificateParams>,
    /// Who certified that responder, where it is not the issuer.
    pub(crate) certifier: Option<Unsigned>,
    /// Who signs, where it is not the one who should.
    pub(crate) forger: Option<&'static KeyPair>,
    /// Digest of the certificate id.
    pub(crate) digest: fn(&[u8]) -> Vec<u8>,
    /// The identifier of a key by which it names the responder, instead of by name.
    pub(crate) by_key: Option<Vec<u8>>,
    /// Extensions of the answer and of the response.
    pub(crate) extensions: [Vec<u8>; 2],
}

impl Ocsp {
    pub(crate) fn good(serial: u8, issuer: Unsigned) -> Self {
        Self {
            serial,
            issuer,
            status: tlv(0x80, &[]),
            this_update: -HOUR,
            next_update: Some(HOUR),
            delegate: None,
            certifier: None,
            forger: None,
            digest: |bytes| Sha384::digest(bytes).to_vec(),
            by_key: None,
            extensions: [vec![], vec![]],
        }
    }

    pub(crate) fn responder() -> CertificateParams {
        let mut params = leaf("Simulated OCSP Responder");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        params.use_authority_key_identifier_extension = true;
        params
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        let issuer = Issuer::from_params(&self.issuer.params, self.issuer.key);
        let certificate = self.issuer.params.self_signed(self.issuer.key).unwrap();
        let name = subject(certificate.der());
        let algorithm = match (self.digest)(b"").len() {
            48 => tlv(6, &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2]),
            32 => tlv(6, &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1]),
            _ => tlv(6, &[0x2b, 14, 3, 2, 26]),
        };
        let key_digest = (self.digest)(self.issuer.key.der_bytes());
        let id = [tlv(0x30, &algorithm), tlv(4, &(self.digest)(&name)), tlv(4, &key_digest), tlv(2, &[self.serial])];
        let mut single = [tlv(0x30, &id.concat()), self.status.clone(), time(self.this_update)].concat();
        if let Some(next) = self.next_update {
            single.extend(tlv(0xa0, &time(next)));
        }
        single.extend(&self.extensions[0]);
        let issuer = self.certifier.as_ref().map_or(issuer, |other| Issuer::from_params(&other.params, other.key));
        let delegate = self.delegate.as_ref().map(|params| params.signed_by(&keys().responder, &issuer).unwrap().der().to_vec());
        let name = delegate.as_deref().map_or(name, subject);
        let responder = self.by_key.as_ref().map_or_else(|| tlv(0xa1, &name), |id| tlv(0xa2, &tlv(4, id)));
        let answers = tlv(0x30, &tlv(0x30, &single));
        let data = tlv(0x30, &[responder, time(-HOUR), answers, self.extensions[1].clone()].concat());
        let usual = if delegate.is_some() { &keys().responder } else { self.issuer.key };
        let signature = sign(self.forger.unwrap_or(usual), &data).to_der();
        let bits = tlv(3, &[&[0], signature.as_bytes()].concat());
        let ecdsa = tlv(0x30, &tlv(6, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3]));
        let certificates = delegate.map(|der| tlv(0xa0, &tlv(0x30, &der))).unwrap_or_default();
        let basic = tlv(0x30, &[data, ecdsa, bits, certificates].concat());
        let kind = tlv(6, &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1]);
        tlv(0x30, &[tlv(10, &[0]), tlv(0xa0, &tlv(0x30, &[kind, tlv(4, &basic)].concat()))].concat())
    }
}

fn subject(der: &[u8]) -> Vec<u8> {
    use x509_cert::der::{Decode as _, Encode as _};
    x509_cert::Certificate::from_der(der).unwrap().tbs_certificate().subject().to_der().unwrap()
}

/// GeneralizedTime, `offset_s` from now.
fn time(offset_s: i64) -> Vec<u8> {
    let at = at(offset_s);
    let (date, time) = (at.date(), at.time());
    let text = format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        time.hour(),
        time.minute(),
        time.second()
    );
    tlv(0x18, text.as_bytes())
}

/// What the verifier gets.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) evidence: Vec<DeviceEvidence>,
    pub(crate) chains: Vec<VerifiedChain>,
    pub(crate) manifests: Vec<(String, Vec<u8>)>,
    pub(crate) ocsp: Vec<Vec<u8>>,
    pub(crate) crls: Vec<Vec<u8>>,
    pub(crate) policy: GpuPolicy,
    pub(crate) expectation: GpuExpectation,
    pub(crate) now: UnixTime,
}

impl Case {
    /// One GPU, with all that it needs.
    pub(crate) fn good() -> Self {
        Self::of(&[Device::gpu(0)])
    }

    /// One GPU and no manifests, for what is refused before those are looked at.
    pub(crate) fn lean() -> Self {
        static LEAN: OnceLock<Case> = OnceLock::new();
        LEAN.get_or_init(|| Self { manifests: vec![], ..Self::good() }).clone()
    }

    pub(crate) fn of(devices: &[Device]) -> Self {
        let count = |kind| devices.iter().filter(|device| device.kind == kind).count() as u32;
        let count = DeviceCount { gpus: count(DeviceKind::Gpu), switches: count(DeviceKind::Switch) };
        let manifests = [
            (DRIVER_ID, Rim::new(DRIVER, "GH100", 20..40)),
            (VBIOS_ID, Rim::new("96.00.74.00.11", "GH100", 0..8)),
            (SWITCH_ID, Rim::new("96.10.74.00.01", "LS10", 0..8)),
        ];
        Self {
            evidence: devices.iter().map(Device::evidence).collect(),
            chains: vec![],
            manifests: manifests.iter().map(|(id, rim)| (id.to_string(), rim.xml().into_bytes())).collect(),
            ocsp: good_answers().iter().map(Ocsp::der).collect(),
            crls: vec![],
            policy: policy(),
            expectation: GpuExpectation::for_cpu_evidence(CPU_EVIDENCE, count, count),
            now: NOW,
        }
    }

    /// One GPU that is not as it should be.
    pub(crate) fn with(change: impl FnOnce(&mut Device)) -> Self {
        let mut device = Device::gpu(0);
        change(&mut device);
        Self::of(&[device])
    }

    /// One manifest that is not as it should be.
    pub(crate) fn with_manifest(id: &str, mut rim: Rim, change: impl FnOnce(&mut Rim)) -> Self {
        change(&mut rim);
        let mut case = Self::good();
        case.replace_manifest(id, rim.xml().as_bytes());
        case
    }

    pub(crate) fn replace_manifest(&mut self, id: &str, xml: &[u8]) {
        self.manifests.iter_mut().find(|(known, _)| known == id).unwrap().1 = xml.to_vec();
    }

    pub(crate) fn revocation(&self) -> Revocation<'_> {
        Revocation { ocsp: &self.ocsp, crls: &self.crls }
    }

    pub(crate) fn appraise(&self) -> Appraised<VerifiedGpus, Vec<GpuClaims>> {
        let manifest = |(id, xml)| Manifest { id, document: ManifestDocument::Xml(xml) };
        let manifests: Vec<_> = self.manifests.iter().map(|(id, xml)| (id.as_str(), &xml[..])).map(manifest).collect();
        let endorsements = GpuEndorsements { chains: &self.chains, manifests: &manifests, revocation: self.revocation() };
        appraise_gpus(&self.evidence, &endorsements, &self.policy, &self.expectation, self.now)
    }

    /// The check that fails, with its detail.
    pub(crate) fn refusal(&self) -> (String, String) {
        let appraised = self.appraise();
        assert!(appraised.verified().is_none());
        let check = appraised.failed().expect("refused");
        (check.name.clone(), check.detail.clone())
    }
}

/// What the responders say about every certificate that must not be revoked: devices, their issuer, who signs manifests.
pub(crate) fn good_answers() -> Vec<Ocsp> {
    let chain = |position| device_chain(0, "GH100").into_iter().nth(position).unwrap();
    let mut answers: Vec<_> = (0x20..0x24).map(|serial| Ocsp::good(serial, chain(2))).collect();
    answers.push(Ocsp { delegate: Some(Ocsp::responder()), ..Ocsp::good(0x11, chain(3)) });
    answers.push(Ocsp::good(0x61, manifest_chain().into_iter().nth(1).unwrap()));
    answers
}

/// The strict policy, and the simulated roots.
pub(crate) fn policy() -> GpuPolicy {
    let fingerprint = |chain: Vec<Unsigned>| Fingerprint(Sha256::digest(issue(&chain).last().unwrap()).into());
    GpuPolicy {
        danger_simulated_device_roots: vec![fingerprint(device_chain(0, "GH100"))],
        danger_simulated_manifest_roots: vec![fingerprint(manifest_chain())],
        ..GpuPolicy::strict()
    }
}

/// In canonical order.
const NAMESPACES: &str = "xmlns=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\" \
                          xmlns:ns0=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\" \
                          xmlns:ns2=\"http://www.w3.org/2001/04/xmlenc#sha384\"";
const RIM_NS: &str = "https://trustedcomputinggroup.org/resource/tcg-reference-integrity-manifest-rim-information-model/";
pub(crate) const C14N11: &str = "http://www.w3.org/2006/12/xml-c14n11";
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
