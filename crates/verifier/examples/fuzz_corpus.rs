//! Writes the seeds of the fuzz targets, one folder per decoder, from the tests' worlds and simulators:
//! `cargo run -p casemate-verifier --example fuzz_corpus -- fuzz/corpus`. Keys are fresh each time, so files differ from run to run;
//! what is there under another name (a regression) stays.

#![allow(clippy::unwrap_used, reason = "seeds of what is known to be good")]

// The tests' worlds of good evidence.
#[allow(dead_code)]
#[path = "../tests/it/confidential_world.rs"]
mod confidential_world;
#[allow(dead_code)]
#[path = "../tests/it/gpu_world.rs"]
mod gpu_world;
#[allow(dead_code)]
#[path = "../tests/it/snp_world.rs"]
mod snp_world;
#[allow(dead_code)]
#[path = "../tests/it/tdx_world.rs"]
mod tdx_world;
#[allow(dead_code)]
#[path = "../tests/it/world.rs"]
mod world;

use std::{collections::BTreeMap, fs, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_evidence::{
    eventlog::{Bank, Event, EventLog, EventType, LogFormat},
    instance::Record as _,
    tpm::{HashAlg, alg_id},
};
use casemate_verifier::{
    ReferenceValues, UnixTime,
    corim::{CorimMeta, sign_corim},
    decoders::DECODERS,
    ear::{DEFAULT_LIFETIME_S, VerifierKey, sign_cwt, sign_jwt},
    rego::NamedPolicy,
    revocation::{RevocationList, Revocations},
    snp::Generation,
};
use ed25519_dalek::SigningKey;
use serde_json::json;
use sha2::{Digest as _, Sha384};
use world::NOW;

fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).expect("usage: fuzz_corpus FOLDER"));
    let mut seeds = Seeds(Vec::new());
    instances(&mut seeds);
    processors(&mut seeds);
    gpus(&mut seeds);
    logs(&mut seeds);
    files(&mut seeds);
    tokens(&mut seeds);
    for decoder in DECODERS {
        assert!(seeds.0.iter().any(|seed| seed.0 == decoder.name), "no seed for {}", decoder.name);
    }
    for (decoder, name, content) in seeds.0 {
        let folder = folder.join(decoder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), content).unwrap();
    }
}

