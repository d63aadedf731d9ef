//! Streams of server-sent events.

use std::time::Duration;

use casemate_api::rest;
use casemate_server::store::Role;
use reqwest::{Method, header::ACCEPT};

use crate::{
    node::SoftNode,
    platform::{Client, Platform},
};

const STREAM: &str = "text/event-stream";
/// More would be a hang.
const PATIENCE: Duration = Duration::from_secs(50);

/// One message of a stream.
#[derive(Debug, Clone, Default, PartialEq)]
struct Message {
    id: String,
    event: String,
    data: String,
}

impl Message {
    #[track_caller]
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

/// An open stream.
struct Listening {
    response: reqwest::Response,
    text: String,
}

impl Listening {
    async fn to(client: &Client, path: &str, last: Option<u64>) -> Self {
        let mut request = client.request(Method::GET, path).header(ACCEPT, STREAM);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], STREAM);
        Self { response, text: String::new() }
    }

    /// The next message with data; `None` at the end of the stream, which must be a clean one.
    async fn next(&mut self) -> Option<Message> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let mut message = Message::default();
                for line in block.lines() {
                    match line.split_once(':').map(|(name, value)| (name, value.trim_start().to_owned())) {
                        Some(("id", value)) => message.id = value,
                        Some(("event", value)) => message.event = value,
                        Some(("data", value)) => message.data = value,
                        _ => {}
                    }
                }
                self.text = rest.to_owned();
                if !message.data.is_empty() {
                    return Some(message);
                }
            }
            let chunk =
                tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("something is told in time").unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    async fn until(&mut self, event: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> Message {
        loop {
            let message = self.next().await.expect("the stream goes on");
            if message.event == event && wanted(&message.json()) {
                return message;
            }
        }
    }
}

#[tokio::test]
async fn a_stream_tells_what_happens_and_is_taken_up_where_it_broke() {
    let platform = Platform::start().await;
    let mut node = SoftNode::new(1, &platform);
    let mut session = node.connect(&platform).await;
    let tenant = platform.token(Role::Tenant).await;
    let id = tenant.create().await.id;
    let path = format!("/instances/{id}/events");
    session.assignment().await;
    let mut stream = Listening::to(&tenant, &path, None).await;
    stream.until("step", |event| event["text"] == "scheduled").await;
    session.report(&id, "accepted").await;
    let accepted = stream.until("step", |event| event["text"] == "accepted").await;
    let number: u64 = accepted.id.parse().unwrap();
    assert_eq!(accepted.json()["seq"], number);
    drop(stream);
    // What happens meanwhile is not lost, and nothing is told twice.
    session.report(&id, "prepared").await;
    tenant.wait_for_step(&id, "prepared").await;
    let mut stream = Listening::to(&tenant, &format!("{path}?after=1"), Some(number)).await;
    let next = stream.next().await.unwrap();
    assert_eq!((next.id.clone(), next.json()["text"].clone()), ((number + 1).to_string(), "prepared".into()));
    // The same events in the same form as without a stream.
    let mut whole = Listening::to(&tenant, &path, None).await;
    for event in tenant.events(&id).await {
        assert_eq!(serde_json::from_str::<rest::Event>(&whole.next().await.unwrap().data).unwrap(), event);
    }
}

#[tokio::test]
async fn nobody_listens_to_what_is_not_his_and_a_number_is_a_number() {
    let platform = Platform::start().await;
    let (tenant, stranger) = (platform.token(Role::Tenant).await, platform.token(Role::Tenant).await);
    let id = tenant.create().await.id;
    let path = format!("/instances/{id}/events");
    let ask = |client: &Client, path: &str, last: &str| {
        client.request(Method::GET, path).header(ACCEPT, STREAM).header("Last-Event-ID", last)
    };
    let answer = stranger.send(ask(&stranger, &path, "0")).await;
    assert_eq!(answer.problem(), format!("404 not-found: there is no instance {id:?}"));
    let nobody = platform.client("casemate-tenant-guessed".into());
    for path in [&path[..], "/events"] {
        assert_eq!(nobody.send(ask(&nobody, path, "0")).await.status, 401, "{path}");
    }
    for last in ["-1", "1.5", "x", "99999999999999999999999"] {
        let answer = tenant.send(ask(&tenant, &path, last)).await.problem();
        assert!(answer.starts_with("422 invalid: Last-Event-ID: must be a whole number"), "{last}: {answer}");
    }
    let mut theirs = Listening::to(&stranger, "/events", None).await;
    assert_eq!(theirs.next().await.unwrap().event, "whole", "a stranger sees nothing of it");
    let mut all = Listening::to(&platform.token(Role::Operator).await, "/events", None).await;
    assert_eq!(all.next().await.unwrap().json()["id"], id.as_str());
}

