//! The store by itself: what must be exact when many do the same at the same time.

use std::{collections::BTreeMap, path::Path, str::FromStr as _};

use casemate_lifecycle::{Actual, InstanceId, Intent, NodeId, Step};
use casemate_server::{
    config::StoreConfig,
    store::{
        Answer, BootstrapToken, Challenge, ChallengeTimes, Created, Fence, Instance, NewEvent, NewInstance, Node, Offer, Placing,
        Question, Quota, Replica, Store, StoreAccess, StoreError, Trust, Wake,
    },
};
use sqlx::postgres::PgConnectOptions;

use crate::postgres::{Engine, cluster};

const LIFE_MS: u64 = 60_000;

pub(crate) fn access(dir: &Path) -> StoreAccess {
    match crate::ENGINE {
        Engine::Sqlite => StoreAccess::Sqlite(dir.join("casemate.db")),
        Engine::Postgres => StoreAccess::Postgres(casemate_server::store::PostgresAccess {
            options: Box::new(PgConnectOptions::from_str(&cluster().database(dir)).unwrap()),
            connections: StoreConfig::default().connections,
        }),
    }
}

/// A store in a folder of its own, with a replica that lives.
pub(crate) async fn store() -> (tempfile::TempDir, Store, Replica) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&access(dir.path())).await.unwrap();
    let replica = Replica::new();
    store.renew_replica(&replica, LIFE_MS).await.unwrap();
    (dir, store, replica)
}

pub(crate) fn node_id(number: usize) -> NodeId {
    format!("n-{number:02}").parse().unwrap()
}

/// A node with so much memory.
pub(crate) fn node(number: usize, memory_mib: u64) -> Node {
    Node {
        suspended: None,
        revoked: false,
        hoster: None,
        drain: casemate_server::store::Drain::No,
        id: node_id(number),
        ek_digest: [1; 32],
        ek_chain: vec![vec![1]],
        node_chain: vec![vec![2]],
        ak_public: vec![3],
        ak_name: vec![4],
        receipt_key: [5; 32],
        certificate_ends_ms: u64::MAX,
        inventory: serde_json::json!({ "memory_mib": memory_mib }),
        trust: Trust::Trusted,
        trust_detail: String::new(),
        simulated: true,
        ima: None,
        agent_version: String::new(),
        enrolled_at_ms: 1,
        last_seen_ms: 1,
    }
}

fn instance(number: usize, memory_mib: u64) -> Instance {
    Instance {
        id: format!("i-{number:04}").parse().unwrap(),
        owner: "owner".into(),
        name: "name".into(),
        workload: "{}".into(),
        workload_digest: [0; 32],
        cpus: 1,
        memory_mib,
        disk_mib: 0,
        offer: None,
        node: None,
        level: None,
        intent: Intent::Run,
        actual: Actual::new(),
        generation: 1,
        start_before_ms: 0,
        created_at_ms: 0,
        attested_at_ms: None,
        ends_at_ms: None,
        verdict: None,
        stages_ms: BTreeMap::new(),
        observed: None,
        network: None,
        sealed_release: None,
        last_event: 0,
        notes: 0,
        next_record: 0,
        record_bytes: 0,
        has_receipt: false,
    }
}

pub(crate) fn new(number: usize, memory_mib: u64, key: Option<&str>) -> NewInstance {
    NewInstance {
        instance: instance(number, memory_mib),
        idempotency_key: key.map(str::to_owned),
        request_digest: [u8::try_from(memory_mib % 251).unwrap(); 32],
        quota: Quota::default(),
    }
}

/// Whether an instance of so much memory may go there.
fn has_room(offer: &Offer, memory_mib: u64) -> bool {
    offer.trusted
        && !offer.suspended
        && offer.connected
        && offer.inventory["memory_mib"].as_u64().unwrap() >= offer.used_memory_mib + memory_mib
}

/// Places at the first node with room, by what is read before; if somebody was faster, again. Or nowhere.
pub(crate) async fn first_fit(store: &Store, new: &NewInstance) -> Created {
    let memory_mib = new.instance.memory_mib;
    loop {
        let offers = store.offers().await.unwrap();
        let chosen = offers.into_iter().find(|offer| has_room(offer, memory_mib)).map(|offer| offer.id);
        let placing = store.create_instance(new, 0, chosen.as_ref(), |offer, instance, out| {
            if offer.is_some_and(|offer| !has_room(offer, memory_mib)) || (chosen.is_some() && offer.is_none()) {
                return false;
            }
            instance.node = offer.map(|offer| offer.id.clone());
            instance.actual.step = if offer.is_some() { Step::Scheduled } else { Step::Gone };
            out.push(NewEvent { kind: "step", text: instance.actual.step.to_string(), data: None });
            true
        });
        if let Placing::Done(created) = placing.await.unwrap() {
            return created;
        }
    }
}

