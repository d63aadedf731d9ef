//! What stands for the agent: started and labelled by the monitor, it holds the control socket and does what the node asks of it.

use std::{
    fs,
    io::{BufRead, BufReader, PipeReader, Write},
    os::{
        fd::AsFd as _,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use casemate_monitor::control::{self, Answer, Instance, Request};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{acts::Target, nested, node};

/// Where the node reaches it.
pub(crate) const SOCKET: &str = "/run/agent.socket";
const INSTANCES: &str = "/sys/fs/cgroup/casemate";
const CGROUP: &str = "/sys/fs/cgroup/casemate/machine";
const NAME: &str = "machine";
const NESTED: &str = "nested";
const SECOND: &str = "second";
/// More than the room that the monitor sets aside has for.
const MAX_ROUNDS: u32 = 4096;

/// How often the monitor is told that the agent lives, and how long the node is waited for at a time.
const BEAT: Duration = Duration::from_secs(1);
const TICK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

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
    /// So many more instances, each a process that never rests.
    Crowd { count: u32 },
    /// A second machine in the network of the first.
    Join,
    /// The end of the second, and of its watch.
    Part,
    /// A real virtual machine beside the machine, watched before it runs.
    Nested,
    /// The monitor's orderly end.
    Stop,
    /// Watch a machine with a record that fills the disk, as often as the monitor takes it; how often that was.
    Fill,
    /// Begin maintenance, and end it.
    Unseal { forced: bool },
    /// The end.
    Seal,
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
    second: Option<Machine>,
    crowd: Vec<Child>,
    /// When the monitor was last told that this agent lives, and how many of its answers to that were not read.
    beaten: Instant,
    owed: u32,
}

pub(crate) fn run() -> Result<()> {
    let control = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let control = BufReader::new(control);
    let mut agent = Agent { control, machine: None, second: None, crowd: Vec::new(), beaten: Instant::now(), owed: 0 };
    let _ = fs::remove_file(SOCKET);
    let (mut node, _) = UnixListener::bind(SOCKET).context("listen to the node")?.accept()?;
    let mut asks = BufReader::new(node.try_clone()?);
    loop {
        // The node asks nothing more before it is answered: nothing waits in the buffer.
        while poll(&mut [PollFd::new(&node, PollFlags::IN)], Some(&TICK)).context("wait for the node")? == 0 {
            agent.beat();
        }
        agent.beat();
        let mut line = String::new();
        if asks.read_line(&mut line).context("hear the node")? == 0 {
            return Ok(());
        }
        let ask: Ask = serde_json::from_str(&line).context("read what the node asks")?;
        let told = match agent.answer(ask) {
            Ok(value) => Told { value, problem: None },
            Err(error) => Told { value: Value::Null, problem: Some(format!("{error:#}")) },
        };
        send(&mut node, &told)?;
    }
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
            Ask::Crowd { count } => {
                // They begin when all of them are watched: nobody is prepared beside fifty who never rest.
                let (gate, hold) = std::io::pipe().context("make the gate of a crowd")?;
                (0..count).try_for_each(|number| self.add(number, gate.try_clone()?))?;
                drop(hold);
                Ok(Value::Null)
            }
            Ask::Join => {
                self.second = Some(self.start(SECOND)?);
                Ok(Value::Null)
            }
            Ask::Part => self.part().map(|()| Value::Null),
            Ask::Nested => self.nested(),
            Ask::Stop => self.done(&Request::Stop {}).map(|()| Value::Null),
            Ask::Fill => self.fill(),
            Ask::Unseal { forced } => self.done(&Request::Unseal { forced }).map(|()| Value::Null),
            Ask::Seal => self.done(&Request::Seal {}).map(|()| Value::Null),
            Ask::Act { name, target } => Ok(node::perform(&name, &target)?.into()),
        }
    }

    /// The answer is not waited for: in some drills the monitor is stopped, or gone.
    fn beat(&mut self) {
        if self.beaten.elapsed() >= BEAT && send(self.control.get_mut(), &Request::Alive {}).is_ok() {
            self.owed += 1;
            self.beaten = Instant::now();
        }
    }

    fn request(&mut self, request: &Request) -> Result<Answer> {
        send(self.control.get_mut(), request)?;
        while self.owed > 0 {
            self.hear()?;
            self.owed -= 1;
        }
        self.hear()
    }

    fn hear(&mut self) -> Result<Answer> {
        let mut line = String::new();
        if self.control.read_line(&mut line).context("hear the monitor")? == 0 {
            bail!("the monitor closed the control socket");
        }
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

    /// The names of processes make the record long, whether it is about one process or many.
    fn fill(&mut self) -> Result<Value> {
        let machine = self.machine.as_ref().context("there is a machine")?.child.id();
        for round in 0..MAX_ROUNDS {
            let instance = format!("{NAME}-{round}");
            let processes = vec![machine; control::MAX_PROCESSES];
            let watch = Instance { instance, cgroup: CGROUP.into(), processes, memory: Vec::new(), sockets: Vec::new() };
            if !matches!(self.request(&Request::Watch(watch)), Ok(Answer::Done)) {
                return Ok(round.into());
            }
        }
        bail!("the disk did not fill up")
    }

    fn machine(&mut self) -> Result<Value> {
        if !self.alive()? {
            if self.machine.take().is_some() {
                node::until("all instances are gone", || {
                    Ok(fs::read_to_string(format!("{INSTANCES}/cgroup.events"))?.contains("populated 0"))
                })?;
                self.crowd.drain(..).try_for_each(|mut one| one.wait().map(drop))?;
                self.done(&Request::Clear {})?;
            }
            self.machine = Some(self.start(NAME)?);
        }
        let Some(machine) = &self.machine else { bail!("there is no machine") };
        Ok(serde_json::json!([machine.child.id(), machine.descriptor, machine.grandchild]))
    }

    fn add(&mut self, number: u32, gate: PipeReader) -> Result<()> {
        let cgroup = Path::new(INSTANCES).join(number.to_string());
        fs::create_dir_all(&cgroup).context("make an instance's cgroup")?;
        let child = Command::new(node::PLAYER).arg("spin").stdin(gate).spawn().context("start an instance")?;
        fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).context("move an instance to its cgroup")?;
        let (instance, processes) = (number.to_string(), vec![child.id()]);
        self.crowd.push(child);
        self.done(&Request::Watch(Instance { instance, cgroup, processes, memory: Vec::new(), sockets: Vec::new() }))
    }

    fn nested(&mut self) -> Result<Value> {
        self.machine()?;
        let (folder, cgroup) = (Path::new(nested::FOLDER), Path::new(INSTANCES).join(NESTED));
        fs::create_dir_all(&cgroup).context("make the virtual machine's cgroup")?;
        let (child, control) = nested::start(folder)?;
        let pid = child.id();
        self.crowd.push(child);
        fs::write(cgroup.join("cgroup.procs"), pid.to_string()).context("move the virtual machine to its cgroup")?;
        let (memory, sockets) = (vec![folder.join("ram")], vec![folder.join("qmp")]);
        self.done(&Request::Watch(Instance { instance: NESTED.into(), cgroup, processes: vec![pid], memory, sockets }))?;
        nested::run(folder, &control)?;
        Ok(pid.into())
    }

    fn part(&mut self) -> Result<()> {
        let mut second = self.second.take().context("there is a second machine")?;
        fs::write(Path::new(INSTANCES).join(SECOND).join("cgroup.kill"), "1").context("end the second machine")?;
        second.child.wait()?;
        node::until("its cgroup is empty", || {
            Ok(fs::read_to_string(Path::new(INSTANCES).join(SECOND).join("cgroup.events"))?.contains("populated 0"))
        })?;
        self.done(&Request::Unwatch { instance: SECOND.into() })
    }

    fn start(&mut self, name: &str) -> Result<Machine> {
        let cgroup = Path::new(INSTANCES).join(name);
        fs::create_dir_all(&cgroup).context("make the machine's cgroup")?;
        let mut start = Command::new(node::PLAYER);
        let mut child = start.arg("machine").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("start a machine")?;
        fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).context("move the machine to its cgroup")?;
        let mut output = BufReader::new(child.stdout.take().context("the machine speaks")?);
        let descriptor: i32 = number(&mut output)?;
        let mut memory = vec![format!("/proc/{}/fd/{descriptor}", child.id()).into()];
        let mut sockets = Vec::new();
        if name == NAME {
            memory.push(node::MEMORY.into());
            sockets.push(node::API.into());
        }
        let processes = vec![child.id()];
        self.done(&Request::Watch(Instance { instance: name.into(), cgroup, processes, memory, sockets }))?;
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
