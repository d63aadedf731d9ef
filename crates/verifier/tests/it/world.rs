//! A world in which everything is right: platform, TPM vendor, node, guest. Tests change one thing.
//!
//! A [`Spec`] is what will be signed; [`Spec::build`] signs it; a [`Case`] is what the verifier gets.

use std::{collections::BTreeMap, sync::OnceLock};

use casemate_attester::{Attester, quote_bundle, sim::SoftTpm};
use casemate_evidence::{
    eventlog::{Event, EventLog, EventType, replay_sha256},
    instance::{
        GuestKeys, InstanceEvidence, Jail, LaunchRecord, Machine, NODE_PCRS, Record as _, Vmm, guest_binding, guest_pcr,
        instance_leaf,
    },
    merkle,
    tpm::Public,
};
use casemate_verifier::{
    AttestationResult, Endorsements, Expectation, Outcome, Policy, ReferenceValues, RelyingParty, Simulated, TrustAnchors,
    UnixTime, VendorRoot, appraise_instance, node_certificate,
    revocation::{RevocationList, Revocations},
};
use ed25519_dalek::{Signer as _, SigningKey};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

pub(crate) const NOW: UnixTime = UnixTime(1_800_000_000);
pub(crate) const NONCE: [u8; 32] = [0xa5; 32];
pub(crate) const INSTANCE: &str = "0198c1f2-0000-7000-8000-000000000001";
pub(crate) const WORKLOAD: [u8; 32] = [0x77; 32];
pub(crate) const NODE: &str = "node-1";
pub(crate) const AGENT: [u8; 32] = [0xa6; 32];
pub(crate) const VMM: [u8; 32] = [0x8e; 32];
pub(crate) const KERNEL: [u8; 32] = [0x4b; 32];
pub(crate) const INITRD: [u8; 32] = [0x1d; 32];
pub(crate) const ROOT: [u8; 32] = [0x60; 32];

/// What will be signed.
pub(crate) struct Spec {
    pub(crate) pki: Pki,
    pub(crate) launch: LaunchRecord,
    pub(crate) keys: GuestKeys,
    pub(crate) nonce: [u8; 32],
    pub(crate) events: Vec<Event>,
    pub(crate) node_pcrs: Vec<u32>,
    pub(crate) node_tpm: Box<dyn Attester>,
    pub(crate) guest_tpm: SoftTpm,
    /// What the launcher and the guest extend.
    pub(crate) measured: BTreeMap<u32, [u8; 32]>,
    pub(crate) guest_pcrs: Vec<u32>,
    /// Instead of the right qualifying data of the guest's quote.
    pub(crate) guest_qualifying: Option<[u8; 32]>,
    /// Leaves of other instances in the same batch.
    pub(crate) others: Vec<[u8; 32]>,
    pub(crate) references: References,
    pub(crate) policy: Policy,
}

/// What the verifier gets.
pub(crate) struct Case {
    pub(crate) evidence: InstanceEvidence,
    /// Instead of the encoding of `evidence`.
    pub(crate) bytes: Option<Vec<u8>>,
    pub(crate) node_chain: Vec<Vec<u8>>,
    pub(crate) ek_chain: Vec<Vec<u8>>,
    pub(crate) references: ReferenceValues,
    pub(crate) anchors: TrustAnchors,
    pub(crate) policy: Policy,
    pub(crate) revocations: Option<RevocationList>,
    pub(crate) instance: String,
    pub(crate) workload_digest: [u8; 32],
    pub(crate) nonce: [u8; 32],
    pub(crate) now: UnixTime,
}

pub(crate) fn command_line() -> String {
    format!(
        "console=ttyS0 tsc_early_khz=2100000 tsc=reliable casemate.root={0}:{1}:100:101 panic=-1",
        hex::encode(ROOT),
        "00".repeat(32)
    )
}

fn template() -> String {
    command_line().replace("2100000", "{tsc_khz}")
}

