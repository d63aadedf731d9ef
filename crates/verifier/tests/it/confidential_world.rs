//! Confidential VMs of our own, in which everything is right: processor, GPUs and node of the other worlds, put together.
//!
//! A [`World`] is what will be signed; [`World::build`] signs it; a [`Case`] is what the verifier gets.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock, OnceLock},
};

use casemate_attester::{Attester as _, quote_bundle, sim::SoftTpm};
use casemate_evidence::{
    confidential::{
        ConfidentialEvidence, CpuEvidence, DevicesSeen, GpuEvidence, NodeEvidence, confidential_binding, confidential_leaf,
    },
    eventlog::{Event, EventLog},
    instance::{GuestKeys, NODE_PCRS, QuoteBundle, Record as _},
    merkle,
    nvidia::{DeviceKind, nonce_for},
    tdx::Body,
};
use casemate_verifier::{
    AttestationResult, Demand, Endorsements, Expectation, ReferenceValues, TrustAnchors, UnixTime,
    confidential::{
        Believes, ConfidentialEndorsements, ConfidentialExpectation, ConfidentialPolicy, CpuEndorsements, CpuPolicy,
        appraise_confidential,
    },
    gpu::{DeviceCount, GpuEndorsements, Manifest, ManifestDocument, Revocation, VerifiedChain, VerifiedManifest},
    rego::AppraisalPolicy,
    revocation::{RevocationList, Revocations},
    snp::{self, Generation, SignedChain},
    tdx::{self, Collateral, RootFingerprint, VerifiedCollateral, VerifiedPlatform, config_id},
};
use rcgen::PublicKeyData as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    gpu_world::{self, Device},
    snp_world, tdx_world,
    world::{INSTANCE, NONCE, NOW, Pki, References, WORKLOAD, events, name_of, reference_key, signed_references},
};

/// What will be signed.
pub(crate) struct World {
    pub(crate) cpu: Cpu,
    pub(crate) gpus: Vec<Device>,
    pub(crate) seen: DevicesSeen,
    pub(crate) pki: Pki,
    /// Seed of the node's TPM.
    pub(crate) tpm: u8,
    pub(crate) events: Vec<Event>,
    pub(crate) keys: GuestKeys,
    pub(crate) instance: String,
    pub(crate) workload: [u8; 32],
    pub(crate) nonce: [u8; 32],
    /// Instead of what binds processor, GPUs and node.
    pub(crate) report_data: Option<[u8; 64]>,
    pub(crate) gpu_nonce: Option<[u8; 32]>,
    pub(crate) leaf: Option<[u8; 32]>,
}

pub(crate) enum Cpu {
    Snp(Box<snp_world::Case>),
    Tdx(Box<tdx_world::Spec>),
}

/// What vouches for the processor.
pub(crate) enum Vendor {
    Snp(Vec<Vec<u8>>, Option<Vec<u8>>),
    Tdx(Vec<u8>),
    KeptSnp(Box<SignedChain>),
    KeptTdx(Arc<VerifiedCollateral>, Arc<VerifiedPlatform>),
}

/// What the verifier gets.
pub(crate) struct Case {
    pub(crate) evidence: ConfidentialEvidence,
    /// Instead of the encoding of `evidence`.
    pub(crate) bytes: Option<Vec<u8>>,
    pub(crate) vendor: Vendor,
    pub(crate) manifests: Vec<(String, Vec<u8>)>,
    pub(crate) ocsp: Vec<Vec<u8>>,
    pub(crate) kept_chains: Vec<VerifiedChain>,
    pub(crate) kept_manifests: Vec<(String, VerifiedManifest)>,
    pub(crate) node_chain: Vec<Vec<u8>>,
    pub(crate) ek_chain: Vec<Vec<u8>>,
    pub(crate) anchors: TrustAnchors,
    /// The payload of `references`.
    pub(crate) payload: Value,
    pub(crate) references: ReferenceValues,
    pub(crate) policy: ConfidentialPolicy,
    pub(crate) rules: AppraisalPolicy,
    pub(crate) revocations: Option<RevocationList>,
    pub(crate) instance: String,
    pub(crate) workload: [u8; 32],
    pub(crate) nonce: [u8; 32],
    pub(crate) devices: DeviceCount,
    pub(crate) now: UnixTime,
}

/// Instances run on machines: this is the second one's processor.
pub(crate) const OTHER_CHIP: [u8; 64] = [0xd6; 64];

impl World {
    pub(crate) fn snp(gpus: usize) -> Self {
        let mut case = snp_world::Case::new(Generation::Genoa);
        case.crl = case.crl.map(|crl| snp_world::Crl { this_update: "270110000000Z", next_update: "270301000000Z", ..crl });
        Self::new(Cpu::Snp(Box::new(case)), gpus)
    }

