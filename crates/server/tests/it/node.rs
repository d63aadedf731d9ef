//! A node that speaks the real protocol and runs nothing.

use std::collections::BTreeMap;

use casemate_api::{
    assignment, canonical,
    node::{
        Assignment, Challenge, EnrolProof, EnrolRequest, EvidenceReply, FromNode, InstanceReport, Inventory, Monitor,
        NodeCredential, NodeQuote, Records, RenewNonce, RenewProof, RenewRequest, Report, ToNode,
        enrolment_client::EnrolmentClient, from_node, node_client::NodeClient, to_node,
    },
    receipt,
    workload::digest_of,
};
use casemate_attester::{Attester as _, sim::SoftTpm};
use casemate_evidence::{
    eventlog::EventLog,
    instance::{INSTANCE_EVIDENCE, NODE_PCRS},
};
use casemate_server::appraiser::node_binding;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use rcgen::{CertificateParams, KeyPair};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    evidence::{self, GOOD_KERNEL},
    platform::{Platform, Vendor},
    soft_ek::{SoftEk, seed_bytes},
};

pub(crate) struct SoftNode {
    pub(crate) tpm: SoftTpm,
    pub(crate) log: EventLog,
    /// The kernel's list of files.
    pub(crate) list: Option<Vec<u8>>,
    /// From where it is sent: where the platform said at the last renewal.
    pub(crate) offset: u64,
    pub(crate) ek: SoftEk,
    pub(crate) ek_chain: Vec<Vec<u8>>,
    pub(crate) receipt_key: SigningKey,
    pub(crate) tls_key: KeyPair,
}

/// The other end of a session.
pub(crate) struct Session {
    pub(crate) credential: NodeCredential,
    outbound: mpsc::Sender<FromNode>,
    inbound: Streaming<ToNode>,
}

impl SoftNode {
    pub(crate) fn new(seed: u32, platform: &Platform) -> Self {
        Self::of(seed, &platform.vendor)
    }

    /// One whose TPM is of this vendor.
    pub(crate) fn of(seed: u32, vendor: &Vendor) -> Self {
        let log = evidence::good_log();
        let ek = SoftEk::new(seed, vendor);
        Self {
            tpm: evidence::node_tpm(seed, &log),
            log,
            list: None,
            offset: 0,
            ek_chain: vec![ek.certificate.clone()],
            ek,
            receipt_key: SigningKey::from_bytes(&seed_bytes(seed)),
            tls_key: KeyPair::generate().unwrap(),
        }
    }

    pub(crate) fn request(&self, token: &str) -> EnrolRequest {
        EnrolRequest {
            bootstrap_token: token.to_owned(),
            ek_chain: self.ek_chain.clone(),
            ek_public: self.ek.public(),
            ak_public: self.tpm.public().to_vec(),
            csr: self.csr(),
            agent_version: "test".into(),
            receipt_key: self.receipt_key.verifying_key().to_bytes().to_vec(),
        }
    }

    pub(crate) fn csr(&self) -> Vec<u8> {
        CertificateParams::default().serialize_request(&self.tls_key).unwrap().der().to_vec()
    }

    pub(crate) fn quote(&mut self, domain: &str, nonce: &[u8], csr: &[u8]) -> NodeQuote {
        let key = self.receipt_key.verifying_key().to_bytes();
        let binding = node_binding(domain, nonce.try_into().unwrap(), csr, &key);
        let (attest, signature) = self.tpm.quote(&binding, &NODE_PCRS).unwrap();
        let pcrs = self.tpm.pcr_read(&NODE_PCRS).unwrap();
        NodeQuote {
            attest,
            signature,
            pcrs: pcrs.into_iter().map(|(index, value)| (index, value.to_vec())).collect(),
            event_log: self.log.encode(),
            ima_list: self.list.as_ref().map(|list| list[usize::try_from(self.offset).unwrap()..].to_vec()),
            ima_offset: self.offset,
        }
    }

    pub(crate) async fn enrol(&mut self, platform: &Platform, token: &str) -> Result<NodeCredential, Status> {
        self.enrol_on(channel(platform, None).await, token).await
    }

    /// The same over a connection that was made elsewhere.
    pub(crate) async fn enrol_on(&mut self, channel: Channel, token: &str) -> Result<NodeCredential, Status> {
        let mut client = EnrolmentClient::new(channel);
        let request = self.request(token);
        let csr = request.csr.clone();
        let challenge = client.begin(request).await?.into_inner();
        let opened = self.ek.activate(self.tpm.name(), &challenge.credential_blob, &challenge.encrypted_secret);
        let proof = EnrolProof {
            session: challenge.session,
            secret: opened.unwrap_or_default(),
            quote: Some(self.quote("casemate/enrol/v1", &challenge.nonce, &csr)),
            inventory: Some(inventory()),
        };
        Ok(client.finish(proof).await?.into_inner())
    }

