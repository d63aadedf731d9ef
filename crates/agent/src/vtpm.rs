//! Fills the fresh vTPM of a guest before its machine exists: measures what will boot, and makes the attestation key.

use std::io;

use casemate_attester::{Exchange, GuestMeasurements, Tpm, guest_provision};
use casemate_sandbox::VtpmProvisioner;

use crate::blueprint::{Blueprint, Measured};

/// What goes into the PCRs of one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Measurements {
    measured: Measured,
    command_line: String,
}

impl Measurements {
    /// Of the machine that `blueprint` describes.
    pub(crate) fn of(blueprint: &Blueprint) -> Self {
        Self { measured: blueprint.measured, command_line: blueprint.command_line().to_owned() }
    }
}

impl VtpmProvisioner for Measurements {
    fn provision(&self, transact: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        let measurements = GuestMeasurements {
            kernel: self.measured.kernel,
            initrd: self.measured.initrd,
            command_line: &self.command_line,
            root_hash: self.measured.root_hash,
        };
        guest_provision(&mut Tpm::new(Exchange(transact)), &measurements).map_err(io::Error::other)
    }
}
