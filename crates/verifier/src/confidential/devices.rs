//! The processor and the GPUs of a confidential VM.

use casemate_evidence::{
    confidential::{ConfidentialEvidence, CpuEvidence, GpuEvidence, confidential_binding},
    nvidia::{DeviceEvidence, DeviceKind},
    tdx::{Quote, TdReport},
};

use super::{
    CpuEndorsements, CpuPolicy,
    judge::{Appraisal, Inputs},
};
use crate::{
    checks::{Appraised, Stop},
    gpu::{DeviceCount, GpuClaims, GpuExpectation, VerifiedGpus, appraise_gpus, chain_from_pem},
    references::{Processor, ReferenceValues, TdxReference},
    result::{Anchor, Kind, Silicon, Submodule, Tier, TrustVector, claim},
    snp::{self, Generation, SnpClaims, VerifiedSnp, amd_root_fingerprint, appraise_snp},
    tdx::{self, INTEL_SGX_ROOT_CA, Rtmr, TdxClaims, VerifiedTdx, appraise_tdx},
    time::UnixTime,
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

    /// The same as bytes.
    pub(super) fn chip(&self) -> Option<Vec<u8>> {
        self.identity().map(|identity| match identity {
            Processor::SnpChip(id) => id.to_vec(),
            Processor::TdxPlatform(id) => id.to_vec(),
        })
    }

    /// What was launched.
    pub(super) fn measurement(&self) -> [u8; 48] {
        match self {
            Self::Snp(snp) => *snp.measurement(),
            Self::Tdx(tdx) => tdx.report().mr_td,
        }
    }

    /// Generation of the silicon, where the evidence says it.
    pub(super) fn generation(&self) -> Option<&'static str> {
        match self {
            Self::Snp(snp) => Some(generation_name(snp.generation())),
            Self::Tdx(_) => None,
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
        let mut submodule = snp_submodule(&appraised);
        let (checks, verified) = appraised.into_parts();
        if let Some(verified) = &verified {
            let anchor = snp_anchor(verified);
            submodule.anchors.push(anchor.clone());
            self.anchors.push(anchor);
            if verified.simulated() {
                self.simulated.push("the processor's chain does not lead to AMD's root".to_owned());
            }
        }
        self.submodules.insert(GUEST.to_owned(), submodule);
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
        let mut submodule = tdx_submodule(&appraised, self.inputs.now);
        let (checks, verified) = appraised.into_parts();
        if let Some(verified) = &verified {
            let anchor = tdx_anchor(verified);
            submodule.anchors.push(anchor.clone());
            self.anchors.push(anchor);
            if verified.is_simulated() {
                self.simulated.push("the processor's chain does not lead to Intel's root".to_owned());
            }
        }
        self.submodules.insert(GUEST.to_owned(), submodule);
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
            if claims.simulated {
                self.simulated.push(format!("{}{index}: a root is not NVIDIA's", claims.kind));
            }
            self.submodules.insert(format!("gpu{index}"), gpu_submodule(claims, verified));
        }
        let (checks, verified) = appraised.into_parts();
        self.sections.take(checks, verified.is_some())?;
        verified.ok_or(Stop)
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

pub(crate) fn snp_submodule(appraised: &Appraised<VerifiedSnp, SnpClaims>) -> Submodule {
    let assured = appraised.claims().is_some_and(|claims| claims.integrity_assured);
    let simulated = appraised.verified().is_some_and(VerifiedSnp::simulated);
    let hardware = match (simulated, assured) {
        (true, _) => claim::NONE,
        (false, true) => claim::GENUINE_HARDWARE,
        (false, false) => claim::CONTRAINDICATED_HARDWARE,
    };
    let mut submodule = Submodule::of(Kind::SnpGuest, appraised, confidential_trust(hardware));
    submodule.simulated = simulated;
    submodule.silicon = appraised.verified().map(|verified| Silicon {
        generation: generation_name(verified.generation()).to_owned(),
        trust: if verified.generation() == Generation::Milan { Tier::Contraindicated } else { Tier::Affirming },
    });
    submodule
}

pub(crate) fn tdx_submodule(appraised: &Appraised<VerifiedTdx, TdxClaims>, now: UnixTime) -> Submodule {
    let simulated = appraised.verified().is_some_and(VerifiedTdx::is_simulated);
    let hardware = if simulated { claim::NONE } else { claim::GENUINE_HARDWARE };
    let mut submodule = Submodule::of(Kind::TdxGuest, appraised, confidential_trust(hardware));
    submodule.simulated = simulated;
    submodule.tcb_age_s = appraised.verified().map(|verified| now.0.saturating_sub(verified.tcb().date.0));
    submodule
}

pub(crate) fn gpu_submodule(claims: &GpuClaims, verified: bool) -> Submodule {
    let trust = TrustVector {
        instance_identity: claim::TRUSTWORTHY_INSTANCE,
        configuration: claim::APPROVED_CONFIGURATION,
        executables: claim::APPROVED_BOOT,
        hardware: if claims.simulated { claim::NONE } else { claim::GENUINE_HARDWARE },
        ..TrustVector::default()
    };
    // Of the memory's opacity nothing is claimed: it is behind a firewall, and not encrypted.
    let mut submodule = Submodule::judged(Kind::Gpu, verified, true, trust);
    submodule.claims = serde_json::to_value(claims).expect("claims are plain data");
    submodule.simulated = claims.simulated;
    submodule
}

fn confidential_trust(hardware: i8) -> TrustVector {
    TrustVector {
        instance_identity: claim::TRUSTWORTHY_INSTANCE,
        configuration: claim::APPROVED_CONFIGURATION,
        executables: claim::APPROVED_BOOT,
        hardware,
        runtime_opaque: claim::ENCRYPTED_MEMORY,
        ..TrustVector::default()
    }
}

pub(crate) fn snp_anchor(verified: &VerifiedSnp) -> Anchor {
    let generation = generation_name(verified.generation());
    Anchor {
        kind: "amd-root".to_owned(),
        subject: format!("ARK of generation {generation}"),
        fingerprint: hex::encode(amd_root_fingerprint(verified.generation())),
        simulated: verified.simulated(),
        proved: "launch measurement, workload digest, and that the guest's memory is encrypted by this processor".to_owned(),
    }
}

pub(crate) fn tdx_anchor(verified: &VerifiedTdx) -> Anchor {
    Anchor {
        kind: "intel-root".to_owned(),
        subject: "Intel SGX Root CA".to_owned(),
        fingerprint: hex::encode(INTEL_SGX_ROOT_CA),
        simulated: verified.is_simulated(),
        proved: "measurements of the trust domain, workload digest, and that its memory is encrypted by this processor"
            .to_owned(),
    }
}

fn generation_name(generation: Generation) -> &'static str {
    match generation {
        Generation::Milan => "milan",
        Generation::Genoa => "genoa",
        Generation::Turin => "turin",
    }
}

const GUEST: &str = "guest";
