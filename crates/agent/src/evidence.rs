//! Evidence of instances: one quote of the node's TPM for all challenges that come close together.
//!
//! ```text
//! instance: leaf --> batcher: collects for COLLECT, or for as long as the TPM is busy --> one quote over the Merkle root
//!           <------- path and quote ----------------------------------------------------/
//! ```

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use casemate_api::guest;
use casemate_evidence::{
    container::{CONTAINER_EVIDENCE, ContainerEvidence, container_leaf},
    instance::{INSTANCE_EVIDENCE, InstanceEvidence, MAX_BYTES, Pcr, QuoteBundle, Record as _, guest_pcr, instance_leaf},
    merkle::{self, InclusionPath},
};
use casemate_sandbox::SystemKind;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout_at,
};

use crate::tpm::{NodeQuote, NodeTpmError};

/// How long the first leaf of a batch waits for others.
const COLLECT: Duration = Duration::from_millis(5);
/// Leaves that wait for a batch.
const MAX_WAITING: usize = 1024;

/// Why there is no evidence.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum EvidenceError {
    /// What the guest sent cannot be part of evidence.
    #[error("the guest's evidence {0}")]
    Guest(&'static str),
    /// The node's quote failed.
    #[error("quote by the node's TPM")]
    Node(#[source] Arc<NodeTpmError>),
    /// All parts together are larger than a verifier reads.
    #[error("the evidence has {0} bytes, more than the limit of {MAX_BYTES}")]
    TooLong(usize),
    /// The batcher has ended.
    #[error("the agent is shutting down")]
    Gone,
}

/// Evidence, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    /// Of an instance of this kind.
    pub(crate) fn of(system: SystemKind, bytes: Vec<u8>) -> Self {
        let media_type = match system {
            SystemKind::Machine => INSTANCE_EVIDENCE,
            SystemKind::Container => CONTAINER_EVIDENCE,
        };
        Self { media_type, bytes }
    }
}

/// Where leaves are sent.
#[derive(Debug, Clone)]
pub(crate) struct Batcher {
    leaves: mpsc::Sender<Waiting>,
}

struct Waiting {
    leaf: [u8; 32],
    reply: oneshot::Sender<Result<Inclusion, EvidenceError>>,
}

/// A leaf's place under a quote.
#[derive(Debug, Clone)]
pub(crate) struct Inclusion {
    pub(crate) path: InclusionPath,
    pub(crate) quote: Arc<NodeQuote>,
}

impl Batcher {
    /// A batcher, and the task that its owner has to run.
    pub(crate) fn new<Q, F>(quote: Q) -> (Self, impl Future<Output = ()> + Send)
    where
        Q: Fn([u8; 32]) -> F + Send,
        F: Future<Output = Result<NodeQuote, NodeTpmError>> + Send,
    {
        let (leaves, queue) = mpsc::channel(MAX_WAITING);
        (Self { leaves }, batch(queue, quote))
    }

    /// Has `leaf` quoted.
    pub(crate) async fn include(&self, leaf: [u8; 32]) -> Result<Inclusion, EvidenceError> {
        let (reply, answer) = oneshot::channel();
        self.leaves.send(Waiting { leaf, reply }).await.map_err(|_| EvidenceError::Gone)?;
        answer.await.map_err(|_| EvidenceError::Gone)?
    }

    /// Completes the evidence of one container, for which nobody but the node can vouch.
    pub(crate) async fn assemble_container(
        &self,
        nonce: [u8; 32],
        container_launch: Vec<u8>,
        from: guest::Evidence,
    ) -> Result<Vec<u8>, EvidenceError> {
        if !(from.attest.is_empty() && from.signature.is_empty() && from.ak_public.is_empty() && from.pcrs.is_empty()) {
            return Err(EvidenceError::Guest("has a quote, which nothing in a container can make"));
        }
        let leaf = container_leaf(&nonce, &container_launch, &from.guest_keys);
        let Inclusion { path, quote } = self.include(leaf).await?;
        let evidence = ContainerEvidence {
            version: 1,
            nonce,
            container_launch,
            guest_keys: from.guest_keys,
            node: quote.bundle.clone(),
            node_event_log: quote.event_log.clone(),
            batch: path,
        };
        let bytes = evidence.encode();
        if bytes.len() > MAX_BYTES { Err(EvidenceError::TooLong(bytes.len())) } else { Ok(bytes) }
    }

    /// Completes the evidence of one guest.
    pub(crate) async fn assemble(
        &self,
        nonce: [u8; 32],
        launch_record: Vec<u8>,
        from: guest::Evidence,
    ) -> Result<Vec<u8>, EvidenceError> {
        let guest = guest_bundle(&from)?;
        let leaf = instance_leaf(&nonce, &launch_record, &from.guest_keys, &from.attest);
        let Inclusion { path, quote } = self.include(leaf).await?;
        let evidence = InstanceEvidence {
            version: 1,
            nonce,
            launch_record,
            guest_keys: from.guest_keys,
            node: quote.bundle.clone(),
            node_event_log: quote.event_log.clone(),
            batch: path,
            guest,
        };
        let bytes = evidence.encode();
        if bytes.len() > MAX_BYTES { Err(EvidenceError::TooLong(bytes.len())) } else { Ok(bytes) }
    }
}

