//! Fills the fresh vTPM of a guest before its machine exists: measures what will boot, and makes the attestation key.

use std::io;

use casemate_attester::{Exchange, GuestMeasurements, Tpm, guest_provision};
use casemate_sandbox::VtpmProvisioner;

use crate::blueprint::{Blueprint, MachineMeasured, Measured};

/// Of an instance that has no machine, and so no vTPM.
pub(crate) struct NoVtpm;

impl VtpmProvisioner for NoVtpm {
    fn provision(&self, _: &mut dyn FnMut(&[u8]) -> io::Result<Vec<u8>>) -> io::Result<Vec<u8>> {
        Err(io::Error::other("there is no vTPM at this level"))
    }
}

/// What goes into the PCRs of one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Measurements {
    measured: MachineMeasured,
    command_line: String,
}

impl Measurements {
    /// What provisions the vTPM of what `blueprint` describes.
    pub(crate) fn of(blueprint: &Blueprint) -> Box<dyn VtpmProvisioner> {
        match &blueprint.measured {
            Measured::Machine(measured) => {
                Box::new(Self { measured: *measured, command_line: blueprint.command_line().to_owned() })
            }
            Measured::Container(_) => Box::new(NoVtpm),
        }
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
