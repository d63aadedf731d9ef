//! The processor and the GPUs of a confidential VM.

use casemate_evidence::{
    confidential::{ConfidentialEvidence, CpuEvidence, GpuEvidence, confidential_binding},
    nvidia::{DeviceEvidence, DeviceKind},
    tdx::{Quote, TdReport},
};

use super::{
    CpuEndorsements, CpuPolicy, GUEST,
    judge::{Appraisal, Inputs},
    submodules,
};
use crate::{
    checks::Stop,
    gpu::{DeviceCount, GpuExpectation, VerifiedGpus, appraise_gpus, chain_from_pem},
    references::{Processor, ReferenceValues, TdxReference},
    result::Submodule,
    snp::{self, Generation, VerifiedSnp, appraise_snp},
    tdx::{self, Rtmr, VerifiedTdx, appraise_tdx},
};

/// A processor that passed every check.
pub(super) enum VerifiedCpu {
    Snp(Box<VerifiedSnp>),
    Tdx(Box<VerifiedTdx>),
}

impl VerifiedCpu {
    /// Which processor it is, as machines are enrolled. A VLEK's report may hide it.
    pub(super) fn identity(&self) -> Option<Processor> {
        match self {
            Self::Snp(snp) => snp.chip_id().map(|id| Processor::SnpChip(*id)),
            Self::Tdx(tdx) => Some(Processor::TdxPlatform(*tdx.platform().identity())),
        }
    }

    /// Each identifier by which a list may name the processor: a machine of several TDX packages has an identifier of its own
    /// beside theirs, and that of Turin has eight bytes, which its reports fill up with zeros.
    pub(super) fn chips(&self) -> Vec<&[u8]> {
        match self {
            Self::Snp(snp) => {
                let short = (snp.generation() == Generation::Turin).then_some(TURIN_ID_BYTES);
                let id = snp.chip_id().map(<[u8; 64]>::as_slice);
                id.into_iter().chain(id.zip(short).map(|(id, short)| &id[..short])).collect()
            }
            Self::Tdx(tdx) => vec![tdx.platform().identity(), tdx.platform().ppid()],
        }
    }

    /// What was launched: the measurements, those at run time included.
    pub(super) fn images(&self) -> Vec<&[u8]> {
        match self {
            Self::Snp(snp) => vec![snp.measurement()],
            Self::Tdx(tdx) => {
                let report = tdx.report();
                std::iter::once(&report.mr_td).chain(&report.rtmr).map(<[u8; 48]>::as_slice).collect()
            }
        }
    }

    /// Generation of the silicon, as in [`Silicon`](crate::Silicon).
    pub(super) fn generation(&self) -> String {
        match self {
            Self::Snp(snp) => submodules::generation_name(snp.generation()).to_owned(),
            Self::Tdx(tdx) => hex::encode(tdx.platform().fmspc()),
        }
    }
}

