//! What hosters ask for their nodes, and what becomes of it when somebody rents.

use casemate_api::rest;
use casemate_server::store::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    accounts::account,
    node::{Session, SoftNode},
    platform::{ASSET, Client, LAYER, Platform, new_instance, workload},
};

/// A node of this hoster, connected.
async fn node_of(platform: &Platform, hoster: &Client, number: u32) -> (Session, String) {
    let token: rest::BootstrapToken = hoster.post("/bootstrap-tokens", &json!({})).await.json(201);
    let mut node = SoftNode::new(number, platform);
    let credential = node.enrol(platform, &token.token).await.unwrap();
    let (session, _) = node.open(platform, &credential, Vec::new()).await;
    (session, credential.node)
}

fn priced(cpu: u64, place: &str) -> Value {
    json!({ "prices": { "cpu": cpu, "memory_gib": 4 }, "place": place, "labels": { "rack": "r1" } })
}

async fn run(tenant: &Client, placement: Value) -> rest::Instance {
    let mut request = new_instance(&workload());
    request.placement = Some(serde_json::from_value(placement).unwrap());
    tenant.post("/instances", &request).await.json(201)
}

#[tokio::test]
async fn an_offer_is_set_found_rented_by_and_taken_back() {
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    let holly = account(&platform, &operator, "holly", &["hoster"]).await;
    let other = account(&platform, &operator, "other", &["hoster"]).await;
    let tenant = platform.token(Role::Tenant).await;
    let (_first, dear) = node_of(&platform, &holly, 1).await;
    let (_second, cheap) = node_of(&platform, &other, 2).await;
    let path = format!("/offers/{dear}");
    let before: rest::Offer = tenant.get(&path).await.json(200);
    assert_eq!((before.version, before.prices, before.standing.as_str()), (0, rest::Prices::default(), "ready"));
    assert_eq!((before.cpus, before.memory_mib, before.measured_by.as_str()), (2, 4096, "inventory"));
    assert_eq!(before.trust_tier, "simulated", "the root of this node's TPM is a simulator's");

    let set: rest::Offer = holly.put(&path, &priced(900, "eu/de")).await.json(200);
    assert_eq!((set.version, set.hoster.as_deref(), set.place.as_str()), (1, Some("holly"), "eu/de"));
    other.put(&format!("/offers/{cheap}"), &priced(100, "us")).await.json::<rest::Offer>(200);
    // Whose it is only he and operators learn; whose it is not cannot change it.
    assert_eq!(tenant.get(&path).await.json::<rest::Offer>(200).hoster, None);
    assert_eq!(other.get(&path).await.json::<rest::Offer>(200).hoster, None);
    assert_eq!(other.put(&path, &priced(1, "")).await.problem(), format!("404 not-found: there is no node {dear:?}"));
    assert_eq!(other.delete(&path).await.status, 404);
    assert_eq!(tenant.put(&path, &priced(1, "")).await.status, 403);

    tenant.put_blob(LAYER).await;
    tenant.put_blob(ASSET).await;
    // The cheaper one, unless one wants something else; what was taken is kept.
    let placed = run(&tenant, json!({})).await;
    assert_eq!(placed.node.as_ref(), Some(&cheap));
    let taken = placed.offer.unwrap();
    assert_eq!((taken.version, taken.place.as_str(), taken.price_per_hour), (1, "us", 100 + 1));
    let placed = run(&tenant, json!({ "within": "eu" })).await;
    assert_eq!((placed.node.as_ref(), placed.offer.unwrap().price_per_hour), (Some(&dear), 901));
    let refused = run(&tenant, json!({ "within": "eu", "most_per_hour": 900 })).await.failure.unwrap();
    assert_eq!(refused.detail, "no node will do: 1 above the price limit, 1 elsewhere");
    let refused = run(&tenant, json!({ "trust_tier": "attested", "labels": { "rack": "r1" } })).await.failure.unwrap();
    assert_eq!(refused.detail, "no node will do: 2 below the trust tier");

    // A new price is for those who come; taken back, for nobody.
    let again = json!({ "prices": { "cpu": 5 }, "replaces": 1 });
    assert_eq!(holly.put(&path, &again).await.json::<rest::Offer>(200).version, 2);
    assert_eq!(holly.put(&path, &again).await.status, 409, "somebody else's change is not overwritten");
    assert_eq!(tenant.instance(&placed.id).await.offer.unwrap().price_per_hour, 901);
    assert_eq!(holly.delete(&path).await.status, 204);
    assert_eq!(holly.delete(&path).await.status, 404);
    let mut request = new_instance(&workload());
    request.node = Some(dear.clone());
    let refused = tenant.post("/instances", &request).await.json::<rest::Instance>(201).failure.unwrap();
    assert_eq!(refused.detail, "no node will do: 1 not on offer, 1 not the requested node");
    assert_eq!(tenant.instance(&placed.id).await.step, "scheduled", "what runs goes on");
}

