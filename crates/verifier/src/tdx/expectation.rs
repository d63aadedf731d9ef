//! What a relying party expects of one trust domain, and whether it is so.

use casemate_evidence::tdx::{
    Sha384Digest, TdReport,
    ccel::{CcelError, CcelLog},
};
use subtle::ConstantTimeEq as _;

use crate::checks::{Finding, Mismatch};

/// What is expected of a trust domain. Nothing is optional: where anything goes, it is said.
#[derive(Debug, Clone, Copy)]
pub struct Expectation<'a> {
    /// Accepted values of MRTD. None is accepted if there are none.
    pub mrtd: &'a [Sha384Digest],
    /// For each run-time measurement register, how it is judged.
    pub rtmrs: [Rtmr<'a>; 4],
    /// MRCONFIGID: the workload digest and 16 zero bytes; see [`config_id`].
    pub config_id: Sha384Digest,
    /// MROWNER; all zero where nobody gives one.
    pub owner: Sha384Digest,
    /// MROWNERCONFIG; all zero where nobody gives one.
    pub owner_config: Sha384Digest,
    /// MRSERVICETD; all zero for no migration domain. A body of TDX 1.0 does not have the field, which means the same.
    pub service_td: Sha384Digest,
    /// REPORTDATA: binds nonce and keys.
    pub report_data: [u8; 64],
}

/// How a run-time measurement register is judged.
#[derive(Debug, Clone, Copy)]
pub enum Rtmr<'a> {
    /// It has one of these values.
    OneOf(&'a [Sha384Digest]),
    /// The event log replays to it, and of its events each is one of `required` or `allowed`, and all of `required` are among them in
    /// this order.
    Events {
        /// Digests that must be there.
        required: &'a [Sha384Digest],
        /// Digests that may be there.
        allowed: &'a [Sha384Digest],
    },
    /// Nothing is asked of it. Whatever runs in the domain and is measured there remains unknown.
    DangerAny,
}

/// MRCONFIGID for a workload: its digest and 16 zero bytes.
pub fn config_id(workload_digest: &[u8; 32]) -> Sha384Digest {
    let mut id = [0; 48];
    id[..32].copy_from_slice(workload_digest);
    id
}

