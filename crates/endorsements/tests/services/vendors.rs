//! Services that behave as the vendors' do: what is asked, and what becomes of the answers. The evidence and the endorsements are
//! those of the documentation's examples; the verifier then accepts what was fetched.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_endorsements::{EndorsementError, SnpHints};
use casemate_evidence::{
    nvidia::{DeviceEvidence, DeviceKind},
    snp::AttestationReport,
    tdx::Quote,
};
use casemate_verifier::{
    Simulated,
    rego::AppraisalPolicy,
    request::{Pinned, Request},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::server::{Answer, Asked, Service};

pub(crate) fn example(kind: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api/examples").join(format!("{kind}.json"));
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    BASE64.decode(value.as_str().unwrap()).unwrap()
}

fn pem(ders: &[Vec<u8>]) -> String {
    let one = |der: &Vec<u8>| format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines(&BASE64.encode(der)));
    ders.iter().map(one).collect()
}

fn lines(text: &str) -> String {
    text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect::<Vec<_>>().join("\n")
}

/// As Intel puts chains into headers.
pub(crate) fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn accepted(request: &Value) -> bool {
    let request = Request::from_json(request.to_string().as_bytes()).unwrap();
    let rules = AppraisalPolicy::strict();
    let pinned = Pinned { anchors: None, references: None, rules: &rules, revocations: None, simulated: Simulated::Allow };
    let response = request.judge(&pinned, request.at().unwrap());
    assert!(response.accepted || response.failed.is_some());
    response.accepted
}

/// AMD's service for the example.
pub(crate) fn kds(request: &Value) -> impl Fn(&Asked, usize) -> Answer + Send + Sync + use<> {
    let chain: Vec<Vec<u8>> = request["endorsements"]["chain"].as_array().unwrap().iter().map(bytes).collect();
    let crl = bytes(&request["endorsements"]["crl"]);
    move |asked, _| match asked.path.split('?').next().unwrap() {
        "/vcek/v1/Genoa/cert_chain" => Answer::ok(pem(&chain[1..])),
        "/vcek/v1/Genoa/crl" => Answer::ok(crl.clone()),
        path if path.starts_with("/vcek/v1/Genoa/c5c5") => Answer::ok(chain[0].clone()),
        _ => Answer::status(404),
    }
}

#[tokio::test]
async fn amds_answers_make_a_report_acceptable() {
    let mut request = example("snp");
    let service = Service::start(kds(&request));
    let report = AttestationReport::decode(&bytes(&request["evidence"]["report"])).unwrap();
    let found = service.fetcher().snp(&report, &SnpHints::default()).await.unwrap();
    let chain: Vec<String> = found.chain.iter().map(|der| BASE64.encode(der)).collect();
    request["endorsements"] = json!({ "chain": chain, "crl": BASE64.encode(&found.crl) });
    assert!(accepted(&request));
    let paths: Vec<String> = service.asked().into_iter().map(|asked| asked.path).collect();
    let vcek = format!("/vcek/v1/Genoa/{}?blSPL=09&teeSPL=01&snpSPL=23&ucodeSPL=84", "c5".repeat(64));
    assert_eq!(paths, ["/vcek/v1/Genoa/cert_chain", "/vcek/v1/Genoa/crl", &vcek]);
}

/// Intel's service for the example, or a caching service, which hands lists out in hexadecimal digits.
fn pcs(request: &Value, caching: bool) -> impl Fn(&Asked, usize) -> Answer + Send + Sync + use<> {
    let collateral: Value = serde_json::from_slice(&bytes(&request["endorsements"]["collateral"])).unwrap();
    move |asked, _| {
        let text = |name: &str| collateral[name].as_str().unwrap();
        let signed = |name: &str, document: &str| {
            Answer::ok(format!("{{\"{name}\":{},\"signature\":\"{}\"}}", text(document), text(&format!("{document}_signature"))))
        };
        let list = |name: &str| if caching { text(name).as_bytes().to_vec() } else { hex::decode(text(name)).unwrap() };
        let chain = |name: &str| percent_encoded(text(name));
        match asked.path.as_str() {
            "/tdx/certification/v4/tcb?fmspc=10b0c06f0000" => {
                signed("tcbInfo", "tcb_info").with("TCB-Info-Issuer-Chain", chain("tcb_info_issuer_chain"))
            }
            "/tdx/certification/v4/qe/identity" => signed("enclaveIdentity", "qe_identity")
                .with("SGX-Enclave-Identity-Issuer-Chain", chain("qe_identity_issuer_chain")),
            "/sgx/certification/v4/pckcrl?ca=platform&encoding=der" => {
                Answer::ok(list("pck_crl")).with("SGX-PCK-CRL-Issuer-Chain", chain("pck_crl_issuer_chain"))
            }
            "/IntelSGXRootCA.der" => Answer::ok(list("root_ca_crl")),
            _ => Answer::status(404),
        }
    }
}

