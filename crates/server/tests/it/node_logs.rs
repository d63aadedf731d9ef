//! Nodes with a firmware's log and a list of files: what is demanded, what is remembered, who is turned away.

use std::collections::BTreeMap;

use casemate_api::{
    node::{NodeCredential, RenewNonce, RenewProof, RenewRequest},
    rest,
};
use casemate_attester::Attester as _;
use casemate_evidence::{
    eventlog::{Event, EventLog, EventType},
    ima::DigestKind,
    tpm::{Digest, HashAlg},
};
use casemate_server::store::Role;
use casemate_verifier::{
    Demand, NodePolicy,
    boot::{BootPolicy, CommandLineRule, DigestRule, SecureBootRule},
    ima::{FileDigest, ImaPolicy},
};
use tonic::{Code, Status};

use crate::{
    evidence::{good_log, node_tpm},
    node::SoftNode,
    platform::Platform,
};

/// Whatever the TPM: a boot in which the firmware handed over, and files that are known.
fn policy() -> NodePolicy {
    let boot = BootPolicy {
        secure_boot: SecureBootRule::DangerAny,
        authorities: DigestRule::DangerAny,
        min_dbx_entries: 0,
        command_lines: CommandLineRule::DangerAny,
        ..BootPolicy::strict()
    };
    let known = |name: &str| {
        let file = FileDigest { kind: DigestKind::Ima, alg: HashAlg::Sha256, digest: digest_of(name) };
        (name.to_owned(), vec![file])
    };
    let ima = ImaPolicy { allowed: ["/init", "/bin/sh"].map(known).into(), ..ImaPolicy::strict() };
    NodePolicy { boot: Demand::Required(boot), ima: Demand::Required(ima) }
}

/// With the folder that its policy is in.
async fn platform() -> (Platform, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node-policy.json");
    std::fs::write(&path, serde_json::to_vec(&policy()).unwrap()).unwrap();
    (Platform::with(&format!("node_policy = {path:?}")).await, folder)
}

fn digest_of(name: &str) -> Digest {
    HashAlg::Sha256.digest(&[name.as_bytes()])
}

/// A machine whose firmware handed over, and whose kernel measures what it opens.
fn measuring(platform: &Platform) -> SoftNode {
    let mut node = SoftNode::new(1, platform);
    let mut log = EventLog::sha256();
    log.events.push(Event::of_data(0, EventType::S_CRTM_VERSION, *b"firmware 1"));
    log.events.extend((0..8).map(|pcr| Event::of_data(pcr, EventType::SEPARATOR, [0; 4])));
    log.events.extend(good_log().events.into_iter().filter(|event| event.pcr == 14));
    node.tpm = node_tpm(1, &log);
    (node.log, node.list) = (log, Some(Vec::new()));
    let boot: BTreeMap<u32, [u8; 32]> = node.tpm.pcr_read(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]).unwrap();
    let aggregate = HashAlg::Sha256.digest(&boot.values().map(<[u8; 32]>::as_slice).collect::<Vec<_>>());
    measures(&mut node, "boot_aggregate", &aggregate);
    opens(&mut node, "/init");
    node
}

fn opens(node: &mut SoftNode, file: &str) {
    measures(node, file, &digest_of(file));
}

/// An `ima-ng` entry, and its digest into PCR 10.
fn measures(node: &mut SoftNode, name: &str, digest: &Digest) {
    let sized = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_le_bytes()[..], bytes].concat();
    let fields = [sized(&[b"sha256:\0", digest.as_slice()].concat()), sized(&[name.as_bytes(), b"\0"].concat())].concat();
    let sha1 = HashAlg::Sha1.digest(&[&fields]);
    let entry = [&10u32.to_le_bytes()[..], sha1.as_slice(), &sized(b"ima-ng"), &sized(&fields)].concat();
    node.list.as_mut().unwrap().extend(entry);
    node.tpm.pcr_extend(10, HashAlg::Sha256.digest(&[&fields]).as_slice().try_into().unwrap()).unwrap();
}