    pub(crate) fn tdx(gpus: usize) -> Self {
        Self::new(Cpu::Tdx(Box::new(tdx_world::Spec::good_td15())), gpus)
    }

    fn new(cpu: Cpu, gpus: usize) -> Self {
        Self {
            cpu,
            gpus: (0..gpus).map(Device::gpu).collect(),
            seen: DevicesSeen { gpus: u32::try_from(gpus).unwrap(), switches: 0 },
            pki: Pki { simulated: true, ..Pki::good() },
            tpm: 1,
            events: events(),
            keys: GuestKeys { version: 1, hpke: [0x11; 32], tls: [0x22; 32] },
            instance: INSTANCE.into(),
            workload: WORKLOAD,
            nonce: NONCE,
            report_data: None,
            gpu_nonce: None,
            leaf: None,
        }
    }

    /// The same guest on the other machine, with its TPM, processor and GPUs.
    pub(crate) fn elsewhere(gpus: usize) -> Self {
        let mut world = Self { tpm: 9, ..Self::snp(0) };
        world.other_chip();
        world.gpus = (0..gpus).map(|number| Device::gpu(number + 2)).collect();
        world.seen.gpus = u32::try_from(gpus).unwrap();
        world
    }

    pub(crate) fn other_chip(&mut self) {
        self.snp_case().leaf.replace(&[4], Some(OTHER_CHIP.to_vec()));
        self.snp_case().report.chip_id = OTHER_CHIP;
    }

    pub(crate) fn snp_case(&mut self) -> &mut snp_world::Case {
        match &mut self.cpu {
            Cpu::Snp(case) => case,
            Cpu::Tdx(_) => panic!("a world of TDX"),
        }
    }

    pub(crate) fn tdx_spec(&mut self) -> &mut tdx_world::Spec {
        match &mut self.cpu {
            Cpu::Tdx(spec) => spec,
            Cpu::Snp(_) => panic!("a world of SNP"),
        }
    }

    pub(crate) fn build(mut self) -> Case {
        let guest_keys = self.keys.encode();
        let binding = confidential_binding(&self.nonce, &guest_keys, &self.instance, self.seen);
        let identities: BTreeSet<String> = self.gpus.iter().map(identity).collect();
        let devices = DeviceCount { gpus: self.seen.gpus, switches: self.seen.switches };
        let signed = self.cpu.sign(self.report_data.unwrap_or(binding), self.workload);
        let nonce = self.gpu_nonce.unwrap_or_else(|| nonce_for(signed.evidence.signed()));
        let mut evidence = ConfidentialEvidence {
            version: 1,
            nonce: self.nonce,
            guest_keys,
            cpu: signed.evidence,
            seen: self.seen,
            gpus: self.gpus.iter_mut().map(|device| gpu_evidence(device, nonce)).collect(),
            node: NodeEvidence {
                quote: QuoteBundle { attest: vec![], signature: vec![], ak_public: vec![], pcrs: [].into() },
                event_log: vec![],
                batch: merkle::InclusionPath { index: 0, count: 1, siblings: vec![] },
            },
        };
        let leaf = self.leaf.unwrap_or_else(|| confidential_leaf(&evidence));
        let (node, ak_name) = node_evidence(self.tpm, self.events, &[[0xee; 32], leaf]);
        evidence.node = node;
        let (node_chain, ek_chain, anchors) = self.pki.build(&ak_name);
        let mut payload: Value = serde_json::from_str(&References::good().payload()).unwrap();
        payload["confidential"] = json!([signed.measurements]);
        let mut machine = signed.machine;
        machine["ek"] = hex::encode(Sha256::digest(&ek_chain[0])).into();
        machine["gpus"] = json!(identities);
        payload["machines"] = json!([machine]);
        let (manifests, ocsp) = vendor_of_gpus();
        Case {
            evidence,
            bytes: None,
            vendor: signed.vendor,
            manifests: manifests.clone(),
            ocsp: ocsp.clone(),
            kept_chains: vec![],
            kept_manifests: vec![],
            node_chain,
            ek_chain,
            anchors,
            references: references(&payload),
            payload,
            policy: ConfidentialPolicy {
                cpu: signed.policy,
                gpu: gpu_world::policy(),
                node_boot: Demand::LeftToPlatform,
                revocation_floor: 17,
                danger_allow_simulated: true,
            },
            rules: STRICT.clone(),
            revocations: Some(revocations(|_| ())),
            instance: INSTANCE.into(),
            workload: WORKLOAD,
            nonce: NONCE,
            devices,
            now: NOW,
        }
    }
}

/// A processor's signed evidence and what belongs to it.
struct Signed {
    evidence: CpuEvidence,
    vendor: Vendor,
    policy: CpuPolicy,
    measurements: Value,
    machine: Value,
}