impl Spec {
    pub(crate) fn good() -> Self {
        let guest_tpm = SoftTpm::new(&[2; 32]);
        let launch = LaunchRecord {
            version: 1,
            instance: INSTANCE.into(),
            workload_digest: WORKLOAD,
            kernel: KERNEL,
            initrd: INITRD,
            command_line: command_line(),
            root_hash: ROOT,
            vmm: Vmm { name: "qemu".into(), version: "7.2.0".into(), digest: VMM },
            machine: Machine { kind: "microvm".into(), accel: "kvm".into(), cpus: 1, memory_mib: 256 },
            jail: Jail {
                uid: 64_000,
                no_new_privs: true,
                seccomp: true,
                capabilities: 0,
                namespaces: ["ipc", "mnt", "net", "pid", "uts"].map(String::from).to_vec(),
                cgroup: true,
            },
            vtpm_ak_public: guest_tpm.public().to_vec(),
            monitor: Some(casemate_evidence::instance::Monitor { class: "enforcing".into(), without: Vec::new() }),
        };
        Self {
            pki: Pki::good(),
            measured: measured(&launch),
            launch,
            keys: GuestKeys { version: 1, hpke: [0x11; 32], tls: [0x22; 32] },
            nonce: NONCE,
            events: events(),
            node_pcrs: NODE_PCRS.to_vec(),
            node_tpm: Box::new(SoftTpm::new(&[1; 32])),
            guest_tpm,
            guest_pcrs: guest_pcr::QUOTED.to_vec(),
            guest_qualifying: None,
            others: vec![[0xee; 32]],
            references: References::good(),
            policy: Policy::microvm(Simulated::Refuse),
        }
    }

    /// The launcher measures what it starts, also where that is not what it should be.
    pub(crate) fn with_launch(change: impl FnOnce(&mut LaunchRecord)) -> Self {
        let mut spec = Self::good();
        change(&mut spec.launch);
        spec.measured = measured(&spec.launch);
        spec
    }

    pub(crate) fn build(mut self) -> Case {
        let launch_record = self.launch.encode();
        let guest_keys = self.keys.encode();
        for (pcr, digest) in &self.measured {
            self.guest_tpm.pcr_extend(*pcr, *digest).unwrap();
        }
        let binding = guest_binding(&self.nonce, &guest_keys, &self.launch.workload_digest, &self.launch.instance);
        let guest = quote_bundle(&mut self.guest_tpm, &self.guest_qualifying.unwrap_or(binding), &self.guest_pcrs).unwrap();

        let leaf = instance_leaf(&self.nonce, &launch_record, &guest_keys, &guest.attest);
        let leaves: Vec<_> = self.others.iter().copied().chain([leaf]).collect();
        for event in &self.events {
            if let Some(digest) = event.measured_sha256() {
                self.node_tpm.pcr_extend(event.pcr, digest).unwrap();
            }
        }
        let node = quote_bundle(&mut *self.node_tpm, &merkle::root(&leaves).unwrap(), &self.node_pcrs).unwrap();
        let log = EventLog { events: self.events, ..EventLog::sha256() };
        let evidence = InstanceEvidence {
            version: 1,
            nonce: self.nonce,
            launch_record,
            guest_keys,
            node,
            node_event_log: log.encode(),
            batch: merkle::path(&leaves, leaves.len() - 1).unwrap(),
            guest,
        };
        let (node_chain, ek_chain, anchors) = self.pki.build(&name_of(self.node_tpm.public()));
        Case {
            evidence,
            bytes: None,
            node_chain,
            ek_chain,
            references: self.references.build(),
            anchors,
            policy: self.policy,
            revocations: Some(revocations(|_| ())),
            instance: INSTANCE.into(),
            workload_digest: WORKLOAD,
            nonce: NONCE,
            now: NOW,
        }
    }
}

impl Case {
    pub(crate) fn good() -> Self {
        Spec::good().build()
    }

    pub(crate) fn encoded(&self) -> Vec<u8> {
        self.bytes.clone().unwrap_or_else(|| self.evidence.encode())
    }

    pub(crate) fn appraise(&self) -> AttestationResult {
        self.appraise_bytes(&self.encoded())
    }

    pub(crate) fn appraise_bytes(&self, bytes: &[u8]) -> AttestationResult {
        let endorsements = Endorsements { node_chain: &self.node_chain, ek_chain: &self.ek_chain };
        let expectation = Expectation { instance: &self.instance, workload_digest: self.workload_digest, nonce: self.nonce };
        let believes = RelyingParty {
            references: &self.references,
            anchors: &self.anchors,
            policy: &self.policy,
            revocations: self.revocations.as_ref(),
        };
        appraise_instance(bytes, &endorsements, &believes, &expectation, self.now)
    }
}

/// The one check that failed, with its detail; everything before it passed and nothing after it was reached.
pub(crate) fn only_failure(result: &AttestationResult) -> (String, String) {
    let at = result.checks.iter().position(|check| check.outcome != Outcome::Pass).expect("a check failed");
    assert_eq!(result.checks[at].outcome, Outcome::Fail);
    assert!(result.checks[at + 1..].iter().all(|check| check.outcome == Outcome::NotReached));
    assert!(result.guest().is_none() && !result.is_affirming());
    (result.checks[at].name.clone(), result.checks[at].detail.clone())
}

pub(crate) fn name_of(public: &[u8]) -> Vec<u8> {
    Public::parse(public).unwrap().name()
}

