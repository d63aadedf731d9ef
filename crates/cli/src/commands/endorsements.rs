//! `casemate endorsements fetch`, and the fetching of `casemate verify --fetch`. What comes goes into a request and is judged there.

use std::{io::Write as _, path::Path, time::Duration};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use casemate_endorsements::{Fetcher, Floor, GpuEndorsements, Settings, SnpEndorsements, SnpHints, Sources};
use casemate_evidence::{
    confidential::{ConfidentialEvidence, CpuEvidence},
    instance::Record as _,
    nvidia::{DeviceEvidence, DeviceKind},
    snp::{AttestationReport, Generation},
    tdx::Quote,
};
use casemate_verifier::gpu::chain_from_pem;
use serde_json::{Value, json};

use crate::{
    args::{Endorsements, EndorsementsCommand, FetchOptions, Globals, Product, Verify},
    commands::evidence::{self, from_text, read},
    context,
    exit::{Hinted, Status, Usage},
    printer::{self, Printer},
};

pub(crate) async fn run(globals: &Globals, args: Endorsements) -> anyhow::Result<Status> {
    let EndorsementsCommand::Fetch { evidence, out, options } = args.command;
    let bytes = read(&evidence)?;
    let collector = Collector::new(&options)?;
    let found = match request(&bytes) {
        Some(mut request) => {
            collector.fill(&mut request).await?;
            request["endorsements"].take()
        }
        None => collector.of_evidence(&bytes, &evidence).await?,
    };
    match out {
        None => printer::json(&found)?,
        Some(path) => {
            write_whole(&path, format!("{found:#}\n").as_bytes())?;
            Printer::new(globals).done("endorsements", &format!("written to {}; not verified", path.display()));
        }
    }
    Ok(Status::Ok)
}

/// A JSON object that names a kind.
fn request(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok().filter(|value: &Value| value["kind"].is_string())
}

/// Fetches for one command.
pub(crate) struct Collector {
    fetcher: Fetcher,
    hints: SnpHints,
}

impl Collector {
    pub(crate) fn new(options: &FetchOptions) -> anyhow::Result<Self> {
        let default = Sources::default();
        let or = |given: &Option<String>, default: String| given.clone().unwrap_or(default);
        let sources = Sources {
            amd_kds: or(&options.amd_kds, default.amd_kds),
            intel_pcs: or(&options.intel_pcs, default.intel_pcs),
            intel_root_crl: or(&options.intel_root_crl, default.intel_root_crl),
            nvidia_rim: or(&options.nvidia_rim, default.nvidia_rim),
            nvidia_ocsp: or(&options.nvidia_ocsp, default.nvidia_ocsp),
        };
        let cache = match &options.cache {
            Some(dir) => dir.clone(),
            None => context::cache_dir()?.join("endorsements"),
        };
        let floor = options.max_age.map_or_else(Floor::default, |seconds| Floor::of(Duration::from_secs(seconds)));
        let fetcher = Fetcher::new(Settings { sources, floor, cache: Some(cache), ..Settings::default() })?;
        let generation = options.product.map(|product| match product {
            Product::Milan => Generation::Milan,
            Product::Genoa => Generation::Genoa,
            Product::Turin => Generation::Turin,
        });
        let vlek = options.vlek.as_deref().map(certificate).transpose()?;
        Ok(Self { fetcher, hints: SnpHints { generation, vlek } })
    }

    /// Puts what the vendors publish into a request. The chains of node and TPM are the platform's and stay.
    pub(crate) async fn fill(&self, request: &mut Value) -> anyhow::Result<()> {
        let kind = request["kind"].as_str().unwrap_or_default().to_owned();
        match kind.as_str() {
            "snp" => request["endorsements"] = self.snp(&field(request, "/evidence/report")?).await?,
            "tdx" => request["endorsements"] = self.tdx(&field(request, "/evidence/quote")?).await?,
            "gpu" => request["endorsements"] = self.gpu(&devices(request)?).await?,
            "confidential" => {
                let evidence = field(request, "/evidence/evidence")?;
                let evidence = ConfidentialEvidence::decode(&evidence).context("read evidence.evidence of the request")?;
                let (cpu, gpu) = self.confidential(&evidence).await?;
                anyhow::ensure!(
                    request["endorsements"].is_object(),
                    "the request has no endorsements: node_chain and ek_chain come from the platform"
                );
                request["endorsements"]["cpu"] = cpu;
                request["endorsements"]["gpu"] = gpu;
            }
            _ => {
                let message = format!("there is nothing to fetch for a request of kind {}", printer::clean(&kind));
                let hint = "vendors' services know snp, tdx, gpu and confidential; for others leave --fetch out".to_owned();
                return Err(Hinted { message, hint }.into());
            }
        }
        Ok(())
    }

    /// For evidence without a request.
    async fn of_evidence(&self, bytes: &[u8], path: &Path) -> anyhow::Result<Value> {
        let text = from_text(bytes);
        for bytes in [Some(bytes), text.as_deref()].into_iter().flatten() {
            if AttestationReport::decode(bytes).is_ok() {
                return self.snp(bytes).await;
            }
            if Quote::decode(bytes).is_ok() {
                return self.tdx(bytes).await;
            }
            if let Ok(evidence) = ConfidentialEvidence::decode(bytes) {
                let (cpu, gpu) = self.confidential(&evidence).await?;
                return Ok(json!({ "cpu": cpu, "gpu": gpu }));
            }
        }
        if let Ok(devices) = evidence::nvidia_devices(bytes) {
            return self.gpu(&devices).await;
        }
        let message = format!("{} is no evidence that vendors publish anything about", path.display());
        let hint = "known are requests, SEV-SNP reports, TDX quotes, evidence of confidential VMs and NVIDIA's JSON with report and certificate; `casemate evidence show FILE` shows what it is".to_owned();
        Err(Hinted { message, hint }.into())
    }