async fn place(store: Store, number: usize, memory_mib: u64) -> Option<NodeId> {
    match first_fit(&store, &new(number, memory_mib, None)).await {
        Created::New(instance) => instance.node,
        other => panic!("{other:?}"),
    }
}

/// Sizes of requests that all come at once; whatever their order, no node is given more than it has, and none is refused that fits
/// beside everything else.
async fn crowd(sizes: Vec<u64>, nodes: usize) {
    const MEMORY: u64 = 100;
    let (dir, store, replica) = store().await;
    let other = Store::open(&access(dir.path())).await.unwrap();
    for number in 0..nodes {
        store.upsert_node(&node(number, MEMORY)).await.unwrap();
        store.open_session(&node_id(number), &replica).await.unwrap();
    }
    let both = [&store, &other];
    let requests: Vec<_> =
        sizes.iter().enumerate().map(|(number, size)| tokio::spawn(place(both[number % 2].clone(), number, *size))).collect();
    let mut placed = BTreeMap::<NodeId, u64>::new();
    let mut refused = Vec::new();
    for (request, size) in requests.into_iter().zip(&sizes) {
        match request.await.unwrap() {
            Some(node) => *placed.entry(node).or_default() += size,
            None => refused.push(*size),
        }
    }
    assert!(placed.values().all(|used| *used <= MEMORY), "overbooked: {placed:?} of {sizes:?}");
    let offers = store.offers().await.unwrap();
    for offer in offers {
        assert_eq!(offer.used_memory_mib, placed.get(&offer.id).copied().unwrap_or(0));
        assert!(refused.iter().all(|size| offer.used_memory_mib + size > MEMORY), "refused {refused:?} with room at {offer:?}");
    }
}

