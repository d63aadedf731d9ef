//! Accounts, projects and nodes that belong to somebody.

use casemate_api::{node::from_node, rest};
use casemate_server::{service::make_token, store::Role};
use serde_json::{Value, json};
use tonic::Code;

use crate::{
    node::SoftNode,
    platform::{Client, Platform, new_instance, workload},
};

/// Makes an account and a token for it.
pub(crate) async fn account(platform: &Platform, operator: &Client, name: &str, roles: &[&str]) -> Client {
    operator.post("/accounts", &json!({"name": name, "roles": roles})).await.json::<rest::Account>(201);
    let made: rest::MadeToken = operator.post("/tokens", &json!({"account": name})).await.json(201);
    platform.client(made.token)
}

#[tokio::test]
async fn an_operator_makes_accounts_and_what_they_may_do_ends_with_them() {
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    let ann = account(&platform, &operator, "ann", &["tenant"]).await;
    let me: rest::Me = ann.get("/me").await.json(200);
    assert_eq!((me.account.as_str(), me.roles, me.projects), ("ann", vec!["tenant".into()], vec!["ann".into()]));
    assert_eq!(ann.create().await.project, "ann");
    let twice = operator.post("/accounts", &json!({"name": "ann", "roles": ["hoster"]})).await;
    assert_eq!(twice.problem(), "409 conflict: there is an account \"ann\" already");
    let second: rest::Account = operator.put("/accounts/ann", &json!({"roles": ["hoster", "tenant"]})).await.json(200);
    assert_eq!(second.roles, ["tenant", "hoster"]);
    assert_eq!(ann.get("/incidents").await.status, 200, "a role counts at once");
    operator.put("/accounts/ann", &json!({"roles": ["tenant"], "disabled": true})).await.json::<rest::Account>(200);
    assert_eq!(ann.get("/me").await.status, 401);
    operator.put("/accounts/ann", &json!({"roles": ["tenant"]})).await.json::<rest::Account>(200);
    assert_eq!(ann.get("/me").await.status, 200);
    let all: rest::Accounts = operator.get("/accounts").await.json(200);
    assert_eq!((all.accounts.len(), all.next), (2, None));
    assert_eq!(operator.get("/accounts?after=ann").await.json::<rest::Accounts>(200).accounts.len(), 1);
}