/// (decoder, name of the file, content)
struct Seeds(Vec<(&'static str, String, Vec<u8>)>);

impl Seeds {
    fn add(&mut self, decoder: &'static str, name: &str, content: impl Into<Vec<u8>>) {
        self.0.push((decoder, name.to_owned(), content.into()));
    }
}

fn instances(seeds: &mut Seeds) {
    let case = world::Case::good();
    let evidence = &case.evidence;
    seeds.add("instance_evidence", "good", evidence.encode());
    seeds.add("launch_record", "good", evidence.launch_record.clone());
    seeds.add("guest_keys", "good", evidence.guest_keys.clone());
    let quote = &evidence.node;
    seeds.add("tpm_public", "p256", quote.ak_public.clone());
    seeds.add("attestation_key", "p256", quote.ak_public.clone());
    seeds.add("tpm_attest", "quote", quote.attest.clone());
    seeds.add("tpm_signature", "ecdsa", quote.signature.clone());
    seeds.add("event_log", "node", evidence.node_event_log.clone());
    seeds.add("certificate", "node", case.node_chain[0].clone());
    seeds.add("certificate", "ek", case.ek_chain[0].clone());
    let pem: String = case.ek_chain.iter().map(|der| pem(der)).collect();
    seeds.add("anchors", "intermediate", pem);
    let chain = |chain: &[Vec<u8>]| chain.iter().map(|der| BASE64.encode(der)).collect::<Vec<_>>();
    let request = json!({
        "version": 1, "kind": "instance",
        "evidence": { "evidence": BASE64.encode(evidence.encode()) },
        "endorsements": { "node_chain": chain(&case.node_chain), "ek_chain": chain(&case.ek_chain) },
        "policy": {},
        "expectation": {
            "instance": world::INSTANCE, "workload_digest": hex::encode(world::WORKLOAD), "nonce": hex::encode(world::NONCE),
        },
    });
    seeds.add("request", "instance", request.to_string());
}

fn processors(seeds: &mut Seeds) {
    for (name, generation) in [("milan", Generation::Milan), ("genoa", Generation::Genoa), ("turin", Generation::Turin)] {
        seeds.add("snp_report", name, snp_world::Case::new(generation).signed());
    }
    let case = snp_world::Case::new(Generation::Genoa);
    let chain = case.chain();
    seeds.add("certificate", "vcek", chain[0].clone());
    seeds.add("certificate", "ark", chain[2].clone());
    seeds.add("revocation_list", "ark", two(&chain[2], &case.crl_bytes().unwrap()));
    seeds.add("firmware", "ovmf", firmware());
    let request = json!({
        "version": 1, "kind": "snp", "at": 1_780_272_000,
        "evidence": { "report": BASE64.encode(case.signed()) },
        "endorsements": { "chain": chain.iter().map(|der| BASE64.encode(der)).collect::<Vec<_>>() },
        "policy": case.policy,
        "expectation": {
            "measurements": [hex::encode(case.measurements[0])],
            "host_data": hex::encode(case.host_data), "report_data": hex::encode(case.report_data),
            "vmpl": 0, "identity": "danger_any", "revoked_chips": [],
        },
    });
    seeds.add("request", "snp", request.to_string());

    let case = tdx_world::Case::good();
    seeds.add("tdx_quote", "version4", case.quote.encode());
    seeds.add("tdx_collateral", "good", case.collateral.to_string());
    let pem = case.collateral["pck_crl_issuer_chain"].as_str().unwrap().to_owned();
    let ders = casemate_verifier::gpu::chain_from_pem(&pem).unwrap();
    let list = hex::decode(case.collateral["pck_crl"].as_str().unwrap()).unwrap();
    seeds.add("revocation_list", "pck", two(&ders[0], &list));
    seeds.add("confidential_evidence", "snp", confidential_world::World::snp(1).build().encoded());
    seeds.add("confidential_evidence", "tdx", confidential_world::World::tdx(0).build().encoded());
}

fn gpus(seeds: &mut Seeds) {
    let case = gpu_world::Case::good();
    let device = &case.evidence[0];
    seeds.add("gpu_report", "gpu", device.report.clone());
    seeds.add("gpu_chain", "gpu", device.chain.iter().map(|der| pem(der)).collect::<String>());
    seeds.add("certificate", "gpu", device.chain[0].clone());
    let (_, xml) = &case.manifests[1];
    seeds.add("gpu_manifest", "vbios", xml.clone());
    let content = gpu_world::Rim::new("96.00.74.00.11", "GH100", 0..8).content();
    seeds.add("gpu_manifest_content", "vbios", content);
    for (at, response) in case.ocsp.iter().enumerate().take(2) {
        seeds.add("ocsp", &format!("good{at}"), two(&device.chain[1 + at], response));
    }
    let request = json!({
        "version": 1, "kind": "gpu", "at": 1_800_000_000,
        "evidence": { "devices": [{
            "kind": "gpu", "report": BASE64.encode(&device.report),
            "chain": device.chain.iter().map(|der| BASE64.encode(der)).collect::<Vec<_>>(),
        }] },
        "endorsements": { "manifests": [], "ocsp": [], "crls": [] },
        "policy": case.policy,
        "expectation": {
            "nonce": "ab".repeat(32), "claimed": { "gpus": 1, "switches": 0 }, "seen": { "gpus": 1, "switches": 0 },
        },
    });
    seeds.add("request", "gpu", request.to_string());
}

fn logs(seeds: &mut Seeds) {
    let digests = |data: &[u8]| BTreeMap::from([(alg_id::SHA384, Sha384::digest(data).to_vec())]);
    let event = |pcr, kind, data: &[u8]| Event { pcr, kind, digests: digests(data), data: data.to_vec() };
    let mut log = EventLog::sha256();
    if let LogFormat::CryptoAgile(spec) = &mut log.format {
        spec.banks = vec![Bank { alg: alg_id::SHA384, digest_size: 48 }];
    }
    log.events = vec![event(1, EventType::SEPARATOR, &[0; 4]), event(4, EventType::IPL, b"application")];
    seeds.add("ccel", "good", log.encode());

    let (mut binary, mut ascii) = (Vec::new(), String::new());
    for name in ["boot_aggregate", "/usr/bin/true"] {
        let file = HashAlg::Sha256.digest(&[name.as_bytes()]);
        let sized = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat();
        let fields = [&b"sha256:\0"[..], file.as_slice()].concat();
        let data = [sized(&fields), sized(&[name.as_bytes(), b"\0"].concat())].concat();
        let digest = HashAlg::Sha1.digest(&[&data]);
        binary.extend([&10u32.to_le_bytes()[..], digest.as_slice(), &sized(b"ima-ng"), &sized(&data)].concat());
        ascii += &format!("10 {} ima-ng sha256:{} {name}\n", hex::encode(digest.as_slice()), hex::encode(file.as_slice()));
    }
    seeds.add("ima_binary", "two", binary);
    seeds.add("ima_ascii", "two", ascii);
}

fn files(seeds: &mut Seeds) {
    let key = SigningKey::from_bytes(&[7; 32]);
    let payload = world::References::good().payload();
    let values: ReferenceValues = world::References::good().build();
    seeds.add("references", "good", values.to_signed(&key));
    seeds.add("references_payload", "good", payload);
    let list = Revocations {
        version: 1,
        serial: 17,
        issued_at: NOW,
        next_update: UnixTime(NOW.0 + 86_400),
        chips: ["99".repeat(64)].into(),
        aks: ["000b".repeat(17)].into(),
        images: ["1a".repeat(32)].into(),
        silicon_generations: ["milan".to_owned()].into(),
    };
    let signed = list.to_signed(&key);
    assert!(RevocationList::from_signed(signed.as_bytes(), &key.verifying_key().to_bytes()).is_ok());
    seeds.add("revocations_payload", "good", serde_json::to_string(&list).unwrap());
    seeds.add("revocations", "good", signed);
    let meta = CorimMeta {
        id: "casemate reference values 1".into(),
        signer: "Casemate".into(),
        not_before: UnixTime(NOW.0 - 10),
        not_after: UnixTime(NOW.0 + 10),
    };
    let corim = sign_corim(&values, &meta, &key);
    seeds.add("corim_payload", "good", payload_of(&corim));
    seeds.add("corim", "good", corim);

    let rules =
        "package casemate.appraisal\n\nimport rego.v1\n\nallow if count(input.checks) > 3\n\ndeny contains \"why\" if false\n";
    seeds.add("policy", "small", rules);
    let first = NamedPolicy::next("fuzzed", rules, NOW, None).unwrap();
    let next = NamedPolicy::next("fuzzed", rules, NOW, Some(&first)).unwrap();
    seeds.add("policy_history", "two", serde_json::to_string(&[first, next]).unwrap());
}

fn tokens(seeds: &mut Seeds) {
    let key = VerifierKey::new(&[7; 32], "https://casemate.example", "casemate-verifier 0.1.0").unwrap();
    let result = world::Case::good().appraise();
    let policy = "casemate-strict@sha256:00";
    let jwt = sign_jwt(&result, &key, policy, NOW, DEFAULT_LIFETIME_S).unwrap();
    let cwt = sign_cwt(&result, &key, policy, NOW, DEFAULT_LIFETIME_S).unwrap();
    let claims = jwt.split('.').nth(1).unwrap();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
    seeds.add("jwt_claims", "good", claims);
    seeds.add("jwt", "good", jwt);
    seeds.add("cwt_claims", "good", payload_of(&cwt));
    seeds.add("cwt", "good", cwt);
}

/// What is signed in a COSE_Sign1.
fn payload_of(message: &[u8]) -> Vec<u8> {
    let value: ciborium::Value = ciborium::from_reader(message).unwrap();
    let ciborium::Value::Tag(18, parts) = value else { panic!("COSE_Sign1 is tagged") };
    parts.into_array().unwrap()[2].as_bytes().unwrap().clone()
}

/// As a decoder takes two inputs.
fn two(first: &[u8], second: &[u8]) -> Vec<u8> {
    [&u16::try_from(first.len()).unwrap().to_be_bytes()[..], first, second].concat()
}

fn pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Two pages with OVMF's table and metadata at their end.
fn firmware() -> Vec<u8> {
    let mut bytes = vec![0x5a; 2 << 12];
    let end = bytes.len();
    let entry = |content: &[u8], guid: [u8; 16]| [content, &(content.len() as u16 + 18).to_le_bytes(), &guid].concat();
    let table = [
        entry(&0x81_0000_u32.to_le_bytes(), 0x1f37_5572_3b3a_044b_927b_1da6_efa8_d454_u128.to_be_bytes()),
        entry(&0x80_b004_u32.to_le_bytes(), 0xde71_f700_7e1a_cb4f_890e_68c7_7e2f_b44e_u128.to_be_bytes()),
        entry(&2048_u32.to_le_bytes(), 0x6665_88dc_4a98_9847_a75e_5585_a7bf_67cc_u128.to_be_bytes()),
    ]
    .concat();
    let guid = 0xde82_b596_b21f_f745_baea_a366_c55a_082d_u128.to_be_bytes();
    let table = [table.as_slice(), &(table.len() as u16 + 18).to_le_bytes(), &guid].concat();
    bytes[end - 32 - table.len()..end - 32].copy_from_slice(&table);
    let metadata = [u32::from_le_bytes(*b"ASEV"), 28, 1, 1, 0x81_0000, 0x1000, 0x10];
    for (at, word) in metadata.iter().enumerate() {
        bytes[end - 2048 + 4 * at..][..4].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}