    async fn snp(&self, report: &[u8]) -> anyhow::Result<Value> {
        let report = AttestationReport::decode(report).context("read the SEV-SNP report")?;
        let SnpEndorsements { chain, crl } = self.fetcher.snp(&report, &self.hints).await?;
        Ok(json!({ "chain": base64(&chain), "crl": BASE64.encode(crl) }))
    }

    async fn tdx(&self, quote: &[u8]) -> anyhow::Result<Value> {
        let quote = Quote::decode(quote).context("read the TDX quote")?;
        Ok(json!({ "collateral": BASE64.encode(self.fetcher.tdx(&quote).await?.collateral) }))
    }

    async fn gpu(&self, devices: &[DeviceEvidence]) -> anyhow::Result<Value> {
        let GpuEndorsements { manifests, ocsp } = self.fetcher.gpu(devices).await?;
        let manifest = |manifest: &casemate_endorsements::Manifest| json!({ "id": manifest.id, "document": BASE64.encode(&manifest.document) });
        let manifests: Vec<Value> = manifests.iter().map(manifest).collect();
        Ok(json!({ "manifests": manifests, "ocsp": base64(&ocsp), "crls": [] }))
    }

    /// Of the processor, and of the GPUs.
    async fn confidential(&self, evidence: &ConfidentialEvidence) -> anyhow::Result<(Value, Value)> {
        let cpu = match &evidence.cpu {
            CpuEvidence::Snp { report } => json!({ "snp": self.snp(report).await? }),
            CpuEvidence::Tdx { quote, .. } => json!({ "tdx": self.tdx(quote).await? }),
        };
        let device = |gpu: &casemate_evidence::confidential::GpuEvidence| {
            let chain = chain_from_pem(&gpu.chain).context("read the certificates of a device")?;
            let kind = if gpu.switch { DeviceKind::Switch } else { DeviceKind::Gpu };
            anyhow::Ok(DeviceEvidence { kind, report: gpu.report.clone(), chain })
        };
        let devices = evidence.gpus.iter().map(device).collect::<anyhow::Result<Vec<_>>>()?;
        Ok((cpu, self.gpu(&devices).await?))
    }
}

/// Options that only mean something together with `--fetch`.
pub(crate) fn require_meaning(args: &Verify) -> Result<(), Usage> {
    let FetchOptions { cache, max_age, product, vlek, .. } = &args.fetching;
    let given = cache.is_some() || max_age.is_some() || product.is_some() || vlek.is_some();
    if given && !args.fetch {
        return Err(Usage("--cache, --max-age, --product and --vlek are for --fetch, which is not there".to_owned()));
    }
    Ok(())
}

/// Creates or replaces a file, whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let path = std::path::absolute(path)?;
    let dir = path.parent().context("a file needs a folder")?;
    let mut file = tempfile::NamedTempFile::new_in(dir).with_context(|| format!("create a file in {}", dir.display()))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).with_context(|| format!("write {}", path.display()))?;
    file.persist(&path).with_context(|| format!("write {}", path.display()))?;
    Ok(())
}

fn field(request: &Value, pointer: &str) -> anyhow::Result<Vec<u8>> {
    let name = pointer.trim_start_matches('/').replace('/', ".");
    let text = request.pointer(pointer).and_then(Value::as_str).with_context(|| format!("the request has no {name}"))?;
    BASE64.decode(text).with_context(|| format!("decode {name} of the request"))
}

fn devices(request: &Value) -> anyhow::Result<Vec<DeviceEvidence>> {
    let list = request.pointer("/evidence/devices").and_then(Value::as_array).context("the request has no evidence.devices")?;
    let device = |device: &Value| {
        let kind = match device["kind"].as_str() {
            Some("gpu") => DeviceKind::Gpu,
            Some("switch") => DeviceKind::Switch,
            _ => anyhow::bail!("a device in the request is neither gpu nor switch"),
        };
        let chain = device["chain"].as_array().context("a device in the request has no chain")?;
        let chain = (0..chain.len()).map(|at| field(device, &format!("/chain/{at}"))).collect::<anyhow::Result<_>>()?;
        Ok(DeviceEvidence { kind, report: field(device, "/report")?, chain })
    };
    list.iter().map(device).collect()
}

/// One certificate, DER or PEM, as DER.
fn certificate(path: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = read(path)?;
    match std::str::from_utf8(&bytes).ok().filter(|text| text.contains("-----BEGIN CERTIFICATE-----")) {
        None => Ok(bytes),
        Some(text) => {
            let attempt = || format!("read the certificate {}", path.display());
            chain_from_pem(text).with_context(attempt)?.into_iter().next().with_context(attempt)
        }
    }
}

fn base64(parts: &[Vec<u8>]) -> Vec<String> {
    parts.iter().map(|part| BASE64.encode(part)).collect()
}