impl Appraisal<'_> {
    /// The section of the processor.
    pub(super) fn processor(&mut self, evidence: &ConfidentialEvidence) -> Result<VerifiedCpu, Stop> {
        let Inputs { endorsements, believes, expectation, .. } = *self.inputs;
        let expected = &expectation.instance;
        let report_data = confidential_binding(&expected.nonce, &evidence.guest_keys, expected.instance, evidence.seen);
        match (&evidence.cpu, &believes.policy.cpu, &endorsements.cpu) {
            (CpuEvidence::Snp { report }, CpuPolicy::Snp(policy), CpuEndorsements::Snp(endorsements)) => {
                self.snp(report, endorsements, policy, report_data)
            }
            (CpuEvidence::Tdx { quote, event_log }, CpuPolicy::Tdx(policy), CpuEndorsements::Tdx(endorsements)) => {
                self.tdx(quote, event_log, endorsements, policy, report_data)
            }
            // The check `evidence.parts` has compared the kinds.
            (CpuEvidence::Snp { .. } | CpuEvidence::Tdx { .. }, CpuPolicy::Snp(_) | CpuPolicy::Tdx(_), _) => Err(Stop),
        }
    }

    fn snp(
        &mut self,
        report: &[u8],
        endorsements: &snp::Endorsements<'_>,
        policy: &snp::SnpPolicy,
        report_data: [u8; 64],
    ) -> Result<VerifiedCpu, Stop> {
        let measurements = self.inputs.believes.references.snp_measurements();
        let expectation = snp::Expectation {
            measurements: &measurements,
            host_data: self.inputs.expectation.instance.workload_digest,
            report_data,
            vmpl: 0,
            identity: snp::Identity::Absent,
            // The relying party's own list is judged for all parts together.
            revoked_chips: &[],
        };
        let appraised = appraise_snp(report, endorsements, policy, &expectation, self.inputs.now);
        self.warnings.extend(appraised.claims().into_iter().flat_map(|claims| claims.warnings.clone()));
        self.part(GUEST, submodules::snp(&appraised), "the processor's chain does not lead to AMD's root");
        let (checks, verified) = appraised.into_parts();
        self.sections.take(checks, verified.is_some())?;
        verified.map(|snp| VerifiedCpu::Snp(Box::new(snp))).ok_or(Stop)
    }

    fn tdx(
        &mut self,
        quote: &[u8],
        event_log: &[u8],
        endorsements: &tdx::Endorsements<'_>,
        policy: &tdx::TdxPolicy,
        report_data: [u8; 64],
    ) -> Result<VerifiedCpu, Stop> {
        let reference = tdx_reference(quote, self.inputs.believes.references);
        let nothing = TdxReference { mrtd: [0; 48], rtmr: [const { Vec::new() }; 4] };
        let (mrtd, rtmr) = match reference {
            Some(reference) => (std::slice::from_ref(&reference.mrtd), &reference.rtmr),
            None => (&[][..], &nothing.rtmr),
        };
        let expectation = tdx::Expectation {
            mrtd,
            rtmrs: std::array::from_fn(|index| Rtmr::OneOf(&rtmr[index])),
            config_id: tdx::config_id(&self.inputs.expectation.instance.workload_digest),
            owner: [0; 48],
            owner_config: [0; 48],
            service_td: [0; 48],
            report_data,
        };
        let log = (!event_log.is_empty()).then_some(event_log);
        let appraised = appraise_tdx(quote, log, endorsements, policy, &expectation, self.inputs.now);
        self.warnings.extend(appraised.claims().into_iter().flat_map(|claims| claims.warnings.clone()));
        self.part(GUEST, submodules::tdx(&appraised, self.inputs.now), "the processor's chain does not lead to Intel's root");
        let (checks, verified) = appraised.into_parts();
        self.sections.take(checks, verified.is_some())?;
        verified.map(|tdx| VerifiedCpu::Tdx(Box::new(tdx))).ok_or(Stop)
    }

    /// The section of GPUs and switches.
    pub(super) fn gpus(&mut self, evidence: &ConfidentialEvidence) -> Result<VerifiedGpus, Stop> {
        let Inputs { endorsements, believes, expectation, now } = *self.inputs;
        let seen = DeviceCount { gpus: evidence.seen.gpus, switches: evidence.seen.switches };
        let expectation = GpuExpectation::for_cpu_evidence(evidence.cpu.signed(), expectation.devices, seen);
        let devices: Vec<DeviceEvidence> = evidence.gpus.iter().map(device).collect();
        let appraised = appraise_gpus(&devices, &endorsements.gpu, &believes.policy.gpu, &expectation, now);
        let verified = appraised.verified().is_some();
        for (index, claims) in appraised.claims().into_iter().flatten().enumerate() {
            self.warnings.extend(claims.warnings.iter().map(|warning| format!("{}{index}: {warning}", claims.kind)));
            let mark = format!("{}{index}: a root is not NVIDIA's", claims.kind);
            self.part(&format!("gpu{index}"), submodules::gpu(claims, verified), &mark);
        }
        let (checks, verified) = appraised.into_parts();
        self.sections.take(checks, verified.is_some())?;
        verified.ok_or(Stop)
    }

    /// Takes what a device's appraisal says; `mark` is what to say of it where it is simulated.
    fn part(&mut self, name: &str, submodule: Submodule, mark: &str) {
        if submodule.simulated {
            self.simulated.push(mark.to_owned());
        }
        for anchor in &submodule.anchors {
            if !self.anchors.contains(anchor) {
                self.anchors.push(anchor.clone());
            }
        }
        self.submodules.insert(name.to_owned(), submodule);
    }
}

/// Chains that do not decode are judged as empty ones: `gpu.chain` refuses them.
fn device(gpu: &GpuEvidence) -> DeviceEvidence {
    let kind = if gpu.switch { DeviceKind::Switch } else { DeviceKind::Gpu };
    let chain = chain_from_pem(&gpu.chain).unwrap_or_default();
    DeviceEvidence { kind, report: gpu.report.clone(), chain }
}

/// The reference to hold the quote against: one that it fits whole, else one that fits its initial measurement, else none. What the
/// quote says is not believed here; it only chooses between values that are all good, and then each of its registers is compared.
fn tdx_reference<'a>(quote: &[u8], references: &'a ReferenceValues) -> Option<&'a TdxReference> {
    let quote = Quote::decode(quote).ok()?;
    let report = quote.td_report()?;
    let fits = |reference: &&TdxReference| reference.mrtd == report.mr_td;
    let fits_whole = |reference: &&TdxReference| fits(reference) && registers_fit(reference, report);
    references.tdx_references().find(fits_whole).or_else(|| references.tdx_references().find(fits))
}

fn registers_fit(reference: &TdxReference, report: &TdReport) -> bool {
    reference.rtmr.iter().zip(&report.rtmr).all(|(good, seen)| good.contains(seen))
}

/// Length of the identifier of a Turin chip.
const TURIN_ID_BYTES: usize = 8;
