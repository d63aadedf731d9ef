//! What evidence of each kind is shown as. The first kind that decodes whole is it; the strictest come first.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_evidence::{
    confidential::{ConfidentialEvidence, CpuEvidence},
    instance::{InstanceEvidence, LaunchRecord, QuoteBundle, Record as _},
    nvidia::Report,
    snp::AttestationReport,
    tdx::{Body, Quote},
    tpm::{Attest, AttestBody, Public, Signature},
};
use serde_json::{Value, json};

use super::logs;
use crate::trust::SavedEvidence;

type Decode = fn(&[u8]) -> Option<Value>;

pub(super) const KNOWN: &[(&str, Decode)] = &[
    ("saved evidence of an instance", saved),
    ("evidence of an instance", instance),
    ("evidence of a confidential VM", confidential),
    ("AMD SEV-SNP report", snp),
    ("Intel TDX or SGX quote", tdx),
    ("NVIDIA device report", nvidia),
    ("TPM attestation (TPMS_ATTEST)", attest),
    ("TPM signature (TPMT_SIGNATURE)", signature),
    ("TPM public area (TPMT_PUBLIC)", public),
    ("event log of a trust domain (CCEL)", logs::ccel),
    ("firmware event log", logs::firmware),
    ("IMA list (ASCII)", logs::ima_ascii),
    ("IMA list (binary)", logs::ima_binary),
];

/// Bytes that are written as hexadecimal digits or base64.
pub(super) fn from_text(text: &[u8]) -> Option<Vec<u8>> {
    let text: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let bytes = hex::decode(&text).ok().or_else(|| BASE64.decode(&text).ok())?;
    Some(bytes).filter(|bytes| !bytes.is_empty())
}

fn saved(bytes: &[u8]) -> Option<Value> {
    let saved: SavedEvidence = serde_json::from_slice(bytes).ok()?;
    let evidence = BASE64.decode(&saved.bundle.evidence).ok()?;
    Some(json!({
        "instance": saved.bundle.instance,
        "nonce": saved.nonce,
        "workload_digest": saved.workload_digest,
        "received_at": saved.received_at,
        "evidence": instance(&evidence).or_else(|| confidential(&evidence)),
    }))
}

fn instance(bytes: &[u8]) -> Option<Value> {
    let evidence = InstanceEvidence::decode(bytes).ok()?;
    Some(json!({
        "nonce": hex::encode(evidence.nonce),
        "launch_record": LaunchRecord::decode(&evidence.launch_record).ok().map(|record| launch(&record)),
        "node": bundle(&evidence.node),
        "node_event_log": logs::firmware(&evidence.node_event_log),
        "batch": { "index": evidence.batch.index, "count": evidence.batch.count },
        "guest": bundle(&evidence.guest),
    }))
}

fn confidential(bytes: &[u8]) -> Option<Value> {
    let evidence = ConfidentialEvidence::decode(bytes).ok()?;
    let cpu = match &evidence.cpu {
        CpuEvidence::Snp { report } => json!({ "snp": snp(report) }),
        CpuEvidence::Tdx { quote, event_log } => json!({ "tdx": tdx(quote), "event_log": logs::ccel(event_log) }),
    };
    let gpus: Vec<Value> =
        evidence.gpus.iter().map(|gpu| json!({ "switch": gpu.switch, "report": nvidia(&gpu.report) })).collect();
    Some(json!({
        "nonce": hex::encode(evidence.nonce),
        "processor": cpu,
        "seen": { "gpus": evidence.seen.gpus, "switches": evidence.seen.switches },
        "devices": gpus,
        "node": bundle(&evidence.node.quote),
        "node_event_log": logs::firmware(&evidence.node.event_log),
    }))
}

fn launch(record: &LaunchRecord) -> Value {
    json!({
        "instance": record.instance,
        "workload_digest": hex::encode(record.workload_digest),
        "kernel": hex::encode(record.kernel),
        "initrd": hex::encode(record.initrd),
        "command_line": record.command_line,
        "root_hash": hex::encode(record.root_hash),
        "vmm": format!("{} {} {}", record.vmm.name, record.vmm.version, hex::encode(record.vmm.digest)),
        "cpus": record.machine.cpus,
        "memory_mib": record.machine.memory_mib,
        "accel": record.machine.accel,
    })
}

fn bundle(bundle: &QuoteBundle) -> Value {
    let pcrs: serde_json::Map<String, Value> =
        bundle.pcrs.iter().map(|(pcr, value)| (pcr.to_string(), json!(hex::encode(value.0)))).collect();
    json!({ "attest": attest(&bundle.attest), "ak": public(&bundle.ak_public), "pcrs": pcrs })
}

