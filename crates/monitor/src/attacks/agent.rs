//! What stands for the agent: started and labelled by the monitor, it holds the control socket and does what the node asks of it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::{
        fd::AsFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use casemate_monitor::control::{Answer, Instance, Request};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{acts::Target, node};

/// Where the node reaches it.
pub(crate) const SOCKET: &str = "/run/agent.socket";
const CGROUP: &str = "/sys/fs/cgroup/casemate/machine";
const NAME: &str = "machine";

/// What the node asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(crate) enum Ask {
    /// A machine that lives and is watched.
    Machine,
    /// Does it live?
    Alive,
    /// Who are agent and worker?
    Who,
    /// How does the monitor stand?
    Status,
    /// Do this.
    Act { name: String, target: Target },
}

/// What it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) value: Value,
    pub(crate) problem: Option<String>,
}

struct Machine {
    child: Child,
    descriptor: i32,
    grandchild: u32,
}

struct Agent {
    control: BufReader<UnixStream>,
    machine: Option<Machine>,
}

pub(crate) fn run() -> Result<()> {
    let control = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut agent = Agent { control: BufReader::new(control), machine: None };
    let (mut node, _) = UnixListener::bind(SOCKET).context("listen to the node")?.accept()?;
    for line in BufReader::new(node.try_clone()?).lines() {
        let ask: Ask = serde_json::from_str(&line?).context("read what the node asks")?;
        let told = match agent.answer(ask) {
            Ok(value) => Told { value, problem: None },
            Err(error) => Told { value: Value::Null, problem: Some(format!("{error:#}")) },
        };
        send(&mut node, &told)?;
    }
    Ok(())
}

/// Writes one line.
pub(crate) fn send(to: &mut impl Write, what: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec(what)?;
    text.push(b'\n');
    to.write_all(&text).context("send a line")
}

impl Agent {
    fn answer(&mut self, ask: Ask) -> Result<Value> {
        match ask {
            Ask::Machine => self.machine(),
            Ask::Alive => Ok(self.alive()?.into()),
            Ask::Who => Ok(serde_json::json!([std::process::id(), std::os::unix::process::parent_id()])),
            Ask::Status => match self.request(&Request::Status {})? {
                Answer::Status { status } => Ok(status),
                other => bail!("the monitor answers {other:?}"),
            },
            Ask::Act { name, target } => Ok(node::perform(&name, &target)?.into()),
        }
    }

    fn request(&mut self, request: &Request) -> Result<Answer> {
        send(self.control.get_mut(), request)?;
        let mut line = String::new();
        self.control.read_line(&mut line).context("hear the monitor")?;
        serde_json::from_str(&line).with_context(|| format!("read the monitor's answer {line:?}"))
    }

    fn done(&mut self, request: &Request) -> Result<()> {
        match self.request(request)? {
            Answer::Done => Ok(()),
            other => bail!("{request:?}: the monitor answers {other:?}"),
        }
    }

    fn alive(&mut self) -> Result<bool> {
        match &mut self.machine {
            Some(machine) => Ok(machine.child.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    fn machine(&mut self) -> Result<Value> {
        if !self.alive()? {
            if self.machine.take().is_some() {
                node::until("the machine's cgroup is empty", || {
                    Ok(fs::read_to_string(format!("{CGROUP}/cgroup.events"))?.contains("populated 0"))
                })?;
                self.done(&Request::Clear {})?;
            }
            self.machine = Some(self.start()?);
        }
        let Some(machine) = &self.machine else { bail!("there is no machine") };
        Ok(serde_json::json!([machine.child.id(), machine.descriptor, machine.grandchild]))
    }

    fn start(&mut self) -> Result<Machine> {
        fs::create_dir_all(CGROUP).context("make the machine's cgroup")?;
        let mut start = Command::new(node::PLAYER);
        let mut child = start.arg("machine").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start a machine")?;
        fs::write(Path::new(CGROUP).join("cgroup.procs"), child.id().to_string()).context("move the machine to its cgroup")?;
        let mut output = BufReader::new(child.stdout.take().context("the machine speaks")?);
        let descriptor: i32 = number(&mut output)?;
        let memory = vec![format!("/proc/{}/fd/{descriptor}", child.id()).into(), node::MEMORY.into()];
        let instance = Instance { instance: NAME.into(), cgroup: CGROUP.into(), processes: vec![child.id()], memory };
        self.done(&Request::Watch(instance))?;
        let mut input = child.stdin.take().context("the machine listens")?;
        input.write_all(b"\n")?;
        let grandchild = u32::try_from(number(&mut output)?)?;
        Ok(Machine { child, descriptor, grandchild })
    }
}

fn number(from: &mut impl BufRead) -> Result<i32> {
    let mut line = String::new();
    from.read_line(&mut line).context("hear the machine")?;
    line.trim().parse().with_context(|| format!("the machine says {line:?}"))
}
