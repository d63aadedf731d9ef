//! How the program ends.

use std::process::ExitCode;

use casemate_endorsements::{EndorsementError, FetchError};

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
    // What was laid around another error is not found in the chain.
    if let Some(around) = error.downcast_ref::<Hinted>() {
        return Some(around.hint.clone());
    }
    error.chain().find_map(|cause| {
        let hinted = cause.downcast_ref::<Hinted>().map(|h| h.hint.clone());
        let hinted = hinted.or_else(|| cause.downcast_ref::<Refused>().map(|r| check_hint(&r.check).to_owned()));
        hinted.or_else(|| cause.downcast_ref::<EndorsementError>().and_then(fetch_hint).map(str::to_owned))
    })
}

/// What a person can do where endorsements could not be had.
fn fetch_hint(error: &EndorsementError) -> Option<&'static str> {
    let EndorsementError::Fetch { source, .. } = error else { return None };
    Some(match &**source {
        FetchError::Status { status, .. } if status.as_u16() == 404 => {
            "the vendor has nothing published for this device, firmware or address; check --product and the address of a mirror"
        }
        FetchError::Stale { .. } => {
            "wait until the service answers again, or name a mirror; a greater --max-age accepts older answers"
        }
        FetchError::Throttled { .. } => "come back later, or name a mirror such as --amd-kds URL or --intel-pcs URL",
        FetchError::Content { .. } | FetchError::TooLong { .. } => {
            "something else than the vendor's service answered: a proxy that wants a login, or a wrong address"
        }
        FetchError::Request { .. } | FetchError::Status { .. } | FetchError::Time { .. } => {
            "check the network and HTTPS_PROXY, or name a mirror such as --amd-kds URL or --intel-pcs URL"
        }
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
        "layer.decrypt" => "the key does not fit the encrypted layer: it is the key of another one, or the file was exchanged",
        "asset.digest" | "asset.decrypt" => "the encrypted asset differs from what you named, or the key does not fit it",
        "receipt.signature" | "receipt.node" | "receipt.content" => {
            "do not rely on this receipt; ask the platform's operator for the node's journal"
        }
        "policy.appraisal" => {
            "every proof holds, but the appraisal policy does not accept what was proven; the detail says which rule. Another policy can be given with --policy"
        }
        "policy.revoked" => {
            "a part of the machine is on the revocation list, or the list is missing or old: fetch the current list, or use another node"
        }
        "policy.platform" => {
            "there is nothing to judge by for this question: check the isolation level that was asked for and the anchors and reference values"
        }
        "evidence.format" | "evidence.parts" => {
            "the evidence is not what was asked for; `casemate evidence show FILE` shows what it is"
        }
        "schedule.no-node" => {
            "`casemate offers list --all` shows what each node has, and why it takes no work; `casemate nodes` whether it is trusted"
        }
        "keys.timeout" => "no key release reached the guest in time; run it again",
        "records.authentic" => "the platform or the node altered the output; nothing after this point can be relied on",
        other => prefix_hint(other).unwrap_or(CATCH_ALL),
    }
}

/// Advice for all checks of a family.
fn prefix_hint(check: &str) -> Option<&'static str> {
    let (family, _) = check.split_once('.')?;
    Some(match family {
        "snp" => {
            "the SEV-SNP report is not one that your policy and expectation accept; `casemate evidence show FILE` shows what it says. A floor or bit that fails may need a firmware update by the hoster, a measurement other reference values"
        }
        "tdx" => {
            "the TDX quote is not one that your policy and expectation accept; `casemate evidence show FILE` shows what it says. Collateral must be of the time that you judge at, an outdated TCB needs a firmware update by the hoster"
        }
        "gpu" => {
            "a GPU or switch is not what your policy accepts: manifests and revocation answers must be those of its driver and VBIOS, and as many devices as promised must answer this nonce"
        }
        "link" => {
            "processor, GPUs and TPM were not enrolled together as one machine: the evidence may be put together from several. Do not release keys; report it to the platform's operator"
        }
        "monitor" => {
            "the node's monitor ended it, or its record is not what it was; `casemate notices` shows what the platform has of that. What the instance had in memory may be known to whoever broke in: change its keys"
        }
        "node" | "vmm" => {
            "the node's boot chain or software is not known, or its TPM's key is not the expected one: compare it with the signed reference values, or use another node"
        }
        "container" => {
            "the container that the node started is not the one that was asked for, or is not made of what the reference values name; no key was released. Another node, or a stronger level, may do"
        }
        "guest" => {
            "the guest's keys or measurements are not those of the launch that the node recorded; do not release keys, and use another node"
        }
        _ => return None,
    })
}

const CATCH_ALL: &str = "see `casemate inspect INSTANCE` for the whole story";

#[cfg(test)]
mod tests {
    use casemate_verifier::{
        BOOT_CHECKS, CONTAINER_CHECKS, IMA_CHECKS, INSTANCE_CHECKS, NODE_CHECKS,
        confidential::{CONFIDENTIAL_HEAD_CHECKS, CONFIDENTIAL_NODE_CHECKS, CONFIDENTIAL_TAIL_CHECKS},
        gpu::GPU_CHECKS,
        request::TPM_CHECKS,
        snp::SNP_CHECKS,
        tdx::TDX_CHECKS,
    };

    use super::*;

    #[test]
    fn each_check_of_the_verifier_has_advice_of_its_own() {
        let lists = [
            INSTANCE_CHECKS,
            CONTAINER_CHECKS,
            NODE_CHECKS,
            CONFIDENTIAL_HEAD_CHECKS,
            CONFIDENTIAL_NODE_CHECKS,
            CONFIDENTIAL_TAIL_CHECKS,
            SNP_CHECKS,
            TDX_CHECKS,
            GPU_CHECKS,
            TPM_CHECKS,
            BOOT_CHECKS,
            IMA_CHECKS,
        ];
        for check in lists.into_iter().flatten().map(|name| name.as_str()).chain(["policy.appraisal"]) {
            assert_ne!(check_hint(check), CATCH_ALL, "{check}");
        }
        assert_eq!(check_hint("nobody.knows"), CATCH_ALL);
    }
}
