//! A platform and a node of its own for one test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::Value;

use crate::leaks::leaks;

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
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Exit status; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Panics with the whole output unless the status is `code`.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Panics unless this is a refusal (status 2) that names `check` and gives a hint.
    #[track_caller]
    pub fn expect_refusal(self, check: &str) -> Self {
        let this = self.expect_code(2);
        assert!(this.stderr.contains(&format!("check {check} failed")), "expected {check} in:\n{}", this.stderr);
        assert!(this.stderr.contains("hint: "), "no hint in:\n{}", this.stderr);
        this
    }

    /// The instance's id, from the progress lines.
    #[track_caller]
    pub fn instance(&self) -> String {
        let line = self
            .stderr
            .lines()
            .find(|line| line.contains(" instance "))
            .unwrap_or_else(|| panic!("no instance in:\n{}", self.stderr));
        line.split_whitespace().last().unwrap_or_default().to_owned()
    }
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
        self.down = false;
        let outcome = finish(command.spawn().context("start casemate dev up")?, Duration::from_secs(120))?;
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
        let left = leaks(&marks);
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
        finish(child, Duration::from_secs(300)).unwrap_or_else(|error| panic!("casemate {args:?}: {error:#}"))
    }

    /// Starts the command line and leaves it running.
    pub fn start_casemate(&self, args: &[&str]) -> anyhow::Result<Child> {
        self.command(args).spawn().context("start casemate")
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

    /// The context file.
    pub fn context(&self) -> PathBuf {
        self.state().join("context.json")
    }

    /// Process number of `server`, `agent` or `tpm`.
    pub fn pid(&self, part: &str) -> anyhow::Result<i32> {
        let path = self.state().join(format!("{part}.pid"));
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        text.split(' ').next().unwrap_or_default().parse().context("read a process number")
    }

    /// Starts `server` or `agent` again after it was killed, as the service manager would.
    pub fn restart(&self, part: &str) -> anyhow::Result<()> {
        let verb = if part == "server" { "serve" } else { "run" };
        let log = fs::File::options().create(true).append(true).open(self.state().join(format!("logs/{part}.log")))?;
        let config = self.state().join(format!("{part}.toml"));
        self.pin_address(&config, part)?;
        let mut command = Command::new(build_dir().join(format!("casemate-{part}")));
        command.args([verb, "--config"]).arg(&config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn()?;
        let pid = child.id();
        // The parent is this test process: reap it there, so that it never looks alive as a zombie.
        std::thread::spawn(move || {
            let mut child = child;
            child.wait()
        });
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)).context("read a start time")?;
        fs::write(self.state().join(format!("{part}.pid")), format!("{pid} {start}\n"))?;
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
        if part != "server" {
            return Ok(());
        }
        let run: Value = serde_json::from_slice(&fs::read(self.state().join("server/run.json"))?)?;
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
        use sha2::{Digest as _, Sha256};
        let digest = Sha256::digest(self.state().as_os_str().as_encoded_bytes());
        let short: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        vec![self.dir.path().display().to_string(), format!("casemate-dev-{short}")]
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if !self.down {
            let outcome = self.down();
            if outcome.code != 0 {
                eprintln!("dev down: {}", outcome.stderr);
            }
        }
        if std::thread::panicking() {
            for log in ["server", "agent"] {
                let path = self.state().join(format!("logs/{log}.log"));
                eprintln!("---- {log}\n{}", fs::read_to_string(path).unwrap_or_default());
            }
        }
    }
}

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

fn finish(mut child: Child, limit: Duration) -> anyhow::Result<Outcome> {
    fn collect(pipe: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<String> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.by_ref().read_to_end(&mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            let text = stderr.join().unwrap_or_default();
            anyhow::bail!("did not end within {} s:\n{text}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let text = |handle: std::thread::JoinHandle<String>| handle.join().unwrap_or_default();
    Ok(Outcome { code: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) })
}