impl Cpu {
    fn sign(self, report_data: [u8; 64], workload: [u8; 32]) -> Signed {
        match self {
            Self::Snp(mut case) => {
                case.report.report_data = report_data;
                case.report.host_data = workload;
                Signed {
                    evidence: CpuEvidence::Snp { report: case.signed().to_vec() },
                    vendor: Vendor::Snp(case.chain(), case.crl_bytes()),
                    measurements: json!({"name": "guest", "snp": case.measurements.iter().map(hex::encode).collect::<Vec<_>>()}),
                    machine: json!({"chip_id": hex::encode(case.report.chip_id)}),
                    policy: CpuPolicy::Snp(Box::new(case.policy.clone())),
                }
            }
            Self::Tdx(mut spec) => {
                spec.report().report_data = report_data;
                spec.report().mr_config_id = config_id(&workload);
                let case = spec.build();
                let rtmr = tdx_world::RTMRS.map(|value| json!([hex::encode(value)]));
                let good = json!({"mrtd": hex::encode(tdx_world::MRTD), "rtmr": rtmr});
                let other = json!({"mrtd": "07".repeat(48), "rtmr": rtmr});
                Signed {
                    evidence: CpuEvidence::Tdx { quote: case.quote.encode(), event_log: case.event_log.unwrap_or_default() },
                    vendor: Vendor::Tdx(case.collateral.to_string().into_bytes()),
                    measurements: json!({"name": "guest", "tdx": [other, good]}),
                    machine: json!({"platform_instance_id": "66".repeat(16)}),
                    policy: CpuPolicy::Tdx(Box::new(case.policy)),
                }
            }
        }
    }
}

impl Case {
    pub(crate) fn encoded(&self) -> Vec<u8> {
        self.bytes.clone().unwrap_or_else(|| self.evidence.encode())
    }

    pub(crate) fn appraise(&self) -> AttestationResult {
        self.appraise_bytes(&self.encoded())
    }

    pub(crate) fn appraise_bytes(&self, bytes: &[u8]) -> AttestationResult {
        let manifest = |(id, xml)| Manifest { id, document: ManifestDocument::Xml(xml) };
        let kept = self.kept_manifests.iter().map(|(id, kept)| Manifest { id, document: ManifestDocument::Verified(kept) });
        let fresh = self.manifests.iter().map(|(id, xml)| (id.as_str(), &xml[..])).map(manifest);
        let manifests: Vec<_> = kept.chain(fresh).collect();
        let endorsements = ConfidentialEndorsements {
            node: Endorsements { node_chain: &self.node_chain, ek_chain: &self.ek_chain },
            cpu: self.vendor.endorsements(),
            gpu: GpuEndorsements { chains: &self.kept_chains, manifests: &manifests, revocation: self.revocation() },
            revocations: self.revocations.as_ref(),
        };
        let believes =
            Believes { references: &self.references, anchors: &self.anchors, policy: &self.policy, rules: &self.rules };
        let instance = Expectation { instance: &self.instance, workload_digest: self.workload, nonce: self.nonce };
        let expectation = ConfidentialExpectation { instance, devices: self.devices };
        appraise_confidential(bytes, &endorsements, &believes, &expectation, self.now)
    }

    fn revocation(&self) -> Revocation<'_> {
        Revocation { ocsp: &self.ocsp, crls: &[] }
    }

    pub(crate) fn change_references(&mut self, change: impl FnOnce(&mut Value)) {
        change(&mut self.payload);
        self.references = references(&self.payload);
    }

    /// Chains, manifests and collateral are verified once and kept, as a service does.
    pub(crate) fn keep(mut self) -> Self {
        let ocsp = std::mem::take(&mut self.ocsp);
        let revocation = Revocation { ocsp: &ocsp, crls: &[] };
        for gpu in &self.evidence.gpus {
            let chain = casemate_verifier::gpu::chain_from_pem(&gpu.chain).unwrap();
            self.kept_chains.push(VerifiedChain::verify(&chain, &revocation, &self.policy.gpu, self.now).unwrap());
        }
        for (id, xml) in self.manifests.drain(..) {
            let kept = VerifiedManifest::verify(&xml, &revocation, &self.policy.gpu, self.now).unwrap();
            self.kept_manifests.push((id, kept));
        }
        self.vendor = match self.vendor {
            Vendor::Snp(chain, crl) => {
                let chain = SignedChain::new(&chain).unwrap();
                Vendor::KeptSnp(Box::new(chain.with_crl(&crl.unwrap()).unwrap()))
            }
            Vendor::Tdx(json) => kept_tdx(&self.evidence.cpu, &json, &self.policy.cpu),
            kept @ (Vendor::KeptSnp(..) | Vendor::KeptTdx(..)) => kept,
        };
        self.ocsp = ocsp;
        self
    }
}

