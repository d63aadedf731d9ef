//! A node: of an instance's evidence, or one that enrols or renews its certificate.

mod certification;
mod demand;
mod list;
pub(crate) mod measured;

use casemate_evidence::instance::QuoteBundle;

use self::measured::{MeasuredNode, Wanted};
pub use self::{
    certification::{NodeAppraisal, NodeBeliefs, NodeQuoteInput, VerifiedNode, appraise_node},
    demand::{Demand, NodePolicy},
    list::{ImaMemory, ImaPart},
};
use crate::{
    anchors::TrustAnchors,
    boot::BootPolicy,
    checks::{CheckName, Finding, Ledger, Mismatch, Stop},
    ek::{self, EkError, VerifiedEk},
    node_certificate::{NodeCertificate, NodeCertificateError},
    quote::{AttestationKey, AuthenticQuote, KeyError},
    references::ReferenceValues,
    time::UnixTime,
};

/// A node with certificate, endorsement, quote and software all verified: what an instance's evidence hangs on.
pub(crate) struct TrustedNode {
    pub(crate) quote: AuthenticQuote,
    pub(crate) measured: MeasuredNode,
    /// TPM name of its attestation key.
    pub(crate) ak_name: Vec<u8>,
    /// SHA-256 of its TPM's EK certificate.
    pub(crate) ek: [u8; 32],
}

/// What is needed to judge the node behind an instance's evidence.
pub(crate) struct NodeInput<'a> {
    pub(crate) node_chain: &'a [Vec<u8>],
    pub(crate) ek_chain: &'a [Vec<u8>],
    pub(crate) bundle: &'a QuoteBundle,
    pub(crate) event_log: &'a [u8],
    pub(crate) anchors: &'a TrustAnchors,
    pub(crate) references: &'a ReferenceValues,
    /// What is demanded of its boot.
    pub(crate) boot: &'a Demand<BootPolicy>,
    pub(crate) now: UnixTime,
}

/// A node certificate and the endorsement of its TPM.
pub(crate) struct EndorsedNode {
    pub(crate) certificate: NodeCertificate,
    simulated: bool,
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
            let node = EndorsedNode { certificate, simulated: ek.is_simulated() };
            Ok(Finding::new((node, ek), detail))
        });
        ledger.enter(CheckName::NodeEk, found)
    }

    /// From `node.ak` to `node.software`.
    pub(crate) fn measured(&self, ledger: &mut Ledger, node: EndorsedNode) -> Result<TrustedNode, Stop> {
        let key = named_key(self.bundle, &node.certificate.ak_name);
        let key = ledger.enter(CheckName::NodeAk, key)?;
        let quote = authentic_quote(&key, &self.bundle.attest, &self.bundle.signature);
        let quote = ledger.enter(CheckName::NodeQuote, quote)?;
        let wanted = Wanted { references: self.references, boot: self.boot, simulated: node.simulated, certified: true };
        let measured = measured::judge(ledger, &quote, &self.bundle.pcrs, self.event_log, &wanted)?;
        let NodeCertificate { ak_name, ek_certificate: ek, .. } = node.certificate;
        Ok(TrustedNode { quote, measured, ak_name, ek })
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
