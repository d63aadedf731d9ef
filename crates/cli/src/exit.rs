//! How the program ends.

use std::process::ExitCode;

/// Exit status of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Done.
    Ok,
    /// It could not be done.
    Error,
    /// A check said no.
    Refused,
    /// The workload ran and ended with a non-zero status.
    WorkloadFailed,
    /// The command line makes no sense.
    Usage,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(match status {
            Status::Ok => 0,
            Status::Error => 1,
            Status::Refused => 2,
            Status::WorkloadFailed => 3,
            Status::Usage => 64,
        })
    }
}

/// A check said no; carried as an error to the top so that everything below is undone on the way.
#[derive(Debug, thiserror::Error)]
#[error("refused: check {check} failed: {detail}")]
pub(crate) struct Refused {
    /// Name of the check.
    pub(crate) check: String,
    /// What was seen.
    pub(crate) detail: String,
}

/// The command line makes no sense, in a way that its parser cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// An error with advice.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Hinted {
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// Prints the chain once and decides the exit status.
pub(crate) fn report(error: &anyhow::Error) -> Status {
    let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
    eprintln!("error: {}", chain.join(": "));
    if let Some(hint) = hint(error) {
        eprintln!("hint: {hint}");
    }
    if error.chain().any(|cause| cause.is::<Refused>()) {
        Status::Refused
    } else if error.is::<Usage>() {
        Status::Usage
    } else {
        Status::Error
    }
}

fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let hinted = cause.downcast_ref::<Hinted>().map(|h| h.hint.clone());
        hinted.or_else(|| cause.downcast_ref::<Refused>().map(|r| check_hint(&r.check).to_owned()))
    })
}

/// What a person can do about a failed check.
pub(crate) fn check_hint(check: &str) -> &'static str {
    match check {
        "guest.kernel" | "guest.initrd" | "guest.root-hash" | "guest.command-line" => {
            "the node booted another guest OS than the signed reference values name; no key was released. Compare the node's guest OS image with the published one"
        }
        "guest.root-verity" => {
            "a block of the node's guest OS image is damaged or was changed; the guest stopped itself and no key was released"
        }
        "guest.layer-verity" | "image.layer-root" | "image.blob-digest" => {
            "the node's copy of an image layer differs from the one you asked for; remove the node's image cache or use another node"
        }
        "node.certificate" => {
            "the node's certificate is out of date or not from your platform; wait for its renewal or use another node"
        }
        "policy.simulated" => "this node's trust rests on a simulator; set allow_simulated in your context only for development",
        "evidence.nonce" | "guest.binding" | "batch.inclusion" | "instance.id" | "workload.digest" => {
            "the evidence is not an answer to this question: it may be replayed or relayed. Do not release keys; report it to the platform's operator"
        }
        "keys.authentic" => {
            "the sealed keys were altered on their way; the guest refused them and powered off. Nobody could read them"
        }
        "asset.digest" | "asset.decrypt" => "the encrypted asset differs from what you named, or the key does not fit it",
        "receipt.signature" | "receipt.node" | "receipt.content" => {
            "do not rely on this receipt; ask the platform's operator for the node's journal"
        }
        "schedule.no-node" => "see `casemate nodes`; a node may be full, untrusted or not connected",
        "keys.timeout" => "no key release reached the guest in time; run it again",
        "records.authentic" => "the platform or the node altered the output; nothing after this point can be relied on",
        _ => "see `casemate inspect INSTANCE` for the whole story",
    }
}
