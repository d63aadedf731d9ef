//! Webhooks: who may have them, what is sent to them, and that it is sent once at a time.

use std::time::Duration;

use casemate_api::rest;
use casemate_server::store::{Attempted, DeliveryState, OccasionKind, Role, Scope, Store, StoreError, Webhook, WebhooksOf};
use casemate_server::webhooks::Secret;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    hooks::{Hook, LOOPBACK},
    incidents::{Record, breach, send},
    node::SoftNode,
    platform::{Client, Platform},
    store::{access, store},
};

async fn make(client: &Client, body: Value) -> rest::MadeWebhook {
    client.post("/webhooks", &body).await.json(201)
}

async fn deliveries(client: &Client, webhook: &str) -> Vec<rest::Delivery> {
    client.get(&format!("/webhooks/{webhook}/deliveries")).await.json::<rest::Deliveries>(200).deliveries
}

/// Waits until its newest delivery does not wait any more.
async fn done(client: &Client, webhook: &str) -> rest::Delivery {
    for _ in 0..300 {
        let newest = deliveries(client, webhook).await.into_iter().next();
        match newest {
            Some(delivery) if delivery.state != "waiting" => return delivery,
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("it waits on: {:?}", deliveries(client, webhook).await);
}

#[tokio::test]
async fn a_breach_is_told_by_signed_calls_and_again_after_a_bad_answer() {
    let platform = Platform::with(LOOPBACK).await;
    let (tenant, stranger) = (platform.token(Role::Tenant).await, platform.token(Role::Tenant).await);
    let (hoster, operator) = (platform.token(Role::Hoster).await, platform.token(Role::Operator).await);
    let mut soft = SoftNode::new(1, &platform);
    let mut session = soft.connect(&platform).await;
    session.monitor_stored().await;
    let instance = tenant.create().await.id;
    let (mut theirs, mut all, mut nobody) = (Hook::new(&[500]).await, Hook::new(&[]).await, Hook::new(&[]).await);
    let made = make(&tenant, json!({"url": theirs.url, "kinds": ["incident"]})).await;
    let of_platform = make(&operator, json!({"url": all.url, "scope": "platform"})).await;
    // A project without an instance there, and a hoster of no node.
    make(&stranger, json!({"url": nobody.url})).await;
    make(&hoster, json!({"url": nobody.url, "scope": "hoster"})).await;
    let mut record = Record::default();
    send(&mut session, record.write(&[json!({"kind": "started"})])).await;
    send(&mut session, record.write(&breach())).await;

    let first = theirs.next().await;
    let event = first.event(&made.secret).unwrap();
    let notice: rest::Notices = tenant.get("/notices").await.json(200);
    let notice = notice.notices.iter().find(|one| one.kind == "incident").unwrap();
    assert_eq!((event.kind.as_str(), event.notice.as_ref()), ("incident", Some(&notice.id)));
    assert_eq!((&event.instances, event.project.as_ref()), (&vec![instance], Some(&notice.project)));
    assert_eq!(event.detail.as_deref(), Some("instances_ended: a violation (memory.open)"));
    assert_eq!(event.evidence.as_ref().unwrap().lines.len(), 2);
    assert_eq!(first.header("webhook-id"), event.id);
    // Who changes a byte, or has another secret, is found out.
    let mut changed = first.body.clone();
    changed[20] ^= 1;
    assert!(!first.is_signed(&made.secret, &changed) && first.event(&of_platform.secret).is_none());

    let again = theirs.next().await;
    assert_eq!((again.event(&made.secret).unwrap(), again.body == first.body), (event, true), "the same call once more");
    let delivered = done(&tenant, &made.webhook.id).await;
    assert_eq!((delivered.state.as_str(), delivered.attempts, delivered.status), ("delivered", 2, Some(200)));
    let kinds = [all.next().await, all.next().await].map(|heard| heard.event(&of_platform.secret).unwrap());
    assert_eq!(kinds.each_ref().map(|event| event.kind.as_str()), ["incident", "suspended"]);
    assert!(kinds[0].notice.is_none() && kinds[0].project.is_none() && kinds[0].instances.is_empty(), "no tenant's affairs");
    operator.post(&format!("/nodes/{}/restore", session.credential.node), &()).await;
    assert_eq!(all.next().await.event(&of_platform.secret).unwrap().kind, "restored");
    assert_eq!((theirs.others().len(), all.others().len(), nobody.others().len()), (0, 0, 0));
}

#[tokio::test]
async fn a_hosters_webhook_is_called_for_his_nodes_and_says_nothing_of_tenants() {
    let platform = Platform::with(LOOPBACK).await;
    let (tenant, hoster, operator) =
        (platform.token(Role::Tenant).await, platform.token(Role::Hoster).await, platform.token(Role::Operator).await);
    let mut soft = SoftNode::new(1, &platform);
    let mut session = soft.connect(&platform).await;
    session.monitor_stored().await;
    tenant.create().await;
    let me: rest::Me = hoster.get("/me").await.json(200);
    let node = &session.credential.node.clone();
    assert_eq!(operator.put(&format!("/nodes/{node}/hoster"), &json!({"hoster": me.account})).await.status, 204);
    let mut hook = Hook::new(&[]).await;
    let made = make(&hoster, json!({"url": hook.url, "scope": "hoster", "kinds": ["suspended"]})).await;
    send(&mut session, Record::default().write(&[json!({"kind": "monitor_ended", "how": "signal: 9"})])).await;
    let event = hook.next().await.event(&made.secret).unwrap();
    assert_eq!((event.kind.as_str(), event.node.as_deref()), ("suspended", Some(node.as_str())));
    assert!(event.notice.is_none() && event.project.is_none() && event.instances.is_empty());
}

#[tokio::test]
async fn a_webhook_is_its_owners_and_calls_no_address_that_is_not_public() {
    let platform = Platform::with(LOOPBACK).await;
    let (tenant, stranger) = (platform.token(Role::Tenant).await, platform.token(Role::Tenant).await);
    let (hoster, operator) = (platform.token(Role::Hoster).await, platform.token(Role::Operator).await);
    let hook = Hook::new(&[]).await;
    let made = make(&tenant, json!({"url": hook.url})).await;
    assert_eq!(made.webhook.kinds, ["incident", "suspended", "revoked", "restored"]);
    let listed = tenant.get("/webhooks").await;
    assert!(!String::from_utf8_lossy(&listed.body).contains("whsec_"), "the secret is shown once");
    assert_eq!(listed.json::<rest::Webhooks>(200).webhooks, std::slice::from_ref(&made.webhook));
    for client in [&stranger, &hoster] {
        assert_eq!(client.get("/webhooks").await.json::<rest::Webhooks>(200).webhooks, []);
        for (method, path) in [(Method::DELETE, ""), (Method::POST, "/test"), (Method::GET, "/deliveries")] {
            let path = format!("/webhooks/{}{path}", made.webhook.id);
            assert_eq!(client.send(client.request(method, &path)).await.status, 404, "{path}");
        }
    }
    assert_eq!(operator.get("/webhooks").await.json::<rest::Webhooks>(200).webhooks.len(), 1);
    // A member sees the project's webhooks, an owner changes them.
    let me: rest::Me = tenant.get("/me").await.json(200);
    let other: rest::Me = stranger.get("/me").await.json(200);
    let member = format!("/projects/{}/members/{}", me.account, other.account);
    assert_eq!(tenant.put(&member, &json!({"role": "member"})).await.status, 204);
    assert_eq!(stranger.get("/webhooks").await.json::<rest::Webhooks>(200).webhooks.len(), 1);
    let path = format!("/webhooks/{}", made.webhook.id);
    assert_eq!(stranger.delete(&path).await.status, 403);
    assert_eq!(stranger.post("/webhooks", &json!({"url": hook.url, "project": me.account})).await.status, 403);
    // Scopes that are not the caller's.
    for (client, scope) in [(&tenant, "hoster"), (&tenant, "platform"), (&hoster, "project"), (&hoster, "platform")] {
        assert_eq!(client.post("/webhooks", &json!({"url": hook.url, "scope": scope})).await.status, 403, "{scope}");
    }
    assert_eq!(tenant.post("/webhooks", &json!({"url": hook.url, "project": "p-none"})).await.status, 404);
    for bad in [
        json!({"url": "https://169.254.169.254/latest/meta-data"}),
        json!({"url": "https://127.0.0.1/"}),
        json!({"url": "https://[::1]/"}),
        json!({"url": "https://10.0.0.1/"}),
        json!({"url": "http://hooks.example/"}),
        json!({"url": "file:///etc/passwd"}),
        json!({"url": hook.url, "kinds": ["everything"]}),
        json!({"url": hook.url, "scope": "world"}),
        json!({"url": hook.url, "more": 1}),
    ] {
        assert_eq!(tenant.post("/webhooks", &bad).await.status, 422, "{bad}");
    }
    for _ in 1..10 {
        make(&tenant, json!({"url": hook.url})).await;
    }
    assert_eq!(tenant.post("/webhooks", &json!({"url": hook.url})).await.status, 409);
    assert_eq!(tenant.delete(&path).await.status, 204);
    assert_eq!(tenant.delete(&path).await.status, 404);
}

#[tokio::test]
async fn a_test_is_a_call_like_others_and_says_what_became_of_it() {
    let platform = Platform::with(LOOPBACK).await;
    let tenant = platform.token(Role::Tenant).await;
    let mut hook = Hook::new(&[]).await;
    let made = make(&tenant, json!({"url": hook.url})).await;
    let queued: rest::Queued = tenant.post(&format!("/webhooks/{}/test", made.webhook.id), &json!({})).await.json(202);
    let event = hook.next().await.event(&made.secret).unwrap();
    assert_eq!((event.kind.as_str(), &event.id, event.node), ("test", &queued.delivery, None));
    assert_eq!(done(&tenant, &made.webhook.id).await.state, "delivered");
    // A name that leads to this machine is called by nobody: where it leads is seen at the time of the call.
    let inside = make(&tenant, json!({"url": "https://localhost:1/"})).await;
    tenant.post(&format!("/webhooks/{}/test", inside.webhook.id), &json!({})).await;
    for _ in 0..300 {
        let [delivery] = &deliveries(&tenant, &inside.webhook.id).await[..] else { panic!("one was queued") };
        if let Some(error) = &delivery.error {
            assert_eq!(error, "the name is not known, or leads to an address that is not public");
            assert_eq!((delivery.state.as_str(), delivery.attempts), ("waiting", 1));
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it was not tried");
}

async fn kept(store: &Store) -> Webhook {
    let webhook = Webhook {
        id: "wh-1".into(),
        scope: Scope::Platform,
        url: "https://hooks.example/".into(),
        kinds: vec![OccasionKind::Revoked],
        secret: Secret::new([9; 32]),
        made_by: "operator".into(),
        created_at_ms: 1,
    };
    assert!(store.insert_webhook(&webhook, 1).await.unwrap());
    assert!(!store.insert_webhook(&Webhook { id: "wh-2".into(), ..webhook.clone() }, 1).await.unwrap());
    let all = WebhooksOf { all: true, ..WebhooksOf::default() };
    assert_eq!(store.webhooks(all).await.unwrap(), std::slice::from_ref(&webhook));
    assert_eq!(store.webhooks(WebhooksOf::default()).await.unwrap(), []);
    webhook
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_begin_an_attempt_one_does_and_who_was_replaced_does_not() {
    let (dir, store, replica) = store().await;
    let other = Store::open(&access(dir.path())).await.unwrap();
    let webhook = kept(&store).await;
    let id = store.queue_test(&webhook.id, 5, 1).await.unwrap().unwrap();
    assert_eq!(store.queue_test(&webhook.id, 5, 1).await.unwrap(), None, "one waits");
    assert_eq!(store.due_deliveries(4, 9).await.unwrap(), []);
    let (_, delivery) = store.due_deliveries(5, 9).await.unwrap().pop().unwrap();
    assert_eq!((&delivery.id, delivery.attempts), (&id, 0));
    let fence = store.claim("webhooks", &replica).await.unwrap().unwrap();
    let all: Vec<_> = (0..12)
        .map(|number| if number % 2 == 0 { store.clone() } else { other.clone() })
        .map(|store| {
            let (fence, delivery) = (fence.clone(), delivery.clone());
            tokio::spawn(async move { store.begin_attempt(&fence, &delivery, 5, 100).await.unwrap() })
        })
        .collect();
    let mut begun = 0;
    for one in all {
        begun += u32::from(one.await.unwrap());
    }
    assert_eq!(begun, 1);
    assert_eq!(store.due_deliveries(99, 9).await.unwrap(), [], "nobody else begins one meanwhile");
    let came = Attempted { state: DeliveryState::Waiting, next_at_ms: 200, status: Some(500), error: Some("the answer was 500") };
    store.end_attempt(&fence, &id, 1, came).await.unwrap();
    let (_, delivery) = store.due_deliveries(200, 9).await.unwrap().pop().unwrap();
    assert_eq!((delivery.attempts, delivery.status), (1, Some(500)));
    store.give_up(&fence).await.unwrap();
    let refused = store.begin_attempt(&fence, &delivery, 200, 300).await.unwrap_err();
    assert!(matches!(refused, StoreError::Fenced(_)), "{refused}");
    assert!(store.end_attempt(&fence, &id, 1, came).await.is_err());
    assert!(store.remove_webhook(&webhook.id).await.unwrap());
    assert_eq!(store.due_deliveries(900, 9).await.unwrap(), [], "what waits goes with it");
}