#[tokio::test]
async fn intels_answers_make_a_quote_acceptable_from_its_service_and_from_a_cache() {
    for caching in [false, true] {
        let mut request = example("tdx");
        let service = Service::start(pcs(&request, caching));
        let quote = Quote::decode(&bytes(&request["evidence"]["quote"])).unwrap();
        let found = service.fetcher().tdx(&quote).await.unwrap();
        request["endorsements"] = json!({ "collateral": BASE64.encode(&found.collateral) });
        assert!(accepted(&request), "caching: {caching}");
        assert_eq!(service.asked().len(), 4);
    }
}

/// NVIDIA's two services for the example: manifests by id, answers by what is asked about.
fn nvidia(request: &Value) -> impl Fn(&Asked, usize) -> Answer + Send + Sync + use<> {
    let endorsements = request["endorsements"].clone();
    let ocsp: Vec<Vec<u8>> = endorsements["ocsp"].as_array().unwrap().iter().map(bytes).collect();
    move |asked, _| {
        if asked.method == "POST" {
            // Digests of the issuer's name and key, and the serial number: the end of the question, and within the answer.
            let at = asked.body.windows(2).position(|window| window == [4, 48]).unwrap();
            let about = &asked.body[at..];
            let answer = ocsp.iter().find(|answer| answer.windows(about.len()).any(|window| window == about));
            return answer.map_or_else(|| Answer::status(404), |answer| Answer::ok(answer.clone()));
        }
        let id = asked.path.strip_prefix("/v1/rim/").unwrap();
        match endorsements["manifests"].as_array().unwrap().iter().find(|manifest| manifest["id"] == id) {
            None => Answer::status(404),
            Some(manifest) => {
                let sha256 = hex::encode(Sha256::digest(bytes(&manifest["document"])));
                Answer::ok(json!({ "id": id, "rim": manifest["document"], "sha256": sha256, "rim_format": "TEXT" }).to_string())
            }
        }
    }
}

fn devices(request: &Value) -> Vec<DeviceEvidence> {
    let device = |device: &Value| DeviceEvidence {
        kind: DeviceKind::Gpu,
        report: bytes(&device["report"]),
        chain: device["chain"].as_array().unwrap().iter().map(bytes).collect(),
    };
    request["evidence"]["devices"].as_array().unwrap().iter().map(device).collect()
}

#[tokio::test]
async fn nvidias_answers_make_a_gpu_acceptable() {
    let mut request = example("gpu");
    let service = Service::start(nvidia(&request));
    let found = service.fetcher().gpu(&devices(&request)).await.unwrap();
    let manifests: Vec<Value> = found
        .manifests
        .iter()
        .map(|manifest| json!({ "id": manifest.id, "document": BASE64.encode(&manifest.document) }))
        .collect();
    let ocsp: Vec<String> = found.ocsp.iter().map(|answer| BASE64.encode(answer)).collect();
    // The device, its issuer, and who signed the manifests; each is asked about once.
    assert_eq!((manifests.len(), ocsp.len()), (2, 3));
    request["endorsements"] = json!({ "manifests": manifests, "ocsp": ocsp, "crls": [] });
    assert!(accepted(&request));
}

#[tokio::test]
async fn a_manifest_that_is_not_published_is_an_error_that_names_it() {
    let request = example("gpu");
    let service = Service::start(|_, _| Answer::status(404));
    let error = service.fetcher().gpu(&devices(&request)).await.unwrap_err();
    assert!(
        matches!(&error, EndorsementError::Fetch { source, .. } if source.to_string().contains("/v1/rim/NV_GPU_DRIVER_GH100_550.144.03"))
    );
}

#[tokio::test]
async fn what_another_chip_is_served_is_fetched_and_then_refused_by_the_verifier() {
    let mut request = example("snp");
    let good = kds(&request);
    // The root's certificate in place of the chip's: well-formed, and of no use.
    let root = bytes(&request["endorsements"]["chain"][2]);
    let service = Service::start(
        move |asked, count| {
            if asked.path.contains("blSPL") { Answer::ok(root.clone()) } else { good(asked, count) }
        },
    );
    let report = AttestationReport::decode(&bytes(&request["evidence"]["report"])).unwrap();
    let found = service.fetcher().snp(&report, &SnpHints::default()).await.unwrap();
    let chain: Vec<String> = found.chain.iter().map(|der| BASE64.encode(der)).collect();
    request["endorsements"] = json!({ "chain": chain, "crl": BASE64.encode(&found.crl) });
    assert!(!accepted(&request));
}