    pub(crate) async fn renew(&mut self, platform: &Platform, credential: &NodeCredential) -> Result<NodeCredential, Status> {
        self.renew_on(self.client(platform, credential).await).await
    }

    /// The same over a connection that was made elsewhere.
    pub(crate) async fn renew_on(&mut self, mut client: NodeClient<Channel>) -> Result<NodeCredential, Status> {
        let RenewNonce { nonce, ima_offset } = client.renew_challenge(RenewRequest {}).await?.into_inner();
        self.offset = ima_offset;
        let csr = self.csr();
        let quote = self.quote("casemate/renew/v1", &nonce, &csr);
        let receipt_key = self.receipt_key.verifying_key().to_bytes().to_vec();
        Ok(client.renew(RenewProof { csr, quote: Some(quote), nonce, receipt_key }).await?.into_inner())
    }

    pub(crate) async fn client(&self, platform: &Platform, credential: &NodeCredential) -> NodeClient<Channel> {
        NodeClient::new(channel(platform, Some((credential, &self.tls_key))).await)
    }

    /// Enrols and opens a session without instances.
    pub(crate) async fn connect(&mut self, platform: &Platform) -> Session {
        let token = platform.bootstrap_token().await;
        let credential = self.enrol(platform, &token).await.unwrap();
        let (session, desired) = self.open(platform, &credential, Vec::new()).await;
        assert!(desired.is_empty());
        session
    }

    /// Opens a session and returns it with what should be.
    pub(crate) async fn open(
        &self,
        platform: &Platform,
        credential: &NodeCredential,
        instances: Vec<InstanceReport>,
    ) -> (Session, Vec<assignment::Body>) {
        let client = self.client(platform, credential).await;
        self.open_on(client, credential, instances).await.unwrap()
    }

    /// The same over a connection that was made elsewhere.
    pub(crate) async fn open_on(
        &self,
        mut client: NodeClient<Channel>,
        credential: &NodeCredential,
        instances: Vec<InstanceReport>,
    ) -> Result<(Session, Vec<assignment::Body>), Status> {
        let (outbound, receiver) = mpsc::channel(16);
        let report = from_node::Message::Report(Report { inventory: Some(inventory()), instances });
        outbound.send(FromNode { message: Some(report) }).await.unwrap();
        let inbound = client.session(ReceiverStream::new(receiver)).await?.into_inner();
        let mut session = Session { credential: credential.clone(), outbound, inbound };
        let desired = session
            .expect(|message| match message {
                to_node::Message::Desired(desired) => Some(desired),
                _ => None,
            })
            .await;
        let bodies = desired.assignments.iter().map(|assignment| session.verified(assignment)).collect();
        Ok((session, bodies))
    }

    /// Waits for a challenge and answers it with evidence of a guest that booted `kernel`.
    pub(crate) async fn answer_challenge(&mut self, session: &mut Session, assignment: &assignment::Body, kernel: [u8; 32]) {
        let challenge = session.challenge().await;
        let nonce = challenge.nonce.as_slice().try_into().unwrap();
        self.answer(session, assignment, &challenge, nonce, kernel).await;
    }

    /// Answers a challenge with evidence over `nonce`.
    pub(crate) async fn answer(
        &mut self,
        session: &mut Session,
        assignment: &assignment::Body,
        challenge: &Challenge,
        nonce: [u8; 32],
        kernel: [u8; 32],
    ) {
        let digest = digest_of(assignment.workload.as_bytes());
        let evidence = evidence::instance_evidence(&mut self.tpm, &self.log, &assignment.instance, digest, nonce, kernel);
        let reply = EvidenceReply {
            instance: challenge.instance.clone(),
            id: challenge.id,
            media_type: INSTANCE_EVIDENCE.into(),
            evidence,
            failure: None,
        };
        session.send(from_node::Message::Evidence(reply)).await;
    }

    /// Brings an instance to `attested`, as a good node does.
    pub(crate) async fn attest(&mut self, session: &mut Session, assignment: &assignment::Body) {
        for step in ["accepted", "prepared", "booted"] {
            session.report(&assignment.instance, step).await;
        }
        self.answer_challenge(session, assignment, GOOD_KERNEL).await;
    }

    pub(crate) fn receipt(&self, session: &Session, assignment: &assignment::Body, reason: &str) -> casemate_api::node::Receipt {
        let body = canonical::to_vec(&receipt::Body {
            version: 1,
            instance: assignment.instance.clone(),
            node: session.credential.node.clone(),
            workload_digest: hex::encode(digest_of(assignment.workload.as_bytes())),
            launch_record_digest: String::new(),
            started_at_ms: 0,
            wiped_at_ms: 0,
            exit_code: None,
            reason: reason.into(),
            wiped: BTreeMap::new(),
        });
        let signature = self.receipt_key.sign(&receipt::signed_bytes(&body)).to_bytes().to_vec();
        casemate_api::node::Receipt { instance: assignment.instance.clone(), body, signature }
    }
}