#[test]
fn no_crowd_of_requests_overbooks_a_node() {
    use proptest::{strategy::Strategy as _, test_runner::TestRunner};
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let mut runner = TestRunner::new_with_rng(
        proptest::test_runner::Config { failure_persistence: None, ..Default::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let crowds = (proptest::collection::vec(1_u64..=60, 8..24), 1_usize..4);
    for _ in 0..6 {
        let (sizes, nodes) = proptest::strategy::ValueTree::current(&crowds.new_tree(&mut runner).unwrap());
        runtime.block_on(crowd(sizes, nodes));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_request_makes_one_instance_however_often_and_wherever_it_is_sent() {
    let (dir, store, _) = store().await;
    let other = Store::open(&access(dir.path())).await.unwrap();
    let both = [&store, &other];
    let requests: Vec<_> = (0..12)
        .map(|number| {
            let store = both[number % 2].clone();
            tokio::spawn(async move { first_fit(&store, &new(number, 7, Some("key"))).await })
        })
        .collect();
    let (mut made, mut ids) = (0, std::collections::BTreeSet::new());
    for request in requests {
        match request.await.unwrap() {
            Created::New(instance) => {
                made += 1;
                ids.insert(instance.id);
            }
            Created::Existing(instance) => drop(ids.insert(instance.id)),
            Created::KeyTaken | Created::OverQuota { .. } => panic!("it is the same request"),
        }
    }
    assert_eq!((made, ids.len()), (1, 1));
    let taken = first_fit(&store, &new(99, 8, Some("key"))).await;
    assert!(matches!(taken, Created::KeyTaken), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_placement_slips_past_a_loss_of_trust() {
    let (dir, store, replica) = store().await;
    let other = Store::open(&access(dir.path())).await.unwrap();
    for round in 0..8 {
        let id = node_id(round);
        store.upsert_node(&node(round, 100)).await.unwrap();
        store.open_session(&id, &replica).await.unwrap();
        let placing = tokio::spawn(place(other.clone(), round, 50));
        store.distrust_node(&id, "test").await.unwrap();
        // Whoever took the trust away stops what he finds now; nothing may come later.
        let found = store.instances_of_node(&id).await.unwrap().len();
        let placed = placing.await.unwrap();
        assert_eq!(usize::from(placed.as_ref() == Some(&id)), found, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_of_one_instance_come_one_after_the_other() {
    let (dir, store, _) = store().await;
    let other = Store::open(&access(dir.path())).await.unwrap();
    place(store.clone(), 1, 1).await;
    let id: InstanceId = "i-0001".parse().unwrap();
    let both = [&store, &other];
    let changes: Vec<_> = (0..20)
        .map(|number| {
            let (store, id) = (both[number % 2].clone(), id.clone());
            tokio::spawn(async move {
                let note = |instance: &mut Instance, out: &mut Vec<NewEvent>| {
                    instance.notes += 1;
                    out.push(NewEvent { kind: "note", text: instance.notes.to_string(), data: None });
                };
                store.change_instance(&id, 0, None, note).await.unwrap().unwrap();
            })
        })
        .collect();
    for change in changes {
        change.await.unwrap();
    }
    let notes: Vec<String> = store.events(&id, 1).await.unwrap().into_iter().map(|event| event.text).collect();
    assert_eq!(notes, (1..=20).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(store.change_instance(&"i-none".parse().unwrap(), 0, None, |_, _| ()).await.unwrap().is_none());
}

#[tokio::test]
async fn nonces_challenges_and_tokens_are_good_once() {
    let (_dir, store, _) = store().await;
    assert!(store.use_nonce(&[1; 32], 10).await.unwrap());
    assert!(!store.use_nonce(&[1; 32], 10).await.unwrap());
    let times = ChallengeTimes { now_ms: 1, expires_at_ms: 5 };
    for (id, kept) in [("a", true), ("b", true), ("c", false)] {
        assert_eq!(store.insert_challenge(id, &[2; 32], "me", times, 2).await.unwrap(), kept, "{id}");
    }
    assert_eq!(store.take_challenge("a", "you", 1).await.unwrap(), Challenge::Unknown);
    assert_eq!(store.take_challenge("a", "me", 1).await.unwrap(), Challenge::Taken([2; 32]));
    assert_eq!(store.take_challenge("a", "me", 1).await.unwrap(), Challenge::Used);
    assert_eq!(store.take_challenge("b", "me", 5).await.unwrap(), Challenge::Expired);
    assert_eq!(store.outstanding_challenges(1).await.unwrap(), 1);
    let token = BootstrapToken { subject: "s".into(), hoster: None, expires_at_ms: 9, used_by: None };
    store.insert_bootstrap_token(&[3; 32], &token, 0).await.unwrap();
    assert!(store.use_bootstrap_token(&[3; 32], "n-1", 1).await.unwrap());
    assert!(store.use_bootstrap_token(&[3; 32], "n-1", 1).await.unwrap(), "the same node again");
    assert!(!store.use_bootstrap_token(&[3; 32], "n-2", 1).await.unwrap());
    assert!(!store.use_bootstrap_token(&[3; 32], "n-1", 9).await.unwrap(), "expired");
}

#[tokio::test]
async fn a_lower_serial_never_replaces_a_revocation_list() {
    let (_dir, store, _) = store().await;
    for (serial, taken) in [(5, true), (5, false), (4, false), (6, true)] {
        assert_eq!(store.replace_revocations(serial, &format!("list {serial}")).await.unwrap(), taken, "{serial}");
    }
    assert_eq!(store.revocations_after(Some(5)).await.unwrap(), Some((6, "list 6".into())));
    assert_eq!(store.revocations_after(Some(6)).await.unwrap(), None);
    assert_eq!(store.revocations_after(None).await.unwrap(), Some((6, "list 6".into())));
}

#[tokio::test]
async fn work_belongs_to_one_living_replica_and_its_epoch_fences_the_dead() {
    let (_dir, store, first) = store().await;
    let second = Replica::new();
    store.renew_replica(&second, LIFE_MS).await.unwrap();
    let old = store.claim("upkeep", &first).await.unwrap().unwrap();
    assert_eq!(store.claim("upkeep", &first).await.unwrap().as_ref(), Some(&old), "still ours");
    assert!(store.claim("upkeep", &second).await.unwrap().is_none());
    // The first one is not heard of for too long.
    store.renew_replica(&first, 0).await.unwrap();
    let taken = store.claim("upkeep", &second).await.unwrap().unwrap();
    store.renew_replica(&first, LIFE_MS).await.unwrap();
    assert!(store.claim("upkeep", &first).await.unwrap().is_none(), "it comes back too late");
    place(store.clone(), 1, 1).await;
    let id: InstanceId = "i-0001".parse().unwrap();
    let change = |fence: Fence| {
        let (store, id) = (store.clone(), id.clone());
        async move { store.change_instance(&id, 0, Some(&fence), |instance, _| instance.notes += 1).await }
    };
    assert!(matches!(change(old).await, Err(StoreError::Fenced(_))));
    assert!(change(taken.clone()).await.is_ok());
    assert_eq!(store.instance(&id).await.unwrap().unwrap().notes, 1);
    store.give_up(&taken).await.unwrap();
    assert!(matches!(change(taken).await, Err(StoreError::Fenced(_))), "given up is given up");
    let again = store.claim("upkeep", &first).await.unwrap().unwrap();
    assert!(change(again).await.is_ok());
}

#[tokio::test]
async fn a_newer_session_shuts_out_the_older_one() {
    let (_dir, store, first) = store().await;
    let second = Replica::new();
    store.upsert_node(&node(1, 100)).await.unwrap();
    let id = node_id(1);
    assert!(!store.is_connected(&id).await.unwrap());
    let old = store.open_session(&id, &first).await.unwrap();
    let newer = store.open_session(&id, &second).await.unwrap();
    assert!(!store.is_connected(&id).await.unwrap(), "its replica does not live");
    store.renew_replica(&second, LIFE_MS).await.unwrap();
    assert!(store.is_connected(&id).await.unwrap());
    assert_eq!(store.connected_nodes().await.unwrap().into_iter().collect::<Vec<_>>(), std::slice::from_ref(&id));
    assert!(matches!(store.node_seen(&id, &old, None).await, Err(StoreError::Fenced(_))));
    let inventory = serde_json::json!({ "memory_mib": 7 });
    store.node_seen(&id, &newer, Some(&inventory)).await.unwrap();
    let seen = store.node(&id).await.unwrap().unwrap();
    assert_eq!(seen.inventory, inventory);
    assert!(store.now_ms().await.unwrap().abs_diff(seen.last_seen_ms) < 60_000, "by the database's clock");
    // The end of the old session takes nothing from the newer one.
    store.give_up(&old).await.unwrap();
    assert!(store.is_connected(&id).await.unwrap());
    store.end_replica(&second).await.unwrap();
    assert!(!store.is_connected(&id).await.unwrap());
}

#[tokio::test]
async fn a_question_waits_for_its_first_answer() {
    let (_dir, store, _) = store().await;
    let node = node_id(1);
    let question = Question { id: "q".into(), instance: "i-1".parse().unwrap(), nonce: [9; 32] };
    store.ask_node(&node, &question, LIFE_MS).await.unwrap();
    assert_eq!(store.questions(&node).await.unwrap(), std::slice::from_ref(&question));
    assert_eq!(store.take_answer("q").await.unwrap(), None);
    let answer = Answer { media_type: "m".into(), evidence: vec![0, 255], failure: None };
    store.answer_question("q", &answer).await.unwrap();
    store.answer_question("q", &Answer { evidence: vec![1], ..answer.clone() }).await.unwrap();
    assert!(store.questions(&node).await.unwrap().is_empty());
    assert_eq!(store.take_answer("q").await.unwrap(), Some(answer));
    assert_eq!(store.take_answer("q").await.unwrap(), None, "taken once");
    store.ask_node(&node, &question, 0).await.unwrap();
    assert!(store.questions(&node).await.unwrap().is_empty(), "its time is over");
}

#[tokio::test]
async fn a_text_with_a_nul_character_is_refused_and_changes_nothing() {
    let (_dir, store, _) = store().await;
    let token = BootstrapToken { subject: "a\0b".into(), hoster: None, expires_at_ms: 9, used_by: None };
    assert!(matches!(store.insert_bootstrap_token(&[1; 32], &token, 0).await, Err(StoreError::Nul { .. })));
    assert_eq!(store.bootstrap_token(&[1; 32], 0).await.unwrap(), None);
    assert!(matches!(store.policy_versions("\0").await, Err(StoreError::Nul { .. })));
}

#[tokio::test]
async fn numbers_at_their_edges_stay_what_they_are_or_are_pinned() {
    let (_dir, store, _) = store().await;
    let mut edge = new(1, 1, None);
    edge.instance.start_before_ms = u64::MAX;
    edge.instance.cpus = u32::MAX;
    first_fit(&store, &edge).await;
    let read = store.instance(&"i-0001".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((read.start_before_ms, read.cpus), (u64::try_from(i64::MAX).unwrap(), u32::MAX));
}

#[tokio::test]
async fn a_change_wakes_after_its_commit_and_a_refused_one_wakes_nobody() {
    let (_dir, store, replica) = store().await;
    let (drain, draining) = tokio::sync::watch::channel(false);
    let mut awake = store.awake();
    let hearing = tokio::spawn(store.clone().hear_replicas(draining));
    if crate::ENGINE == Engine::Postgres {
        assert_eq!(awake.next().await, Some(Wake::Everything), "it listens from now on");
    }
    let fence = store.open_session(&node_id(1), &replica).await.unwrap();
    store.open_session(&node_id(1), &replica).await.unwrap();
    place(store.clone(), 1, 1).await;
    let id: InstanceId = "i-0001".parse().unwrap();
    assert!(store.change_instance(&id, 0, Some(&fence), |instance, _| instance.notes += 1).await.is_err());
    let stop = |instance: &mut Instance, _: &mut Vec<NewEvent>| {
        instance.node = None;
        instance.generation += 1;
    };
    store.change_instance(&id, 0, None, stop).await.unwrap();
    let expected = [
        Wake::Session(node_id(1)),
        Wake::Session(node_id(1)),
        Wake::Instance(id.clone(), None),
        Wake::Instance(id.clone(), None),
    ];
    for wake in expected {
        assert_eq!(awake.next().await, Some(wake));
    }
    drain.send_replace(true);
    hearing.await.unwrap();
}