async fn batch<Q, F>(mut queue: mpsc::Receiver<Waiting>, quote: Q)
where
    Q: Fn([u8; 32]) -> F,
    F: Future<Output = Result<NodeQuote, NodeTpmError>>,
{
    while let Some(first) = queue.recv().await {
        let mut waiting = vec![first];
        let until = tokio::time::Instant::now() + COLLECT;
        while waiting.len() < MAX_WAITING {
            match timeout_at(until, queue.recv()).await {
                Ok(Some(next)) => waiting.push(next),
                Ok(None) | Err(_) => break,
            }
        }
        let leaves: Vec<_> = waiting.iter().map(|waiting| waiting.leaf).collect();
        let root = merkle::root(&leaves).expect("a batch has 1 to MAX_WAITING leaves, fewer than MAX_LEAVES");
        tracing::debug!(batch.leaves = leaves.len(), "quoting");
        let result = quote(root).await.map(Arc::new).map_err(|error| EvidenceError::Node(Arc::new(error)));
        for (index, waiting) in waiting.into_iter().enumerate() {
            let inclusion = result.clone().map(|quote| {
                let path = merkle::path(&leaves, index).expect("the index is that of a leaf");
                Inclusion { path, quote }
            });
            // Whoever waited may have gone.
            let _ = waiting.reply.send(inclusion);
        }
    }
}

fn guest_bundle(from: &guest::Evidence) -> Result<QuoteBundle, EvidenceError> {
    if from.pcrs.len() != guest_pcr::QUOTED.len() {
        return Err(EvidenceError::Guest("has another number of PCRs than a guest quote covers"));
    }
    let mut pcrs = BTreeMap::new();
    for (index, value) in guest_pcr::QUOTED.iter().zip(&from.pcrs) {
        let value = value.as_slice().try_into().map_err(|_| EvidenceError::Guest("has a PCR that is not 32 bytes long"))?;
        pcrs.insert(*index, Pcr(value));
    }
    Ok(QuoteBundle { attest: from.attest.clone(), signature: from.signature.clone(), ak_public: from.ak_public.clone(), pcrs })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn quote_of(root: [u8; 32]) -> NodeQuote {
        let bundle = QuoteBundle { attest: root.to_vec(), signature: vec![], ak_public: vec![], pcrs: BTreeMap::new() };
        NodeQuote { bundle, event_log: vec![] }
    }

    #[tokio::test(start_paused = true)]
    async fn one_quote_covers_all_leaves_that_come_together() {
        let quotes = Arc::new(Mutex::new(Vec::new()));
        let seen = quotes.clone();
        let (batcher, task) = Batcher::new(move |root| {
            seen.lock().unwrap().push(root);
            async move { Ok(quote_of(root)) }
        });
        let task = tokio::spawn(task);
        let leaves: Vec<_> = (0..7u8).map(|n| [n; 32]).collect();
        let inclusions = futures::future::join_all(leaves.iter().map(|leaf| batcher.include(*leaf))).await;
        for (leaf, inclusion) in leaves.iter().zip(inclusions) {
            let inclusion = inclusion.unwrap();
            let root = merkle::root_of(leaf, &inclusion.path).unwrap();
            assert_eq!(inclusion.quote.bundle.attest, root);
        }
        assert_eq!(quotes.lock().unwrap().len(), 1);
        drop(batcher);
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_the_tpm_is_busy_shares_the_next_quote() {
        let (batcher, task) = Batcher::new(|root| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(quote_of(root))
        });
        tokio::spawn(task);
        let late = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            tokio::join!(batcher.include([1; 32]), batcher.include([2; 32]))
        };
        let (first, (second, third)) = tokio::join!(batcher.include([0; 32]), late);
        assert_eq!(first.unwrap().path.count, 1);
        assert_eq!((second.unwrap().path.count, third.unwrap().path.count), (2, 2));
    }

    #[tokio::test]
    async fn a_failed_quote_fails_all_that_wait_and_the_next_one_is_tried() {
        let tries = Mutex::new(0);
        let (batcher, task) = Batcher::new(move |root| {
            let mut tries = tries.lock().unwrap();
            *tries += 1;
            let ok = *tries > 1;
            async move { if ok { Ok(quote_of(root)) } else { Err(NodeTpmError::Gone) } }
        });
        tokio::spawn(task);
        assert!(matches!(batcher.include([0; 32]).await, Err(EvidenceError::Node(_))));
        assert!(batcher.include([0; 32]).await.is_ok());
    }

    #[test]
    fn refuses_guest_evidence_that_does_not_fit_its_own_frame() {
        let pcrs = vec![vec![0; 32]; guest_pcr::QUOTED.len()];
        let good = guest::Evidence { pcrs, ..guest::Evidence::default() };
        assert!(guest_bundle(&good).is_ok());
        let mut short = good.clone();
        short.pcrs[2].pop();
        assert!(guest_bundle(&short).is_err());
        let mut few = good;
        few.pcrs.pop();
        assert!(guest_bundle(&few).is_err());
    }
}
