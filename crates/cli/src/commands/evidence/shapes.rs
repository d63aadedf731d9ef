//! What evidence of each kind is shown as. The first kind that decodes whole is it; the strictest come first.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_evidence::{
    confidential::{ConfidentialEvidence, CpuEvidence},
    container::{ContainerEvidence, ContainerLaunch},
    instance::{InstanceEvidence, LaunchRecord, QuoteBundle, Record as _},
    nvidia::Report,
    snp::{AttestationReport, Generation, GuestPolicy, PlatformInfo, Tcb, TcbBytes},
    tdx::{Body, Quote, TeeKind},
    tpm::{Attest, AttestBody, Curve, KeyScheme, Public, PublicParams, Signature, Symmetric},
};
use serde_json::{Value, json};

use super::{documents, logs, x509};
use crate::trust::SavedEvidence;

/// What the bytes say, or why they are none of the kind.
type Decode = fn(&[u8]) -> Result<Value, String>;

pub(super) const KNOWN: &[(&str, Decode)] = &[
    ("saved evidence of an instance", saved),
    ("appraisal request", documents::request),
    ("evidence of an instance", instance),
    ("evidence of a container", container),
    ("evidence of a confidential VM", confidential),
    ("NVIDIA device evidence (JSON)", documents::nvidia),
    ("TDX collateral", documents::collateral),
    ("signed values", documents::envelope),
    ("PEM", x509::pem),
    ("X.509 certificate", x509::certificate),
    ("X.509 revocation list", x509::revocation_list),
    ("NVIDIA reference manifest", documents::manifest),
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

/// The first kind that the bytes are.
pub(super) fn first(bytes: &[u8]) -> Option<(&'static str, Value)> {
    KNOWN.iter().find_map(|(kind, decode)| Some((*kind, decode(bytes).ok()?)))
}

/// Why the bytes are of no kind.
pub(super) fn refusals(bytes: &[u8]) -> Vec<(&'static str, String)> {
    KNOWN.iter().filter_map(|(kind, decode)| Some((*kind, decode(bytes).err()?))).collect()
}

/// An error with its causes.
pub(super) fn said(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Bytes that are written as hexadecimal digits or base64.
pub(crate) fn from_text(text: &[u8]) -> Option<Vec<u8>> {
    let text: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let bytes = hex::decode(&text).ok().or_else(|| BASE64.decode(&text).ok())?;
    Some(bytes).filter(|bytes| !bytes.is_empty())
}

fn saved(bytes: &[u8]) -> Result<Value, String> {
    let saved: SavedEvidence = serde_json::from_slice(bytes).map_err(said)?;
    let evidence = BASE64.decode(&saved.bundle.evidence).map_err(said)?;
    Ok(json!({
        "instance": saved.bundle.instance,
        "nonce": saved.nonce,
        "workload_digest": saved.workload_digest,
        "received_at": saved.received_at,
        "evidence": instance(&evidence).or_else(|_| container(&evidence)).or_else(|_| confidential(&evidence)).ok(),
    }))
}

fn instance(bytes: &[u8]) -> Result<Value, String> {
    let evidence = InstanceEvidence::decode(bytes).map_err(said)?;
    Ok(json!({
        "nonce": hex::encode(evidence.nonce),
        "launch_record": LaunchRecord::decode(&evidence.launch_record).ok().map(|record| launch(&record)),
        "node": bundle(&evidence.node),
        "node_event_log": logs::firmware(&evidence.node_event_log).ok(),
        "batch": { "index": evidence.batch.index, "count": evidence.batch.count },
        "guest": bundle(&evidence.guest),
    }))
}

fn container(bytes: &[u8]) -> Result<Value, String> {
    let evidence = ContainerEvidence::decode(bytes).map_err(said)?;
    Ok(json!({
        "nonce": hex::encode(evidence.nonce),
        "container_launch": ContainerLaunch::decode(&evidence.container_launch).ok().map(|record| container_launch(&record)),
        "node": bundle(&evidence.node),
        "node_event_log": logs::firmware(&evidence.node_event_log).ok(),
        "batch": { "index": evidence.batch.index, "count": evidence.batch.count },
    }))
}

fn container_launch(record: &ContainerLaunch) -> Value {
    json!({
        "instance": record.instance,
        "workload_digest": hex::encode(record.workload_digest),
        "level": record.level,
        "guest_program": hex::encode(record.guest_program),
        "layers": record.layers.iter().map(|layer| hex::encode(layer.0)).collect::<Vec<_>>(),
        "runtime": {
            "name": record.runtime.name, "version": record.runtime.version, "digest": hex::encode(record.runtime.digest),
        },
        "cpus": record.cpus,
        "memory_mib": record.memory_mib,
        "jail": record.jail,
    })
}

fn confidential(bytes: &[u8]) -> Result<Value, String> {
    let evidence = ConfidentialEvidence::decode(bytes).map_err(said)?;
    let cpu = match &evidence.cpu {
        CpuEvidence::Snp { report } => json!({ "snp": snp(report).ok() }),
        CpuEvidence::Tdx { quote, event_log } => json!({ "tdx": tdx(quote).ok(), "event_log": logs::ccel(event_log).ok() }),
    };
    let gpus: Vec<Value> =
        evidence.gpus.iter().map(|gpu| json!({ "switch": gpu.switch, "report": nvidia(&gpu.report).ok(), "chain": x509::pem(gpu.chain.as_bytes()).ok() })).collect();
    Ok(json!({
        "nonce": hex::encode(evidence.nonce),
        "processor": cpu,
        "seen": { "gpus": evidence.seen.gpus, "switches": evidence.seen.switches },
        "devices": gpus,
        "node": bundle(&evidence.node.quote),
        "node_event_log": logs::firmware(&evidence.node.event_log).ok(),
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
    json!({ "attest": attest(&bundle.attest).ok(), "ak": public(&bundle.ak_public).ok(), "pcrs": pcrs })
}

fn snp(bytes: &[u8]) -> Result<Value, String> {
    let report = AttestationReport::decode(bytes).map_err(said)?;
    let cpuid = report.version.cpuid();
    let generation = cpuid.and_then(|cpuid| Generation::of(cpuid).ok());
    // The meaning of the bytes depends on the generation.
    let tcb = |bytes: TcbBytes| match generation.and_then(|generation| Tcb::decode(bytes, generation).ok()) {
        Some(tcb) => json!(tcb),
        None => json!(hex::encode(bytes.0)),
    };
    Ok(json!({
        "version": report.version.number(),
        "processor": cpuid.map(|cpuid| json!({
            "generation": generation.map(Generation::name), "family": cpuid.family, "model": cpuid.model, "stepping": cpuid.stepping,
        })),
        "guest_svn": report.guest_svn,
        "policy": policy(report.policy),
        "family_id": hex::encode(report.family_id),
        "image_id": hex::encode(report.image_id),
        "vmpl": report.vmpl,
        "signing_key": report.signing_key,
        "platform_info": platform(report.platform_info),
        "report_data": hex::encode(report.report_data),
        "measurement": hex::encode(report.measurement),
        "host_data": hex::encode(report.host_data),
        "id_key_digest": hex::encode(report.id_key_digest),
        "author_key_digest": hex::encode(report.author_key_digest),
        "chip_id": hex::encode(report.chip_id),
        "reported_tcb": tcb(report.reported_tcb),
        "current_tcb": tcb(report.current_tcb),
        "committed_tcb": tcb(report.committed_tcb),
        "launch_tcb": tcb(report.launch_tcb),
        "current_firmware": report.current_version.to_string(),
        "committed_firmware": report.committed_version.to_string(),
        "mitigations": report.version.mitigations().map(|bits| json!({
            "launch": format!("{:#x}", bits.launch), "current": format!("{:#x}", bits.current),
        })),
    }))
}

fn policy(policy: GuestPolicy) -> Value {
    let (major, minor) = policy.abi();
    json!({
        "min_abi": format!("{major}.{minor}"),
        "smt_allowed": policy.has(GuestPolicy::SMT),
        "migration_agent_allowed": policy.has(GuestPolicy::MIGRATE_MA),
        "debug_allowed": policy.has(GuestPolicy::DEBUG),
        "single_socket_required": policy.has(GuestPolicy::SINGLE_SOCKET),
        "cxl_allowed": policy.has(GuestPolicy::CXL_ALLOW),
        "aes_256_xts_required": policy.has(GuestPolicy::MEM_AES_256_XTS),
        "rapl_off_required": policy.has(GuestPolicy::RAPL_DIS),
        "ciphertext_hiding_required": policy.has(GuestPolicy::CIPHERTEXT_HIDING_DRAM),
        "page_swap_off_required": policy.has(GuestPolicy::PAGE_SWAP_DISABLE),
        "unknown_bits": format!("{:#x}", policy.unknown()),
    })
}

fn platform(info: PlatformInfo) -> Value {
    json!({
        "smt": info.has(PlatformInfo::SMT_EN),
        "tsme": info.has(PlatformInfo::TSME_EN),
        "ecc": info.has(PlatformInfo::ECC_EN),
        "rapl_off": info.has(PlatformInfo::RAPL_DIS),
        "ciphertext_hiding": info.has(PlatformInfo::CIPHERTEXT_HIDING_DRAM_EN),
        "alias_check_complete": info.has(PlatformInfo::ALIAS_CHECK_COMPLETE),
        "iommu_write_safe": info.has(PlatformInfo::IOMMU_WRITE_SAFE),
        "tio": info.has(PlatformInfo::TIO_EN),
        "unknown_bits": format!("{:#x}", info.unknown()),
    })
}

fn tdx(bytes: &[u8]) -> Result<Value, String> {
    let quote = Quote::decode(bytes).map_err(said)?;
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
    Ok(json!({
        "version": quote.header.version,
        "tee": match quote.header.tee {
            TeeKind::Sgx => "SGX",
            TeeKind::Tdx => "TDX",
        },
        "qe_vendor": hex::encode(quote.header.qe_vendor),
        "body": body,
        "pck_chain": x509::pem(quote.auth.pck_chain.strip_suffix(b"\0").unwrap_or(&quote.auth.pck_chain)).ok(),
    }))
}

pub(super) fn nvidia(bytes: &[u8]) -> Result<Value, String> {
    let report = Report::parse(bytes).map_err(said)?;
    let blocks: Vec<String> =
        report.response.blocks.iter().map(|block| format!("{:3} {}", block.index, hex::encode(block.value))).collect();
    let field = |(field, value): &(casemate_evidence::nvidia::Field, &[u8])| {
        let name = field.name().map_or_else(|| field.0.to_string(), str::to_owned);
        let text = std::str::from_utf8(value).ok().map(|text| text.trim_end_matches('\0'));
        let text = text.filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '));
        (name, json!(text.map_or_else(|| hex::encode(value), str::to_owned)))
    };
    let opaque: serde_json::Map<String, Value> = report.response.opaque.0.iter().map(field).collect();
    Ok(json!({
        "requested_nonce": hex::encode(report.request.nonce),
        "response_nonce": hex::encode(report.response.nonce),
        "opaque": opaque,
        "measurements": blocks,
    }))
}

fn attest(bytes: &[u8]) -> Result<Value, String> {
    let attest = Attest::parse(bytes).map_err(said)?;
    let body = match &attest.body {
        AttestBody::Quote { selections, pcr_digest } => {
            let banks: serde_json::Map<String, Value> =
                selections.iter().map(|bank| (bank.hash.name().to_owned(), json!(bank.pcrs))).collect();
            json!({ "pcrs": banks, "pcr_digest": hex::encode(pcr_digest) })
        }
        AttestBody::Other(kind) => json!(format!("not a quote, but of type {kind:#06x}")),
    };
    Ok(json!({
        "qualifying_data": hex::encode(&attest.extra_data),
        "qualified_signer": hex::encode(&attest.qualified_signer),
        "clock_ms": attest.clock.clock_ms,
        "reset_count": attest.clock.reset_count,
        "restart_count": attest.clock.restart_count,
        "firmware_version": format!("{:#018x}", attest.firmware_version),
        "quote": body,
    }))
}

fn signature(bytes: &[u8]) -> Result<Value, String> {
    Ok(match Signature::parse(bytes).map_err(said)? {
        Signature::Ecdsa { hash, r, s } => {
            json!({ "scheme": "ECDSA", "hash": hash.name(), "r": hex::encode(r), "s": hex::encode(s) })
        }
        Signature::Rsassa { hash, sig } => json!({ "scheme": "RSASSA", "hash": hash.name(), "signature": hex::encode(sig) }),
        Signature::Rsapss { hash, sig } => json!({ "scheme": "RSAPSS", "hash": hash.name(), "signature": hex::encode(sig) }),
    })
}

fn public(bytes: &[u8]) -> Result<Value, String> {
    let public = Public::parse(bytes).map_err(said)?;
    Ok(json!({
        "name": hex::encode(public.name()),
        "name_algorithm": public.name_alg.name(),
        "attributes": format!("{:#010x}", public.attributes.0),
        "restricted_signing_key": public.attributes.is_restricted() && public.attributes.is_sign(),
        "auth_policy": hex::encode(&public.auth_policy),
        "key": parameters(&public.params),
    }))
}

fn parameters(params: &PublicParams) -> Value {
    match params {
        PublicParams::Ecc { symmetric, scheme, curve, x, y } => json!({
            "type": "ECC",
            "curve": match curve {
                Curve::P256 => "P-256",
                Curve::P384 => "P-384",
                Curve::P521 => "P-521",
            },
            "scheme": key_scheme(*scheme), "symmetric": cipher(*symmetric), "x": hex::encode(x), "y": hex::encode(y),
        }),
        PublicParams::Rsa { symmetric, scheme, bits, exponent, n } => json!({
            "type": "RSA", "bits": bits, "exponent": if *exponent == 0 { 65537 } else { *exponent },
            "scheme": key_scheme(*scheme), "symmetric": cipher(*symmetric), "modulus": hex::encode(n),
        }),
    }
}

fn key_scheme(scheme: KeyScheme) -> Option<String> {
    match scheme {
        KeyScheme::Null => None,
        KeyScheme::Ecdsa(hash) => Some(format!("ECDSA {}", hash.name())),
        KeyScheme::Rsassa(hash) => Some(format!("RSASSA {}", hash.name())),
        KeyScheme::Rsapss(hash) => Some(format!("RSAPSS {}", hash.name())),
    }
}

fn cipher(symmetric: Symmetric) -> Option<String> {
    match symmetric {
        Symmetric::Null => None,
        Symmetric::AesCfb { bits } => Some(format!("AES-{bits} CFB")),
    }
}
