//! The signed record of what was wiped at the end of an instance.

use casemate_api::{
    canonical,
    receipt::{Body, Wiped, signed_bytes},
};
use casemate_lifecycle::NodeId;
use casemate_sandbox::WipeEvidence;
use ed25519_dalek::{Signer as _, SigningKey};
use sha2::{Digest as _, Sha256};

use crate::journal::{Ending, Journal, SignedReceipt};

/// What happened, in the receipt's words.
pub(crate) fn body(journal: &Journal, node: &NodeId, wipe: &WipeEvidence, wiped_at_ms: u64) -> Body {
    let launched = journal.launched();
    Body {
        version: 1,
        instance: journal.order.id.to_string(),
        node: node.to_string(),
        workload_digest: hex::encode(journal.order.workload_digest()),
        launch_record_digest: launched.map(|launched| hex::encode(Sha256::digest(&launched.record))).unwrap_or_default(),
        started_at_ms: launched.map_or(0, |launched| launched.started_at_ms),
        wiped_at_ms,
        exit_code: journal.actual.exit_code,
        reason: reason(journal),
        wiped: wipe.items.iter().map(|(name, item)| ((*name).to_owned(), wiped(item))).collect(),
    }
}

/// Signs it.
pub(crate) fn sign(body: &Body, key: &SigningKey) -> SignedReceipt {
    let body = canonical::to_vec(body);
    let signature = key.sign(&signed_bytes(&body)).to_bytes().to_vec();
    SignedReceipt { body, signature }
}

/// After a restart in the middle of a wipe: the driver finds nothing of what is gone already, and its word that there never
/// was anything would be wrong.
pub(crate) fn mark_repeated(wipe: &mut WipeEvidence) {
    for item in wipe.items.values_mut().filter(|item| item.method == "never-existed") {
        item.method = "removed";
        item.verified = false;
        item.detail = "gone when the wipe was repeated after a restart of the agent".into();
    }
}

fn reason(journal: &Journal) -> String {
    match (&journal.actual.failure, journal.ending) {
        (Some(failure), _) => format!("failed: {}", failure.check),
        (None, Some(Ending::Exited)) => "exited".into(),
        (None, _) => "stopped".into(),
    }
}

fn wiped(item: &casemate_sandbox::WipedItem) -> Wiped {
    Wiped {
        method: item.method.to_owned(),
        verified: item.verified,
        detail: item.detail.clone(),
        bytes: item.bytes,
        duration_ms: item.duration_ms,
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::Signature;

    use super::*;
    use crate::assignment::tests::{body as assignment, key, order};

    #[test]
    fn says_what_happened_and_any_change_breaks_the_signature() {
        let mut journal = Journal::new(order(&assignment()), 1);
        journal.ending = Some(Ending::Exited);
        journal.actual.exit_code = Some(3);
        let node = "n-1".parse().unwrap();
        let receipt = sign(&body(&journal, &node, &WipeEvidence::default(), 9), &key());
        let parsed: Body = canonical::from_slice(&receipt.body, 1 << 16).unwrap();
        assert_eq!((parsed.reason.as_str(), parsed.exit_code, parsed.launch_record_digest.as_str()), ("exited", Some(3), ""));

        let verify = |body: &[u8]| {
            let signature = Signature::from_slice(&receipt.signature).unwrap();
            key().verifying_key().verify_strict(&signed_bytes(body), &signature)
        };
        verify(&receipt.body).unwrap();
        let mut changed = receipt.body.clone();
        let at = changed.iter().position(|b| *b == b'3').unwrap();
        changed[at] = b'0';
        verify(&changed).unwrap_err();
    }
}
