//! Enrolment and renewal, and who is turned away.

use casemate_api::{
    node::{EnrolProof, RenewRequest, enrolment_client::EnrolmentClient, node_client::NodeClient},
    rest,
};
use casemate_server::store::Role;
use tonic::Code;

use crate::{
    evidence::{event_log, node_tpm},
    node::{SoftNode, channel, connect, inventory},
    platform::{Platform, Vendor},
    soft_ek::SoftEk,
};

#[tokio::test]
async fn a_genuine_node_gets_a_certificate_that_opens_its_methods() {
    let platform = Platform::start().await;
    let mut node = SoftNode::new(1, &platform);
    let token = platform.bootstrap_token().await;
    let credential = node.enrol(&platform, &token).await.unwrap();
    let mut client = node.client(&platform, &credential).await;
    assert_eq!(client.renew_challenge(RenewRequest {}).await.unwrap().into_inner().nonce.len(), 32);
    let renewed = node.renew(&platform, &credential).await.unwrap();
    assert_ne!(renewed.chain, credential.chain);
    let nodes: rest::Nodes = platform.token(Role::Operator).await.get("/nodes").await.json(200);
    assert_eq!(nodes.nodes.len(), 1);
    assert_eq!((nodes.nodes[0].trust.as_str(), nodes.nodes[0].simulated), ("trusted", true));
}

