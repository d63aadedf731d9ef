//! Do processor and GPUs belong to the node? A TPM says "this chip", not "this motherboard": only an enrolment that saw them
//! together can say that (else a genuine TPM vouches for a machine that somebody else's processor sits in).

use crate::{
    checks::Finding,
    gpu::VerifiedGpus,
    references::{Machine, Processor, ReferenceValues},
};

/// Why parts do not belong together.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("the reference values name no machine with the TPM whose EK certificate is {0}")]
    Machine(String),
    #[error("the machine with this TPM was enrolled without a processor's identity")]
    NoProcessor,
    #[error("the evidence does not say which processor it is from")]
    Hidden,
    #[error("the machine with this TPM was enrolled with another processor than {0}")]
    OtherProcessor(String),
    #[error("the device with key {0} was not enrolled with this machine")]
    OtherDevice(String),
}

/// `link.chip`: the machine with the TPM `ek` was enrolled with this processor.
pub(super) fn chip<'a>(
    references: &'a ReferenceValues,
    ek: &[u8; 32],
    seen: Option<&Processor>,
) -> Result<Finding<&'a Machine>, LinkError> {
    let machine = references.machine(ek).ok_or_else(|| LinkError::Machine(hex::encode(ek)))?;
    let enrolled = machine.processor.as_ref().ok_or(LinkError::NoProcessor)?;
    let seen = seen.ok_or(LinkError::Hidden)?;
    if enrolled != seen {
        return Err(LinkError::OtherProcessor(text(seen)));
    }
    Ok(Finding::new(machine, format!("processor {} was enrolled with this TPM", text(seen))))
}

/// `link.gpus`: each device was enrolled with the machine.
pub(super) fn gpus(machine: &Machine, gpus: Option<&VerifiedGpus>) -> Result<Finding<()>, LinkError> {
    let devices = gpus.map_or(&[][..], VerifiedGpus::devices);
    let keys = devices.iter().map(|device| hex::encode(device.identity()));
    match keys.into_iter().find(|key| !machine.gpus.contains(key)) {
        Some(key) => Err(LinkError::OtherDevice(key)),
        None if devices.is_empty() => Ok(Finding::new((), "no GPU was promised and none is there")),
        None => Ok(Finding::new((), format!("all {} devices were enrolled with this TPM", devices.len()))),
    }
}

fn text(processor: &Processor) -> String {
    match processor {
        Processor::SnpChip(id) => hex::encode(id),
        Processor::TdxPlatform(id) => hex::encode(id),
    }
}
