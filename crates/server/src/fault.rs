//! What can go wrong in a service call, and the one place where that becomes an HTTP problem or a gRPC status.

use casemate_api::rest::Problem;
use casemate_lifecycle::Refusal;

use crate::{roles::RoleName, store::StoreError};

/// Why a call was not done.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No token, or none that is valid.
    #[error("a valid bearer token is needed")]
    Unauthenticated,
    /// The caller may not do this.
    #[error("this token may not {0}")]
    Forbidden(&'static str),
    /// The caller's roles, or the limits of the token, do not allow this.
    #[error("this token may not do {verb}: {why}")]
    NotPermitted {
        /// What, by its verb.
        verb: &'static str,
        /// Why.
        why: String,
    },
    /// The project would have more than it may.
    #[error("the project's quota is {limit} {what}, and this would be more")]
    OverQuota {
        /// What.
        what: &'static str,
        /// How much there may be.
        limit: u64,
    },
    /// Too many requests in a short time.
    #[error("too many requests of this {of}")]
    TooOften {
        /// Of what there are too many.
        of: &'static str,
        /// When there is room again.
        retry_after_s: u64,
    },
    /// A request with the same key is being done.
    #[error("a request with this Idempotency-Key is under way")]
    UnderWay,
    /// There is no such thing, as far as the caller may know.
    #[error("there is no {what} {id:?}")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// As asked for.
        id: String,
    },
    /// The request is not acceptable as it is.
    #[error("{what}: {detail}")]
    Invalid {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
        /// What to do.
        hint: &'static str,
    },
    /// More bytes than the limit.
    #[error("{what} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// An uploaded blob is not what its name says.
    #[error("the uploaded bytes have digest {actual}, not {expected}")]
    DigestMismatch {
        /// As named.
        expected: String,
        /// As computed.
        actual: String,
    },
    /// A workload names blobs that were not uploaded.
    #[error("the workload names blobs that were not uploaded: {}", .0.join(", "))]
    MissingBlobs(Vec<String>),
    /// The idempotency key was used for another request.
    #[error("this Idempotency-Key was used for another request")]
    KeyTaken,
    /// The challenge of an appraisal cannot be used.
    #[error("{0}")]
    Challenge(&'static str),
    /// What is stored rules it out.
    #[error("{detail}")]
    Conflict {
        /// Why.
        detail: String,
    },
    /// A judgement was not done in time.
    #[error("the judgement took longer than {limit_ms} ms")]
    TooSlow {
        /// The limit.
        limit_ms: u64,
    },
    /// Another server does this.
    #[error("this is served by the role \"{}\", which this server does not run", .0.as_str())]
    RoleAbsent(RoleName),
    /// The nonce was used before.
    #[error("this nonce was used before")]
    NonceUsed,
    /// The instance's state rules it out.
    #[error("the request does not fit the state of the instance")]
    Refused(#[from] Refusal),
    /// The node is not there to ask.
    #[error("node {node} is not connected")]
    NodeUnreachable {
        /// Which.
        node: String,
    },
    /// The node did not answer in time.
    #[error("node {node} did not answer within {limit_ms} ms")]
    NodeTimeout {
        /// Which.
        node: String,
        /// The limit.
        limit_ms: u64,
    },
    /// The node has no evidence to give.
    #[error("the node gave no evidence: {check}: {detail}")]
    NoEvidence {
        /// Name of the failed check.
        check: String,
        /// What was seen.
        detail: String,
    },
    /// A node's appraisal failed.
    #[error("the appraisal failed: {check}: {detail}")]
    Appraisal {
        /// Name of the failed check.
        check: String,
        /// What was seen.
        detail: String,
    },
    /// Too much at once.
    #[error("too many {0} at the same time")]
    Busy(&'static str),
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// Something else inside failed.
    #[error("{attempt}")]
    Internal {
        /// What was attempted.
        attempt: &'static str,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Fault {
    /// An inside failure.
    pub fn internal(attempt: &'static str) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Self {
        move |source| Self::Internal { attempt, source }
    }

    /// Status, stable name and title.
    fn class(&self) -> (u16, &'static str, &'static str, tonic::Code) {
        use tonic::Code;
        match self {
            Self::Store(StoreError::Nul { .. }) => (422, "invalid", "Not acceptable", Code::InvalidArgument),
            Self::Store(StoreError::Fenced(_)) => (409, "taken-over", "Taken over", Code::Aborted),
            Self::Store(error) if error.is_unavailable() => (503, "store-unavailable", "Store away", Code::Unavailable),
            Self::Unauthenticated => (401, "unauthenticated", "Not authenticated", Code::Unauthenticated),
            Self::NotPermitted { .. } => (403, "not-permitted", "Not allowed", Code::PermissionDenied),
            Self::OverQuota { .. } => (409, "over-quota", "Over quota", Code::ResourceExhausted),
            Self::TooOften { .. } => (429, "too-often", "Too many requests", Code::ResourceExhausted),
            Self::UnderWay => (409, "under-way", "Under way", Code::Aborted),
            Self::Forbidden(_) => (403, "forbidden", "Not allowed", Code::PermissionDenied),
            Self::NotFound { .. } => (404, "not-found", "Not found", Code::NotFound),
            Self::Invalid { .. } => (422, "invalid", "Not acceptable", Code::InvalidArgument),
            Self::TooLarge { .. } => (413, "too-large", "Too large", Code::InvalidArgument),
            Self::DigestMismatch { .. } => (422, "digest-mismatch", "Digest does not match", Code::InvalidArgument),
            Self::MissingBlobs(_) => (422, "missing-blobs", "Blobs are missing", Code::FailedPrecondition),
            Self::KeyTaken => (422, "idempotency-key-taken", "Key used for another request", Code::AlreadyExists),
            Self::Challenge(_) => (409, "challenge-unusable", "Challenge not usable", Code::FailedPrecondition),
            Self::Conflict { .. } => (409, "conflict", "Does not fit what is stored", Code::FailedPrecondition),
            Self::TooSlow { .. } => (503, "too-slow", "Took too long", Code::DeadlineExceeded),
            Self::RoleAbsent(_) => (404, "role-absent", "Not served here", Code::Unimplemented),
            Self::NonceUsed => (409, "nonce-used", "Nonce used before", Code::AlreadyExists),
            Self::Refused(Refusal::NotAttested) => (409, "not-attested", "Not attested", Code::FailedPrecondition),
            Self::Refused(Refusal::NotBooted) => (409, "not-booted", "Not booted", Code::FailedPrecondition),
            Self::Refused(Refusal::Ended) => (409, "ended", "Ended", Code::FailedPrecondition),
            Self::Refused(Refusal::StillRunning) => (409, "still-running", "Still running", Code::FailedPrecondition),
            Self::NodeUnreachable { .. } => (503, "node-unreachable", "Node not connected", Code::Unavailable),
            Self::NodeTimeout { .. } => (504, "node-timeout", "Node did not answer", Code::DeadlineExceeded),
            Self::NoEvidence { .. } => (502, "no-evidence", "No evidence", Code::Aborted),
            Self::Appraisal { .. } => (403, "appraisal-failed", "Appraisal failed", Code::PermissionDenied),
            Self::Busy(_) => (429, "busy", "Too much at once", Code::ResourceExhausted),
            Self::Store(_) | Self::Internal { .. } => (500, "internal", "The platform failed", Code::Internal),
        }
    }

    /// Its stable name.
    pub(crate) fn name(&self) -> &'static str {
        self.class().1
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unauthenticated => "send `Authorization: Bearer <token>`; make a token with `casemate-server token`",
            Self::Invalid { hint, .. } => hint,
            Self::DigestMismatch { .. } => "upload the file again; it changed or was cut off on its way",
            Self::MissingBlobs(_) => "PUT each of them to /api/v1/blobs/{digest} first",
            Self::Challenge(_) => "POST to /api/v1/appraisals/challenges for a new one; each is good once",
            Self::RoleAbsent(_) => "GET /api/v1/platform tells the roles of a server",
            Self::NotPermitted { .. } => "GET /api/v1/me tells what this token is",
            Self::OverQuota { .. } => "stop an instance of the project, or ask an operator for a higher quota",
            Self::TooOften { .. } => "wait as long as Retry-After says",
            Self::UnderWay => "ask again in a moment, with the same key",
            Self::KeyTaken => "use a new key for a new request",
            Self::NonceUsed => "make a fresh random nonce for every challenge",
            Self::Refused(Refusal::NotAttested | Refusal::NotBooted) => "wait for the step in the instance's events",
            Self::Refused(Refusal::StillRunning) => "POST to /api/v1/instances/{id}/stop and wait for step `wiped`",
            Self::NodeUnreachable { .. } | Self::NodeTimeout { .. } | Self::Busy(_) | Self::TooSlow { .. } => {
                "try again in a moment"
            }
            Self::Store(StoreError::Nul { .. }) => "leave the NUL character out",
            Self::Store(error) if error.is_unavailable() => "try again in a moment",
            _ => return None,
        })
    }

    /// What a client is told. Inside causes are logged, not told.
    pub fn problem(&self) -> Problem {
        let (status, name, title, _) = self.class();
        let detail = match self {
            Self::Store(error @ (StoreError::Nul { .. } | StoreError::Fenced(_))) => error.to_string(),
            Self::Store(error) if error.is_unavailable() => "the platform's database does not answer at the moment".to_owned(),
            Self::Store(_) | Self::Internal { .. } => "the cause is in the platform's log".to_owned(),
            Self::Refused(refusal) => refusal.to_string(),
            other => other.to_string(),
        };
        Problem {
            kind: format!("urn:casemate:problem:{name}"),
            title: title.to_owned(),
            status,
            detail: Some(detail),
            hint: self.hint().map(str::to_owned),
        }
    }

    /// What a node is told.
    pub fn status(&self) -> tonic::Status {
        self.log();
        tonic::Status::new(self.class().3, self.problem().detail.unwrap_or_default())
    }

    /// Logs inside failures, with their causes, once.
    pub fn log(&self) {
        if matches!(self, Self::Store(_) | Self::Internal { .. }) {
            tracing::error!(error.chain = %chain(self), "a call failed inside the platform");
        }
    }
}

/// An error and its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