#[tokio::test]
async fn what_is_no_account_is_refused_and_changes_nothing() {
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    let long = "a".repeat(65);
    for name in ["", "-a", "A", "a b", "a/b", "ä", "a\0", "p-1", "..", &long] {
        let answer = operator.post("/accounts", &json!({"name": name, "roles": ["tenant"]})).await;
        assert!(answer.problem().starts_with("422 invalid: account name"), "{name:?}");
    }
    for roles in [json!([]), json!([""]), json!(["root"]), json!(["bootstrap"]), json!(["tenant,operator"])] {
        let answer = operator.post("/accounts", &json!({"name": "a", "roles": roles})).await;
        assert_eq!(answer.status, 422, "{roles}");
    }
    let unknown = operator.post("/accounts", &json!({"name": "b", "roles": ["tenant"], "admin": true})).await;
    assert_eq!(unknown.status, 422);
    assert_eq!(operator.get("/accounts").await.json::<rest::Accounts>(200).accounts.len(), 1);
    assert!(make_token(platform.server.store(), Role::Tenant, Some("No name".into()), None).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn there_is_always_an_operator() {
    let platform = Platform::start().await;
    let store = platform.server.store();
    let (first, second) = ("first", "second");
    for name in [first, second] {
        make_token(store, Role::Operator, Some(name.into()), None).await.unwrap();
    }
    // Both are taken away at the same moment: one of them stays.
    let none = "tenant".parse().unwrap();
    let (one, other) = tokio::join!(store.change_account(first, &none, false, 1), store.change_account(second, &none, true, 1));
    let refused = [one.unwrap(), other.unwrap()]
        .into_iter()
        .filter(|change| *change == casemate_server::store::AccountChange::LastOperator)
        .count();
    assert_eq!(refused, 1);
}

#[tokio::test]
async fn members_of_a_project_share_its_instances() {
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    let ann = account(&platform, &operator, "ann", &["tenant"]).await;
    let bob = account(&platform, &operator, "bob", &["tenant"]).await;
    ann.create().await;
    let project: rest::Project = ann.post("/projects", &json!({"name": "ours"})).await.json(201);
    let id = project.id;
    let mut request = new_instance(&workload());
    request.project = Some(id.clone());
    let made: rest::Instance = ann.post("/instances", &request).await.json(201);
    assert_eq!(made.project, id);
    assert_eq!(bob.get(&format!("/instances/{}", made.id)).await.status, 404);
    assert_eq!(bob.post("/instances", &request).await.status, 404);

    let member = format!("/projects/{id}/members/bob");
    assert_eq!(bob.put(&member, &json!({"role": "owner"})).await.status, 404, "nobody makes himself a member");
    assert_eq!(ann.put(&member, &json!({"role": "member"})).await.status, 204);
    assert_eq!(bob.get(&format!("/instances/{}", made.id)).await.status, 200);
    let seen: rest::Instances = bob.get("/instances").await.json(200);
    assert_eq!(seen.instances.len(), 1, "and not what is ann's own");
    bob.post("/instances", &request).await.json::<rest::Instance>(201);
    assert_eq!(bob.put(&member, &json!({"role": "owner"})).await.status, 403, "nor an owner");
    assert_eq!(ann.put(&format!("/projects/{id}/members/nobody"), &json!({"role": "member"})).await.status, 404);
    assert_eq!(ann.put(&member, &json!({"role": "king"})).await.status, 422);

    let last = ann.delete(&format!("/projects/{id}/members/ann")).await;
    assert!(last.problem().starts_with("409 conflict: this is the last owner"));
    let demoted = ann.put(&format!("/projects/{id}/members/ann"), &json!({"role": "member"})).await;
    assert_eq!(demoted.status, 409);
    // A token for the project is worth nothing once its holder is out of it.
    let narrow: rest::MadeToken = bob.post("/tokens", &json!({"project": id})).await.json(201);
    let narrow = platform.client(narrow.token);
    assert_eq!(narrow.get("/instances").await.json::<rest::Instances>(200).instances.len(), 2);
    assert_eq!(ann.delete(&member).await.status, 204);
    assert_eq!(ann.delete(&member).await.status, 404);
    assert_eq!(bob.get(&format!("/instances/{}", made.id)).await.status, 404);
    assert!(narrow.get("/instances").await.json::<rest::Instances>(200).instances.is_empty());
    assert_eq!(narrow.get(&format!("/instances/{}", made.id)).await.status, 404);
    assert_eq!(narrow.post("/instances", &request).await.status, 404);
    let members = ann.get(&format!("/projects/{id}")).await.json::<rest::Project>(200).members;
    assert_eq!(members, [rest::Member { account: "ann".into(), role: "owner".into() }]);
}

#[tokio::test]
async fn a_hoster_sees_his_nodes_and_of_instances_what_they_take() {
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    let holly = account(&platform, &operator, "holly", &["hoster"]).await;
    let other = account(&platform, &operator, "other", &["hoster"]).await;
    let token: rest::BootstrapToken = holly.post("/bootstrap-tokens", &json!({})).await.json(201);
    let mut node = SoftNode::new(1, &platform);
    let credential = node.enrol(&platform, &token.token).await.unwrap();
    SoftNode::new(2, &platform).connect(&platform).await;
    let (mut session, _) = node.open(&platform, &credential, Vec::new()).await;
    let tenant = platform.token(Role::Tenant).await;
    let mut request = new_instance(&workload());
    request.node = Some(credential.node.clone());
    tenant.create().await;
    let instance: rest::Instance = tenant.post("/instances", &request).await.json(201);
    session.assignment().await;

    let nodes = |client: &Client| {
        let client = client.clone();
        async move { client.get("/nodes").await.json::<rest::Nodes>(200).nodes }
    };
    let own = nodes(&holly).await;
    assert_eq!((own.len(), own[0].id.as_str(), own[0].hoster.as_deref()), (1, credential.node.as_str(), Some("holly")));
    assert!(nodes(&other).await.is_empty());
    let all = nodes(&tenant).await;
    assert!(
        all.len() == 2 && all.iter().all(|node| node.hoster.is_none()),
        "tenants see what they can rent, and not whose it is"
    );

    let path = format!("/nodes/{}/instances", credential.node);
    let hosted = holly.get(&path).await;
    let text = String::from_utf8(hosted.body.clone()).unwrap();
    for secret in ["workload", "/bin/true", "demo", "tenant-", "verdict"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    let hosted = hosted.json::<rest::HostedInstances>(200).instances;
    assert!(hosted.iter().any(|one| one.id == instance.id && one.cpus == 1 && one.memory_mib == 256), "{hosted:?}");
    let strange = other.get(&path).await;
    assert_eq!(strange.problem(), format!("404 not-found: there is no node {:?}", credential.node));
    for client in [&holly, &other] {
        assert_eq!(client.get(&format!("/instances/{}", instance.id)).await.status, 403);
    }

    // Nobody takes a node from another hoster by enrolling it.
    let stolen: rest::BootstrapToken = other.post("/bootstrap-tokens", &json!({})).await.json(201);
    let refused = node.enrol(&platform, &stolen.token).await.unwrap_err();
    assert_eq!((refused.code(), refused.message().contains("another hoster")), (Code::FailedPrecondition, true), "{refused}");
    assert_eq!(other.post("/bootstrap-tokens", &json!({"hoster": "holly"})).await.status, 403);
    let give = format!("/nodes/{}/hoster", credential.node);
    let tenants: rest::Me = tenant.get("/me").await.json(200);
    assert_eq!(operator.put(&give, &json!({"hoster": tenants.account})).await.status, 409);
    assert_eq!(operator.put(&give, &json!({"hoster": "other"})).await.status, 204);
    assert_eq!((nodes(&holly).await.len(), nodes(&other).await.len()), (0, 1));
    assert!(node.enrol(&platform, &stolen.token).await.is_ok());
    // One that the operator enrols again stays whose it was.
    assert!(node.enrol(&platform, &platform.bootstrap_token().await).await.is_ok());
    assert_eq!(nodes(&other).await.len(), 1);
    drop(session);
}

#[tokio::test]
async fn a_hoster_sees_incidents_of_his_own_nodes() {
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    let holly = account(&platform, &operator, "holly", &["hoster"]).await;
    let mut node = SoftNode::new(1, &platform);
    let mut session = node.connect(&platform).await;
    let line = json!({
        "sequence": 0, "previous": "00".repeat(32), "at_unix_ms": 5,
        "event": {"kind": "instances_ended", "because": "a violation"},
    });
    let message = casemate_api::node::MonitorRecords { from: 0, lines: vec![line.to_string().into_bytes()] };
    session.send(from_node::Message::Monitor(message)).await;
    session
        .expect(|message| match message {
            casemate_api::node::to_node::Message::MonitorStored(stored) if stored.next == 1 => Some(()),
            _ => None,
        })
        .await;
    let id = session.credential.node.clone();
    let seen = async |client: &Client| client.get("/incidents").await.json::<rest::Incidents>(200).incidents.len();
    assert_eq!((seen(&operator).await, seen(&holly).await), (1, 0));
    assert_eq!(holly.get(&format!("/incidents?node={id}")).await.status, 404);
    operator.put(&format!("/nodes/{id}/hoster"), &json!({"hoster": "holly"})).await;
    assert_eq!(seen(&holly).await, 1);
    assert_eq!(holly.get(&format!("/incidents?node={id}")).await.status, 200);
    let restored = holly.post(&format!("/nodes/{id}/restore"), &Value::Null).await;
    assert_eq!(restored.status, 403, "what a node is suspended for is for others to judge");
}