fn measured(launch: &LaunchRecord) -> BTreeMap<u32, [u8; 32]> {
    BTreeMap::from([
        (guest_pcr::KERNEL, launch.kernel),
        (guest_pcr::COMMAND_LINE, Sha256::digest(launch.command_line.as_bytes()).into()),
        (guest_pcr::INITRD, launch.initrd),
        (guest_pcr::ROOT_HASH, launch.root_hash),
        (guest_pcr::WORKLOAD, launch.workload_digest),
    ])
}

pub(crate) fn software_event(label: &str, digest: [u8; 32]) -> Event {
    Event::of_digest(14, EventType::IPL, digest, format!("{label} sha256:{}", hex::encode(digest)))
}

pub(crate) fn events() -> Vec<Event> {
    vec![
        Event::of_data(0, EventType::S_CRTM_VERSION, *b"casemate simulated firmware 1"),
        Event::of_data(7, EventType::SEPARATOR, [0; 4]),
        software_event("casemate-agent", AGENT),
        software_event("casemate-vmm", VMM),
    ]
}

/// Whether a log says the same about measurements as the good one.
pub(crate) fn replays_as_good(log: &[u8]) -> bool {
    EventLog::parse(log).is_ok_and(|log| replay_sha256(&log.events) == replay_sha256(&events()))
}

/// A list that names nothing of this world, but for what is changed.
pub(crate) fn revocations(change: impl FnOnce(&mut Revocations)) -> RevocationList {
    let mut list = Revocations {
        version: 1,
        serial: 17,
        issued_at: UnixTime(NOW.0 - 3600),
        next_update: UnixTime(NOW.0 + 86_400),
        chips: ["99".repeat(64)].into(),
        aks: ["000b".repeat(17)].into(),
        images: ["1a".repeat(32)].into(),
        silicon_generations: ["milan".to_owned()].into(),
    };
    change(&mut list);
    let key = reference_key();
    RevocationList::from_signed(list.to_signed(&key).as_bytes(), &key.verifying_key().to_bytes()).unwrap()
}

/// Reference values before they are signed.
pub(crate) struct References {
    pub(crate) kernel: [u8; 32],
    pub(crate) initrd: [u8; 32],
    pub(crate) root_hash: [u8; 32],
    pub(crate) command_line: String,
    pub(crate) agent: Vec<[u8; 32]>,
    pub(crate) vmm: Vec<[u8; 32]>,
}

impl References {
    pub(crate) fn good() -> Self {
        Self {
            kernel: KERNEL,
            initrd: INITRD,
            root_hash: ROOT,
            command_line: template(),
            agent: vec![[0; 32], AGENT],
            vmm: vec![VMM, [0; 32]],
        }
    }

    pub(crate) fn payload(&self) -> String {
        let list = |digests: &[[u8; 32]]| digests.iter().map(hex::encode).collect::<Vec<_>>();
        let os = |name: &str, kernel: [u8; 32]| {
            serde_json::json!({
                "name": name, "kernel": hex::encode(kernel), "initrd": hex::encode(self.initrd),
                "root_hash": hex::encode(self.root_hash), "command_lines": [self.command_line],
            })
        };
        // The first one is another guest OS: a launch may not be put together from two.
        let other = serde_json::json!({
            "name": "other", "kernel": "01".repeat(32), "initrd": "02".repeat(32), "root_hash": "03".repeat(32),
            "command_lines": [format!("other casemate.root={}:0:1:2", "03".repeat(32))],
        });
        serde_json::json!({
            "version": 1, "guest_os": [other, os("casemate-guest-os 1", self.kernel)],
            "node_software": {"agent": list(&self.agent), "vmm": list(&self.vmm)},
        })
        .to_string()
    }

    pub(crate) fn build(&self) -> ReferenceValues {
        let key = reference_key();
        ReferenceValues::from_signed(&signed_references(&self.payload(), &key), &key.verifying_key().to_bytes()).unwrap()
    }
}

pub(crate) fn reference_key() -> SigningKey {
    SigningKey::from_bytes(&[0x5e; 32])
}

pub(crate) fn signed_references(payload: &str, key: &SigningKey) -> Vec<u8> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let signature = key.sign(&[b"casemate/reference-values/v1\0", payload.as_bytes()].concat());
    serde_json::json!({
        "payload": payload,
        "signature": STANDARD.encode(signature.to_bytes()),
        "key": STANDARD.encode(key.verifying_key().to_bytes()),
    })
    .to_string()
    .into_bytes()
}

/// Key pairs, made once per run.
pub(crate) struct Keys {
    pub(crate) platform: KeyPair,
    pub(crate) node: KeyPair,
    pub(crate) vendor: KeyPair,
    pub(crate) intermediate: KeyPair,
    pub(crate) ek: KeyPair,
}

