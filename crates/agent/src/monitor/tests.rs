//! Against a monitor that is played at the other end of the socket; the real one is in the testbed.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    thread::JoinHandle,
};

use super::*;

fn status(ended: bool) -> Value {
    let ended = ended.then(|| json!({"kind": "instances_ended", "because": "a violation"}));
    json!({
        "version": 1, "class": {"name": "enforcing_without", "groups": ["memory"]}, "intact": true, "sealed": true, "ended": ended,
        "more": 1, "spool": {"path": "/spool", "head": {"records": 3, "digest": "00"}, "reserve_bytes": 1},
    })
}

/// Answers by `answer` until the agent's end is closed.
fn play(answer: impl Fn(&Value) -> Option<Value> + Send + 'static) -> (OwnedFd, JoinHandle<Vec<Value>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for line in BufReader::new(ours.try_clone().unwrap()).lines() {
            let Ok(line) = line else { break };
            let request: Value = serde_json::from_str(&line).unwrap();
            let Some(answer) = answer(&request) else { break };
            asked.push(request);
            if writeln!(&ours, "{answer}").is_err() {
                break;
            }
        }
        asked
    });
    (theirs.into(), thread)
}

#[tokio::test]
async fn what_it_says_of_itself_is_passed_on_and_refusals_come_back() {
    let (socket, thread) = play(|request| {
        Some(match request["request"].as_str().unwrap() {
            "status" => json!({"answer": "status", "status": status(true)}),
            "watch" => json!({"answer": "refused", "why": "tripped"}),
            _ => json!({"answer": "done"}),
        })
    });
    let (monitor, talk) = Monitor::attach(socket).await.unwrap();
    let talk = tokio::spawn(talk);
    assert_eq!(monitor.inventory().without, ["memory"]);
    let observation = monitor.observation();
    assert!(!observation.held && observation.seen.contains("has ended the instances"), "{observation:?}");
    assert_eq!(monitor.ended().await.as_deref(), Some("a violation"));
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cgroup.procs"), "7\n").unwrap();
    let footprint = Footprint { cgroup: folder.path().to_owned(), memory: vec![PathBuf::from("/ram")] };
    let refused = monitor.watch("i-1", &footprint).await.unwrap_err();
    assert!(matches!(refused, MonitorError::Refused(why) if why == "tripped"));
    let absent = Footprint { cgroup: folder.path().join("none"), memory: Vec::new() };
    assert!(monitor.watch("i-1", &absent).await.is_err(), "an instance without processes cannot be guarded");
    monitor.clear().await.unwrap();
    talk.abort();
    let _ = talk.await;
    drop(monitor);
    let asked = thread.join().unwrap();
    let watched = asked.iter().find(|request| request["request"] == "watch").unwrap();
    assert_eq!((&watched["processes"], &watched["memory"]), (&json!([7]), &json!(["/ram"])));
}

#[tokio::test]
async fn a_monitor_that_is_gone_or_talks_nonsense_is_not_relied_on() {
    let (socket, _thread) = play(|_| None);
    assert!(matches!(Monitor::attach(socket).await, Err(MonitorError::Gone)));
    for nonsense in [json!({}), json!({"answer": "status", "status": {}}), json!({"answer": "refused"}), json!([1])] {
        let (socket, _thread) = play(move |_| Some(nonsense.clone()));
        assert!(Monitor::attach(socket).await.is_err());
    }
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(Monitor::attach(file.into()).await, Err(MonitorError::Socket(_))));
    let (socket, _thread) = play(|_| Some(json!({"answer": "status", "status": status(false)})));
    let (monitor, talk) = Monitor::attach(socket).await.unwrap();
    drop(talk);
    assert!(matches!(monitor.clear().await, Err(MonitorError::Gone)), "nobody talks to it any more");
}

/// How often the monitor was told within two beats that the agent lives, whose work is this.
async fn beats<F: Future<Output = ()>>(work: impl Fn() -> F) -> usize {
    let (socket, thread) = play(|request| {
        Some(match request["request"].as_str().unwrap() {
            "status" => json!({"answer": "status", "status": status(false)}),
            _ => json!({"answer": "done"}),
        })
    });
    let (monitor, talk) = Monitor::attach(socket).await.unwrap();
    let talk = tokio::spawn(talk);
    timeout(BEAT * 2, Monitor::keep_alive(Some(&monitor), work)).await.unwrap_err();
    talk.abort();
    let _ = talk.await;
    drop(monitor);
    thread.join().unwrap().iter().filter(|request| request["request"] == "alive").count()
}

#[tokio::test]
async fn an_agent_whose_work_does_not_go_round_does_not_say_that_it_lives() {
    assert_eq!(beats(std::future::pending).await, 0);
    assert!((1..=3).contains(&beats(|| async {}).await));
}
