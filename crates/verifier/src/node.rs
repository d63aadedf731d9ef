//! A node: of an instance's evidence, or one that enrols or renews its certificate.

use std::collections::BTreeMap;

use casemate_evidence::instance::{NODE_PCRS, Pcr, QuoteBundle};

use crate::{
    anchors::TrustAnchors,
    checks::{Check, CheckName, Finding, Ledger, Mismatch, NODE_CHECKS, Stop},
    ek::{self, EkError, VerifiedEk},
    log::{MeasuredLog, NodeSoftware},
    node_certificate::{NodeCertificate, NodeCertificateError},
    quote::{AttestationKey, AuthenticQuote, KeyError},
    references::ReferenceValues,
    time::UnixTime,
};

/// What a node that enrols or renews sends.
#[derive(Debug, Clone)]
pub struct NodeQuoteInput<'a> {
    /// TPMS_ATTEST.
    pub attest: &'a [u8],
    /// TPMT_SIGNATURE.
    pub signature: &'a [u8],
    /// TPMT_PUBLIC of the attestation key. Whether it is *the node's* is for the caller: MakeCredential at enrolment, the
    /// TPM name in the old certificate at renewal.
    pub ak_public: &'a [u8],
    /// SHA-256 PCR values by index.
    pub pcrs: &'a BTreeMap<u32, [u8; 32]>,
    /// TCG event log.
    pub event_log: &'a [u8],
}

/// How the appraisal of a node came out.
#[derive(Debug)]
pub struct NodeAppraisal {
    /// Every check of [`NODE_CHECKS`], in order.
    pub checks: Vec<Check>,
    verified: Option<VerifiedNode>,
}

impl NodeAppraisal {
    /// The node, if every check passed.
    pub fn verified(&self) -> Option<&VerifiedNode> {
        self.verified.as_ref()
    }
}

/// A node whose software is known.
#[derive(Debug)]
pub struct VerifiedNode {
    ak_name: Vec<u8>,
    software: NodeSoftware,
}

impl VerifiedNode {
    /// TPM name of the attestation key that quoted.
    pub fn ak_name(&self) -> &[u8] {
        &self.ak_name
    }

    /// What it runs.
    pub fn software(&self) -> NodeSoftware {
        self.software
    }
}

/// Appraises a node that enrols or renews: a proper attestation key, its quote for `qualifying`, the PCRs, the log, the
/// software.
pub fn appraise_node(quote: &NodeQuoteInput<'_>, qualifying: &[u8; 32], references: &ReferenceValues) -> NodeAppraisal {
    let mut ledger = Ledger::new(NODE_CHECKS);
    let found = run(&mut ledger, quote, qualifying, references);
    let (checks, passed) = ledger.close();
    NodeAppraisal { checks, verified: found.ok().filter(|_| passed) }
}

fn run(
    ledger: &mut Ledger,
    input: &NodeQuoteInput<'_>,
    qualifying: &[u8; 32],
    references: &ReferenceValues,
) -> Result<VerifiedNode, Stop> {
    let key = ledger.enter(CheckName::NodeAk, attestation_key(input.ak_public))?;
    let quote = ledger.enter(CheckName::NodeQuote, authentic_quote(&key, input.attest, input.signature))?;
    ledger.enter(CheckName::EvidenceNonce, for_qualifying(&quote, qualifying))?;
    let pcrs = input.pcrs.iter().map(|(index, value)| (*index, Pcr(*value))).collect();
    let software = measured_software(ledger, &quote, &pcrs, input.event_log, references)?;
    Ok(VerifiedNode { ak_name: key.name().to_vec(), software })
}

/// PCRs, log and software, for both kinds of appraisal.
fn measured_software(
    ledger: &mut Ledger,
    quote: &AuthenticQuote,
    listed: &BTreeMap<u32, Pcr>,
    event_log: &[u8],
    references: &ReferenceValues,
) -> Result<NodeSoftware, Stop> {
    let pcrs = quote.pcrs(&NODE_PCRS, listed).map(|pcrs| Finding::new(pcrs, format!("SHA-256 PCRs {NODE_PCRS:?} as quoted")));
    let pcrs = ledger.enter(CheckName::NodePcrs, pcrs)?;
    let log = MeasuredLog::replay(event_log, &pcrs).map(|log| Finding::new(log, "the log replays to the quoted PCRs"));
    let log = ledger.enter(CheckName::NodeEventLog, log)?;
    let software = log.software(references).map(|software| {
        let detail = format!("agent {}, VMM {}", hex::encode(software.agent()), hex::encode(software.vmm()));
        Finding::new(software, detail)
    });
    ledger.enter(CheckName::NodeSoftware, software)
}