impl Vendor {
    fn endorsements(&self) -> CpuEndorsements<'_> {
        match self {
            Self::Snp(chain, crl) => CpuEndorsements::Snp(snp::Endorsements::new(chain, crl.as_deref())),
            Self::KeptSnp(chain) => CpuEndorsements::Snp(snp::Endorsements::kept(chain)),
            Self::Tdx(json) => CpuEndorsements::Tdx(tdx::Endorsements { collateral: Collateral::Json(json), platform: None }),
            Self::KeptTdx(collateral, platform) => {
                CpuEndorsements::Tdx(tdx::Endorsements { collateral: Collateral::Verified(collateral), platform: Some(platform) })
            }
        }
    }
}

fn kept_tdx(evidence: &CpuEvidence, json: &[u8], policy: &CpuPolicy) -> Vendor {
    let (CpuEvidence::Tdx { quote, .. }, CpuPolicy::Tdx(policy)) = (evidence, policy) else { panic!("of TDX") };
    let Body::TrustDomain(report) = casemate_evidence::tdx::Quote::decode(quote).unwrap().body else { panic!("a domain") };
    let endorsements = tdx::Endorsements { collateral: Collateral::Json(json), platform: None };
    let expectation =
        tdx::Expectation { config_id: report.mr_config_id, report_data: report.report_data, ..tdx_world::expectation() };
    let appraised = tdx::appraise_tdx(quote, None, &endorsements, policy, &expectation, NOW);
    let verified = appraised.verified().unwrap();
    Vendor::KeptTdx(Arc::clone(verified.collateral()), Arc::clone(verified.platform()))
}

/// SHA-256 of a device's key.
pub(crate) fn identity(device: &Device) -> String {
    hex::encode(Sha256::digest(device.chain[1].key.subject_public_key_info()))
}

fn gpu_evidence(device: &mut Device, nonce: [u8; 32]) -> GpuEvidence {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    device.request.nonce = nonce;
    let evidence = device.evidence();
    let mut chain = String::new();
    for der in &evidence.chain {
        chain.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(der);
        for line in text.as_bytes().chunks(64) {
            chain.push_str(std::str::from_utf8(line).unwrap());
            chain.push('\n');
        }
        chain.push_str("-----END CERTIFICATE-----\n");
    }
    GpuEvidence { switch: device.kind == DeviceKind::Switch, report: evidence.report, chain }
}

/// The node's statement about the last of `leaves`, and the name of the key that signed it.
fn node_evidence(seed: u8, events: Vec<Event>, leaves: &[[u8; 32]]) -> (NodeEvidence, Vec<u8>) {
    let mut tpm = SoftTpm::new(&[seed; 32]);
    for event in &events {
        if let Some(digest) = event.measured_sha256() {
            tpm.pcr_extend(event.pcr, digest).unwrap();
        }
    }
    let quote = quote_bundle(&mut tpm, &merkle::root(leaves).unwrap(), &NODE_PCRS).unwrap();
    let event_log = EventLog { events, ..EventLog::sha256() }.encode();
    let batch = merkle::path(leaves, leaves.len() - 1).unwrap();
    (NodeEvidence { quote, event_log, batch }, name_of(tpm.public()))
}

fn references(payload: &Value) -> ReferenceValues {
    let key = reference_key();
    let signed = signed_references(&payload.to_string(), &key);
    ReferenceValues::from_signed(&signed, &key.verifying_key().to_bytes()).unwrap()
}

/// A list that names nothing of this world.
pub(crate) fn revocations(change: impl FnOnce(&mut Revocations)) -> RevocationList {
    let mut list = Revocations {
        version: 1,
        serial: 17,
        issued_at: NOW,
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

type GpuVendor = (Vec<(String, Vec<u8>)>, Vec<Vec<u8>>);

/// Manifests and OCSP responses: the same for all.
fn vendor_of_gpus() -> &'static GpuVendor {
    static VENDOR: OnceLock<GpuVendor> = OnceLock::new();
    VENDOR.get_or_init(|| {
        let case = gpu_world::Case::good();
        (case.manifests, case.ocsp)
    })
}

/// No root is simulated: all that is signed here is refused.
pub(crate) fn without_simulated_roots(policy: &mut ConfidentialPolicy) {
    match &mut policy.cpu {
        CpuPolicy::Snp(snp) => snp.danger_simulated_roots.clear(),
        CpuPolicy::Tdx(tdx) => tdx.danger_simulated_roots = Vec::<RootFingerprint>::new(),
    }
}

pub(crate) static STRICT: LazyLock<AppraisalPolicy> = LazyLock::new(AppraisalPolicy::strict);