impl Session {
    pub(crate) async fn send(&self, message: from_node::Message) {
        self.outbound.send(FromNode { message: Some(message) }).await.unwrap();
    }

    pub(crate) async fn report(&self, instance: &str, step: &str) {
        self.send(from_node::Message::Instance(report(instance, step))).await;
    }

    pub(crate) async fn records(&self, instance: &str, seq: u64, sealed: &[&[u8]]) {
        let sealed = sealed.iter().map(|record| record.to_vec()).collect();
        self.send(from_node::Message::Records(Records { instance: instance.into(), seq, sealed })).await;
    }

    /// The next message of a kind; others are passed over.
    pub(crate) async fn expect<T>(&mut self, wanted: impl Fn(to_node::Message) -> Option<T>) -> T {
        loop {
            let message = tokio::time::timeout(std::time::Duration::from_secs(30), self.inbound.message()).await;
            let message = message.expect("a message in time").unwrap().expect("the session is open");
            if let Some(found) = wanted(message.message.unwrap()) {
                return found;
            }
        }
    }

    /// How the session ends.
    pub(crate) async fn end(&mut self) -> Option<Status> {
        loop {
            match self.inbound.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }

    pub(crate) async fn assignment(&mut self) -> assignment::Body {
        let assignment = self
            .expect(|message| match message {
                to_node::Message::Assignment(assignment) => Some(assignment),
                _ => None,
            })
            .await;
        self.verified(&assignment)
    }

    pub(crate) async fn challenge(&mut self) -> Challenge {
        self.expect(|message| match message {
            to_node::Message::Challenge(challenge) => Some(challenge),
            _ => None,
        })
        .await
    }

    pub(crate) async fn delivery(&mut self) -> Vec<u8> {
        self.expect(|message| match message {
            to_node::Message::Deliver(deliver) => Some(deliver.sealed),
            _ => None,
        })
        .await
    }

    pub(crate) async fn stored(&mut self) -> u64 {
        self.expect(|message| match message {
            to_node::Message::Stored(stored) => Some(stored.next),
            _ => None,
        })
        .await
    }

    pub(crate) async fn receipt_stored(&mut self) -> String {
        self.expect(|message| match message {
            to_node::Message::ReceiptStored(stored) => Some(stored.instance),
            _ => None,
        })
        .await
    }

    fn verified(&self, assignment: &Assignment) -> assignment::Body {
        let key = VerifyingKey::from_bytes(self.credential.platform_key.as_slice().try_into().unwrap()).unwrap();
        let signature = Signature::from_slice(&assignment.signature).unwrap();
        key.verify_strict(&assignment::signed_bytes(&assignment.body), &signature).unwrap();
        let body: assignment::Body = canonical::from_slice(&assignment.body, 1 << 20).unwrap();
        assert_eq!(body.node, self.credential.node);
        body
    }
}

pub(crate) fn report(instance: &str, step: &str) -> InstanceReport {
    InstanceReport { instance: instance.into(), step: step.into(), ..Default::default() }
}

pub(crate) fn inventory() -> Inventory {
    Inventory {
        hostname: "soft".into(),
        cpus: 2,
        memory_mib: 4096,
        disk_mib: 1000,
        isolation_levels: vec!["microvm".into()],
        monitor: Some(Monitor { class: "enforcing".into(), without: Vec::new() }),
        ..Default::default()
    }
}

/// A connection to the node listener; with a certificate where there is one.
pub(crate) async fn channel(platform: &Platform, identity: Option<(&NodeCredential, &KeyPair)>) -> Channel {
    connect(platform, identity).await.unwrap()
}

pub(crate) async fn connect(
    platform: &Platform,
    identity: Option<(&NodeCredential, &KeyPair)>,
) -> Result<Channel, tonic::transport::Error> {
    connect_to(platform.server.node().unwrap().port(), &platform.ca_pem(), identity).await
}

pub(crate) async fn connect_to(
    port: u16,
    ca_pem: &str,
    identity: Option<(&NodeCredential, &KeyPair)>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca_pem)).domain_name("localhost");
    if let Some((credential, key)) = identity {
        let pem: String = credential.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        tls = tls.identity(Identity::from_pem(pem, key.serialize_pem()));
    }
    let uri = format!("https://127.0.0.1:{port}");
    Endpoint::from_shared(uri).unwrap().tls_config(tls)?.connect().await
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}
