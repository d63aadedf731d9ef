//! The signed record of what was wiped at the end of an instance.

use casemate_api::{
    canonical,
    receipt::{Body, Wiped, signed_bytes},
};
use casemate_lifecycle::NodeId;
use casemate_sandbox::{SystemKind, WipeEvidence, WipedItem};
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

/// Of a machine that was started, the driver's word that something of it never existed is wrong: it went in a way that nobody
/// looked at.
pub(crate) fn doubt(wipe: &mut WipeEvidence, journal: &Journal) {
    if journal.launched().is_none() {
        return;
    }
    for item in wipe.items.values_mut().filter(|item| item.method == "never-existed") {
        item.method = "removed";
        item.verified = false;
        item.detail = "gone before the wipe, and how is not known".into();
    }
}

/// A container has no vTPM that could be wiped, and its receipt says so instead of nothing.
pub(crate) fn complete(wipe: &mut WipeEvidence, system: SystemKind) {
    if system == SystemKind::Container && !wipe.items.is_empty() {
        let detail = "instances of this level have no TPM".to_owned();
        wipe.items.entry("vtpm").or_insert(WipedItem {
            method: "never-existed",
            verified: true,
            detail,
            bytes: 0,
            duration_ms: 0,
        });
    }
}

fn reason(journal: &Journal) -> String {
    match (&journal.actual.failure, journal.ending) {
        (Some(failure), _) => format!("failed: {}", failure.check),
        (None, _) if journal.expired => "expired".into(),
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
    use crate::{
        assignment::tests::{body as assignment, key, order},
        journal::{Launched, Machine},
    };

    #[test]
    fn a_started_machine_cannot_have_been_wiped_of_nothing() {
        let item = |method| WipedItem { method, verified: true, detail: String::new(), bytes: 0, duration_ms: 0 };
        let evidence = || WipeEvidence { items: [("guest-ram", item("never-existed")), ("jail", item("removed"))].into() };
        let mut journal = Journal::new(order(&assignment()), 1);
        for machine in [Machine::None, Machine::Begun] {
            journal.machine = machine;
            let mut wipe = evidence();
            doubt(&mut wipe, &journal);
            assert_eq!(wipe, evidence(), "it may be so");
        }
        journal.machine = Machine::Started(Launched { started_at_ms: 1, record: vec![], message: vec![] });
        let mut wipe = evidence();
        doubt(&mut wipe, &journal);
        assert_eq!((wipe.items["guest-ram"].method, wipe.items["guest-ram"].verified), ("removed", false));
        assert!(wipe.items["jail"].verified);
    }

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
