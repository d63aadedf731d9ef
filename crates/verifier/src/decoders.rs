//! Every decoder of outside bytes, here and in `casemate-evidence`, by name: one list for the fuzz targets in `fuzz/` and for the
//! test that replays their corpus. Nothing of the product comes here.
//!
//! What a signature guards is decoded without it: whoever holds a key may be hostile, too, or robbed.

use std::sync::OnceLock;

use casemate_evidence::{
    confidential::ConfidentialEvidence,
    container::{ContainerEvidence, ContainerLaunch},
    eventlog::{EventLog, LogRef, count_signatures, device_path_text},
    ima::{Format, Reader},
    instance::{GuestKeys, InstanceEvidence, LaunchRecord, Record},
    nvidia::{Field, Report, switch_bios_version, vbios_version},
    snp::AttestationReport,
    tdx::{Quote, ccel::CcelLog},
    tpm::{Attest, HashAlg, Public, Signature},
};
use ed25519_dalek::SigningKey;

use crate::{
    ReferenceValues, TrustAnchors, UnixTime, VendorRoot, cbor, corim,
    ear::{self, VerifierKey, VerifierPublicKey, verify_cwt, verify_jwt},
    gpu,
    quote::AttestationKey,
    references,
    rego::{AppraisalPolicy, NamedPolicy},
    request::{Pinned, Request},
    revocation::{self, RevocationList},
    snp::{
        self,
        launch::{CpuSignature, LaunchInputs, launch_measurement},
    },
    tdx,
    x509::{Algorithm, Certificate, TrustAnchor, VerifiedCrl, public_key},
};

/// One decoder, with whatever reads its result.
#[derive(Debug, Clone, Copy)]
pub struct Decoder {
    /// Name of its fuzz target and of the folder of its corpus.
    pub name: &'static str,
    /// Decodes anything. It must come back, without a panic, and with memory in proportion to what went in.
    pub run: fn(&[u8]),
}

/// All of them.
pub const DECODERS: &[Decoder] = &[
    of("anchors", anchors),
    of("attestation_key", attestation_key),
    of("ccel", ccel),
    of("certificate", certificate),
    of("confidential_evidence", record::<ConfidentialEvidence>),
    of("container_evidence", record::<ContainerEvidence>),
    of("container_launch", record::<ContainerLaunch>),
    of("corim", corim_signed),
    of("corim_payload", corim_payload),
    of("cwt", cwt),
    of("cwt_claims", cwt_claims),
    of("event_log", event_log),
    of("firmware", firmware),
    of("gpu_chain", gpu_chain),
    of("gpu_manifest", gpu_manifest),
    of("gpu_manifest_content", gpu_manifest_content),
    of("gpu_report", gpu_report),
    of("guest_keys", record::<GuestKeys>),
    of("ima_ascii", ima_ascii),
    of("ima_binary", ima_binary),
    of("instance_evidence", record::<InstanceEvidence>),
    of("jwt", jwt),
    of("jwt_claims", jwt_claims),
    of("launch_record", record::<LaunchRecord>),
    of("ocsp", ocsp),
    of("policy", policy),
    of("policy_history", policy_history),
    of("references", references_signed),
    of("references_payload", references_payload),
    of("request", request),
    of("revocation_list", revocation_list),
    of("revocations", revocations_signed),
    of("revocations_payload", revocations_payload),
    of("snp_report", snp_report),
    of("tdx_collateral", tdx_collateral),
    of("tdx_quote", tdx_quote),
    of("tpm_attest", tpm_attest),
    of("tpm_public", tpm_public),
    of("tpm_signature", tpm_signature),
];

/// The decoder of that name.
pub fn decoder(name: &str) -> Option<&'static Decoder> {
    DECODERS.iter().find(|decoder| decoder.name == name)
}

const fn of(name: &'static str, run: fn(&[u8])) -> Decoder {
    Decoder { name, run }
}

// Of casemate-evidence. What comes out is encoded again where it can be: it must be what went in, or at least decode.

