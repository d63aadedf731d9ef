//! When something that was verified once is valid: verified values may be kept, time goes on.

use std::fmt;

use crate::{
    time::UnixTime,
    x509::{Certificate, VerifiedCrl},
};

/// The time in which one thing is valid.
#[derive(Debug, Clone)]
pub(super) struct Window {
    pub(super) what: What,
    pub(super) from: UnixTime,
    pub(super) to: UnixTime,
}

/// Whose time it is. A certificate's name is written only where it is needed.
#[derive(Debug, Clone)]
pub(super) enum What {
    Named(&'static str),
    Certificate(Certificate),
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(what) => f.write_str(what),
            Self::Certificate(certificate) => write!(f, "certificate \"{}\"", certificate.subject()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{what} is valid from {from} to {to}, the time is {at}")]
pub(super) struct NotCurrent {
    what: String,
    from: UnixTime,
    to: UnixTime,
    at: UnixTime,
}

impl Window {
    pub(super) fn of_certificate(certificate: &Certificate) -> Self {
        Self { what: What::Certificate(certificate.clone()), from: certificate.not_before(), to: certificate.not_after() }
    }

    /// A list without an end was not accepted; were there one, it would be over as soon as it began.
    pub(super) fn of_list(what: &'static str, list: &VerifiedCrl) -> Self {
        let from = list.this_update();
        Self { what: What::Named(what), from, to: list.next_update() }
    }

    pub(super) fn require(&self, at: UnixTime) -> Result<(), NotCurrent> {
        if self.from <= at && at <= self.to {
            return Ok(());
        }
        Err(NotCurrent { what: self.what.to_string(), from: self.from, to: self.to, at })
    }
}

pub(super) fn require_all(windows: &[Window], at: UnixTime) -> Result<(), NotCurrent> {
    windows.iter().try_for_each(|window| window.require(at))
}