pub(crate) fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    let fresh = |algorithm| KeyPair::generate_for(algorithm).unwrap();
    KEYS.get_or_init(|| Keys {
        platform: fresh(&rcgen::PKCS_ECDSA_P256_SHA256),
        node: fresh(&rcgen::PKCS_ECDSA_P256_SHA256),
        vendor: fresh(&rcgen::PKCS_ECDSA_P384_SHA384),
        intermediate: fresh(&rcgen::PKCS_ECDSA_P256_SHA256),
        ek: fresh(&rcgen::PKCS_ECDSA_P256_SHA256),
    })
}

/// Certificates before they are signed.
pub(crate) struct Pki {
    pub(crate) platform: CertificateParams,
    pub(crate) node: CertificateParams,
    pub(crate) vendor: CertificateParams,
    pub(crate) intermediate: CertificateParams,
    pub(crate) ek: CertificateParams,
    /// The three extensions of the node certificate, instead of the right content.
    pub(crate) ak_name: Option<Vec<u8>>,
    pub(crate) ek_digest: Option<[u8; 32]>,
    pub(crate) receipt_key: [u8; 32],
    /// The vendor root is declared to be a simulator's.
    pub(crate) simulated: bool,
}

impl Pki {
    pub(crate) fn good() -> Self {
        let mut ek = leaf("");
        ek.distinguished_name = rcgen::DistinguishedName::new();
        ek.key_usages = vec![KeyUsagePurpose::KeyAgreement];
        ek.custom_extensions = vec![critical(&[2, 5, 29, 17], tpm_names()), critical(&[2, 5, 29, 9], vec![0x30, 0x00])];
        Self {
            platform: authority("Casemate platform authority", Some(0)),
            node: leaf(NODE),
            vendor: authority("Test TPM Vendor Root", None),
            intermediate: authority("Test TPM Vendor Intermediate", Some(0)),
            ek,
            ak_name: None,
            ek_digest: None,
            receipt_key: receipt_key().verifying_key().to_bytes(),
            simulated: false,
        }
    }

    /// Node chain, EK chain, anchors.
    pub(crate) fn build(mut self, ak_name: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>, TrustAnchors) {
        let keys = keys();
        let platform = self.platform.self_signed(&keys.platform).unwrap();
        let vendor = self.vendor.self_signed(&keys.vendor).unwrap();
        let vendor_issuer = Issuer::from_params(&self.vendor, &keys.vendor);
        let intermediate = self.intermediate.signed_by(&keys.intermediate, &vendor_issuer).unwrap();
        let ek = self.ek.signed_by(&keys.ek, &Issuer::from_params(&self.intermediate, &keys.intermediate)).unwrap();
        let content = [
            (node_certificate::AK_NAME, self.ak_name.unwrap_or_else(|| ak_name.to_vec())),
            (node_certificate::EK_CERTIFICATE, self.ek_digest.unwrap_or_else(|| Sha256::digest(ek.der()).into()).to_vec()),
            (node_certificate::RECEIPT_KEY, self.receipt_key.to_vec()),
        ];
        for (oid, content) in content {
            let arcs: Vec<u64> = oid.arcs().map(u64::from).collect();
            let extension = CustomExtension::from_oid_content(&arcs, node_certificate::extension_value(&content));
            self.node.custom_extensions.push(extension);
        }
        let node = self.node.signed_by(&keys.node, &Issuer::from_params(&self.platform, &keys.platform)).unwrap();
        let root = VendorRoot { pem: vendor.pem(), simulated: self.simulated };
        let anchors = TrustAnchors::new(&platform.pem(), &[root]).unwrap();
        (vec![node.der().to_vec()], vec![ek.der().to_vec(), intermediate.der().to_vec()], anchors)
    }
}

pub(crate) fn receipt_key() -> SigningKey {
    SigningKey::from_bytes(&[0x4e; 32])
}

pub(crate) fn at(offset_s: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(NOW.0).unwrap() + offset_s).unwrap()
}

pub(crate) fn authority(name: &str, path_length: Option<u8>) -> CertificateParams {
    let mut params = leaf(name);
    params.not_before = at(-1000 * HOUR);
    params.not_after = at(1000 * HOUR);
    params.is_ca = IsCa::Ca(path_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(crate) fn leaf(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = at(-HOUR);
    params.not_after = at(HOUR);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

pub(crate) fn critical(oid: &[u64], content: Vec<u8>) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(oid, content);
    extension.set_criticality(true);
    extension
}

/// GeneralNames with one empty directoryName.
fn tpm_names() -> Vec<u8> {
    vec![0x30, 0x04, 0xa4, 0x02, 0x30, 0x00]
}

pub(crate) const HOUR: i64 = 3600;