fn snp(bytes: &[u8]) -> Option<Value> {
    let report = AttestationReport::decode(bytes).ok()?;
    Some(json!({
        "version": format!("{:?}", report.version),
        "guest_svn": report.guest_svn,
        "policy": format!("{:?}", report.policy),
        "family_id": hex::encode(report.family_id),
        "image_id": hex::encode(report.image_id),
        "vmpl": report.vmpl,
        "signing_key": format!("{:?}", report.signing_key),
        "platform_info": format!("{:?}", report.platform_info),
        "report_data": hex::encode(report.report_data),
        "measurement": hex::encode(report.measurement),
        "host_data": hex::encode(report.host_data),
        "id_key_digest": hex::encode(report.id_key_digest),
        "author_key_digest": hex::encode(report.author_key_digest),
        "chip_id": hex::encode(report.chip_id),
        "reported_tcb": format!("{:?}", report.reported_tcb),
        "current_tcb": format!("{:?}", report.current_tcb),
        "committed_tcb": format!("{:?}", report.committed_tcb),
        "launch_tcb": format!("{:?}", report.launch_tcb),
        "committed_firmware": format!("{:?}", report.committed_version),
    }))
}

fn tdx(bytes: &[u8]) -> Option<Value> {
    let quote = Quote::decode(bytes).ok()?;
    let body = match &quote.body {
        Body::Enclave(_) => json!("an SGX enclave's report, not a trust domain's"),
        Body::TrustDomain(td) => json!({
            "tee_tcb_svn": hex::encode(td.tee_tcb_svn),
            "mr_seam": hex::encode(td.mr_seam),
            "attributes": format!("{:#018x}", td.td_attributes),
            "debug": td.td_attributes & 1 == 1,
            "xfam": format!("{:#018x}", td.xfam),
            "mrtd": hex::encode(td.mr_td),
            "config_id": hex::encode(td.mr_config_id),
            "owner": hex::encode(td.mr_owner),
            "owner_config": hex::encode(td.mr_owner_config),
            "rtmr": td.rtmr.map(hex::encode),
            "report_data": hex::encode(td.report_data),
        }),
    };
    Some(json!({
        "version": quote.header.version,
        "tee": format!("{:?}", quote.header.tee),
        "body": body,
        "pck_chain_bytes": quote.auth.pck_chain.len(),
    }))
}

fn nvidia(bytes: &[u8]) -> Option<Value> {
    let report = Report::parse(bytes).ok()?;
    let blocks: Vec<String> =
        report.response.blocks.iter().map(|block| format!("{:3} {}", block.index, hex::encode(block.value))).collect();
    let field = |(field, value): &(casemate_evidence::nvidia::Field, &[u8])| {
        let name = field.name().map_or_else(|| field.0.to_string(), str::to_owned);
        let text = std::str::from_utf8(value).ok().map(|text| text.trim_end_matches('\0'));
        let text = text.filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
        (name, json!(text.map_or_else(|| hex::encode(value), str::to_owned)))
    };
    let opaque: serde_json::Map<String, Value> = report.response.opaque.0.iter().map(field).collect();
    Some(json!({
        "requested_nonce": hex::encode(report.request.nonce),
        "response_nonce": hex::encode(report.response.nonce),
        "opaque": opaque,
        "measurements": blocks,
    }))
}

fn attest(bytes: &[u8]) -> Option<Value> {
    let attest = Attest::parse(bytes).ok()?;
    let body = match &attest.body {
        AttestBody::Quote { selections, pcr_digest } => {
            let banks: Vec<String> = selections.iter().map(|bank| format!("{} {:?}", bank.hash.name(), bank.pcrs)).collect();
            json!({ "pcrs": banks, "pcr_digest": hex::encode(pcr_digest) })
        }
        AttestBody::Other(kind) => json!(format!("not a quote, but of type {kind:#06x}")),
    };
    Some(json!({
        "qualifying_data": hex::encode(&attest.extra_data),
        "qualified_signer": hex::encode(&attest.qualified_signer),
        "clock_ms": attest.clock.clock_ms,
        "reset_count": attest.clock.reset_count,
        "restart_count": attest.clock.restart_count,
        "firmware_version": format!("{:#018x}", attest.firmware_version),
        "quote": body,
    }))
}

fn signature(bytes: &[u8]) -> Option<Value> {
    Some(match Signature::parse(bytes).ok()? {
        Signature::Ecdsa { hash, r, s } => {
            json!({ "scheme": "ECDSA", "hash": hash.name(), "r": hex::encode(r), "s": hex::encode(s) })
        }
        Signature::Rsassa { hash, sig } => json!({ "scheme": "RSASSA", "hash": hash.name(), "signature": hex::encode(sig) }),
        Signature::Rsapss { hash, sig } => json!({ "scheme": "RSAPSS", "hash": hash.name(), "signature": hex::encode(sig) }),
    })
}

fn public(bytes: &[u8]) -> Option<Value> {
    let public = Public::parse(bytes).ok()?;
    Some(json!({
        "name": hex::encode(public.name()),
        "name_algorithm": public.name_alg.name(),
        "attributes": format!("{:#010x}", public.attributes.0),
        "restricted_signing_key": public.attributes.is_restricted() && public.attributes.is_sign(),
        "parameters": format!("{:?}", public.params),
    }))
}