/// A node with certificate, endorsement, quote and software all verified: what an instance's evidence hangs on.
pub(crate) struct TrustedNode {
    pub(crate) quote: AuthenticQuote,
    pub(crate) software: NodeSoftware,
}

/// What is needed to judge the node behind an instance's evidence.
pub(crate) struct NodeInput<'a> {
    pub(crate) node_chain: &'a [Vec<u8>],
    pub(crate) ek_chain: &'a [Vec<u8>],
    pub(crate) bundle: &'a QuoteBundle,
    pub(crate) event_log: &'a [u8],
    pub(crate) anchors: &'a TrustAnchors,
    pub(crate) references: &'a ReferenceValues,
    pub(crate) now: UnixTime,
}

/// A node certificate and the endorsement of its TPM.
pub(crate) struct EndorsedNode {
    pub(crate) certificate: NodeCertificate,
}

impl<'a> NodeInput<'a> {
    /// `node.certificate`.
    pub(crate) fn certificate(&self, ledger: &mut Ledger) -> Result<NodeCertificate, Stop> {
        let found = NodeCertificate::verify(self.node_chain, self.anchors, self.now).map(|certificate| {
            let (subject, ca, until) = (&certificate.subject, &certificate.ca_subject, certificate.not_after);
            let detail = format!("{subject} under {ca}, valid until {until}");
            Finding::new(certificate, detail)
        });
        ledger.enter::<_, NodeCertificateError>(CheckName::NodeCertificate, found)
    }

    /// `node.ek`.
    pub(crate) fn endorsement(
        &self,
        ledger: &mut Ledger,
        certificate: NodeCertificate,
    ) -> Result<(EndorsedNode, VerifiedEk), Stop> {
        let ek = ek::verify_chain(self.ek_chain, self.anchors, self.now).map_err(EndorsementError::Ek);
        let found = ek.and_then(|ek| {
            Mismatch::unless_equal(&certificate.ek_certificate, &ek.certificate_digest()).map_err(EndorsementError::Other)?;
            let detail = format!("EK certificate {} under {}", hex::encode(ek.certificate_digest()), ek.root_subject());
            Ok(Finding::new((EndorsedNode { certificate }, ek), detail))
        });
        ledger.enter(CheckName::NodeEk, found)
    }

    /// From `node.ak` to `node.software`.
    pub(crate) fn measured(&self, ledger: &mut Ledger, node: EndorsedNode) -> Result<TrustedNode, Stop> {
        let key = named_key(self.bundle, &node.certificate.ak_name);
        let key = ledger.enter(CheckName::NodeAk, key)?;
        let quote = authentic_quote(&key, &self.bundle.attest, &self.bundle.signature);
        let quote = ledger.enter(CheckName::NodeQuote, quote)?;
        let software = measured_software(ledger, &quote, &self.bundle.pcrs, self.event_log, self.references)?;
        Ok(TrustedNode { quote, software })
    }
}

#[derive(Debug, thiserror::Error)]
enum EndorsementError {
    #[error(transparent)]
    Ek(EkError),
    #[error("the EK certificate is not the one that the node certificate names (SHA-256)")]
    Other(#[source] Mismatch),
}

#[derive(Debug, thiserror::Error)]
enum NamedKeyError {
    #[error(transparent)]
    Key(KeyError),
    #[error("the attestation key is not the one that the node certificate names")]
    Other(#[source] Mismatch),
}

fn named_key(bundle: &QuoteBundle, name: &[u8]) -> Result<Finding<AttestationKey>, NamedKeyError> {
    let found = attestation_key(&bundle.ak_public).map_err(NamedKeyError::Key)?;
    if found.value.name() != name {
        return Err(NamedKeyError::Other(Mismatch::new(hex::encode(name), hex::encode(found.value.name()))));
    }
    Ok(found)
}

pub(crate) fn attestation_key(public: &[u8]) -> Result<Finding<AttestationKey>, KeyError> {
    let key = AttestationKey::from_public(public)?;
    let detail = format!("restricted signing key with TPM name {}", hex::encode(key.name()));
    Ok(Finding::new(key, detail))
}

pub(crate) fn authentic_quote(
    key: &AttestationKey,
    attest: &[u8],
    signature: &[u8],
) -> Result<Finding<AuthenticQuote>, crate::quote::QuoteError> {
    key.quote(attest, signature).map(|quote| Finding::new(quote, "a TPM's quote, signed by the attestation key"))
}

fn for_qualifying(quote: &AuthenticQuote, qualifying: &[u8; 32]) -> Result<Finding<()>, Mismatch> {
    if quote.is_for(qualifying) {
        Ok(Finding::new((), "the quote was made for this challenge"))
    } else {
        Err(Mismatch::new(hex::encode(qualifying), hex::encode(quote.qualifying())))
    }
}