#[tokio::test]
async fn a_bootstrap_token_serves_one_tpm() {
    let platform = Platform::start().await;
    let token = platform.bootstrap_token().await;
    let mut node = SoftNode::new(1, &platform);
    let first = node.enrol(&platform, &token).await.unwrap();
    // The same TPM again: an agent that died before it could keep the answer.
    assert_eq!(node.enrol(&platform, &token).await.unwrap().node, first.node);
    let refused = SoftNode::new(2, &platform).enrol(&platform, &token).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let tenant = platform.token(Role::Tenant).await.token;
    for token in ["guessed", &tenant] {
        assert_eq!(SoftNode::new(3, &platform).enrol(&platform, token).await.unwrap_err().code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn refuses_a_tpm_of_an_unknown_vendor() {
    let platform = Platform::start().await;
    let mut node = SoftNode::new(1, &platform);
    node.ek = SoftEk::new(1, &Vendor::new("Simulated by somebody else"));
    node.ek_chain = vec![node.ek.certificate.clone()];
    let token = platform.bootstrap_token().await;
    assert_refused(node.enrol(&platform, &token).await, "node.ek");
}

#[tokio::test]
async fn refuses_an_endorsement_key_that_is_not_the_certificates() {
    let platform = Platform::start().await;
    let mut node = SoftNode::new(1, &platform);
    node.ek_chain = vec![SoftEk::new(2, &platform.vendor).certificate];
    let token = platform.bootstrap_token().await;
    assert_refused(node.enrol(&platform, &token).await, "node.ek");
}

#[tokio::test]
async fn refuses_an_attestation_key_of_another_tpm() {
    let platform = Platform::start().await;
    let token = platform.bootstrap_token().await;
    let mut node = SoftNode::new(1, &platform);
    let mut client = EnrolmentClient::new(channel(&platform, None).await);
    let request = node.request(&token);
    let csr = request.csr.clone();
    let challenge = client.begin(request).await.unwrap().into_inner();
    // The TPM with the endorsement key holds another attestation key: it cannot open the credential.
    let foreign = node_tpm(9, &node.log);
    assert_eq!(node.ek.activate(foreign.name(), &challenge.credential_blob, &challenge.encrypted_secret), None);
    let quote = node.quote("casemate/enrol/v1", &challenge.nonce, &csr);
    let proof = EnrolProof { session: challenge.session, secret: vec![0; 32], quote: Some(quote), inventory: Some(inventory()) };
    assert_refused(client.finish(proof.clone()).await, "node.ak");
    // There is no second try.
    assert_eq!(client.finish(proof).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn refuses_a_quote_for_another_nonce_or_another_key() {
    let platform = Platform::start().await;
    let token = platform.bootstrap_token().await;
    for attack in ["nonce", "csr"] {
        let mut node = SoftNode::new(1, &platform);
        let mut client = EnrolmentClient::new(channel(&platform, None).await);
        let request = node.request(&token);
        let csr = request.csr.clone();
        let challenge = client.begin(request).await.unwrap().into_inner();
        let secret = node.ek.activate(node.tpm.name(), &challenge.credential_blob, &challenge.encrypted_secret).unwrap();
        let quote = match attack {
            "nonce" => node.quote("casemate/enrol/v1", &[0; 32], &csr),
            _ => node.quote("casemate/enrol/v1", &challenge.nonce, b"another request"),
        };
        let proof = EnrolProof { session: challenge.session, secret, quote: Some(quote), inventory: Some(inventory()) };
        assert_refused(client.finish(proof).await, "evidence.nonce");
    }
}

#[tokio::test]
async fn refuses_a_node_with_unknown_software() {
    let platform = Platform::start().await;
    let token = platform.bootstrap_token().await;
    let mut node = SoftNode::new(1, &platform);
    node.log = event_log([0xee; 32]);
    node.tpm = node_tpm(1, &node.log);
    assert_refused(node.enrol(&platform, &token).await, "node.software");
    // A log that hides it does not replay.
    node.log = crate::evidence::good_log();
    assert_refused(node.enrol(&platform, &token).await, "node.event-log");
    let nodes: rest::Nodes = platform.token(Role::Operator).await.get("/nodes").await.json(200);
    assert!(nodes.nodes.is_empty());
}

#[tokio::test]
async fn a_node_that_fails_its_renewal_is_not_trusted_and_its_instances_stop() {
    let platform = Platform::start().await;
    let mut node = SoftNode::new(1, &platform);
    let mut session = node.connect(&platform).await;
    let tenant = platform.token(Role::Tenant).await;
    let instance = tenant.create().await;
    assert_eq!(session.assignment().await.intent, casemate_api::assignment::Intent::Run);
    node.log = event_log([0xee; 32]);
    node.tpm = node_tpm(1, &node.log);
    let credential = session.credential.clone();
    assert_refused(node.renew(&platform, &credential).await, "node.software");
    let stop = session.assignment().await;
    assert_eq!((stop.intent, stop.generation), (casemate_api::assignment::Intent::Stop, 2));
    assert_eq!(tenant.wait_for_failure(&instance.id).await.check, "node.software");
    let nodes: rest::Nodes = tenant.get("/nodes").await.json(200);
    assert_eq!(nodes.nodes[0].trust, "untrusted");
    let refused = tenant.create().await.failure.unwrap();
    assert_eq!(refused.detail, "no node will do: 1 not trusted");
    // Repaired, it is trusted again.
    node.log = crate::evidence::good_log();
    node.tpm = node_tpm(1, &node.log);
    node.renew(&platform, &credential).await.unwrap();
    let nodes: rest::Nodes = tenant.get("/nodes").await.json(200);
    assert_eq!(nodes.nodes[0].trust, "trusted");
}

#[tokio::test]
async fn a_renewal_nonce_serves_once_and_only_its_node() {
    let platform = Platform::start().await;
    let mut node = SoftNode::new(1, &platform);
    let token = platform.bootstrap_token().await;
    let credential = node.enrol(&platform, &token).await.unwrap();
    let mut client = node.client(&platform, &credential).await;
    let nonce = client.renew_challenge(RenewRequest {}).await.unwrap().into_inner().nonce;
    let csr = node.csr();
    let quote = node.quote("casemate/renew/v1", &nonce, &csr);
    let receipt_key = node.receipt_key.verifying_key().to_bytes().to_vec();
    let proof = casemate_api::node::RenewProof { csr, quote: Some(quote), nonce, receipt_key };
    client.renew(proof.clone()).await.unwrap();
    assert_eq!(client.renew(proof).await.unwrap_err().code(), Code::AlreadyExists);
}

#[tokio::test]
async fn node_methods_want_a_certificate_of_this_platform() {
    let platform = Platform::start().await;
    let mut anybody = NodeClient::new(channel(&platform, None).await);
    assert_eq!(anybody.renew_challenge(RenewRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
    // A certificate of another platform does not get through TLS.
    let other = Platform::start().await;
    let mut node = SoftNode::new(1, &other);
    let token = other.bootstrap_token().await;
    let foreign = node.enrol(&other, &token).await.unwrap();
    assert!(cannot_call(&platform, &node, &foreign).await);
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_tls() {
    let platform = Platform::start().await;
    let node = SoftNode::new(1, &platform);
    let receipt_key = node.receipt_key.verifying_key().to_bytes();
    let now_ms = casemate_server::clock::now_ms();
    let subject = casemate_server::authority::NodeSubject {
        id: &"n-1".parse().unwrap(),
        ak_name: node.tpm.name(),
        ek_digest: &[0; 32],
        receipt_key: &receipt_key,
        since_ms: now_ms - 7_200_000,
    };
    let life = std::time::Duration::from_secs(3600);
    let authority = platform.server.service().unwrap().authority();
    let expired = authority.node_certificate(&node.csr(), &subject, life, now_ms - 7_200_000).unwrap();
    let credential = casemate_api::node::NodeCredential { node: "n-1".into(), chain: expired.chain, ..Default::default() };
    assert!(cannot_call(&platform, &node, &credential).await);
}

#[tokio::test]
async fn a_certificate_of_a_former_attestation_key_is_refused() {
    let platform = Platform::start().await;
    let mut node = SoftNode::new(1, &platform);
    let former = {
        let token = platform.bootstrap_token().await;
        node.enrol(&platform, &token).await.unwrap()
    };
    node.tpm = node_tpm(5, &node.log);
    let token = platform.bootstrap_token().await;
    let current = node.enrol(&platform, &token).await.unwrap();
    assert_eq!(current.node, former.node);
    let refused = node.client(&platform, &former).await.renew_challenge(RenewRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

/// TLS 1.3 tells the client only after its handshake that its certificate is refused: the first call fails.
async fn cannot_call(platform: &Platform, node: &SoftNode, credential: &casemate_api::node::NodeCredential) -> bool {
    match connect(platform, Some((credential, &node.tls_key))).await {
        Err(_) => true,
        Ok(channel) => {
            let refused = NodeClient::new(channel).renew_challenge(RenewRequest {}).await.unwrap_err();
            // By the transport, not by the service.
            refused.code() == Code::Unknown || refused.code() == Code::Unavailable
        }
    }
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, tonic::Status>, check: &str) {
    let refused = result.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(refused.message().contains(check), "{refused:?}");
}
