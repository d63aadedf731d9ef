//! Complete requests of each kind, as `docs/api/examples` has them. All keys in them are of this test: with
//! `CASEMATE_EXAMPLES_OUT=FOLDER` it writes a new set.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_evidence::{instance::Record as _, nvidia::DeviceKind};
use casemate_verifier::{
    Simulated, UnixTime,
    rego::AppraisalPolicy,
    request::{Pinned, Request},
    revocation::Revocations,
    snp::{Generation, SnpPolicy},
};
use serde_json::{Value, json};

use crate::{
    confidential_world::{Vendor, World},
    gpu_world, request, snp_world, tdx_world,
    world::{INSTANCE, NONCE, NOW, Pki, References, Spec, WORKLOAD, authority, keys, reference_key, signed_references},
};

#[test]
fn each_example_of_the_documentation_is_accepted_and_a_new_set_can_be_written() {
    let examples = [
        ("snp", snp()),
        ("tdx", tdx()),
        ("gpu", gpu()),
        ("tpm", request::tpm()),
        ("instance", instance()),
        ("confidential", confidential()),
    ];
    let rules = AppraisalPolicy::strict();
    let pinned = Pinned { anchors: None, references: None, rules: &rules, revocations: None, simulated: Simulated::Allow };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api/examples");
    for (kind, made) in examples {
        if let Some(out) = std::env::var_os("CASEMATE_EXAMPLES_OUT") {
            fs::write(Path::new(&out).join(format!("{kind}.json")), format!("{made:#}\n")).unwrap();
        }
        let kept = fs::read(folder.join(format!("{kind}.json"))).unwrap();
        for bytes in [made.to_string().into_bytes(), kept] {
            let request = Request::from_json(&bytes).unwrap();
            let response = request.judge(&pinned, request.at().unwrap());
            assert!(response.accepted, "{kind}: {:?}", response.failed);
        }
    }
}

fn base64(parts: &[Vec<u8>]) -> Vec<String> {
    parts.iter().map(|part| BASE64.encode(part)).collect()
}

fn hexes(values: &[[u8; 48]]) -> Vec<String> {
    values.iter().map(hex::encode).collect()
}

fn snp() -> Value {
    let case = snp_world::Case::new(Generation::Genoa);
    let policy = SnpPolicy { danger_milan: None, turin: None, ..case.policy.clone() };
    json!({
        "version": 1, "kind": "snp", "at": case.now,
        "evidence": { "report": BASE64.encode(case.signed()) },
        "endorsements": { "chain": base64(&case.chain()), "crl": BASE64.encode(case.crl_bytes().unwrap()) },
        "policy": policy,
        "expectation": {
            "measurements": hexes(&case.measurements),
            "host_data": hex::encode(case.host_data), "report_data": hex::encode(case.report_data),
            "vmpl": 0, "identity": "absent", "revoked_chips": [],
        },
    })
}

fn tdx() -> Value {
    let case = tdx_world::Case::good();
    let rtmr = |value: [u8; 48]| json!({ "one_of": [hex::encode(value)] });
    json!({
        "version": 1, "kind": "tdx", "at": case.now,
        "evidence": { "quote": BASE64.encode(case.quote.encode()) },
        "endorsements": { "collateral": BASE64.encode(case.collateral.to_string()) },
        "policy": case.policy,
        "expectation": {
            "mrtd": [hex::encode(tdx_world::MRTD)], "rtmrs": tdx_world::RTMRS.map(rtmr),
            "config_id": hex::encode(tdx_world::CONFIG), "owner": "00".repeat(48), "owner_config": "00".repeat(48),
            "service_td": "00".repeat(48), "report_data": hex::encode(tdx_world::REPORT_DATA),
        },
    })
}

fn manifests(manifests: &[(String, Vec<u8>)], skip: &str) -> Vec<Value> {
    let manifests = manifests.iter().filter(|(id, _)| id != skip);
    manifests.map(|(id, xml)| json!({ "id": id, "document": BASE64.encode(xml) })).collect()
}