#[tokio::test]
async fn an_offer_never_says_more_than_was_measured() {
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    let (_session, node) = node_of(&platform, &operator, 1).await;
    let path = format!("/offers/{node}");
    let cases = [
        (json!({ "cpus": 3 }), "cpus: the offer says 3, but the node has 2 by its inventory"),
        (json!({ "memory_mib": 4097 }), "memory_mib: the offer says 4097, but the node has 4096 by its inventory"),
        (json!({ "disk_mib": 1001 }), "disk_mib: the offer says 1001, but the node has 1000 by its inventory"),
        (json!({ "cpus": 0 }), "cpus: must be more than 0; withdraw the offer instead"),
        (json!({ "levels": ["confidential"] }), "levels: the node has no level \"confidential\" by its inventory"),
        (json!({ "levels": [] }), "levels: leave them out for all, or name each once"),
        (
            json!({ "gpus": [{ "model": "H200", "count": 8, "memory_mib": 141000 }] }),
            "gpus: the offer says 8 of \"H200\" with 141000 MiB, but the node has 0 by its inventory",
        ),
        (json!({ "prices": { "gpu": 1_000_000_000_001_u64 } }), "prices: each is 1000000000000 at the most"),
        (json!({ "ends_at_ms": 1 }), "ends_at_ms: is over already; withdraw the offer instead"),
    ];
    for (offer, why) in cases {
        let problem = operator.put(&path, &offer).await.problem();
        assert_eq!(problem, format!("422 invalid: {why} (`casemate offers show NODE` shows what was measured)"));
    }
    for bad in [
        json!({ "place": "EU" }),
        json!({ "labels": { "a b": "c" } }),
        json!({ "labels": { "a": "" } }),
        json!({ "prices": { "cpu": -1 } }),
        json!({ "prices": { "cpu": 1.5 } }),
        json!({ "measured_by": "guest" }),
    ] {
        assert_eq!(operator.put(&path, &bad).await.status, 422, "{bad}");
    }
    let many: serde_json::Map<String, Value> = (0..17).map(|number| (format!("l{number}"), "x".into())).collect();
    assert_eq!(operator.put(&path, &json!({ "labels": many })).await.status, 422);
    assert_eq!(operator.get(&path).await.json::<rest::Offer>(200).version, 0, "nothing was changed");
    assert_eq!(operator.put("/offers/n-none", &json!({})).await.status, 404);
    assert_eq!(operator.get("/offers/..%2f").await.status, 404);
    // Less is no lie.
    let set: rest::Offer = operator.put(&path, &json!({ "cpus": 1, "memory_mib": 1024, "levels": ["microvm"] })).await.json(200);
    assert_eq!((set.cpus, set.memory_mib, set.disk_mib), (1, 1024, Some(1000)));
}