fn record<T: Record>(bytes: &[u8]) {
    if let Ok(record) = T::decode(bytes) {
        assert!(T::decode(&record.encode()).is_ok(), "{} does not come back", T::NAME);
    }
}

fn tpm_public(bytes: &[u8]) {
    if let Ok(public) = Public::parse(bytes) {
        let _ = public.name();
        assert_eq!(Public::parse(&public.encode()).ok(), Some(public));
    }
}

fn tpm_attest(bytes: &[u8]) {
    let _ = Attest::parse(bytes);
}

fn tpm_signature(bytes: &[u8]) {
    let _ = Signature::parse(bytes);
}

fn event_log(bytes: &[u8]) {
    let _ = (count_signatures(bytes), device_path_text(bytes));
    let Ok(log) = LogRef::parse(bytes) else { return };
    for bank in [HashAlg::Sha1, HashAlg::Sha256, HashAlg::Sha384] {
        let _ = log.replay(bank);
        for event in &log.events {
            let _ = (event.coverage(bank), event.content());
        }
    }
    if let Ok(log) = EventLog::parse(bytes) {
        let _ = log.encode();
    }
}

fn ccel(bytes: &[u8]) {
    if let Ok(log) = CcelLog::parse(bytes) {
        let _ = log.replay();
    }
}

fn ima_ascii(bytes: &[u8]) {
    ima(bytes, Format::Ascii);
}

fn ima_binary(bytes: &[u8]) {
    ima(bytes, Format::Binary(HashAlg::Sha1));
    ima(bytes, Format::Binary(HashAlg::Sha256));
}

fn ima(bytes: &[u8], format: Format) {
    let mut reader = Reader::new(bytes, format);
    while let Ok(Some(entry)) = reader.next_entry() {
        let _ = (entry.listed(), entry.name(), entry.digest(), entry.digest_alg(), entry.digest_kind());
        let _ = (entry.signature(), entry.buffer(), entry.modsig_digest(), entry.modsig());
        let _ = entry.template_digest(HashAlg::Sha256);
    }
}

fn gpu_report(bytes: &[u8]) {
    let _ = (vbios_version(bytes), switch_bios_version(bytes));
    if let Ok(report) = Report::parse(bytes) {
        let opaque = &report.response.opaque;
        let _ = (opaque.measurement_counts(), opaque.pdis(Field::SWITCH_GPU_PDIS, 18));
    }
}

fn snp_report(bytes: &[u8]) {
    let _ = AttestationReport::decode(bytes);
}

fn tdx_quote(bytes: &[u8]) {
    if let Ok(quote) = Quote::decode(bytes) {
        assert_eq!(quote.encode(), bytes);
    }
}

// Of this crate.

fn attestation_key(bytes: &[u8]) {
    let _ = AttestationKey::from_public(bytes);
}

fn certificate(bytes: &[u8]) {
    let Ok(certificate) = Certificate::from_der(bytes) else { return };
    let _ = (certificate.subject(), certificate.common_name(), certificate.key_identifier(), public_key(&certificate));
    let _ = (certificate.not_before(), certificate.not_after());
    tdx::decode_extension(&certificate);
    snp::decode_certificate(&certificate);
    gpu::decode_firmware_id(&certificate);
    let _ = TrustAnchor::new(certificate, true);
}

fn anchors(bytes: &[u8]) {
    let pem = String::from_utf8_lossy(bytes).into_owned();
    let _ = TrustAnchors::new(&pem, &[VendorRoot { pem: pem.clone(), simulated: true }]);
}

/// A certificate, and a list that may be its.
fn revocation_list(bytes: &[u8]) {
    let (issuer, list) = two(bytes);
    let Ok(issuer) = Certificate::from_der(issuer) else { return };
    let accepted = [Algorithm::EcdsaSha256, Algorithm::EcdsaSha384, Algorithm::RsaPssSha384];
    if let Ok(list) = VerifiedCrl::verify(list, &issuer, &accepted, NOW) {
        let _ = list.require_absent(&issuer);
    }
}

