//! Fills the fresh vTPM of a guest before its machine exists: measures what will boot, and makes the attestation key.

use std::io;

use casemate_attester::Tpm;
use casemate_evidence::instance::guest_pcr;
use casemate_sandbox::VtpmProvisioner;
use sha2::{Digest as _, Sha256};

use crate::blueprint::Blueprint;

/// What goes into the PCRs of one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Measurements(Vec<(u32, [u8; 32])>);

impl Measurements {
    /// Of the machine that `blueprint` describes.
    pub(crate) fn of(blueprint: &Blueprint) -> Self {
        let command_line = Sha256::digest(blueprint.plan.command_line.as_bytes()).into();
        Self(vec![
            (guest_pcr::KERNEL, blueprint.measured.kernel),
            (guest_pcr::COMMAND_LINE, command_line),
            (guest_pcr::INITRD, blueprint.measured.initrd),
            (guest_pcr::ROOT_HASH, blueprint.measured.root_hash),
        ])
    }
}

impl VtpmProvisioner for Measurements {
    fn provision(&self, transact: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        let mut tpm = Tpm::new(transact);
        for (pcr, digest) in &self.0 {
            tpm.pcr_extend(*pcr, *digest).map_err(io::Error::other)?;
        }
        let key = tpm.create_ak().map_err(io::Error::other)?;
        let public = key.public.clone();
        // The guest makes the same key again from the same seed; a loaded one would only take its place.
        tpm.flush(&key).map_err(io::Error::other)?;
        Ok(public)
    }
}
