//! The security monitor that started this agent, where there is one: it guards the instances, and what it wrote down goes to the
//! platform.
//!
//! The two talk over the agent's standard input, one JSON document per line each way (docs/monitor.md). The monitor ends all instances
//! when the agent is gone; the agent ends when the monitor is, and starts nothing that the monitor does not guard.

mod record;

use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdStream},
    path::PathBuf,
    time::Duration,
};

use casemate_api::{node, score::Observation};
use casemate_sandbox::Footprint;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, timeout},
};

pub(crate) use record::{report, until_reboot};

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How often the monitor is asked how it stands.
const LOOK: Duration = Duration::from_millis(500);
/// How often the monitor is told that this agent lives; it has patience for many of these.
const BEAT: Duration = Duration::from_secs(1);
/// Longest answer, in bytes: a status with a thousand instances.
const MAX_ANSWER: u64 = 1 << 20;
/// Requests that wait.
const MAX_WAITING: usize = 64;

/// Why the monitor cannot be relied on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MonitorError {
    #[error(
        "talk to the monitor over standard input: {0} (hint: `--monitored` is for `casemate-monitor run ... -- casemate-agent run --monitored ...`)"
    )]
    Socket(#[source] io::Error),
    #[error("the monitor did not answer within {} s", ANSWER.as_secs())]
    Silent,
    #[error("the monitor is gone")]
    Gone,
    #[error("the monitor answered what is not understood: {0}")]
    Answer(String),
    #[error("the monitor refuses: {0}")]
    Refused(String),
}

/// The monitor; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Monitor {
    requests: mpsc::Sender<Asked>,
    state: watch::Receiver<State>,
}

/// How it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct State {
    class: String,
    without: Vec<String>,
    intact: bool,
    sealed: bool,
    /// Why it ended the instances; until that is cleared it guards no new one.
    pub(crate) ended: Option<String>,
    /// Its record, and how many lines that has.
    pub(crate) record: PathBuf,
    pub(crate) records: u64,
}

#[derive(Debug)]
struct Asked {
    request: Value,
    reply: oneshot::Sender<Result<(), MonitorError>>,
}

impl Monitor {
    /// Begins to talk over `socket`. The future ends when the monitor cannot be relied on any more, and must run for all else to.
    pub(crate) async fn attach(socket: OwnedFd) -> Result<(Self, impl Future<Output = MonitorError> + use<>), MonitorError> {
        let stream = StdStream::from(socket);
        stream.peer_addr().and_then(|_| stream.set_nonblocking(true)).map_err(MonitorError::Socket)?;
        let (read, write) = UnixStream::from_std(stream).map_err(MonitorError::Socket)?.into_split();
        let mut line = Line { read: BufReader::new(read), write };
        let first = line.state().await?;
        let (requests, waiting) = mpsc::channel(MAX_WAITING);
        let (say, state) = watch::channel(first);
        Ok((Self { requests, state }, talk(line, waiting, say)))
    }

    /// Has an instance guarded from now on.
    pub(crate) async fn watch(&self, instance: &str, footprint: &Footprint) -> Result<(), MonitorError> {
        let processes = footprint
            .processes()
            .map_err(|error| MonitorError::Refused(format!("watch {instance}: read {}: {error}", footprint.cgroup.display())))?;
        let (cgroup, memory) = (&footprint.cgroup, &footprint.memory);
        self.ask(json!({"request": "watch", "instance": instance, "cgroup": cgroup, "processes": processes, "memory": memory}))
            .await
    }

