//! Documents around evidence: requests, endorsements and reference values.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_evidence::nvidia::{DeviceEvidence, DeviceKind};
use casemate_verifier::gpu::{chain_from_pem, manifest_chain};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{shapes, x509};

/// An appraisal request: its kind, and the evidence in it.
pub(super) fn request(bytes: &[u8]) -> Result<Value, String> {
    let request: Map<String, Value> = object(bytes)?;
    let kind = request.get("kind").and_then(Value::as_str).ok_or("it names no kind")?;
    let evidence = request.get("evidence").and_then(Value::as_object).ok_or("it has no evidence")?;
    let mut shown = Map::new();
    for (name, value) in evidence {
        let decoded = value.as_str().and_then(|text| BASE64.decode(text).ok());
        let known = decoded.and_then(|bytes| shapes::first(&bytes));
        shown.insert(name.clone(), known.map_or_else(|| value.clone(), |(kind, value)| json!({ kind: value })));
    }
    Ok(json!({
        "kind": kind,
        "at": request.get("at").and_then(Value::as_u64).map(|at| casemate_verifier::UnixTime(at).to_string()),
        "evidence": shown,
        "policy": request.get("policy"),
        "expectation": request.get("expectation"),
    }))
}

/// NVIDIA's list of devices, each with report and certificates in base64.
pub(crate) fn nvidia_devices(bytes: &[u8]) -> Result<Vec<DeviceEvidence>, String> {
    #[derive(Deserialize)]
    struct Device {
        evidence: String,
        certificate: String,
        arch: Option<String>,
    }
    let list: Vec<Device> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if list.is_empty() {
        return Err("it has no device".to_owned());
    }
    let device = |device: Device| {
        let report = BASE64.decode(device.evidence).map_err(|error| error.to_string())?;
        let pem = BASE64.decode(device.certificate).map_err(|error| error.to_string())?;
        let pem = String::from_utf8(pem).map_err(|error| error.to_string())?;
        let chain = chain_from_pem(&pem).map_err(shapes::said)?;
        let is_switch = device.arch.is_some_and(|arch| arch.eq_ignore_ascii_case("LS10"));
        Ok(DeviceEvidence { kind: if is_switch { DeviceKind::Switch } else { DeviceKind::Gpu }, report, chain })
    };
    list.into_iter().map(device).collect()
}

pub(super) fn nvidia(bytes: &[u8]) -> Result<Value, String> {
    let device = |device: &DeviceEvidence| {
        let kind = if device.kind == DeviceKind::Switch { "switch" } else { "gpu" };
        Ok(json!({ "kind": kind, "report": shapes::nvidia(&device.report)?, "chain": x509::chain(&device.chain)? }))
    };
    nvidia_devices(bytes)?.iter().map(device).collect::<Result<Vec<_>, String>>().map(|devices| json!({ "devices": devices }))
}

/// A signed manifest of NVIDIA's. Its content is for the verifier, once the signature holds.
pub(super) fn manifest(bytes: &[u8]) -> Result<Value, String> {
    let chain = manifest_chain(bytes).map_err(shapes::said)?;
    Ok(json!({ "bytes": bytes.len(), "signed_by": x509::chain(&chain)? }))
}

/// What Intel's provisioning service says beside a quote.
pub(super) fn collateral(bytes: &[u8]) -> Result<Value, String> {
    let fields: Map<String, Value> = object(bytes)?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str).ok_or_else(|| format!("it has no {name}"));
    let json = |name: &str| serde_json::from_str::<Value>(text(name)?).map_err(|error| error.to_string());
    let list = |name: &str| x509::revocation_list(&hex::decode(text(name)?).map_err(|error| error.to_string())?);
    Ok(json!({
        "tcb_info": json("tcb_info")?,
        "tcb_info_issuer_chain": x509::pem(text("tcb_info_issuer_chain")?.as_bytes())?,
        "qe_identity": json("qe_identity")?,
        "qe_identity_issuer_chain": x509::pem(text("qe_identity_issuer_chain")?.as_bytes())?,
        "pck_crl": list("pck_crl")?,
        "pck_crl_issuer_chain": x509::pem(text("pck_crl_issuer_chain")?.as_bytes())?,
        "root_ca_crl": list("root_ca_crl")?,
    }))
}

/// Signed JSON: reference values, revocation lists. Who signed it is not looked at here.
pub(super) fn envelope(bytes: &[u8]) -> Result<Value, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Envelope {
        payload: String,
        signature: String,
        key: String,
    }
    let file: Envelope = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let payload: Value = serde_json::from_str(&file.payload).map_err(|error| error.to_string())?;
    Ok(json!({ "key": file.key, "signature": file.signature, "payload": payload }))
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}