/// A certificate, and a response that may be its issuer's, who is itself.
fn ocsp(bytes: &[u8]) {
    let (issuer, response) = two(bytes);
    let Ok(issuer) = Certificate::from_der(issuer) else { return };
    gpu::decode_ocsp(response, &issuer, NOW);
}

fn gpu_chain(bytes: &[u8]) {
    let _ = gpu::chain_from_pem(&String::from_utf8_lossy(bytes));
}

fn gpu_manifest(bytes: &[u8]) {
    let policy = gpu::GpuPolicy::strict();
    let _ = gpu::VerifiedManifest::verify(bytes, &gpu::Revocation::default(), &policy, NOW);
}

fn gpu_manifest_content(bytes: &[u8]) {
    gpu::decode_manifest_content(bytes);
}

fn tdx_collateral(bytes: &[u8]) {
    tdx::decode_collateral(bytes);
}

fn firmware(bytes: &[u8]) {
    let inputs = LaunchInputs { firmware: bytes, kernel: None, vcpus: 2, cpu: CpuSignature::EPYC_GENOA, guest_features: 1 };
    let _ = launch_measurement(&inputs);
}

fn jwt(bytes: &[u8]) {
    let _ = verify_jwt(bytes, &token_key(), NOW);
}

fn jwt_claims(bytes: &[u8]) {
    let _ = ear::claims::judge(bytes, NOW);
}

fn cwt(bytes: &[u8]) {
    let _ = verify_cwt(bytes, &token_key(), NOW);
}

fn cwt_claims(bytes: &[u8]) {
    let Ok(payload) = cbor::decode(bytes, bytes.len()) else { return };
    if let Ok(claims) = ear::labels::from_cbor(payload) {
        let _ = ear::claims::judge(claims.to_string().as_bytes(), NOW);
    }
}

fn corim_signed(bytes: &[u8]) {
    let _ = corim::verify_corim(bytes, &file_key().verifying_key().to_bytes(), NOW);
}

fn corim_payload(bytes: &[u8]) {
    let _ = corim::read::unsigned(bytes, NOW);
}

fn references_signed(bytes: &[u8]) {
    let _ = ReferenceValues::from_signed(bytes, &file_key().verifying_key().to_bytes());
}

fn references_payload(bytes: &[u8]) {
    let _ = references::parse(&String::from_utf8_lossy(bytes));
}

fn revocations_signed(bytes: &[u8]) {
    let _ = RevocationList::from_signed(bytes, &file_key().verifying_key().to_bytes());
}

fn revocations_payload(bytes: &[u8]) {
    let _ = revocation::parse(&String::from_utf8_lossy(bytes));
}

fn policy(bytes: &[u8]) {
    let _ = AppraisalPolicy::compile("fuzzed", &String::from_utf8_lossy(bytes));
}

fn policy_history(bytes: &[u8]) {
    let Ok(versions) = serde_json::from_slice::<Vec<NamedPolicy>>(bytes) else { return };
    let _ = crate::rego::verify_history(&versions);
}

/// With its judgement, by which all that it holds is decoded, too.
fn request(bytes: &[u8]) {
    static RULES: OnceLock<AppraisalPolicy> = OnceLock::new();
    let Ok(request) = Request::from_json(bytes) else { return };
    let rules = RULES.get_or_init(AppraisalPolicy::strict);
    let pinned = Pinned { anchors: None, references: None, rules, revocations: None, simulated: crate::Simulated::Allow };
    let _ = request.judge(&pinned, request.at().unwrap_or(NOW));
}

/// The key that tokens of the corpus are signed with.
fn token_key() -> VerifierPublicKey {
    let key = VerifierKey::new(&[7; 32], "https://casemate.example", "fuzz").expect("a number of the curve");
    key.public()
}

/// The key that files of the corpus are signed with.
fn file_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// Two inputs in one: the first with its length before it, 16 bits, big endian.
fn two(bytes: &[u8]) -> (&[u8], &[u8]) {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else { return (&[], &[]) };
    rest.split_at(usize::from(u16::from_be_bytes(*len)).min(rest.len()))
}

/// When the corpus was made, or at least its certificates are valid.
const NOW: UnixTime = UnixTime(1_800_000_000);