#[tokio::test]
async fn a_stream_of_all_begins_with_all_there_is_and_tells_what_changes() {
    let platform = Platform::start().await;
    let mut node = SoftNode::new(1, &platform);
    let mut session = node.connect(&platform).await;
    let tenant = platform.token(Role::Tenant).await;
    let id = tenant.create().await.id;
    session.assignment().await;
    let mut stream = Listening::to(&tenant, "/events", None).await;
    let first = stream.next().await.unwrap();
    assert_eq!(
        (first.event.as_str(), &first.json()["id"], &first.json()["step"]),
        ("instance", &id.as_str().into(), &"scheduled".into())
    );
    assert_eq!(stream.next().await.unwrap().event, "whole");
    session.report(&id, "accepted").await;
    stream.until("instance", |state| state["id"] == id.as_str() && state["step"] == "accepted").await;
    // An instance that nobody can run: it ends at once, and may be forgotten.
    let mut greedy = crate::platform::workload();
    greedy.resources.memory_mib = 1 << 19;
    let lost: rest::Instance = tenant.post("/instances", &crate::platform::new_instance(&greedy)).await.json(201);
    let told = stream.until("instance", |state| state["id"] == lost.id.as_str()).await.json();
    assert_eq!((&told["step"], &told["failure"]["check"]), (&"gone".into(), &"schedule.no-node".into()));
    assert_eq!(tenant.send(tenant.request(Method::DELETE, &format!("/instances/{}", lost.id))).await.status, 204);
    stream.until("forgotten", |told| told["id"] == lost.id.as_str()).await;
}

#[tokio::test]
async fn streams_end_with_the_instance_and_with_the_server() {
    let platform = Platform::start().await;
    let tenant = platform.token(Role::Tenant).await;
    let [first, second] = [tenant.create().await.id, tenant.create().await.id];
    let mut of_first = Listening::to(&tenant, &format!("/instances/{first}/events"), None).await;
    let mut of_second = Listening::to(&tenant, &format!("/instances/{second}/events"), None).await;
    let mut of_all = Listening::to(&tenant, "/events", None).await;
    of_all.until("whole", |_| true).await;
    assert_eq!(tenant.send(tenant.request(Method::DELETE, &format!("/instances/{first}"))).await.status, 204);
    while of_first.next().await.is_some() {}
    let ends = async {
        while of_second.next().await.is_some() {}
        while of_all.next().await.is_some() {}
    };
    tokio::join!(platform.stop(), ends);
}

#[tokio::test]
async fn a_caller_has_so_many_streams_and_others_have_theirs() {
    let platform = Platform::start().await;
    let (tenant, other) = (platform.token(Role::Tenant).await, platform.token(Role::Tenant).await);
    let mut open = Vec::new();
    for _ in 0..32 {
        open.push(Listening::to(&tenant, "/events", None).await);
    }
    let answer = tenant.get("/events").await;
    assert!(answer.problem().starts_with("429 busy: too many streams at the same time"), "{}", answer.problem());
    assert_eq!(answer.headers["retry-after"], "1");
    Listening::to(&other, "/events", None).await;
    open.clear();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tenant.request(Method::GET, "/events").header(ACCEPT, STREAM).send().await.unwrap().status() != 200 {
        assert!(tokio::time::Instant::now() < deadline, "ended streams are counted for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
