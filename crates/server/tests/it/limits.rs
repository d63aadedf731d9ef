//! How much, how often, and how often the same.

use casemate_api::rest;
use casemate_server::store::{Created, Project, Quota, Role, Store, Usage};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    node::SoftNode,
    platform::{Answer, Client, Platform, new_instance, workload},
    store::{access, first_fit, new, node, node_id, store},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_crowd_of_requests_exceeds_a_quota() {
    let (dir, store, replica) = store().await;
    let other = Store::open(&access(dir.path())).await.unwrap();
    store.upsert_node(&node(1, 10_000)).await.unwrap();
    store.open_session(&node_id(1), &replica).await.unwrap();
    store.ensure_account("owner", Role::Tenant, 0).await.unwrap().unwrap();
    let quota = Quota { instances: Some(9), cpus: Some(7), memory_mib: Some(500) };
    assert!(store.set_quota("owner", &quota).await.unwrap());
    let both = [&store, &other];
    let requests: Vec<_> = (0..20)
        .map(|number| {
            let store = both[number % 2].clone();
            tokio::spawn(async move { first_fit(&store, &new(number, 10, None)).await })
        })
        .collect();
    let (mut made, mut refused) = (0, 0);
    for request in requests {
        match request.await.unwrap() {
            Created::New(instance) if instance.node.is_some() => made += 1,
            Created::OverQuota { what: "cpus", limit: 7 } => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((made, refused), (7, 13));
    assert_eq!(store.usage("owner").await.unwrap(), Usage { instances: 7, cpus: 7, memory_mib: 70 });
    // What has ended takes nothing, and what was refused left nothing.
    assert_eq!(store.instances(Default::default()).await.unwrap().len(), 7);
    let id = store.instances(Default::default()).await.unwrap()[0].id.clone();
    let end = |instance: &mut casemate_server::store::Instance, _: &mut Vec<_>| {
        instance.actual.step = casemate_lifecycle::Step::Wiped;
    };
    store.change_instance(&id, 0, None, end).await.unwrap();
    let again = first_fit(&store, &new(90, 10, None)).await;
    assert!(matches!(again, Created::New(_)), "{again:?}");
    // Another project has its own, and one without limits of its own the configuration's.
    let mut default = new(91, 10, None);
    default.instance.owner = "another".into();
    default.quota.memory_mib = Some(9);
    let refused = first_fit(&store, &default).await;
    assert!(matches!(refused, Created::OverQuota { what: "memory_mib", limit: 9 }), "{refused:?}");
    let project = Project { id: "p-1".into(), name: "p".into(), created_at_ms: 0, quota: Quota::default() };
    store.insert_project(&project, "owner").await.unwrap();
    assert!(!store.set_quota("p-2", &quota).await.unwrap());
}

#[tokio::test]
async fn a_quota_is_told_and_held() {
    let platform = Platform::with("[quota]\ninstances = 1\n").await;
    let _session = SoftNode::new(1, &platform).connect(&platform).await;
    let (tenant, operator) = (platform.token(Role::Tenant).await, platform.token(Role::Operator).await);
    tenant.create().await;
    let refused = tenant.post("/instances", &new_instance(&workload())).await;
    assert_eq!(
        refused.problem(),
        "409 over-quota: the project's quota is 1 instances, and this would be more (stop an instance of the project, or ask an \
         operator for a higher quota)"
    );
    let me: rest::Me = tenant.get("/me").await.json(200);
    let project: rest::Project = tenant.get(&format!("/projects/{}", me.account)).await.json(200);
    assert_eq!((project.quota.instances, project.usage.instances, project.usage.memory_mib), (Some(1), 1, 256));
    let quota = format!("/projects/{}/quota", me.account);
    assert_eq!(tenant.put(&quota, &json!({"instances": 9})).await.status, 403);
    assert_eq!(operator.put(&quota, &json!({"instances": u64::MAX})).await.status, 422);
    assert_eq!(operator.put(&quota, &json!({"instances": 2, "memory_mib": 512})).await.status, 204);
    tenant.post("/instances", &new_instance(&workload())).await.json::<rest::Instance>(201);
    assert_eq!(tenant.post("/instances", &new_instance(&workload())).await.status, 409);
    assert_eq!(tenant.get("/instances").await.json::<rest::Instances>(200).instances.len(), 2);
}

/// As many at once as no second has room for.
async fn crowd(client: &Client) -> Vec<Answer> {
    futures::future::join_all((0..100).map(|_| client.get("/nodes"))).await
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_again() {
    let platform = Platform::with("[rates]\ntoken_per_s = 1\ntoken_burst = 3\n").await;
    let (one, other) = (platform.token(Role::Tenant).await, platform.token(Role::Tenant).await);
    let answers = crowd(&one).await;
    assert!(answers.iter().any(|answer| answer.status == 200));
    let refused = answers.iter().find(|answer| answer.status == 429).expect("a hundred at once are more than three");
    assert_eq!(refused.problem(), "429 too-often: too many requests of this token (wait as long as Retry-After says)");
    assert_eq!(refused.headers["retry-after"], "1");
    assert_eq!(other.get("/nodes").await.status, 200, "another token has its own");
}

#[tokio::test]
async fn guessing_tokens_is_limited_by_where_it_comes_from() {
    let platform = Platform::with("[rates]\naddress_per_s = 1\naddress_burst = 3\n").await;
    let answers = crowd(&platform.client("guessed".into())).await;
    let refused = answers.iter().find(|answer| answer.status == 429).expect("a hundred at once are more than three");
    assert!(refused.problem().starts_with("429 too-often: too many requests of this address"));
    assert!(answers.iter().all(|answer| answer.status == 429 || answer.status == 401));
}

async fn keyed(client: &Client, path: &str, key: &str, body: &Value) -> Answer {
    client.send(client.request(Method::POST, path).header("Idempotency-Key", key).json(body)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_request_with_the_same_key_is_done_once_and_answered_each_time() {
    let platform = Platform::start().await;
    let (tenant, other) = (platform.token(Role::Tenant).await, platform.token(Role::Tenant).await);
    let body = json!({"name": "a"});
    let first = keyed(&tenant, "/tokens", "k", &body).await;
    let again = keyed(&tenant, "/tokens", "k", &body).await;
    let made: rest::MadeToken = first.json(201);
    assert_eq!((again.status, &again.body), (first.status, &first.body), "the secret, too");
    assert_eq!(platform.client(made.token.clone()).get("/me").await.status, 200);
    assert_eq!(tenant.get("/tokens").await.json::<rest::Tokens>(200).tokens.len(), 2);
    for (path, body) in [("/tokens", json!({"name": "b"})), ("/projects", body.clone()), ("/tokens?x=1", body.clone())] {
        let answer = keyed(&tenant, path, "k", &body).await;
        assert!(answer.problem().starts_with("422 idempotency-key-taken"), "{path}");
    }
    assert_ne!(
        keyed(&other, "/tokens", "k", &body).await.json::<rest::MadeToken>(201).token,
        made.token,
        "keys are each token's"
    );
    // What failed may be tried again with its key.
    assert_eq!(keyed(&tenant, "/projects", "f", &json!({"name": ""})).await.status, 422);
    assert_eq!(keyed(&tenant, "/projects", "f", &json!({"name": "now"})).await.status, 201);
    let long = "k".repeat(201);
    for key in ["", &long] {
        assert_eq!(keyed(&tenant, "/projects", key, &body).await.status, 422, "{key:?}");
    }
    // A POST without a body has an answer without one.
    let instance = tenant.create().await.id;
    for _ in 0..2 {
        let stopped = keyed(&tenant, &format!("/instances/{instance}/stop"), "s", &Value::Null).await;
        assert!(stopped.status == 202 || stopped.status == 409, "{}", stopped.status);
    }
    // Nor does anybody else find the secret where it is kept.
    let kept = match crate::ENGINE {
        crate::postgres::Engine::Sqlite => ["", "-wal"]
            .map(|end| std::fs::read(platform.dir.path().join(format!("data/casemate.db{end}"))).unwrap_or_default())
            .concat(),
        crate::postgres::Engine::Postgres => {
            let database = crate::postgres::cluster().database(platform.dir.path());
            let name = database.rsplit('/').next().unwrap();
            crate::postgres::cluster().run(name, "SELECT encode(sealed, 'escape') FROM answers").into_bytes()
        }
    };
    assert!(kept.len() > 100 && !kept.windows(made.token.len()).any(|window| window == made.token.as_bytes()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_the_same_request_many_times_at_once_one_is_done() {
    let platform = Platform::start().await;
    let tenant = platform.token(Role::Tenant).await;
    let asked: Vec<_> = (0..16)
        .map(|_| {
            let tenant = tenant.clone();
            tokio::spawn(async move { keyed(&tenant, "/projects", "k", &json!({"name": "one"})).await })
        })
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for answer in asked {
        let answer = answer.await.unwrap();
        if answer.status == 409 {
            assert!(answer.problem().starts_with("409 under-way"));
        } else {
            ids.insert(answer.json::<rest::Project>(201).id);
        }
    }
    assert_eq!(ids.len(), 1);
    assert_eq!(tenant.get("/projects").await.json::<rest::Projects>(200).projects.len(), 2, "and the account's own");
}