async fn enrolled(platform: &Platform, node: &mut SoftNode) -> NodeCredential {
    node.enrol(platform, &platform.bootstrap_token().await).await.unwrap()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Status>, check: &str, why: &str) {
    let status = result.unwrap_err();
    let text = status.message();
    assert!(status.code() == Code::PermissionDenied && text.contains(check) && text.contains(why), "{status:?}");
}

#[tokio::test]
async fn a_list_is_sent_whole_once_and_then_what_was_added() {
    let (platform, _folder) = platform().await;
    let mut node = measuring(&platform);
    let credential = enrolled(&platform, &mut node).await;
    let whole = u64::try_from(node.list.as_ref().unwrap().len()).unwrap();
    opens(&mut node, "/bin/sh");
    let credential = node.renew(&platform, &credential).await.unwrap();
    assert_eq!(node.offset, whole, "the platform said where to go on");

    // What is remembered is in the store.
    let platform = platform.restart().await;
    opens(&mut node, "/init");
    node.renew(&platform, &credential).await.unwrap();
    assert!(node.offset > whole);
    let nodes: rest::Nodes = platform.token(Role::Operator).await.get("/nodes").await.json(200);
    assert_eq!(nodes.nodes[0].trust, "trusted");
    assert!(!nodes.nodes[0].detail.contains("not judged"), "{}", nodes.nodes[0].detail);
}

#[tokio::test]
async fn a_node_without_its_logs_gets_no_certificate() {
    let (platform, _folder) = platform().await;
    let token = platform.bootstrap_token().await;
    let mut node = measuring(&platform);
    let list = node.list.take();
    refused(node.enrol(&platform, &token).await, "node.ima", "the node sent none");
    node.list = list;
    let events = node.log.events.clone();
    node.log.events.retain(|event| event.pcr == 14);
    refused(node.enrol(&platform, &token).await, "node.event-log", "");
    // A machine whose firmware measured nothing has nothing to leave out.
    node.tpm = node_tpm(1, &node.log);
    refused(node.enrol(&platform, &token).await, "node.boot-policy", "no separator");
    node.log.events = events;
    node.tpm = node_tpm(1, &node.log);
    refused(node.enrol(&platform, &token).await, "node.ima", "");
}

#[tokio::test]
async fn a_replayed_or_foreign_part_of_a_list_costs_the_trust() {
    for attack in ["replayed", "ahead", "unknown file", "too long"] {
        let (platform, _folder) = platform().await;
        let mut node = measuring(&platform);
        let credential = enrolled(&platform, &mut node).await;
        let mut client = node.client(&platform, &credential).await;
        let RenewNonce { nonce, ima_offset } = client.renew_challenge(RenewRequest {}).await.unwrap().into_inner();
        opens(&mut node, if attack == "unknown file" { "/tmp/miner" } else { "/bin/sh" });
        node.offset = ima_offset;
        let csr = node.csr();
        let mut quote = node.quote("casemate/renew/v1", &nonce, &csr);
        match attack {
            "replayed" => quote.ima_list = Some(Vec::new()),
            "ahead" => quote.ima_offset += 1,
            "too long" => quote.ima_list = Some(vec![0; casemate_api::node::MAX_IMA_LIST + 1]),
            _ => {}
        }
        let receipt_key = node.receipt_key.verifying_key().to_bytes().to_vec();
        let answer = client.renew(RenewProof { csr, quote: Some(quote), nonce, receipt_key }).await;
        refused(answer, "node.ima", if attack == "unknown file" { "/tmp/miner" } else { "" });
        let nodes: rest::Nodes = platform.token(Role::Operator).await.get("/nodes").await.json(200);
        assert_eq!(nodes.nodes[0].trust, "untrusted", "{attack}");
    }
}

#[tokio::test]
async fn what_was_not_judged_of_a_simulated_node_is_in_its_detail() {
    let platform = Platform::start().await;
    let mut node = SoftNode::new(1, &platform);
    enrolled(&platform, &mut node).await;
    let nodes: rest::Nodes = platform.token(Role::Operator).await.get("/nodes").await.json(200);
    for what in ["the node's boot was not judged", "the node's list of files was not judged", "simulated"] {
        assert!(nodes.nodes[0].detail.contains(what), "{}", nodes.nodes[0].detail);
    }
}