fn gpu() -> Value {
    let case = gpu_world::Case::good();
    let devices = case.evidence.iter().map(|device| {
        let kind = if device.kind == DeviceKind::Gpu { "gpu" } else { "switch" };
        json!({ "kind": kind, "report": BASE64.encode(&device.report), "chain": base64(&device.chain) })
    });
    json!({
        "version": 1, "kind": "gpu", "at": case.now,
        "evidence": { "devices": devices.collect::<Vec<_>>() },
        "endorsements": {
            "manifests": manifests(&case.manifests, gpu_world::SWITCH_ID), "ocsp": base64(&case.ocsp), "crls": [],
        },
        "policy": case.policy,
        "expectation": {
            "nonce": hex::encode(case.expectation.nonce), "claimed": case.expectation.claimed, "seen": case.expectation.seen,
        },
    })
}

/// A platform and a TPM vendor whose root says that it is a simulator's, and both in PEM.
fn simulated_pki() -> (Pki, Value) {
    let pki = Pki { vendor: authority("Simulated TPM Vendor Root", None), simulated: true, ..Pki::good() };
    let platform = pki.platform.self_signed(&keys().platform).unwrap().pem();
    let vendor = pki.vendor.self_signed(&keys().vendor).unwrap().pem();
    (pki, json!({ "platform_ca": platform, "vendor_roots": [vendor] }))
}

fn signed(file: &[u8]) -> Value {
    json!({ "signed": BASE64.encode(file), "key": hex::encode(reference_key().verifying_key().as_bytes()) })
}

/// A list that is fresh at [`NOW`] and names nothing of the examples.
fn signed_revocations() -> Value {
    let revocations = Revocations {
        version: 1,
        serial: 17,
        issued_at: NOW,
        next_update: UnixTime(NOW.0 + 86_400),
        chips: ["99".repeat(64)].into(),
        aks: [].into(),
        images: [].into(),
        silicon_generations: ["milan".to_owned()].into(),
    };
    signed(revocations.to_signed(&reference_key()).as_bytes())
}

fn instance() -> Value {
    let (pki, anchors) = simulated_pki();
    let case = Spec { pki, ..Spec::good() }.build();
    json!({
        "version": 1, "kind": "instance", "at": NOW,
        "evidence": { "evidence": BASE64.encode(case.evidence.encode()) },
        "endorsements": { "node_chain": base64(&case.node_chain), "ek_chain": base64(&case.ek_chain) },
        "policy": { "danger_allow_simulated": true },
        "expectation": {
            "instance": INSTANCE, "workload_digest": hex::encode(WORKLOAD), "nonce": hex::encode(NONCE),
        },
        "anchors": anchors,
        "references": signed(&signed_references(&References::good().payload(), &reference_key())),
        "revocations": signed_revocations(),
    })
}

fn confidential() -> Value {
    let (pki, anchors) = simulated_pki();
    let mut world = World::snp(1);
    world.pki = pki;
    let case = world.build();
    let Vendor::Snp(chain, crl) = &case.vendor else { panic!("of SNP") };
    json!({
        "version": 1, "kind": "confidential", "at": NOW,
        "evidence": { "evidence": BASE64.encode(case.encoded()) },
        "endorsements": {
            "node_chain": base64(&case.node_chain), "ek_chain": base64(&case.ek_chain),
            "cpu": { "snp": { "chain": base64(chain), "crl": crl.as_ref().map(|crl| BASE64.encode(crl)) } },
            "gpu": { "manifests": manifests(&case.manifests, gpu_world::SWITCH_ID), "ocsp": base64(&case.ocsp), "crls": [] },
        },
        "policy": case.policy,
        "expectation": {
            "instance": INSTANCE, "workload_digest": hex::encode(WORKLOAD), "nonce": hex::encode(NONCE),
            "devices": case.devices,
        },
        "anchors": anchors,
        "references": signed(&signed_references(&case.payload.to_string(), &reference_key())),
        "revocations": signed_revocations(),
    })
}
