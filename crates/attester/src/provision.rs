//! The launcher's part in a guest's vTPM, before the machine exists.

use casemate_evidence::{Sha256Digest, instance::guest_pcr};
use sha2::{Digest as _, Sha256};

use crate::{Tpm, TpmError, Transport};

/// What a guest boots from; see [`guest_pcr`].
#[derive(Debug, Clone, Copy)]
pub struct GuestMeasurements<'a> {
    /// SHA-256 of the kernel file.
    pub kernel: Sha256Digest,
    /// SHA-256 of the initrd file.
    pub initrd: Sha256Digest,
    /// The kernel command line.
    pub command_line: &'a str,
    /// The root image's verity root hash.
    pub root_hash: Sha256Digest,
}

impl GuestMeasurements<'_> {
    /// What is extended into which PCR, in this order.
    pub fn extensions(&self) -> [(u32, Sha256Digest); 4] {
        [
            (guest_pcr::KERNEL, self.kernel),
            (guest_pcr::COMMAND_LINE, Sha256::digest(self.command_line).into()),
            (guest_pcr::INITRD, self.initrd),
            (guest_pcr::ROOT_HASH, self.root_hash),
        ]
    }
}

/// Extends the measurements into a fresh, started vTPM and returns TPMT_PUBLIC of its attestation key, which the guest will make
/// again from the same seed. Nothing stays loaded. A vTPM that was extended before is refused: its PCRs would match nothing.
pub fn guest_provision<T: Transport>(tpm: &mut Tpm<T>, measurements: &GuestMeasurements<'_>) -> Result<Vec<u8>, TpmError> {
    let used = tpm.pcr_read(&guest_pcr::QUOTED)?.into_iter().find(|(_, value)| *value != [0; 32]);
    if let Some((pcr, _)) = used {
        return Err(TpmError::NotFresh { pcr });
    }
    for (pcr, digest) in measurements.extensions() {
        tpm.pcr_extend(pcr, digest)?;
    }
    let key = tpm.create_ak()?;
    tpm.flush(key.handle)?;
    Ok(key.public)
}