#[derive(Debug, thiserror::Error)]
pub(super) enum MeasurementError {
    #[error("{register} is {seen}, which is none of the {count} expected values")]
    Value { register: &'static str, seen: String, count: usize },
}

#[derive(Debug, thiserror::Error)]
pub(super) enum RtmrError {
    #[error("there is no event log, by which {0} is to be judged")]
    NoLog(&'static str),
    #[error("read the event log of the domain")]
    Log(#[source] CcelError),
    #[error("the event log does not replay to {register}")]
    Replay { register: &'static str, source: Mismatch },
    #[error(transparent)]
    Value(#[from] MeasurementError),
    #[error("event {index} of {register} has digest {digest}, which is not expected there")]
    Event { register: &'static str, index: usize, digest: String },
    #[error("{register} lacks the expected event with digest {digest}, or has it in another order")]
    Lacking { register: &'static str, digest: String },
}

#[derive(Debug, thiserror::Error)]
#[error("{field}")]
pub(super) struct FieldError {
    field: &'static str,
    source: Mismatch,
}

impl Expectation<'_> {
    pub(super) fn initial(&self, report: &TdReport) -> Result<Finding<()>, MeasurementError> {
        one_of("MRTD", &report.mr_td, self.mrtd)?;
        Ok(Finding::new((), format!("MRTD {}", hex::encode(report.mr_td))))
    }

    /// A log that is given must replay to all registers, also where none is judged by it.
    pub(super) fn run_time(&self, report: &TdReport, log: Option<&[u8]>) -> Result<Finding<()>, RtmrError> {
        let log = log.map(CcelLog::parse).transpose().map_err(RtmrError::Log)?;
        if let Some(log) = &log {
            for (register, (replayed, seen)) in NAMES.into_iter().zip(log.replay().iter().zip(&report.rtmr)) {
                require_equal(replayed, seen).map_err(|source| RtmrError::Replay { register, source })?;
            }
        }
        for (index, rule) in self.rtmrs.iter().enumerate() {
            let (register, seen) = (NAMES[index], &report.rtmr[index]);
            match rule {
                Rtmr::OneOf(expected) => one_of(register, seen, expected)?,
                Rtmr::Events { required, allowed } => {
                    let log = log.as_ref().ok_or(RtmrError::NoLog(register))?;
                    events(register, log.digests(index), required, allowed)?;
                }
                Rtmr::DangerAny => {}
            }
        }
        let by = self.rtmrs.each_ref().map(|rule| match rule {
            Rtmr::OneOf(_) => "by value",
            Rtmr::Events { .. } => "by events",
            Rtmr::DangerAny => "NOT JUDGED",
        });
        Ok(Finding::new((), format!("RTMR0 to RTMR3: {}", by.join(", "))))
    }

    /// What whoever created the domain gave to it.
    pub(super) fn configuration(&self, report: &TdReport) -> Result<Finding<()>, FieldError> {
        let service_td = report.td15.as_ref().map_or([0; 48], |td15| td15.mr_service_td);
        let fields = [
            ("MRCONFIGID", &self.config_id, &report.mr_config_id),
            ("MROWNER", &self.owner, &report.mr_owner),
            ("MROWNERCONFIG", &self.owner_config, &report.mr_owner_config),
            ("MRSERVICETD", &self.service_td, &service_td),
        ];
        for (field, expected, seen) in fields {
            require_equal(expected, seen).map_err(|source| FieldError { field, source })?;
        }
        Ok(Finding::new((), format!("MRCONFIGID {}, owner and service domain as expected", hex::encode(self.config_id))))
    }

    pub(super) fn report_data(&self, report: &TdReport) -> Result<Finding<()>, FieldError> {
        require_equal(&self.report_data, &report.report_data).map_err(|source| FieldError { field: "REPORTDATA", source })?;
        Ok(Finding::new((), "REPORTDATA is the expected one"))
    }

    /// What this expectation leaves open.
    pub(super) fn warnings(&self) -> Vec<String> {
        let open = self.rtmrs.iter().zip(NAMES).filter(|(rule, _)| matches!(rule, Rtmr::DangerAny));
        open.map(|(_, name)| format!("{name} was not judged: what was measured into it is unknown")).collect()
    }
}

fn one_of(register: &'static str, seen: &Sha384Digest, expected: &[Sha384Digest]) -> Result<(), MeasurementError> {
    if expected.contains(seen) {
        return Ok(());
    }
    Err(MeasurementError::Value { register, seen: hex::encode(seen), count: expected.len() })
}

fn events<'a>(
    register: &'static str,
    digests: impl Iterator<Item = &'a Sha384Digest>,
    required: &[Sha384Digest],
    allowed: &[Sha384Digest],
) -> Result<(), RtmrError> {
    let mut due = required.iter().peekable();
    for (index, digest) in digests.enumerate() {
        if due.peek() == Some(&digest) {
            due.next();
        } else if !allowed.contains(digest) {
            return Err(RtmrError::Event { register, index, digest: hex::encode(digest) });
        }
    }
    due.next().map_or(Ok(()), |digest| Err(RtmrError::Lacking { register, digest: hex::encode(digest) }))
}

fn require_equal<const N: usize>(expected: &[u8; N], seen: &[u8; N]) -> Result<(), Mismatch> {
    if bool::from(expected.as_slice().ct_eq(seen)) {
        return Ok(());
    }
    Err(Mismatch::new(hex::encode(expected), hex::encode(seen)))
}

const NAMES: [&str; 4] = ["RTMR0", "RTMR1", "RTMR2", "RTMR3"];
