//! The devices of an instance together: as many as were promised, each once, alike, and joined to each other.

use casemate_evidence::nvidia::DeviceKind;

use super::{
    VerifiedGpu,
    policy::{DeviceCount, GpuExpectation, GpuMode},
};
use crate::checks::Finding;

/// Why devices that are good one by one are not together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetError {
    #[error("{claimed} were promised, the guest sees {seen}, evidence is of {attested}")]
    Count { claimed: DeviceCount, seen: DeviceCount, attested: DeviceCount },
    #[error("device {identity} is there twice")]
    Twice { identity: String },
    #[error("the GPUs do not all have the same {what}")]
    Differ { what: &'static str },
    #[error("GPU {ueid} is joined to the switches {named:?}, but the attested ones are {attested:?}")]
    Switches { ueid: String, named: Vec<String>, attested: Vec<String> },
    #[error("switch {ueid} is joined to {seen} GPUs, expected {expected}, the same as the other switches")]
    Gpus { ueid: String, seen: usize, expected: usize },
    #[error("switch {ueid} does not say which one it is, or says several")]
    Nameless { ueid: String },
}

/// Judges all devices of an instance.
pub(crate) fn require_fleet(devices: &[VerifiedGpu], expectation: &GpuExpectation) -> Result<Finding<()>, FleetError> {
    let of = |kind| devices.iter().filter(move |device| device.kind() == kind);
    let count = |kind| u32::try_from(of(kind).count()).unwrap_or(u32::MAX);
    let attested = DeviceCount { gpus: count(DeviceKind::Gpu), switches: count(DeviceKind::Switch) };
    let GpuExpectation { claimed, seen, .. } = *expectation;
    if claimed != seen || seen != attested {
        return Err(FleetError::Count { claimed, seen, attested });
    }
    let mut identities: Vec<_> = devices.iter().map(VerifiedGpu::identity).collect();
    identities.sort_unstable();
    if let Some([twice, _]) = identities.array_windows().find(|[a, b]| a == b) {
        return Err(FleetError::Twice { identity: hex::encode(twice) });
    }
    let gpus: Vec<_> = of(DeviceKind::Gpu).collect();
    let switches: Vec<_> = of(DeviceKind::Switch).collect();
    require_alike(&gpus)?;
    let protected = gpus.iter().any(|gpu| gpu.mode() == Some(GpuMode::ProtectedPcie));
    if !switches.is_empty() || protected {
        require_topology(&gpus, &switches)?;
        return Ok(Finding::new((), format!("{attested}, each once, every GPU at every switch")));
    }
    Ok(Finding::new((), format!("{attested}, each once")))
}

fn require_alike(gpus: &[&VerifiedGpu]) -> Result<(), FleetError> {
    let alike = |same: fn(&VerifiedGpu, &VerifiedGpu) -> bool| gpus.array_windows().all(|[a, b]| same(a, b));
    if !alike(|a, b| a.driver_version() == b.driver_version()) {
        return Err(FleetError::Differ { what: "driver" });
    }
    if !alike(|a, b| a.mode() == b.mode()) {
        return Err(FleetError::Differ { what: "mode" });
    }
    if !alike(|a, b| a.model() == b.model()) {
        return Err(FleetError::Differ { what: "model" });
    }
    Ok(())
}

/// The switches at every GPU are exactly the attested ones, and all switches have the same GPUs, as many as there are. A GPU's
/// report does not say which of the names at a switch is its own; so this does not show more than numbers there.
fn require_topology(gpus: &[&VerifiedGpu], switches: &[&VerifiedGpu]) -> Result<(), FleetError> {
    let mut attested = Vec::with_capacity(switches.len());
    for switch in switches {
        match switch.pdis() {
            [own] => attested.push(*own),
            _ => return Err(FleetError::Nameless { ueid: switch.ueid().to_owned() }),
        }
    }
    attested.sort_unstable();
    let names = |pdis: &[[u8; 8]]| pdis.iter().map(hex::encode).collect();
    for gpu in gpus {
        if gpu.pdis() != attested {
            let (named, attested) = (names(gpu.pdis()), names(&attested));
            return Err(FleetError::Switches { ueid: gpu.ueid().to_owned(), named, attested });
        }
    }
    for switch in switches {
        let seen = switch.gpu_pdis();
        if seen.len() != gpus.len() || seen != switches[0].gpu_pdis() {
            return Err(FleetError::Gpus { ueid: switch.ueid().to_owned(), seen: seen.len(), expected: gpus.len() });
        }
    }
    Ok(())
}
