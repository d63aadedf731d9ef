//! Failures of an instance: the closed names of the agent's checks, and cleaning of what a guest says about its own.

use casemate_lifecycle::{Failure, Step};

/// Longest detail, in bytes.
pub(crate) const MAX_DETAIL: usize = 1024;

/// The agent's checks.
pub(crate) mod check {
    pub(crate) const SIGNATURE: &str = "assignment.signature";
    pub(crate) const NODE: &str = "assignment.node";
    pub(crate) const STALE: &str = "assignment.stale";
    pub(crate) const LEVEL: &str = "assignment.level";
    pub(crate) const WORKLOAD: &str = "workload.format";
    pub(crate) const CAPACITY: &str = "node.capacity";
    pub(crate) const FETCH: &str = "image.fetch";
    pub(crate) const BLOB_DIGEST: &str = "image.blob-digest";
    pub(crate) const LAYER_ROOT: &str = "image.layer-root";
    pub(crate) const ASSET_FETCH: &str = "asset.fetch";
    pub(crate) const ASSET_DIGEST: &str = "asset.digest";
    pub(crate) const PREPARE: &str = "launch.prepare";
    pub(crate) const START: &str = "launch.start";
    pub(crate) const BOOT_TIMEOUT: &str = "launch.boot-timeout";
    pub(crate) const VMM: &str = "launch.vmm";
    pub(crate) const LEAVING: &str = "node.leaving";
    pub(crate) const DEDICATED: &str = "node.dedicated";
    pub(crate) const MONITOR_WATCH: &str = "monitor.watch";
    pub(crate) const MONITOR_ENDED: &str = "monitor.violation";
    pub(crate) const PANIC: &str = "guest.panic";
    pub(crate) const POWERED_OFF: &str = "guest.powered-off";
    pub(crate) const GUEST_PROTOCOL: &str = "guest.protocol";
    pub(crate) const EVIDENCE: &str = "evidence.collect";
}

/// A failure of one of the agent's checks while `step` was being attempted.
pub(crate) fn at(step: Step, check: &str, detail: impl Into<String>) -> Failure {
    Failure { step, check: check.to_owned(), detail: clean(&detail.into()) }
}

/// A failure that the guest named itself. Its words are not trusted: a name that is no name becomes `guest.protocol`.
pub(crate) fn of_guest(step: Step, check: &str, detail: &str) -> Failure {
    let well_formed = (1..=64).contains(&check.len())
        && check.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'));
    let check = if well_formed { check } else { check::GUEST_PROTOCOL };
    Failure { step, check: check.to_owned(), detail: clean(detail) }
}

/// The error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// At most [`MAX_DETAIL`] bytes without control characters.
fn clean(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if out.len() + c.len_utf8() > MAX_DETAIL {
            break;
        }
        out.push(c);
    }
    out.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_not_repeat_a_guests_tricks() {
        let failure = of_guest(Step::Booted, "guest.tpm\nreceipt ok", "a\u{1b}[2Jb");
        assert_eq!((failure.check.as_str(), failure.detail.as_str()), ("guest.protocol", "a [2Jb"));
        assert_eq!(of_guest(Step::Booted, "keys.authentic", "").check, "keys.authentic");
        assert!(of_guest(Step::Booted, "x", &"é".repeat(5000)).detail.len() <= MAX_DETAIL);
    }
}