#[tokio::test]
async fn offers_are_filtered_sorted_paged_and_not_sent_twice() {
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    let mut sessions = Vec::new();
    let mut nodes = Vec::new();
    for (number, (price, place)) in [(300, "eu/de"), (100, "eu/fr"), (200, "us")].into_iter().enumerate() {
        let (session, node) = node_of(&platform, &operator, u32::try_from(number).unwrap() + 1).await;
        operator.put(&format!("/offers/{node}"), &priced(price, place)).await.json::<rest::Offer>(200);
        sessions.push(session);
        nodes.push(node);
    }
    let tenant = platform.token(Role::Tenant).await;
    let list = async |query: &str| -> rest::Offers { tenant.get(&format!("/offers?{query}")).await.json(200) };
    let names = |offers: &rest::Offers| offers.offers.iter().map(|offer| offer.node.clone()).collect::<Vec<_>>();
    let by_price = list("sort=price").await;
    assert_eq!(names(&by_price), [&nodes[1], &nodes[2], &nodes[0]].map(Clone::clone));
    let first = list("sort=price&limit=2").await;
    assert_eq!(names(&first), names(&by_price)[..2]);
    let rest = list(&format!("sort=price&limit=2&after={}", first.next.unwrap())).await;
    assert_eq!((names(&rest), rest.next), (names(&by_price)[2..].to_vec(), None));
    for (query, count) in [
        ("within=eu", 2),
        ("within=e", 0),
        ("level=container", 3),
        ("level=confidential", 0),
        ("trust_tier=attested", 0),
        ("cpus=2&memory_mib=4096", 3),
        ("cpus=3", 0),
        ("most_per_hour=216", 2),
        ("label=rack%3Dr1", 3),
        ("label=rack%3Dr2", 0),
        ("gpu=H200", 0),
        ("ready=true", 3),
    ] {
        assert_eq!(list(query).await.offers.len(), count, "{query}");
    }
    for bad in ["limit=0", "limit=1001", "sort=x", "after=x", "label=x", "level=x", "within=X", "trust_tier=x", "x=1", "cpus=-1"]
    {
        assert_eq!(tenant.get(&format!("/offers?{bad}")).await.status, 422, "{bad}");
    }
    let tag = tenant.get("/offers").await.headers["etag"].clone();
    let again = tenant.send(tenant.request(Method::GET, "/offers").header("if-none-match", &tag)).await;
    assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0));
    operator.delete(&format!("/offers/{}", nodes[0])).await;
    let changed = tenant.send(tenant.request(Method::GET, "/offers").header("if-none-match", &tag)).await;
    assert_eq!(changed.json::<rest::Offers>(200).offers.iter().filter(|offer| offer.standing == "not on offer").count(), 1);
}

/// However many ask at once: what a node has is given away once, by its offer, and who is refused is told why.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_crowd_rents_a_node_twice() {
    let platform = Platform::start().await;
    let operator = platform.token(Role::Operator).await;
    let (_session, node) = node_of(&platform, &operator, 1).await;
    // Each instance takes 256 MiB and 64 of overhead.
    operator.put(&format!("/offers/{node}"), &json!({ "memory_mib": 320 * 5 + 319 })).await.json::<rest::Offer>(200);
    let tenant = platform.token(Role::Tenant).await;
    tenant.create().await;
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let tenant = tenant.clone();
            tokio::spawn(async move { tenant.post("/instances", &new_instance(&workload())).await.json::<rest::Instance>(201) })
        })
        .collect();
    let (mut placed, mut refused) = (1, 0);
    for instance in asked {
        match instance.await.unwrap() {
            rest::Instance { node: Some(_), .. } => placed += 1,
            rest::Instance { failure: Some(failure), .. } => {
                assert_eq!(failure.detail, "no node will do: 1 without enough memory");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((placed, refused), (5, 16));
    let offer: rest::Offer = tenant.get(&format!("/offers/{node}")).await.json(200);
    assert_eq!((offer.free_memory_mib, offer.free_cpus), (319, 2));
}
