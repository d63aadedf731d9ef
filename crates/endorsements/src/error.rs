//! What can go wrong, by what was attempted.

use std::{io, path::PathBuf, sync::Arc};

use casemate_verifier::{
    gpu::{ManifestError, QuestionError},
    tdx::WantedError,
};
use reqwest::StatusCode;

/// Why a fetcher cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// An address that is none, or would be asked without TLS.
    #[error("{url:?} is no address to fetch {what} from: expected https://…, or http:// to this machine")]
    Source {
        /// Of which service.
        what: &'static str,
        /// As given.
        url: String,
    },
    /// The folder of the cache.
    #[error("create the cache folder {}", path.display())]
    Cache {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The HTTP client.
    #[error("set up TLS")]
    Tls(#[source] reqwest::Error),
}

/// Why one answer could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer, or only a part of one.
    #[error("fetch {url}")]
    Request {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Another status than 200.
    #[error("fetch {url}: the answer is {status}")]
    Status {
        /// What was asked.
        url: String,
        /// The answer.
        status: StatusCode,
    },
    /// The service asks to be left alone for longer than we wait.
    #[error("fetch {url}: the service asks to come back in {wait_s} s, which is longer than this waits")]
    Throttled {
        /// What was asked.
        url: String,
        /// As it says.
        wait_s: u64,
    },
    /// Too many bytes.
    #[error("fetch {url}: more than {limit} bytes came")]
    TooLong {
        /// What was asked.
        url: String,
        /// Most that it may be.
        limit: usize,
    },
    /// With all retries it took too long.
    #[error("fetch {url}: no whole answer within {limit_s} s")]
    Time {
        /// What was asked.
        url: String,
        /// In all.
        limit_s: u64,
    },
    /// Something else than what was asked for.
    #[error("fetch {url}: the answer is not {expected}: {problem}")]
    Content {
        /// What was asked.
        url: String,
        /// What it should be.
        expected: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// There is a copy, but it must not be used any more.
    #[error("there is a copy of {url} that is {age_s} s old, but no more than {floor_s} s are allowed")]
    Stale {
        /// What was asked.
        url: String,
        /// Of the copy.
        age_s: u64,
        /// The floor.
        floor_s: u64,
        /// Why there is nothing newer.
        #[source]
        source: Box<FetchError>,
    },
}

/// Why endorsements for evidence could not be had.
#[derive(Debug, thiserror::Error)]
pub enum EndorsementError {
    /// The report does not say what to fetch.
    #[error("find out what to fetch for the SEV-SNP report: {0}")]
    Snp(String),
    /// The quote does not say what to fetch.
    #[error("find out what to fetch for the TDX quote")]
    Tdx(#[source] WantedError),
    /// It is an enclave's.
    #[error("the quote is an SGX enclave's, which is not judged here")]
    Enclave,
    /// The device's report.
    #[error("read the report of device {index}")]
    Report {
        /// Which.
        index: usize,
        /// Why.
        #[source]
        source: casemate_evidence::nvidia::ReportError,
    },
    /// The device does not say which manifests are for it.
    #[error("find out which manifests are for device {index}")]
    Manifests {
        /// Which.
        index: usize,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// The device's chain names no chip.
    #[error("the certificates of device {index} do not name its chip")]
    Chip {
        /// Which.
        index: usize,
    },
    /// More devices than one machine has.
    #[error("{len} devices are more than the limit of {}", casemate_evidence::nvidia::MAX_DEVICES)]
    TooMany {
        /// Found.
        len: usize,
    },
    /// A chain to ask about.
    #[error("make up the question about revocation")]
    Question(#[source] QuestionError),
    /// An answer.
    #[error("fetch {what}")]
    Fetch {
        /// What is missing.
        what: &'static str,
        /// Why.
        #[source]
        source: Arc<FetchError>,
    },
}