    /// Says again and again that `work` goes round: each time, what it gives must have been done first. The monitor ends the instances of an
    /// agent that does not say so.
    pub(crate) async fn keep_alive<F: Future<Output = ()>>(monitor: Option<&Self>, work: impl Fn() -> F) {
        let Some(monitor) = monitor else { return std::future::pending().await };
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            work().await;
            // One that cannot be told is gone, which ends the agent.
            let _ = monitor.ask(json!({"request": "alive"})).await;
        }
    }

    /// The instance is gone. One that was never guarded is refused, which changes nothing.
    pub(crate) async fn unwatch(&self, instance: &str) {
        let told = self.ask(json!({"request": "unwatch", "instance": instance})).await;
        if let Err(error) = told {
            tracing::debug!(instance.id = instance, error = %error, "the watch over an instance did not end");
        }
    }

    /// What happened is reported and nothing runs: work may begin again.
    pub(crate) async fn clear(&self) -> Result<(), MonitorError> {
        self.ask(json!({"request": "clear"})).await
    }

    /// Asks it to end in order; it does when nothing is guarded.
    pub(crate) async fn stop(&self) -> Result<(), MonitorError> {
        self.ask(json!({"request": "stop"})).await
    }

    /// Begins maintenance; `by_force` ends the instances that are guarded still.
    pub(crate) async fn unseal(&self, by_force: bool) -> Result<(), MonitorError> {
        self.ask(json!({"request": "unseal", "forced": by_force})).await
    }

    /// Ends maintenance.
    pub(crate) async fn seal(&self) -> Result<(), MonitorError> {
        self.ask(json!({"request": "seal"})).await
    }

    /// Whether it guards what its configuration names, as of its last answer.
    pub(crate) fn is_sealed(&self) -> bool {
        self.state.borrow().sealed
    }

    /// Why it ended the instances, if it did, as of now.
    pub(crate) async fn ended(&self) -> Option<String> {
        // Each answer comes with a look.
        let _ = self.ask(json!({"request": "status"})).await;
        self.state.borrow().ended.clone()
    }

    /// How it stands, and changes of that.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// For the inventory.
    pub(crate) fn inventory(&self) -> node::Monitor {
        let state = self.state.borrow();
        node::Monitor { class: state.class.clone(), without: state.without.clone() }
    }

    /// For the launch record.
    pub(crate) fn evidence(&self) -> casemate_evidence::instance::Monitor {
        let state = self.state.borrow();
        casemate_evidence::instance::Monitor { class: state.class.clone(), without: state.without.clone() }
    }

    /// For the score card.
    pub(crate) fn observed(monitor: Option<&Self>) -> Observation {
        let absent = || Observation::new("monitor", false, "the agent does not run under a monitor");
        monitor.map_or_else(absent, Self::observation)
    }

    fn observation(&self) -> Observation {
        let state = self.state.borrow();
        let denies = state.class.starts_with("enforcing") && state.intact && state.sealed && state.ended.is_none();
        let mut seen = format!("class {}", state.class);
        for (bad, words) in [
            (!state.without.is_empty(), format!(" {}", state.without.join(" "))),
            (!state.intact, ", not intact".to_owned()),
            (!state.sealed, ", not sealed".to_owned()),
            (state.ended.is_some(), ", has ended the instances".to_owned()),
        ] {
            if bad {
                seen += &words;
            }
        }
        Observation::new("monitor", denies, seen)
    }

    async fn ask(&self, request: Value) -> Result<(), MonitorError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Asked { request, reply }).await.map_err(|_| MonitorError::Gone)?;
        answer.await.map_err(|_| MonitorError::Gone)?
    }
}

impl State {
    fn of(status: &Value) -> Result<Self, MonitorError> {
        let status = Status::deserialize(status).map_err(|error| MonitorError::Answer(error.to_string()))?;
        let Class { name, groups, blind } = status.class;
        let ended = status.ended.map(|ended| ended["because"].as_str().unwrap_or("a violation").to_owned());
        Ok(Self {
            class: name,
            without: groups.into_iter().chain(blind).collect(),
            intact: status.intact,
            sealed: status.sealed,
            ended,
            record: status.spool.path,
            records: status.spool.head.records,
        })
    }
}

/// Answers requests one after the other and looks at the state between them.
async fn talk(mut line: Line, mut waiting: mpsc::Receiver<Asked>, say: watch::Sender<State>) -> MonitorError {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let asked = tokio::select! {
            Some(asked) = waiting.recv() => Some(asked),
            _ = looks.tick() => None,
        };
        let outcome = async {
            let answer = match &asked {
                Some(asked) => Some(line.ask(&asked.request).await?),
                None => None,
            };
            let state = line.state().await?;
            say.send_if_modified(|known| std::mem::replace(known, state.clone()) != state);
            Ok(answer)
        };
        match (outcome.await, asked) {
            (Ok(Some(answer)), Some(asked)) => {
                // Whoever asked may have gone.
                let _ = asked.reply.send(refusal(&answer));
            }
            (Ok(_), _) => {}
            (Err(error), _) => return error,
        }
    }
}

fn refusal(answer: &Value) -> Result<(), MonitorError> {
    match answer["answer"].as_str() {
        Some("done" | "status") => Ok(()),
        Some("refused") => Err(MonitorError::Refused(answer["why"].as_str().unwrap_or("without a reason").to_owned())),
        _ => Err(MonitorError::Answer(answer.to_string().chars().take(200).collect())),
    }
}

/// The socket.
struct Line {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Line {
    async fn ask(&mut self, request: &Value) -> Result<Value, MonitorError> {
        timeout(ANSWER, self.exchange(request)).await.map_err(|_| MonitorError::Silent)?
    }

    async fn exchange(&mut self, request: &Value) -> Result<Value, MonitorError> {
        let mut text = request.to_string();
        text.push('\n');
        self.write.write_all(text.as_bytes()).await.map_err(|_| MonitorError::Gone)?;
        let mut answer = Vec::new();
        let read = (&mut self.read).take(MAX_ANSWER).read_until(b'\n', &mut answer).await;
        match read {
            Ok(0) | Err(_) => Err(MonitorError::Gone),
            Ok(_) => serde_json::from_slice(&answer).map_err(|error| MonitorError::Answer(error.to_string())),
        }
    }

    async fn state(&mut self) -> Result<State, MonitorError> {
        let answer = self.ask(&json!({"request": "status"})).await?;
        refusal(&answer)?;
        State::of(&answer["status"])
    }
}

/// Of the status document, what is used here.
#[derive(Deserialize)]
struct Status {
    class: Class,
    intact: bool,
    sealed: bool,
    ended: Option<Value>,
    spool: Spool,
}

#[derive(Deserialize)]
struct Class {
    name: String,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    blind: Vec<String>,
}

#[derive(Deserialize)]
struct Spool {
    path: PathBuf,
    head: Head,
}

#[derive(Deserialize)]
struct Head {
    records: u64,
}

#[cfg(test)]
mod tests;
