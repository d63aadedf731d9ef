//! A platform and a node of its own for one test.

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::Value;

use crate::{leaks::leaks, outcome::Outcome};

/// A running development platform with one node, in a temporary folder; everything ends with this value.
pub struct Bed {
    dir: tempfile::TempDir,
    down: bool,
}

/// What differs from the default.
#[derive(Debug, Clone, Default)]
pub struct BedOptions {
    /// Guest OS folder that the node boots; the build's by default. Reference values are always the build's.
    pub guest_os: Option<PathBuf>,
    /// Lines for the agent's configuration.
    pub agent_config: Vec<String>,
    /// Lines for the server's configuration.
    pub server_config: Vec<String>,
    /// The node runs under the monitor.
    pub monitored: bool,
    /// Servers that share a PostgreSQL; with 0 one with a database of its own.
    pub replicas: u8,
}

impl Bed {
    /// Starts platform and node.
    pub fn start(options: &BedOptions) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("casemate-bed-").tempdir().context("create a temporary folder")?;
        let mut bed = Self { dir, down: true };
        bed.up(options)?;
        Ok(bed)
    }

    /// `casemate dev up`, also again after [`Bed::down`].
    pub fn up(&mut self, options: &BedOptions) -> anyhow::Result<()> {
        let mut command = self.command(&["dev", "up"]);
        if let Some(guest_os) = &options.guest_os {
            command.arg("--guest-os").arg(guest_os);
            command.arg("--reference-values").arg(guest_os_dir().join("reference-values.json"));
        }
        options.agent_config.iter().for_each(|line| _ = command.args(["--agent-config", line]));
        options.server_config.iter().for_each(|line| _ = command.args(["--server-config", line]));
        if options.replicas > 0 {
            command.args(["--postgres", "--replicas", &options.replicas.to_string()]);
        }
        options.monitored.then(|| command.arg("--monitor"));
        self.down = false;
        let outcome = Outcome::of(command.spawn().context("start casemate dev up")?, Duration::from_secs(120))?;
        anyhow::ensure!(outcome.code == 0, "dev up failed: {}", outcome.stderr);
        Ok(())
    }

    /// `casemate dev down`.
    pub fn down(&mut self) -> Outcome {
        self.down = true;
        self.casemate(&["dev", "down"])
    }

    /// Ends everything and fails if anything of it is left on this machine.
    #[track_caller]
    pub fn finish(mut self) {
        let mut marks = self.instance_marks();
        marks.extend(self.marks());
        let outcome = self.down();
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let left = leaks(&marks);
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// What instances must have left on this machine while platform and node still run: nothing.
    #[track_caller]
    pub fn assert_no_instance_remains(&self) {
        let marks = self.instance_marks();
        assert!(!marks.is_empty(), "there was no instance: this proves nothing");
        let mut left = leaks(&marks);
        left.extend(self.files_left(&marks));
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// The same for what this bed as a whole may leave after [`Bed::down`]; its folder of state stays.
    #[track_caller]
    pub fn assert_nothing_runs(&self, instance: &str) {
        let mut marks = self.marks();
        marks.push(instance.to_owned());
        let mut left = leaks(&marks);
        left.extend(self.run_dir().exists().then(|| format!("folder {}", self.run_dir().display())));
        left.extend(files(&[self.state().join("agent/machines")]).filter(|path| path.contains(instance)));
        assert!(left.is_empty(), "left behind: {left:#?}");
    }

    /// Runs the command line to its end, at most 5 minutes.
    #[track_caller]
    pub fn casemate(&self, args: &[&str]) -> Outcome {
        self.casemate_in(args, None)
    }

    /// The same with another context file.
    #[track_caller]
    pub fn casemate_in(&self, args: &[&str], context: Option<&Path>) -> Outcome {
        let mut command = self.command(args);
        if let Some(context) = context {
            command.env("CASEMATE_CONTEXT", context);
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("start casemate: {error}"));
        Outcome::of(child, Duration::from_secs(300)).unwrap_or_else(|error| panic!("casemate {args:?}: {error:#}"))
    }

    /// The command line, for whoever starts it himself; its output is piped.
    pub fn casemate_command(&self, args: &[&str]) -> Command {
        self.command(args)
    }

    /// Folder for a test's own files.
    pub fn work(&self) -> PathBuf {
        let work = self.dir.path().join("work");
        // An error shows at the first use.
        let _ = fs::create_dir_all(&work);
        work
    }

    /// State folder of `casemate dev`.
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("dev")
    }

    /// Run folder of `casemate dev`: sockets and, below `agent/ram`, the memory of guests.
    pub fn run_dir(&self) -> PathBuf {
        use sha2::{Digest as _, Sha256};
        let digest = Sha256::digest(self.state().as_os_str().as_encoded_bytes());
        let short: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        PathBuf::from(format!("/run/casemate-dev-{short}"))
    }

    /// The context file.
    pub fn context(&self) -> PathBuf {
        self.state().join("context.json")
    }

    /// Process number of `server` (of more of them `server-2` and so on), `postgres`, `agent` or `tpm`.
    pub fn pid(&self, part: &str) -> anyhow::Result<i32> {
        let path = self.state().join(format!("{part}.pid"));
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        text.split(' ').next().unwrap_or_default().parse().context("read a process number")
    }

    /// Starts a server or `agent` again after it was killed, as the service manager would: a server that ends at once is started
    /// again, since clients that look for it may hold its port for a moment.
    pub fn restart(&self, part: &str) -> anyhow::Result<()> {
        let config = self.state().join(format!("{part}.toml"));
        self.pin_address(&config, part)?;
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let pid = self.start_part(part, &config)?;
            if !part.starts_with("server") || self.listens(part, pid)? {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "the server does not start; see its log");
        }
    }

    fn start_part(&self, part: &str, config: &Path) -> anyhow::Result<u32> {
        let (program, verb) = if part.starts_with("server") { ("casemate-server", "serve") } else { ("casemate-agent", "run") };
        let log = fs::File::options().create(true).append(true).open(self.state().join(format!("logs/{part}.log")))?;
        let mut command = Command::new(build_dir().join(program));
        command.args([verb, "--config"]).arg(config).current_dir(self.work());
        self.adopt(part, command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log))
    }

    /// Starts the monitor of a monitored bed again, and with it the agent. Its number.
    pub fn restart_monitored(&self) -> anyhow::Result<u32> {
        let log = fs::File::options().create(true).append(true).open(self.state().join("logs/monitor.log"))?;
        let mut command = Command::new(build_dir().join("casemate-monitor"));
        command
            .args(["run", "--config"])
            .arg(self.state().join("monitor.toml"))
            .arg("--")
            .arg(build_dir().join("casemate-agent"));
        command.args(["run", "--monitored", "--config"]).arg(self.state().join("agent.toml")).current_dir(self.work());
        self.adopt("monitor", command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log))
    }

    /// Waits until an agent that the monitor started has a session, and writes down which process it is.
    pub fn note_agent(&self) -> anyhow::Result<()> {
        let path = self.run_dir().join("agent/agent.json");
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let run = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
            if let Some(stat) = run.and_then(|run| fs::read_to_string(format!("/proc/{}/stat", run["pid"])).ok()) {
                return self.note("agent", &stat);
            }
            anyhow::ensure!(Instant::now() < deadline, "the agent has no session");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The server of the database dies without a word and is started again as it was.
    pub fn crash_postgres(&self) -> anyhow::Result<()> {
        let pid = self.pid("postgres")?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).context("read how PostgreSQL was started")?;
        let words: Vec<String> = line
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into())
            .collect();
        let number = rustix::process::Pid::from_raw(pid).context("a process number is positive")?;
        rustix::process::kill_process(number, rustix::process::Signal::KILL)?;
        let deadline = Instant::now() + Duration::from_secs(60);
        // While it dies it still listens, and whoever looks takes it for the next one.
        while fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            anyhow::ensure!(Instant::now() < deadline, "PostgreSQL does not die");
            std::thread::sleep(Duration::from_millis(5));
        }
        let is_ready = || {
            let program = Path::new(words.first().map_or("", String::as_str)).with_file_name("pg_isready");
            let mut command = Command::new(program);
            command.arg("-q").arg("-h").arg(self.run_dir());
            Ok::<_, anyhow::Error>(command.status().context("run pg_isready")?.success())
        };
        loop {
            let log = fs::File::options().append(true).open(self.state().join("logs/postgres.log"))?;
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-user=65534", "--map-group=65534"]).args(&words);
            let pid = self.adopt("postgres", command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log))?;
            // It ends at once while a child of the dead one still lives.
            while Path::new(&format!("/proc/{pid}")).exists() {
                if is_ready()? {
                    return Ok(());
                }
                anyhow::ensure!(Instant::now() < deadline, "PostgreSQL does not come back");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    /// Starts a part and writes down which process it is.
    fn adopt(&self, part: &str, command: &mut Command) -> anyhow::Result<u32> {
        let child = command.spawn()?;
        let pid = child.id();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The parent is this test process: reap it there, so that it never looks alive as a zombie.
        std::thread::spawn(move || {
            let mut child = child;
            child.wait()
        });
        self.note(part, &stat)?;
        Ok(pid)
    }

    /// Writes down which process a part is, by what the kernel says of it.
    fn note(&self, part: &str, stat: &str) -> anyhow::Result<()> {
        let pid = stat.split(' ').next().context("read a process number")?;
        let start = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)).context("read a start time")?;
        Ok(fs::write(self.state().join(format!("{part}.pid")), format!("{pid} {start}\n"))?)
    }

    /// Waits for the server's port; false when the server ended instead.
    fn listens(&self, part: &str, pid: u32) -> anyhow::Result<bool> {
        let run: Value = serde_json::from_slice(&fs::read(self.state().join(part).join("run.json"))?)?;
        let address = run["rest"].as_str().context("run.json names its addresses")?;
        // A connection to a port without a listener may meet itself.
        let connects = || TcpStream::connect(address).is_ok_and(|stream| stream.local_addr().ok() != stream.peer_addr().ok());
        while Path::new(&format!("/proc/{pid}")).exists() {
            if connects() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(false)
    }

    /// Sets or removes a line of the agent's configuration; its next start reads it.
    pub fn configure_agent(&self, name: &str, value: Option<&str>) -> anyhow::Result<()> {
        let path = self.state().join("agent.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let others = text.lines().filter(|line| line.split(" = ").next() != Some(name));
        let line = value.map(|value| format!("{name} = {value}"));
        let lines: Vec<String> = others.map(str::to_owned).chain(line).collect();
        Ok(fs::write(&path, lines.join("\n") + "\n")?)
    }

    /// Waits until the agent that was started last has a session, and the platform knows of it.
    pub fn wait_connected(&self) -> anyhow::Result<()> {
        let (pid, path) = (self.pid("agent")?, self.run_dir().join("agent/agent.json"));
        let opened = || Some(serde_json::from_slice::<Value>(&fs::read(&path).ok()?).ok()?["pid"] == pid);
        let known = || {
            let nodes: Value = serde_json::from_str(&self.casemate(&["nodes", "--json"]).stdout).unwrap_or_default();
            nodes["nodes"].as_array().is_some_and(|nodes| nodes.iter().any(|node| node["connected"] == true))
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while opened() != Some(true) || !known() {
            anyhow::ensure!(Instant::now() < deadline, "the agent did not connect");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Instances as the platform knows them.
    pub fn instances(&self) -> Vec<Value> {
        let outcome = self.casemate(&["ps", "--all", "--json"]).expect_code(0);
        let list: Value = serde_json::from_str(&outcome.stdout).unwrap_or_default();
        list["instances"].as_array().cloned().unwrap_or_default()
    }

    /// Waits until the only instance satisfies `is`; panics after `limit`.
    #[track_caller]
    pub fn wait_instance(&self, limit: Duration, is: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + limit;
        loop {
            let instances = self.instances();
            if let Some(instance) = instances.first().filter(|instance| is(instance)) {
                return instance.clone();
            }
            assert!(Instant::now() < deadline, "not reached in time: {instances:#?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A port chosen by the system at the first start must be the same after a restart.
    fn pin_address(&self, config: &Path, part: &str) -> anyhow::Result<()> {
        if !part.starts_with("server") {
            return Ok(());
        }
        let run: Value = serde_json::from_slice(&fs::read(self.state().join(part).join("run.json"))?)?;
        let mut text = fs::read_to_string(config)?;
        for name in ["rest", "node"] {
            let address = run[name].as_str().context("run.json names its addresses")?;
            text = text.replace(&format!("{name}_addr = \"127.0.0.1:0\""), &format!("{name}_addr = \"{address}\""));
        }
        Ok(fs::write(config, text)?)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(build_dir().join("casemate"));
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).current_dir(self.work());
        command.env("HOME", self.dir.path()).env("CASEMATE_DEV_STATE", self.state()).env("CASEMATE_CONTEXT", self.context());
        for variable in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"] {
            command.env_remove(variable);
        }
        // Converted layers do not depend on who converted them.
        command.env("XDG_CACHE_HOME", std::env::temp_dir().join("casemate-testbed-cache"));
        command
    }

    /// The ids of all instances: they are in the names of everything that an instance has.
    fn instance_marks(&self) -> Vec<String> {
        self.instances().iter().filter_map(|instance| Some(instance["id"].as_str()?.to_owned())).collect()
    }

    /// Texts that mark what belongs to this bed.
    fn marks(&self) -> Vec<String> {
        vec![self.dir.path().display().to_string(), self.run_dir().display().to_string()]
    }

    /// Files of the node that carry a mark in their names. The agent forgets an instance only once the platform has its
    /// receipt, a moment after the tenant knows of it.
    fn files_left(&self, marks: &[String]) -> Vec<String> {
        let roots = [self.state().join("agent"), self.run_dir()];
        let look = || files(&roots).filter(|path| marks.iter().any(|mark| path.contains(mark))).collect::<Vec<_>>();
        let deadline = Instant::now() + FORGET_LIMIT;
        loop {
            let left = look();
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for path in files(&[self.state().join("agent/machines")]).filter(|path| path.ends_with("/console.log")) {
                let path = path.trim_start_matches("file ");
                eprintln!("---- {path}\n{}", String::from_utf8_lossy(&fs::read(path).unwrap_or_default()));
            }
        }
        if !self.down {
            let outcome = self.down();
            if outcome.code != 0 {
                eprintln!("dev down: {}", outcome.stderr);
            }
        }
        if std::thread::panicking() {
            for log in ["server", "server-2", "server-3", "postgres", "agent"] {
                let path = self.state().join(format!("logs/{log}.log"));
                let Ok(text) = fs::read_to_string(path) else { continue };
                eprintln!("---- {log}\n{text}");
            }
        }
    }
}

/// Everything below `roots`.
fn files(roots: &[PathBuf]) -> impl Iterator<Item = String> {
    let (mut pending, mut found) = (roots.to_vec(), Vec::new());
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            found.push(format!("file {}", entry.path().display()));
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(entry.path());
            }
        }
    }
    found.into_iter()
}

/// Longest time from a receipt at the platform to its instance's folder being gone from the node.
const FORGET_LIMIT: Duration = Duration::from_secs(10);

/// Folder with this workspace's executables: the parent of the one with the running test.
pub fn build_dir() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let dir = own.parent().map(Path::to_owned).unwrap_or_default();
    if dir.ends_with("deps") || dir.ends_with("examples") { dir.parent().map(Path::to_owned).unwrap_or_default() } else { dir }
}

/// The build's guest OS image.
pub fn guest_os_dir() -> PathBuf {
    build_dir().parent().map(|target| target.join("guest-os")).unwrap_or_default()
}
